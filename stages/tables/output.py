"""How a table is written: JSON (DVC's metrics), CSV and Markdown, in a folder per scale."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from kt.run.statistics import gap_closed
from kt.translators.merge import MergeConfig
from stages.common.base import inputs, outputs
from stages.common.base import metrics as measured
from stages.common.base.params import Params
from stages.tables.cells import mixers

TABLES = Path("tables/results")
SMOKE = 1_000
"""Updates below which a translator's training is called a smoke run."""


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


@contextlib.contextmanager
def computing(path: Path) -> Iterator[None]:
    """Compute with what a table's JSON and CSV files say.

    Raises:
        KTError: it cannot be done: they do not belong together, or say something else.
    """
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError, StopIteration) as error:
        what = f"it is not that of {path.with_suffix('.csv').name}: {error}"
        raise inputs.damaged(path, what) from error


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


def trained_with(counts: dict[str, int]) -> str:
    """How many updates translators were trained with, and whether these are smoke runs.

    Args:
        counts: updates by the translators' names in words.
    """
    words = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    few = [name for name, count in counts.items() if count < SMOKE]
    if not few:
        return f"Updates in training: {words}."
    which = "all of these" if len(few) == len(counts) else ", ".join(few)
    return (
        f"Updates in training: {words}. A *smoke run* has fewer than {SMOKE:,}: it shows what so "
        f"little training reaches, not what the translator can reach. Smoke runs: {which}."
    )


def trained_beside(params: Params, size: str) -> str:
    """How many updates a mixer and the main job's translator were trained with, in words."""
    mixer = mixers.changed(params, size).updates
    return trained_with({"the mixer": mixer, params.model.kind: params.updates})


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
