"""Train former and latter blocks on the transfer set around the test networks' large blocks."""

from kt.ensemble import Compute
from kt.networks.weights import part
from stages.common.base import runtime
from stages.common.base.generation import make_store, plan
from stages.common.base.inputs import PAIRS, image_set
from stages.common.base.params import Params
from stages.common.base.stores import pairs


def main(params: Params, compute: Compute) -> None:
    test, images = (
        pairs(params, PAIRS / "test", "large"),
        image_set(params, "transfer", "train"),
    )
    large = part(test.read("large"), "large")
    networks = plan(params, "transfer", len(test))
    make_store(networks, compute, images, large=large)


if __name__ == "__main__":
    runtime.run(main, __doc__)
