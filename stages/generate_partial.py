"""Train the networks to be compressed on fractions of the training images (Figure 8)."""

import torch

from kt.ensemble import Compute
from kt.networks.blocks import CLASSES
from kt.run import seeds
from kt.run.errors import KTError
from stages.common.base import runtime
from stages.common.base.generation import make_store, plan
from stages.common.base.inputs import image_set
from stages.common.base.params import Params, fraction_name


def main(params: Params, compute: Compute) -> None:
    images = image_set(params, "main", "train")
    draw = seeds.generator(params.seed, "partial data")
    order = torch.randperm(len(images), generator=draw)
    counts = [round(fraction * len(images)) for fraction in params.partial.fractions]
    if min(counts) < CLASSES:
        raise KTError(
            f"params.yaml: partial.fractions: got {min(params.partial.fractions)}, which is "
            f"{min(counts)} of the {len(images):,} training images; accepts what leaves at least "
            f"{CLASSES}, one of each class"
        )
    for fraction, own in zip(params.partial.fractions, counts, strict=True):
        some = images.subset(order[:own])
        count = params.active.networks.partial
        make_store(plan(params, fraction_name(fraction), count, with_small=False), compute, some)


if __name__ == "__main__":
    runtime.run(main, __doc__)
