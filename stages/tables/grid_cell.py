"""A cell of Table 3 or 4: the paper's translator of one size with one rate of dropout."""

from typing import Annotated

from pydantic import Field

from kt.ensemble import Compute
from stages import runtime
from stages.params import Count, Params, Strict
from stages.tables import cell, paper

Rate = Annotated[int | float, Field(ge=0, lt=1)]
"""Of dropout. An integer stays one: DVC names a cell as the parameters write it, 0 or 0.0."""


class Grid(Strict):
    """`tables.table3` and `tables.table4` of the parameters; epochs by scale."""

    sizes: Annotated[list[paper.Size], Field(min_length=1)]
    dropout: Annotated[list[Rate], Field(min_length=1)]
    epochs: dict[str, Count]


def main(params: Params, compute: Compute, name: str) -> None:
    table, size, dropout = name.split("/")
    epochs = paper.epochs_at_scale(params, table, params.table(table, Grid).epochs)
    change = paper.mixer(size, epochs, dropout=float(dropout))
    cell.write(params, name, paper.measure(params, compute, table, change))


if __name__ == "__main__":
    runtime.run(main, __doc__, "table/size/dropout")
