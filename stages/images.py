"""Write the main and the transfer image set to data/images/, split, as tensors."""

from pathlib import Path

import torch

from kt.ensemble import Compute
from kt.images import ImageSet, fitted, load_images
from kt.images.files import write_sets
from kt.run import seeds
from kt.run.errors import KTError
from kt.run.files import check_output
from stages.common.base import runtime
from stages.common.base.inputs import IMAGES
from stages.common.base.params import Params


def main(params: Params, compute: Compute) -> None:
    chosen = params.active.images
    check_output(IMAGES / "main.safetensors")
    train, test = shaped(params, chosen.main)
    if chosen.held_back >= len(train):
        raise KTError(
            f"params.yaml: scales.{params.scale}.images.held_back: got {chosen.held_back}; "
            f"accepts less than the {len(train)} training images of {chosen.main}"
        )
    draw = seeds.generator(params.seed, "held back")
    order = torch.randperm(len(train), generator=draw)
    main_sets = {
        "train": train.subset(order[chosen.held_back :]),
        "held_back": train.subset(order[: chosen.held_back]),
        "test": test,
    }
    transfer_train, transfer_test = shaped(params, chosen.transfer)
    write_sets(IMAGES / "main.safetensors", main_sets, {"name": chosen.main})
    transfer_sets = {"train": transfer_train, "test": transfer_test}
    write_sets(IMAGES / "transfer.safetensors", transfer_sets, {"name": chosen.transfer})


def shaped(params: Params, name: str) -> tuple[ImageSet, ImageSet]:
    """The training and test images of a set, as the networks read them."""
    sizes = params.sizes
    train, test = load_images(name, Path("data"))
    channels, size = sizes.image_channels, sizes.image_size
    return fitted(train, channels, size), fitted(test, channels, size)


if __name__ == "__main__":
    runtime.run(main, __doc__)
