"""The ablation as one table: from the paper's translator to ours, row by row."""

import pandas as pd

from kt.ensemble import Compute
from stages.common.base import runtime
from stages.common.base.params import Params
from stages.figures.style import LABELS
from stages.tables import cell, output
from stages.tables.ablation_row import Ablation

REFERENCES = ("random_initialisation", "retrained", "large")


def main(params: Params, compute: Compute) -> None:
    baselines = output.references()
    fixed = cell.read(params, "ablation_fixed")
    settings = params.table("ablation", Ablation)
    trained = {row: cell.read(params, f"ablation/{row}") for row in settings.rows}
    rows = {name: {"label": LABELS[name], "translation": baselines[name]} for name in REFERENCES}
    rows |= trained | fixed
    table = pd.DataFrame([in_words(row, baselines) for row in rows.values()])
    caption = (
        f"{output.protocol(params)}. {output.ACCURACY} Selection networks chose each row's epoch. "
        "*Gap* is the share of the way from random initialisation to the re-trained small block. "
        "*Seen* is the mean accuracy of networks that the translator was trained on. *Training* "
        "takes seconds without evaluations, *a block* what translating or pruning one network "
        f"takes. {output.given(params)} "
        f"{output.trained_with({'at most': max(row['updates'] for row in trained.values())})}"
    )
    metrics = {
        name: row["translation"] | ({"training": row["training"]} if "training" in row else {})
        for name, row in rows.items()
    }
    output.write(params, "ablation", caption, metrics, table)


def in_words(row: dict, baselines: dict) -> dict[str, str]:
    test = row["translation"]
    seconds = row.get("seconds_per_network")
    return {
        "row": row["label"],
        "accuracy": output.spread(test),
        "n": test["n"],
        "gap, %": f"{output.gap(test['mean'], baselines):.0f}",
        "seen": f"{row['training']['mean']:.2f}" if "training" in row else "",
        "networks": row.get("networks", ""),
        "updates": row.get("updates", ""),
        "training, s": f"{row['seconds']:.0f}" if "seconds" in row else "",
        "a block, ms": f"{seconds * 1000:.1f}" if seconds is not None else "",
    }


if __name__ == "__main__":
    runtime.run(main, __doc__)
