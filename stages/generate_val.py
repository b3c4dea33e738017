"""Train the selection and the test networks, each with its re-trained small block."""

from kt.ensemble import Compute
from stages.common.base import runtime
from stages.common.base.generation import make_store, plan
from stages.common.base.inputs import image_set
from stages.common.base.params import Params


def main(params: Params, compute: Compute) -> None:
    images = image_set(params, "main", "train")
    networks = params.active.networks
    make_store(plan(params, "selection", networks.selection), compute, images)
    make_store(plan(params, "test", networks.test), compute, images)


if __name__ == "__main__":
    runtime.run(main, __doc__)
