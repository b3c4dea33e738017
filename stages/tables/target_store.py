"""Pairs whose small blocks are MLPs, or attention, in generate_train's networks (Table 6)."""

from typing import Annotated, Literal

from pydantic import Field

from kt.ensemble import Compute
from kt.networks.blocks import CONVOLUTIONAL, TARGETS
from kt.pairs.store import Pairs
from stages.common.base import runtime
from stages.common.base.generation import make_training_store
from stages.common.base.inputs import PAIRS
from stages.common.base.params import Change, Count, Params, Strict
from stages.tables import paper
from stages.tables.scales import at_scale

STORES = "target"
TABLE = "table6"


class Targets(Strict):
    """`tables.table6` of the parameters; pairs and epochs by scale."""

    size: paper.Size
    targets: Annotated[
        list[Literal[tuple(t for t in TARGETS if t not in CONVOLUTIONAL)]], Field(min_length=1)
    ]
    pairs: dict[str, Count]
    epochs: dict[str, Count]


def change(params: Params, target: str) -> Change:
    """The parameters that change to translate to another kind of block."""
    table = params.table(TABLE, Targets)
    epochs = at_scale(params, f"{TABLE}.epochs", table.epochs)
    pairs = at_scale(params, f"{TABLE}.pairs", table.pairs)
    changed = paper.mixer(params, table.size, epochs, pairs)
    changed["active"]["networks"] = {"train": pairs}
    return changed | {"target": target}


def main(params: Params, compute: Compute, target: str) -> None:
    changed = params.changed(change(params, target), f"tables.{TABLE}")
    count, known = changed.active.networks.train, None
    if count <= params.active.networks.train and not params.generate.checkpoints:
        known = Pairs(PAIRS / "train").read("former", "large", "latter", first=count)
    make_training_store(changed, compute, PAIRS / STORES / target, known)


if __name__ == "__main__":
    runtime.run(main, __doc__, "target")
