"""Write the main and the transfer image set to data/images/, split, as tensors."""

from pathlib import Path

import torch

from kt.ensemble import Compute
from kt.images import ImageSet, load_images
from kt.run import seeds
from kt.run.errors import KTError
from kt.run.files import save_tensors
from stages.common.base import outputs, runtime
from stages.common.base.inputs import IMAGES, checksum_file, sha256
from stages.common.base.params import Params


def main(params: Params, compute: Compute) -> None:
    chosen = params.active.images
    train, test = load_images(chosen.main, Path("data"))
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
    transfer_train, transfer_test = load_images(chosen.transfer, Path("data"))
    write("main", chosen.main, main_sets)
    write("transfer", chosen.transfer, {"train": transfer_train, "test": transfer_test})


def write(which: str, name: str, sets: dict[str, ImageSet]) -> None:
    tensors = {}
    for split, images in sets.items():
        tensors[f"{split}.images"], tensors[f"{split}.labels"] = images.images, images.labels
    path = IMAGES / f"{which}.safetensors"
    save_tensors(path, tensors, {"name": name})
    outputs.write_text(checksum_file(path), sha256(path) + "\n")


if __name__ == "__main__":
    runtime.run(main, __doc__)
