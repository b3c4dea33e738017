"""How a table is written: JSON (DVC's metrics), CSV and Markdown, in a folder per scale."""

from pathlib import Path

import pandas as pd

from kt.run.statistics import gap_closed
from kt.translators.merge import MergeConfig
from stages.common.base import inputs, outputs
from stages.common.base import metrics as measured
from stages.common.base.params import Params
from stages.common.translation import METRICS
from stages.tables.cells import mixers

TABLES = Path("tables/results")
SMOKE = 1_000
"""Updates below which a translator's training is called a smoke run."""
STEADY = 1.0
"""Percent by which a loss that has stopped falling still falls, at most."""


def write(params: Params, name: str, caption: str, metrics: dict, table: pd.DataFrame) -> None:
    """Write `tables/results/<scale>/<name>.{json,csv,md}`.

    Args:
        metrics: nested numbers by readable names, for `dvc metrics diff`.
        table: what a reader sees; its numbers are formatted already.
    """
    path = folder(params) / name
    outputs.write_json(path.with_suffix(".json"), metrics)
    outputs.write_csv(path.with_suffix(".csv"), table)
    outputs.write_markdown(path.with_suffix(".md"), caption, table)


ACCURACY = (
    "Accuracy is in percent on test images: the mean over n test networks, which no translator saw "
    "in training, and its 95 % interval (Student)."
)


def folder(params: Params) -> Path:
    """The folder of the active scale's tables."""
    return TABLES / params.scale


def spread(summary: dict) -> str:
    """A mean with its interval, as text."""
    return f"{summary['mean']:.2f} ± {summary['ci95']:.2f}"


def parsed(spread: str) -> tuple[float, float]:
    """The mean and the interval that `spread` wrote."""
    mean, _, interval = spread.partition(" ± ")
    return float(mean), float(interval)


def references() -> dict[str, dict]:
    """Summaries of the blocks that need no translator, on the test networks."""
    return measured.read("baselines")


def gap(mean: float, baselines: dict[str, dict]) -> float:
    """Share in percent of the way from random initialisation to the re-trained small block."""
    return gap_closed(mean, *(baselines[k]["mean"] for k in ("random_initialisation", "retrained")))


def trained_with(found: dict[str, list[dict]]) -> str:
    """How many updates translators were trained with, which were smoke runs, and which converged.

    Args:
        found: the cells with `updates` and `late_fall` by the translators' names in words.
    """
    most = {name: max(cell["updates"] for cell in cells) for name, cells in found.items()}
    ended = {name: sum(converged(cell) for cell in cells) for name, cells in found.items()}
    words = ", ".join(f"{name} {count:,}" for name, count in most.items())
    counted = ", ".join(f"{name} {ended[name]} of {len(cells)}" for name, cells in found.items())
    said = (
        f"Updates in training, at most: {words}. It had *converged* if the mean loss of the last "
        f"tenth of its epochs is less than {STEADY:g} % below that of the tenth before: {counted}."
    )
    few = [name for name, count in most.items() if count < SMOKE]
    if not few:
        return said
    which = "all of these" if len(few) == len(most) else ", ".join(few)
    return (
        f"{said} A *smoke run* has fewer than {SMOKE:,} updates: it shows what so little training "
        f"reaches, not what the translator can reach. Smoke runs: {which}."
    )


def converged(cell: dict) -> bool:
    """Whether the loss had stopped falling; a single epoch cannot say."""
    return cell["late_fall"] is not None and cell["late_fall"] < STEADY


def trained_beside(params: Params, size: str) -> str:
    """How many updates a mixer and the main job's translator were trained with, in words."""
    mixer = inputs.read_json(mixers.folder(params, size) / METRICS)
    mixer["updates"] = mixers.changed(params, size).updates
    return trained_with({"the mixer": [mixer], params.model.kind: [main_job(params)]})


def main_job(params: Params) -> dict:
    """What `trained_with` says of the main job's translator."""
    return measured.read("train") | {"updates": params.updates}


def protocol(params: Params) -> str:
    """What the networks of a table are, in a sentence without its full stop."""
    recipe, images = params.active.recipe, params.active.images
    return (
        f"Scale `{params.scale}`: the images are {images.main}, and networks are trained for "
        f"{recipe.epochs} epochs at batch {recipe.batch_size} in each of two steps (seed "
        f"{params.seed})"
    )


def given(params: Params) -> str:
    """What translators are given, in words."""
    merge = params.translators.get("merge", params.translator).model
    prototypes = merge.get("prototypes", MergeConfig().prototypes)
    return (
        "A mixer is given the large block's weights and learns from pairs of large and small "
        f"blocks. Merge is given the whole network's weights and its own {prototypes} unlabelled "
        "prototype images, and learns from networks and unlabelled images, without small blocks."
    )
