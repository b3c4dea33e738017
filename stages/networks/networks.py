"""Bring the networks and their images into data/networks/<scale>/."""

from pathlib import Path

import torch
from torch import nn

from kt.ensemble import Compute
from kt.images import ImageSet, load_images
from kt.images.files import write_sets
from kt.real import files
from kt.run.errors import KTError
from stages.common.base import runtime
from stages.common.base.params import Params
from stages.networks import settings
from stages.networks.resnet import pixels, published
from stages.networks.training import train as train_labelled


def main(params: Params, compute: Compute) -> None:
    chosen = settings.load()
    train, test = load_images(chosen.active.images, Path("data"))
    tuning = chosen.active.tuning
    needed = tuning.held_out + tuning.labelled + chosen.active.unlabelled
    if needed > len(train):
        what = "held_out, labelled and unlabelled"
        raise KTError(
            f"tables/networks/params.yaml: {what}: got {needed:,} together; {chosen.active.images} "
            f"has {len(train):,} training images"
        )
    for name in chosen.networks:
        wanted = chosen.active.networks[name]
        torch.manual_seed(params.seed)
        network = published(wanted.depth) if wanted.is_published else wanted.fresh()
        if wanted.training is not None:
            _train(name, network, train, wanted.training, params.seed)
        files.save(network, chosen.data / f"{name}.safetensors")
    draw = torch.Generator().manual_seed(params.seed)  # sets may be sorted by class
    pool = torch.randperm(len(train), generator=draw)
    labelled, rest = pool.tensor_split([tuning.held_out + tuning.labelled])
    stored = {"labelled": train.subset(labelled), "test": test}
    write_sets(chosen.images, stored)
    for seed in chosen.seeds:
        draw = torch.Generator().manual_seed(seed)
        some = torch.randperm(len(rest), generator=draw)[: chosen.active.unlabelled]
        write_sets(chosen.unlabelled(seed), {"unlabelled": train.subset(rest[some])})


def _train(
    name: str, network: nn.Module, train: ImageSet, how: settings.Training, seed: int
) -> None:
    """With labels, in place."""
    draw = torch.Generator().manual_seed(seed)
    images = pixels(train.images)
    with runtime.progress_bar(how.epochs, name, "epoch") as bar:
        train_labelled(
            network, images, train.labels, how.epochs, how.lr, draw, lambda at: bar.update()
        )


if __name__ == "__main__":
    runtime.run(main, __doc__)
