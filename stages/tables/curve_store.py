"""Train the networks of the learning curve: as many as its largest point needs.

They are those of `generate_train` and more, without small blocks, which `merge` does not need.
"""

from typing import Annotated

from pydantic import Field

from kt.ensemble import Compute
from stages.common.base import runtime
from stages.common.base.generation import make_training_store
from stages.common.base.inputs import PAIRS
from stages.common.base.params import Count, Params, Strict

STORE = "curve"


class Curve(Strict):
    """`tables.curve` of the parameters."""

    networks: Annotated[list[Count], Field(min_length=1)]


def with_networks(params: Params, count: int, schedule: dict) -> Params:
    """The parameters of a translator that learns from the first `count` of these networks."""
    largest = max(params.table("curve", Curve).networks)
    change = {
        "generate": {"small_blocks": False},
        "active": {"networks": {"train": largest}, "train": {"pairs": count}},
        "translators": {params.model.kind: {"schedule": {"active": schedule}}},
    }
    return params.changed(change, f"tables.curve.networks: {count}")


def main(params: Params, compute: Compute) -> None:
    make_training_store(with_networks(params, 1, {}), compute, PAIRS / STORE)


if __name__ == "__main__":
    runtime.run(main, __doc__)
