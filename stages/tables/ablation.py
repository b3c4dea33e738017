"""The ablation as one table: from the paper's translator to ours, row by row."""

import pandas as pd

from kt.ensemble import Compute
from stages.common.base import runtime
from stages.common.base.params import Params, settings_of
from stages.figures.style import LABELS
from stages.tables import output
from stages.tables.cells import cell
from stages.tables.cells.settings import Ablation

REFERENCES = ("random_initialisation", "retrained", "large")


def main(params: Params, compute: Compute) -> None:
    baselines = output.references()
    fixed = cell.read(params, "fixed")
    trained = {
        name: {"label": row.label} | cell.read(params, f"ablation/{name}")
        for name, row in settings_of("ablation", Ablation).rows.items()
    }
    rows: dict[str, dict] = {
        name: {"label": LABELS[name], "translation": baselines[name]} for name in REFERENCES
    }
    rows |= trained | fixed
    lines = pd.DataFrame([in_words(row, baselines) for row in rows.values()])
    caption = (
        f"{output.protocol(params)}. {output.ACCURACY} Selection networks chose each row's epoch. "
        "*Gap* is the share of the way from random initialisation to the re-trained small block. "
        "*Seen* is the mean accuracy of networks that the translator was trained on. "
        f"{output.given(params)} "
        f"{output.trained_with({'translators': list(trained.values())})}"
    )
    metrics = {
        name: row["translation"] | ({"training": row["training"]} if "training" in row else {})
        for name, row in rows.items()
    }
    output.write(params, "ablation", caption, metrics, lines)


def in_words(row: dict, baselines: dict) -> dict[str, str]:
    test = row["translation"]
    return {
        "row": row["label"],
        "accuracy": output.spread(test),
        "n": test["n"],
        "gap, %": f"{output.gap(test['mean'], baselines):.0f}",
        "seen": f"{row['training']['mean']:.2f}" if "training" in row else "",
        "networks": row.get("networks", ""),
        "updates": row.get("updates", ""),
    }


if __name__ == "__main__":
    runtime.run(main, __doc__)
