"""The times that the tables took: the only results that differ between two runs."""

from pathlib import Path

import pandas as pd

from kt.ensemble import Compute
from stages.common.base import inputs, outputs, runtime
from stages.common.base.params import Params
from stages.figures import lines, style
from stages.tables import output
from stages.tables.cells import cell
from stages.tables.cells.methods import FAMILIES, TABLE
from stages.tables.cells.table1 import SHOWN
from stages.tables.table1 import COLOURS

TIMES = Path("tables/times")
BLOCKS = "widths/blocks/"
"""Begins the names of the widths' cells that time single blocks."""
RETRAINED = ("retrained", "adam")
TRANSLATED = ("kt_merge", "kt_mixer")


def main(params: Params, compute: Compute) -> None:
    found: dict[str, dict] = {}
    for family in FAMILIES:
        labels = cell.read(params, f"{TABLE}/{family}")
        taken = cell.seconds_of(params, f"{TABLE}/{family}")
        found |= {name: taken[name] | {"label": labels[name]["label"]} for name in taken}
    better = output.references()["ceiling"]["by"]
    points = {
        (kt, better): break_even(found[kt], found[better])
        for kt in TRANSLATED
        if kt in found and better in found
    }
    words = [
        f"{found[kt]['label']} with {found[other]['label']}: "
        + ("never" if count is None else f"{count:,} networks")
        for (kt, other), count in points.items()
    ]
    caption = (
        f"{output.protocol(params)}. Table 1's methods by the clock: the latency of one block for "
        f"an image among {SHOWN}, in plain PyTorch and one thread, where quantised weights run as "
        "float32; *seconds* for a network among many, *alone* for a single one; *once*, what a "
        "translator takes beforehand, the networks that it learns from included, however many it "
        "compresses. Translation breaks even with the better re-training, whose choice is not "
        f"counted: {'; '.join(words)}."
    )
    table = pd.DataFrame([in_words(row) for row in found.values()])
    metrics = {f"{kt}_{other}": count for (kt, other), count in points.items()}
    kept = cell.CELLS / params.scale / cell.TIMES
    names = [str(path.relative_to(kept).with_suffix("")) for path in sorted(kept.rglob("*.json"))]
    clocked = {name: cell.seconds_of(params, name) for name in names}
    training = {name: took["training"] for name, took in clocked.items() if "training" in took}
    blocks = {
        name.removeprefix(BLOCKS): took for name, took in clocked.items() if name.startswith(BLOCKS)
    }
    content = {"break_even": metrics, "methods": found, "training": training, "widths": blocks}
    folder = TIMES / params.scale
    outputs.write_json(folder / "times.json", content)
    outputs.write_markdown(folder / "times.md", caption, table)
    draw(folder)


def draw(folder: Path) -> None:
    """Draw what the clock said in a scale's folder."""
    found = inputs.read_json(folder / "times.json")["methods"]
    curves = {
        found[name]["label"]: (found[name]["seconds"], found[name]["once_seconds"])
        for name in (*RETRAINED, *TRANSLATED)
        if name in found
    }
    colours = {found[name]["label"]: COLOURS[name] for name in COLOURS if name in found}
    style.save(lines.break_even(curves, colours), folder / "times.png")


def break_even(kt: dict, other: dict) -> int | None:
    """The fewest networks for which translation, its training included, takes less; or None."""
    saved = other["seconds"] - kt["seconds"]
    return None if saved <= 0 else int(kt["once_seconds"] / saved) + 1


def in_words(row: dict) -> dict[str, str]:
    return {
        "method": row["label"],
        "latency, us": f"{row['latency_us']:.1f}",
        "seconds": f"{row['seconds']:.2g}",
        "alone, s": f"{row['alone_seconds']:.2g}",
        "once, s": f"{row['once_seconds']:.0f}" if row["once_seconds"] else "",
    }


if __name__ == "__main__":
    runtime.run(main, __doc__)
