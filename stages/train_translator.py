"""Train the translator; choose its epoch on selection networks; report it on test networks.

From several seeds, so that what differs by chance is known; the first one is the translator.

In several processes, of several machines too, where KT_TORCHRUN holds torchrun's options.
"""

from kt.ensemble import Compute
from stages import torchrun
from stages.inputs import RESULTS
from stages.params import Params
from stages.translation import train


def main(params: Params, compute: Compute) -> None:
    train(params, compute, RESULTS / "train", repeats=params.active.repeats)


if __name__ == "__main__":
    torchrun.run(main, __doc__)
