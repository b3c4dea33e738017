"""Train the pairs that the translator learns from: a large and a small block in each network."""

from kt.ensemble import Compute
from stages import runtime
from stages.generation import make_store
from stages.inputs import image_set
from stages.params import Params


def main(params: Params, compute: Compute) -> None:
    make_store(
        params,
        compute,
        "train",
        params.active.networks.train,
        image_set("main", "train"),
        with_small=params.generate.small_blocks,
        checkpoints=params.generate.checkpoints,
    )


if __name__ == "__main__":
    runtime.run(main, __doc__)
