"""Write CIFAR-10 to data/factor_transfer/, decoded, as tensors."""

from pathlib import Path

from kt.ensemble import Compute
from kt.images import cifar as images
from kt.run.files import save_tensors
from stages.common.base import runtime
from stages.common.base.params import Params
from stages.factor_transfer.settings import IMAGES


def main(params: Params, compute: Compute) -> None:
    train, test, source = images.load(Path("data"))
    tensors = {
        "train.images": train.images,
        "train.labels": train.labels,
        "test.images": test.images,
        "test.labels": test.labels,
    }
    save_tensors(IMAGES, tensors, {"source": source})


if __name__ == "__main__":
    runtime.run(main, __doc__)
