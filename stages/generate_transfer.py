"""Train former and latter blocks on the transfer set around the test networks' large blocks."""

from kt.ensemble import Compute
from kt.networks.weights import part
from kt.pairs.store import Pairs
from stages.common.base import runtime
from stages.common.base.generation import make_store, plan
from stages.common.base.inputs import PAIRS, image_set
from stages.common.base.params import Params


def main(params: Params, compute: Compute) -> None:
    test = Pairs(PAIRS / "test")
    large = part(test.read("large"), "large")
    networks = plan(params, "transfer", len(test))
    make_store(networks, compute, image_set("transfer", "train"), large=large)


if __name__ == "__main__":
    runtime.run(main, __doc__)
