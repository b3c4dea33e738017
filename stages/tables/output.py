"""How a table is written: JSON (DVC's metrics), CSV and Markdown, in a folder per scale."""

import json
from pathlib import Path

import pandas as pd

from kt.run.statistics import gap_closed
from stages.common.base import runtime
from stages.common.base.inputs import RESULTS
from stages.common.base.params import Params

TABLES = Path("tables/results")


def write(params: Params, name: str, caption: str, metrics: dict, table: pd.DataFrame) -> None:
    """Write `tables/results/<scale>/<name>.{json,csv,md}`.

    Args:
        metrics: nested numbers by readable names, for `dvc metrics diff`.
        table: what a reader sees; its numbers are formatted already.
    """
    path = folder(params) / name
    runtime.write_json(path.with_suffix(".json"), metrics)
    runtime.write_csv(path.with_suffix(".csv"), table)
    runtime.write_markdown(path.with_suffix(".md"), caption, table)


def folder(params: Params) -> Path:
    """Where the active scale's tables are."""
    return TABLES / params.scale


def spread(summary: dict) -> str:
    """A mean with its interval, as tables show it."""
    return f"{summary['mean']:.2f} ± {summary['ci95']:.2f}"


def parsed(spread: str) -> tuple[float, float]:
    """The mean and the interval that `spread` wrote."""
    mean, _, interval = spread.partition(" ± ")
    return float(mean), float(interval)


def references() -> dict[str, dict]:
    """Summaries of the blocks that need no translator, on the test networks."""
    return json.loads((RESULTS / "baselines" / "metrics.json").read_text())


def gap(mean: float, baselines: dict[str, dict]) -> float:
    """Share in percent of the way from random initialisation to the re-trained small block."""
    return gap_closed(mean, *(baselines[k]["mean"] for k in ("random_initialisation", "retrained")))


def protocol(params: Params) -> str:
    """What the networks of a table are, in words."""
    recipe, images = params.active.recipe, params.active.images
    return (
        f"Scale `{params.scale}`: {images.main}, networks trained for {recipe.epochs} epochs a step"
        f" at batch {recipe.batch_size}, seed {params.seed}"
    )
