"""Train the pairs that the translator learns from: a large and a small block in each network."""

from kt.ensemble import Compute
from stages.common.base import runtime
from stages.common.base.generation import make_training_store
from stages.common.base.inputs import PAIRS
from stages.common.base.params import Params


def main(params: Params, compute: Compute) -> None:
    make_training_store(params, compute, PAIRS / "train")


if __name__ == "__main__":
    runtime.run(main, __doc__)
