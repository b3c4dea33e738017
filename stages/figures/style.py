"""How every figure looks: a name and a colour for each method, axes, legends and ticks.

Colours are those of Okabe and Ito (2008), which people with colour blindness can tell apart.
"""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from kt.run.files import save_bytes

matplotlib.rcdefaults()  # whatever a user's matplotlibrc says
matplotlib.use("Agg")
matplotlib.rcParams |= {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 11,
    "grid.alpha": 0.3,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "lines.linewidth": 2,
    "lines.markersize": 5,
}

BLACK, GREY, BLUE, SKY = "#000000", "#808080", "#0072B2", "#56B4E9"
GREEN, ORANGE, VERMILLION, PURPLE = "#009E73", "#E69F00", "#D55E00", "#CC79A7"
LABELS = {
    "random_initialisation": "random initialisation",
    "random_replacement": "random replacement",
    "greedy_replacement": "greedy replacement",
    "identity": "identity (zero weights)",
    "translation": "translation",
    "retrained": "re-trained by SGD",
    "adam": "re-trained by Adam",
    "large": "large block (uncompressed)",
}
"""Of the blocks that stand between the former and the latter block, in the order of tables."""
COLOURS = {
    "random_initialisation": GREY,
    "random_replacement": GREY,
    "greedy_replacement": GREY,
    "identity": GREY,
    "retrained": GREEN,
    "adam": SKY,
    "large": BLACK,
    "merge": VERMILLION,
    "mixer": BLUE,
    "attention": ORANGE,
    "convolution": PURPLE,
}
"""Of a method, the same in every figure."""
DECADE = 10


def colour(method: str) -> str:
    """The colour of a method; purple for one that has none of its own."""
    return COLOURS.get(method, PURPLE)


def new(
    width: float = 6.4, height: float = 3.8, columns: int = 1, rows: int = 1, **options: object
) -> tuple[Figure, list[Axes]]:
    """A figure with axes row by row, sizes in inches; `options` are those of `subplots`."""
    figure = Figure(figsize=(width, height), layout="constrained", dpi=120)
    return figure, list(figure.subplots(rows, columns, squeeze=False, **options).flat)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, with the same bytes for the same figure."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", metadata={"Software": None})
    save_bytes(path, drawn.getbuffer())


def legend(figure: Figure, *sources: Axes, columns: int = 2) -> None:
    """One legend below the figure, where it covers no data: each label of the axes once."""
    entries: dict[str, Any] = {}
    for ax in sources or figure.axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=columns)


def fit_scale(ax: Axes, axis: str, values: Iterable[float]) -> None:
    """Make the "x" or "y" axis logarithmic if the positive values span more than a decade."""
    positive = [value for value in values if value > 0]
    if positive and max(positive) > DECADE * min(positive):
        log_scale(ax, axis)


def log_scale(ax: Axes, axis: str) -> None:
    """Make the "x" or "y" axis logarithmic, with plain numbers at its ticks."""
    ax.set(**{f"{axis}scale": "log"})
    ticks = getattr(ax, f"{axis}axis")
    ticks.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    ticks.set_major_locator(LogLocator(numticks=5 if axis == "x" else 9))  # labels have room
    ticks.set_minor_locator(NullLocator())


def count_axis(ax: Axes, counts: Sequence[int]) -> None:
    """An x axis of numbers of networks with a tick for each; logarithmic beyond a decade.

    The first and the last are labelled, and between them those with room for a label: three times
    the labelled one before them, and a third of the last at most.
    """
    labelled = [counts[0]]
    for count in counts[1:-1]:
        if 3 * labelled[-1] <= count <= counts[-1] / 3:
            labelled.append(count)
    labelled += counts[-1:] if len(counts) > 1 else []
    if counts[-1] > DECADE * counts[0]:
        ax.set_xscale("log", base=2)
    ax.set_xticks(labelled, [f"{count:,}" for count in labelled])
    ax.set_xticks([count for count in counts if count not in labelled], minor=True)
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.grid(axis="x", which="minor", alpha=0.15)


def whole_ticks(ax: Axes) -> None:
    """Ticks of the x axis at whole numbers alone, as of epochs."""
    ax.xaxis.get_major_locator().set_params(integer=True)
