"""Our translator, trained on the same networks as the paper's: one row of its tables."""

from kt.ensemble import Compute
from stages.common.base import runtime
from stages.common.base.params import Count, Params, Strict
from stages.tables import cell, paper

LABEL = "merge (ours)"


class Merge(Strict):
    """`tables.merge` of the parameters."""

    layers: Count
    hidden_size: Count


def main(params: Params, compute: Compute) -> None:
    sizes = params.table("merge", Merge).model_dump()
    result = paper.measure(params, compute, "merge", {"model": {"kind": "merge"} | sizes})
    cell.write(params, "merge", result)


if __name__ == "__main__":
    runtime.run(main, __doc__)
