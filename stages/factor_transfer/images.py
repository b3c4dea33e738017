"""Write CIFAR-10 to data/factor_transfer/, decoded, as tensors."""

from pathlib import Path

from kt.ensemble import Compute
from kt.images import cifar, load_images
from kt.images.files import write_sets
from stages.common.base import runtime
from stages.common.base.params import Params
from stages.factor_transfer import settings
from stages.factor_transfer.settings import IMAGES, SOURCE


def main(params: Params, compute: Compute) -> None:
    settings.load()  # what is wrong with them is told before any work
    train, test = load_images("cifar10", Path("data"))
    write_sets(IMAGES, {"train": train, "test": test}, {SOURCE: cifar.source()})


if __name__ == "__main__":
    runtime.run(main, __doc__)
