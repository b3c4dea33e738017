"""Train the translator; choose its epoch on selection networks; report it on test networks."""

from kt.ensemble import Compute
from stages import runtime
from stages.inputs import RESULTS
from stages.params import Params
from stages.translation import train


def main(params: Params, compute: Compute) -> None:
    train(params, compute, RESULTS / "train")


if __name__ == "__main__":
    runtime.run(main, __doc__)
