"""How a table is written: JSON (DVC's metrics), CSV and Markdown, in a folder per scale."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch

from kt.run import files
from kt.run.statistics import gap_closed, summary
from kt.translators.merge import MergeConfig
from stages.common import ceiling
from stages.common.base import inputs, outputs
from stages.common.base import metrics as measured
from stages.common.base.inputs import RESULTS
from stages.common.base.params import Params
from stages.common.translation import METRICS
from stages.figures.style import LABELS
from stages.tables.cells import cell, mixers

TABLES = Path("tables/results")
SMOKE = 1_000
"""Updates below which a translator's training is called a smoke run."""
FAILED = 80
"""Accuracy, in percent, below which a network is counted."""
BY_NETWORK = RESULTS / "baselines" / "accuracies.csv"
MEANS = {"accuracy", "unseen"}
"""Columns of means that a table's JSON file has, too."""
PLUS = " ± "
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
    outputs.write_markdown(path.with_suffix(".md"), f"{caption} [Terms]({TERMS})", table)


TERMS = "../README.md#terms"
"""Where the words that captions share are explained, from a scale's folder."""


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


def read(path: Path) -> tuple[dict, pd.DataFrame, str]:
    """The metrics, the rows (all text) and the page of a table: `write` wrote them together.

    Args:
        path: its JSON file.

    Raises:
        KTError: a file is missing or damaged, the Markdown file shows other rows than the CSV file,
            or the JSON file lacks a mean that these show.
    """
    page, rows = path.with_suffix(".md"), path.with_suffix(".csv")
    metrics, table = inputs.read_json(path), inputs.read_table(rows, kind=str)
    if not (text := files.read_text(page, inputs.REMEDY).rstrip()):
        raise inputs.damaged(page, "it is empty")
    shown = [line for line in text.splitlines() if line[:1] == "|"]
    if shown != outputs.markdown_rows(table):
        raise inputs.damaged(page, f"its rows are not those of {rows.name}")
    known = set(_spreads(metrics))
    for name in MEANS.intersection(table):
        told = [text for text in table[name] if PLUS in text]  # the others are of one network
        if strange := [text for text in told if text not in known]:
            raise inputs.damaged(path, f"it is not that of {rows.name}: it has no {strange[0]!r}")
    return metrics, table, text


def _spreads(found: object) -> Iterator[str]:
    """Every mean with its interval among nested metrics, as text."""
    if isinstance(found, Mapping):
        if {"mean", "ci95"} <= found.keys():
            yield spread(dict(found))
        for inside in found.values():
            yield from _spreads(inside)


def folder(params: Params) -> Path:
    """The folder of the active scale's tables."""
    return TABLES / params.scale


def spread(summary: dict) -> str:
    """A mean with its interval, as text."""
    return f"{summary['mean']:z.2f}{PLUS}{summary['ci95']:.2f}"


def parsed(spread: str) -> tuple[float, float]:
    """The mean and the interval that `spread` wrote."""
    mean, _, interval = spread.partition(PLUS)
    return float(mean), float(interval)


def references() -> dict[str, dict]:
    """Summaries of the blocks that need no translator, on the test networks, with `beside`."""
    found = measured.read("baselines")
    columns = {name: one.get("by", name) for name, one in found.items()}
    table = inputs.read_table(BY_NETWORK, *columns.values())
    return {name: one | beside(table[columns[name]].tolist()) for name, one in found.items()}


def beside(values: Sequence[float]) -> dict:
    """What a mean over test networks does not tell: the median, the share of networks that fail,
    and the difference to the ceiling, network by network.

    Args:
        values: accuracies of the first test networks, in percent.

    Raises:
        KTError: there are more of them than the ceiling's.
    """
    column = measured.read("baselines")["ceiling"]["by"]
    best = inputs.read_table(BY_NETWORK, column)[column].tolist()
    if len(values) > len(best):
        raise inputs.damaged(BY_NETWORK, f"it has {len(best)} networks, others {len(values)}")
    return compared(values, best[: len(values)])


def compared(values: Sequence[float], best: Sequence[float]) -> dict:
    """`beside`, of a ceiling's accuracies of the same networks."""
    own, highest = (torch.tensor(some, dtype=torch.float64) for some in (values, best))
    return {
        "median": round(own.quantile(0.5).item(), 4),
        "below_80": round((own < FAILED).double().mean().item() * 100, 4),
        "beside_ceiling": summary(own - highest),
    }


def told(result: dict) -> dict[str, str]:
    """The columns of what `beside` found."""
    return {
        "median": f"{result['median']:.2f}",
        "below 80, %": f"{result['below_80']:.1f}",
        "beside the ceiling": spread(result["beside_ceiling"]),
    }


def gap(mean: float, baselines: dict[str, dict]) -> float:
    """Share in percent of the way from random initialisation to the ceiling."""
    return gap_closed(mean, *(baselines[k]["mean"] for k in ("random_initialisation", "ceiling")))


def yardstick(baselines: dict[str, dict]) -> str:
    """Which re-training a table measures with, in words."""
    best = baselines["ceiling"]
    rate = f" (rate {best['rate']:g} falling to 0)" if best["by"] == "adam" else ""
    return f"The *ceiling* is re-training by {ceiling.WAYS[best['by']]}{rate}."


def label(name: str, baselines: dict[str, dict]) -> str:
    """A block that needs no translator, in words."""
    is_ceiling = name == baselines["ceiling"]["by"]
    return LABELS[name] + (" (the ceiling)" if is_ceiling else "")


def over_seeds(params: Params) -> str:
    """How the main job's translator differs by chance, in words."""
    over = measured.read("train")["over_seeds"]
    if over["n"] == 1:
        return f"The main job's translator ({params.model.kind}) was trained from one seed."
    return (
        f"The main job's translator ({params.model.kind}), trained from {over['n']} seeds, has "
        f"{over['mean']:.2f} on average over all test networks, with a standard deviation of "
        f"{over['std']:.2f} over seeds."
    )


def trained_with(found: Mapping[str, Sequence[Mapping]]) -> str:
    """How many updates translators were trained with; which were smoke runs, of others how many
    converged.

    Args:
        found: the cells with `updates` and `late_fall` by the translators' names in words.
    """
    most = {name: max(cell["updates"] for cell in cells) for name, cells in found.items()}
    few = [name for name, count in most.items() if count < SMOKE]
    words = ", ".join(f"{name} {count:,}" for name, count in most.items())
    said = f"*Updates* in training, at most: {words}"
    if counted := ", ".join(
        f"{name} {sum(map(converged, cells))} of {len(cells)}"
        for name, cells in found.items()
        if name not in few
    ):
        said += f"; *converged*: {counted}"
    if not few:
        return f"{said}."
    return f"{said}. *Smoke runs*: {'all of these' if len(few) == len(most) else ', '.join(few)}."


def converged(cell: Mapping) -> bool:
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
    """What merge is given beside a network's weights, in words."""
    return f"Merge has {prototypes(params)}."


def prototypes(params: Params, kind: str = "merge") -> str:
    """The images that a translator of this kind stores, in words."""
    if kind != "merge":
        return "none"
    model = params.translators.get("merge", params.translator).model
    return cell.stored(model.get("prototypes", MergeConfig().prototypes))
