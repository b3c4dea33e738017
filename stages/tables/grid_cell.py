"""A cell of Table 3 or 4: the paper's translator of one size with one rate of dropout."""

from typing import Annotated

from pydantic import Field

from kt.ensemble import Compute
from kt.run.errors import KTError
from stages.common.base import runtime
from stages.common.base.params import Count, Params, Strict
from stages.tables import cell, paper
from stages.tables.scales import at_scale

Rate = Annotated[int | float, Field(ge=0, lt=1)]
"""A rate of dropout. An integer stays an integer: DVC names a cell as it is written, 0 or 0.0."""


class Grid(Strict):
    """`tables.table3` and `tables.table4` of the parameters; epochs by scale."""

    sizes: Annotated[list[paper.Size], Field(min_length=1)]
    dropout: Annotated[list[Rate], Field(min_length=1)]
    epochs: dict[str, Count]


def epochs(params: Params, table: str) -> int:
    """Epochs of every cell's training at the active scale."""
    return at_scale(params, f"{table}.epochs", params.table(table, Grid).epochs)


def name_of(params: Params, table: str, size: str, dropout: float) -> str:
    """The name of a cell, as `stages.tables.cell.read` takes it.

    Raises:
        KTError: the table has no such cell.
    """
    grid = params.table(table, Grid)
    for rate in grid.dropout:
        if size in grid.sizes and rate == dropout:
            return f"{table}/{size}/{rate}"
    raise KTError(
        f"params.yaml: tables.{table}: {size} with dropout {dropout:g} is not listed, but another "
        "table needs it"
    )


def main(params: Params, compute: Compute, name: str) -> None:
    table, size, dropout = name.split("/")
    change = paper.mixer(params, size, epochs(params, table), dropout=float(dropout))
    cell.write(params, name, paper.measure(params, compute, table, change))


if __name__ == "__main__":
    runtime.run(main, __doc__, "table/size/dropout")
