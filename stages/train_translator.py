"""Train the translator; choose its epoch on selection networks; report it on test networks.

The translator is trained from several seeds, to measure the spread; the first is used.

With several processes, on one or more machines, if KT_TORCHRUN holds options of torchrun.
"""

from kt.ensemble import Compute
from stages.common import torchrun
from stages.common.base.inputs import RESULTS
from stages.common.base.params import Params
from stages.common.translation import train


def main(params: Params, compute: Compute) -> None:
    train(params, compute, RESULTS / "train", repeats=params.active.repeats)


if __name__ == "__main__":
    torchrun.run(main, __doc__)
