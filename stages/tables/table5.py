"""Table 5 of the paper: what masking and noise do for a translator with few pairs."""

import pandas as pd

from kt.ensemble import Compute
from stages.common.base import runtime
from stages.common.base.params import Params
from stages.tables import cell, grid_cell, output, printed
from stages.tables.augmentation_cell import TABLE, WHOLE, Augmentation
from stages.tables.merge_cell import LABEL

IN_WORDS = {"none": "no augmentation", "masking": "masking, m = {}", "noise": "noise, n = {}"}


def main(params: Params, compute: Compute) -> None:
    table, baselines = params.table(TABLE, Augmentation), output.references()
    whole = cell.read(params, grid_cell.name_of(params, WHOLE, table.size, 0.0))
    rows = [printed.row("all pairs", whole, baselines, printed.AUGMENTATION["full"])]
    metrics = {"all_pairs": printed.numbers(whole)}
    for kind, names in table.names().items():
        found = {name: cell.read(params, f"{TABLE}/{name}") for name in names}
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
    rows.append(printed.row(f"{LABEL}, all pairs", merge, baselines))
    metrics["merge"] = printed.numbers(merge)
    epochs = grid_cell.epochs(params, WHOLE)
    caption = (
        f"{output.protocol(params)}; the {table.size} mixer, {epochs} epochs on "
        f"{params.active.train.pairs:,} pairs or {table.share * epochs} on one in {table.share} of "
        "them (the paper: 300 on 300,000, 1,800 on 50,000). m is the share of the large block's "
        "weights that are set to 0, n the standard deviation of the noise added to them, afresh "
        "in every batch; *chosen* is what did best on selection networks, beside the paper's "
        f"number, whose m and n it does not print. {printed.RULES}"
    )
    output.write(params, TABLE, caption, metrics, pd.DataFrame(rows))


if __name__ == "__main__":
    runtime.run(main, __doc__)
