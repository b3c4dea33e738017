"""Table 5 of the paper: the effect of masking and noise on a translator with few pairs."""

import pandas as pd

from kt.ensemble import Compute
from stages.common.base import runtime
from stages.common.base.inputs import Found
from stages.common.base.params import Params, settings_of
from stages.tables import output, printed
from stages.tables.cells import cell
from stages.tables.cells.settings import Augmentation, Grid, cell_of_table3, epochs_of, swept_at
from stages.tables.printed import MERGE

TABLE = "table5"
IN_WORDS = {"none": "no augmentation", "masking": "masking, m = {}", "noise": "noise, n = {}"}


def main(params: Params, compute: Compute) -> None:
    table, baselines = settings_of(TABLE, Augmentation), output.references()
    swept = swept_at(params, table)
    whole = cell.read(params, cell_of_table3(params, swept.size, 0.0))
    rows = [printed.row("all pairs", whole, baselines, printed.AUGMENTATION["full"])]
    metrics = {"all_pairs": printed.numbers(whole)}
    few: list[Found] = []
    for kind, names in swept.by_kind().items():
        found = {name: cell.read(params, f"{TABLE}/{name}") for name in names}
        few += found.values()
        best = max(found, key=lambda name: found[name]["selection"]["mean"])
        for name, result in found.items():
            label = IN_WORDS[kind].format(name.partition("/")[2])
            chosen = " (chosen)" if len(found) > 1 and name == best else ""
            theirs = printed.AUGMENTATION[kind] if name == best else ""
            label = f"one in {table.share}, {label}{chosen}"
            rows.append(printed.row(label, result, baselines, theirs))
            metrics[name.replace("/", "_").replace(".", "_")] = printed.numbers(result)
        metrics[f"{kind}_chosen"] = printed.numbers(found[best])
    merge = cell.read(params, "merge")
    rows.append(printed.row(f"{printed.merge(params)}, all pairs", merge, baselines))
    metrics["merge"] = printed.numbers(merge)
    epochs = epochs_of(params, "tables/table3/params.yaml", settings_of("table3", Grid).epochs)
    trained = {"the mixer on all pairs": [whole], "on fewer": few, MERGE: [merge]}
    caption = (
        f"{output.protocol(params)}. The {swept.size} mixer learns from "
        f"{params.active.pairs:,} pairs in {epochs} epochs, or from one in {table.share} of "
        f"them in {table.share * epochs} (the paper: 300,000 pairs in 300 epochs, 50,000 in "
        "1,800). Augmentation is drawn afresh for every batch: m is the share of the large block's "
        "weights that are set to 0, n the standard deviation of the noise added to them. *Chosen* "
        "is what did best on selection networks; the paper's number stands beside it, without its "
        f"m and n, which are not printed. {output.trained_with(trained)} "
        f"{output.yardstick(baselines)}"
    )
    output.write(params, TABLE, caption, metrics, pd.DataFrame(rows))


if __name__ == "__main__":
    runtime.run(main, __doc__)
