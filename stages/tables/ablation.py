"""The ablation as one table: from the paper's translator to ours, row by row."""

import pandas as pd

from kt.ensemble import Compute
from stages.common.base import metrics as measured
from stages.common.base import runtime
from stages.common.base.params import Params, settings_of
from stages.tables import output
from stages.tables.cells import cell
from stages.tables.cells.settings import Ablation

REFERENCES = ("random_initialisation", "retrained", "adam", "large")


def main(params: Params, compute: Compute) -> None:
    baselines = output.references()
    fixed = cell.read(params, "fixed")
    trained = {
        name: {"label": row.label} | cell.read(params, f"ablation/{name}")
        for name, row in settings_of("ablation", Ablation).rows.items()
    }
    rows: dict[str, dict] = {
        name: {"label": output.label(name, baselines), "translation": baselines[name]}
        | ({} if name == "random_initialisation" else {"images": "all, labelled"})
        for name in REFERENCES
    }
    for name, row in (trained | fixed).items():
        rows[name] = row | {"translation": row["translation"] | output.beside(row["accuracies"])}
    over_seeds = measured.read("train")["over_seeds"]
    rows["translation"]["translation"]["over_seeds"] = over_seeds
    rows["translation"] |= {"networks": params.active.pairs, "updates": params.updates}
    lines = pd.DataFrame([in_words(row, baselines) for row in rows.values()])
    caption = (
        f"{output.protocol(params)}. {output.yardstick(baselines)} {output.over_seeds(params)} "
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
        "gap, %": f"{output.gap(test['mean'], baselines):z.0f}",
        **output.told(test),
        "images": row.get("images", "none"),
        "seen": f"{row['training']['mean']:.2f}" if "training" in row else "",
        "networks": row.get("networks", ""),
        "updates": row.get("updates", ""),
    }


if __name__ == "__main__":
    runtime.run(main, __doc__)
