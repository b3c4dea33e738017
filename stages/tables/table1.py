"""Table 1 of the paper, measured: the accuracy, cost and needs of each method of compression."""

from pathlib import Path

import pandas as pd

from kt.ensemble import Compute
from kt.rivals import retraining
from stages.common.base import inputs, runtime
from stages.common.base.params import Params
from stages.figures import accuracies, style
from stages.tables import output
from stages.tables.cells import cell
from stages.tables.cells.methods import FAMILIES, TABLE

NEEDS = {
    "nothing but the weights": "none",
    "weights and stored prototypes": "prototypes",
    "unlabelled images": "unlabelled",
    "labelled images, to train on": "all, labelled",
}
"""What a method needs for a network, by a word of what the table says of images."""
GROUPS = ["", *NEEDS]
COLOURS = {
    "large": style.colour("large"),
    "retrained": style.colour("retrained"),
    "adam": style.colour("adam"),
    "kt_merge": style.colour("merge"),
    "kt_mixer": style.colour("mixer"),
}


def main(params: Params, compute: Compute) -> None:
    found: dict[str, dict] = {}
    for family in FAMILIES:
        found |= cell.read(params, f"{TABLE}/{family}")
    learned = {found[kt]["label"]: [found[kt]] for kt in ("kt_merge", "kt_mixer")}
    caption = (
        f"{output.protocol(params)}. The networks are the first {found['large']['accuracy']['n']} "
        "test networks, which no method saw before. "
        "Parameters, bytes and multiply-adds are those of one block. Bytes are float32's, "
        "or, if quantised, those of packed codes and of a float32 scale and bias a channel. "
        "Low-rank blocks have 12 biases beside their 324 weights. *Images* are what a method "
        "takes for a network, *updates* the training steps it takes: a translator's are "
        "taken once. *Any kind of block*: the small block may be of another kind than the large "
        f"one, an MLP say. {output.yardstick(output.references())} Re-training by SGD and by Adam, "
        "in epochs, is the ceiling's and mirrors images as the networks' own training does; the "
        f"methods of few steps (Adam at batch {retraining.BATCH}, rate {retraining.RATE:g} falling "
        f"to 0) do not. {output.over_seeds(params)} "
        f"{output.trained_with(learned)}"
    )
    table = pd.DataFrame([in_words(row) for row in found.values()])
    metrics = {
        name: row["accuracy"] | output.beside(row["accuracies"]) | counted(row)
        for name, row in found.items()
    }
    output.write(params, TABLE, caption, metrics, table)
    draw(output.folder(params))


def draw(folder: Path) -> None:
    """Draw the table in a scale's folder."""
    table = inputs.read_table(folder / f"{TABLE}.csv", words=("method", "images"))
    metrics = inputs.read_json(folder / f"{TABLE}.json")
    names = [name for name, row in metrics.items() if "parameters" in row]
    large = metrics["large"]
    rows = pd.DataFrame(
        {
            "method": table["method"],
            "colour": [COLOURS.get(name, style.GREY) for name in names],
            "group": [
                "" if n == "large" else needs(i)
                for n, i in zip(names, table["images"], strict=True)
            ],
            "mean": [metrics[name]["mean"] for name in names],
            "ci95": [metrics[name]["ci95"] for name in names],
            "whole": [metrics[name]["parameters"] == large["parameters"] for name in names],
        }
    )
    rows["order"] = [GROUPS.index(group) for group in rows["group"]]
    figure = accuracies.table1(rows.sort_values("order", kind="stable"), large["n"])
    style.save(figure, folder / f"{TABLE}.png")


def needs(images: str) -> str:
    """The group of a method, by the images that it takes for a network."""
    return next(group for group, words in NEEDS.items() if words in images)


def counted(row: dict) -> dict[str, int]:
    names = ("parameters", "network_parameters", "bytes", "network_bytes", "multiply_adds")
    return {name: row[name] for name in names}


def in_words(row: dict) -> dict[str, str]:
    return {
        "method": row["label"],
        "accuracy": output.spread(row["accuracy"]),
        **output.told(output.beside(row["accuracies"])),
        "n": row["accuracy"]["n"],
        "parameters": f"{row['parameters']:,}",
        "of network": f"{row['network_parameters']:,}",
        "bytes": f"{row['bytes']:,}",
        "bytes of network": f"{row['network_bytes']:,}",
        "multiply-adds": f"{row['multiply_adds']:,}",
        "images": row["images"],
        "updates": f"{row['updates']:,}" + (" once" if row["once"] else ""),
        "re-trains": "yes" if row["retrains"] else "no",
        "any kind of block": "yes" if row["any_architecture"] else "no",
    }


if __name__ == "__main__":
    runtime.run(main, __doc__)
