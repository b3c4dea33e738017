"""Train the networks to be compressed on fractions of the training images (Figure 8)."""

import torch

from kt.ensemble import Compute
from kt.run import seeds
from stages.common.base import runtime
from stages.common.base.generation import make_store, plan
from stages.common.base.inputs import image_set
from stages.common.base.params import Params, fraction_name


def main(params: Params, compute: Compute) -> None:
    images = image_set("main", "train")
    draw = seeds.generator(params.seed, "partial data")
    order = torch.randperm(len(images), generator=draw)
    for fraction in params.partial.fractions:
        some = images.subset(order[: max(1, round(fraction * len(images)))])
        count = params.active.networks.partial
        make_store(plan(params, fraction_name(fraction), count, with_small=False), compute, some)


if __name__ == "__main__":
    runtime.run(main, __doc__)
