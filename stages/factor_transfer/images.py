"""Write CIFAR-10 to data/factor_transfer/, decoded, as tensors."""

from pathlib import Path

from kt.ensemble import Compute
from kt.images import cifar, load_images
from kt.run.files import save_tensors
from stages.common.base import runtime
from stages.common.base.params import Params
from stages.factor_transfer import settings
from stages.factor_transfer.settings import IMAGES


def main(params: Params, compute: Compute) -> None:
    settings.load()  # what is wrong with them is told before any work
    train, test = load_images("cifar10", Path("data"))
    tensors = {
        "train.images": train.images,
        "train.labels": train.labels,
        "test.images": test.images,
        "test.labels": test.labels,
    }
    save_tensors(IMAGES, tensors, {"source": cifar.source()})


if __name__ == "__main__":
    runtime.run(main, __doc__)
