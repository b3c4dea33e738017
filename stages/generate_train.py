"""Train the pairs that the translator learns from: a large and a small block in each network."""

from kt.ensemble import Compute
from stages import runtime
from stages.generation import make_training_store
from stages.inputs import PAIRS
from stages.params import Params


def main(params: Params, compute: Compute) -> None:
    make_training_store(params, compute, PAIRS / "train")


if __name__ == "__main__":
    runtime.run(main, __doc__)
