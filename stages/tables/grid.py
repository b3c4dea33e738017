"""Table 3 or 4 of the paper: its translators by size and dropout, beside the baselines."""

import pandas as pd

from kt.ensemble import Compute
from kt.run.errors import KTError
from stages.common.base import runtime
from stages.common.base.params import Params, settings_of
from stages.tables import output, printed
from stages.tables.cells import cell
from stages.tables.cells.settings import Grid, epochs_of, grid_of
from stages.tables.cells.trained import GRIDS
from stages.tables.printed import MERGE


def main(params: Params, compute: Compute, table: str) -> None:
    if table not in GRIDS:
        raise KTError(f"{table!r} is no table by size and dropout; there are {' and '.join(GRIDS)}")
    grid, baselines = grid_of(params, table), output.references()
    rows, metrics, results = printed.references(baselines), dict(baselines), []
    for size in grid.sizes:
        for dropout in grid.dropout:
            result = cell.read(params, f"{table}/{size}/{dropout}")
            results.append(result)
            theirs = printed.accuracy(table, size, dropout)
            rows.append(printed.row(f"{size}, dropout {dropout:g}", result, baselines, theirs))
            metrics[f"{size}_dropout_{dropout:g}".replace(".", "_")] = printed.numbers(result)
    merge = cell.read(params, "merge")
    rows.append(printed.row(printed.merge(params), merge, baselines))
    metrics["merge"] = printed.numbers(merge)
    epochs = epochs_of(params, f"tables/{table}/params.yaml", settings_of(table, Grid).epochs)
    caption = (
        f"{output.protocol(params)}. The translators learn from {params.active.pairs:,} "
        f"pairs, the mixers in {epochs} epochs (the paper: 300,000 pairs, "
        f"{printed.EPOCHS[table]:,} epochs). "
        f"{output.trained_with({'mixers': results, MERGE: [merge]})} "
        f"{output.yardstick(baselines)}"
    )
    columns = list(rows[-1])  # blocks that need no translator have fewer columns
    lines = pd.DataFrame(rows, columns=columns, dtype=object).fillna("")
    output.write(params, table, caption, metrics, lines)


if __name__ == "__main__":
    runtime.run(main, __doc__, "table")
