"""A cell of Table 5: the paper's translator on part of the pairs, with or without augmentation."""

from typing import Annotated

from pydantic import Field

from kt.ensemble import Compute
from kt.run.errors import KTError
from stages.common.base import runtime
from stages.common.base.params import Count, Fraction, NotNegative, Params, Strict
from stages.tables import cell, grid_cell, paper

TABLE = "table5"
WHOLE = "table3"
"""Its cells show the translator with all pairs, without augmentation."""
KINDS = ("none", "masking", "noise")


class Augmentation(Strict):
    """`tables.table5` of the parameters; each strength is a cell.

    Attributes:
        share: one `share`-th of Table 3's pairs is learned from, `share` times as long, so that as
            many samples are seen.
        masking, noise: m and n, drawn afresh for every batch (Section 3.2).
    """

    size: paper.Size
    share: Count
    masking: Annotated[list[Fraction], Field(min_length=1)]
    noise: Annotated[list[NotNegative], Field(min_length=1)]

    def names(self) -> dict[str, list[str]]:
        """The names of the cells by kind of augmentation, as DVC writes them."""
        swept = {kind: [f"{kind}/{s}" for s in getattr(self, kind)] for kind in KINDS[1:]}
        return {"none": ["none"]} | swept


def main(params: Params, compute: Compute, name: str) -> None:
    table = params.table(TABLE, Augmentation)
    kind, _, strength = name.partition("/")
    if kind not in KINDS:
        raise KTError(f"{name!r} is no cell of {TABLE}; accepts none, masking/M and noise/N")
    augmentation = {} if kind == "none" else {kind: float(strength)}
    epochs = table.share * grid_cell.epochs(params, WHOLE)
    pairs = max(1, params.active.train.pairs // table.share)
    change = paper.mixer(params, table.size, epochs, pairs, augmentation)
    cell.write(params, f"{TABLE}/{name}", paper.measure(params, compute, TABLE, change))


if __name__ == "__main__":
    runtime.run(main, __doc__, "none|masking/M|noise/N")
