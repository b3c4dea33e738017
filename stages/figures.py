"""The report's figures: tables in, matplotlib figures out; colours of Okabe and Ito (2008)."""

from collections.abc import Callable

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

matplotlib.use("Agg")

BLUE, ORANGE, GREEN, GREY, PURPLE = "#0072B2", "#D55E00", "#009E73", "#7F7F7F", "#CC79A7"
SHADES = (BLUE, ORANGE, GREEN, PURPLE)
"""Of kinds in one chart, in this order."""
LABELS = {
    "random_initialisation": "random initialisation",
    "random_replacement": "random replacement",
    "greedy_replacement": "greedy replacement",
    "identity": "identity (zero weights)",
    "translation": "translation",
    "retrained": "re-trained small block",
    "large": "large block (uncompressed)",
}
COLOURS = dict.fromkeys(LABELS, GREY) | {"translation": ORANGE, "retrained": GREEN, "large": BLUE}


def _axes(width: float = 6.4, height: float = 3.6, columns: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), layout="constrained", dpi=120)
    axes = list(figure.subplots(1, columns, squeeze=False)[0])
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.3)
    return figure, axes


def accuracy_bars(results: dict[str, dict], title: str) -> Figure:
    """Mean accuracy with its 95 % interval, a bar for each kind of block."""
    figure, (ax,) = _axes(height=0.9 + 0.36 * len(results))
    names = list(results)[::-1]
    means = [results[name]["mean"] for name in names]
    bars = ax.barh(
        [LABELS[name] for name in names],
        means,
        xerr=[results[name]["ci95"] for name in names],
        color=[COLOURS[name] for name in names],
        error_kw={"ecolor": "black", "elinewidth": 1, "capsize": 3},
    )
    ax.bar_label(bars, [f"{mean:.1f}" for mean in means], padding=8, fontsize=9)
    ax.set_xlim(0, 108)
    ax.set_xlabel(f"accuracy, % (mean and 95 % interval over {results[names[0]]['n']} networks)")
    ax.set_title(title, fontsize=10)
    ax.grid(axis="y", visible=False)
    return figure


def training_curves(loss: pd.DataFrame, selection: pd.DataFrame, test: pd.DataFrame) -> Figure:
    """Training loss, and mean accuracy on selection and test networks, over epochs."""
    figure, (left, right) = _axes(8.4, 3.4, 2)
    left.plot(loss["step"], loss["loss"], color=BLUE)
    left.set(xlabel="epoch", ylabel="training loss", yscale="log")
    right.plot(
        selection["step"],
        selection["selection_accuracy"],
        color=GREEN,
        marker="o",
        markersize=3,
        label="selection networks, held-back images",
    )
    right.plot(
        test["step"],
        test["test_accuracy"],
        color=ORANGE,
        marker="s",
        markersize=3,
        label="test networks, test images",
    )
    right.set(xlabel="epoch", ylabel="mean accuracy, %")
    right.legend(frameon=False, fontsize=8)
    return figure


def accuracy_histogram(random: pd.Series, translation: pd.Series) -> Figure:
    """Figure 7: the networks' accuracies in bins of 5 %."""
    figure, (ax,) = _axes()
    bins = [5 * i for i in range(21)]
    ax.hist(random, bins, color=GREY, alpha=0.75, label=LABELS["random_initialisation"])
    ax.hist(translation, bins, histtype="step", color=ORANGE, linewidth=2, label="translation")
    ax.set(xlabel="accuracy, %", ylabel=f"networks (of {len(translation)})", xlim=(0, 100))
    ax.legend(frameon=False)
    return figure


def augmentation_effect(masking: pd.DataFrame, noise: pd.DataFrame) -> Figure:
    """Accuracy of the large and the re-trained small block as masking and noise grow."""
    figure, axes = _axes(8.4, 3.4, 2)
    texts = ("masking m: share of entries set to 0", "noise n: its standard deviation")
    for ax, table, key, text in zip(
        axes, (masking, noise), ("masking", "noise"), texts, strict=True
    ):
        for side, colour, marker in (("large", BLUE, "o"), ("small", GREEN, "s")):
            ax.errorbar(
                table[key],
                table[side],
                table[f"{side}_ci95"],
                color=colour,
                marker=marker,
                markersize=4,
                capsize=2,
                label=f"{side} block augmented",
            )
        ax.set(xlabel=text, ylabel="mean accuracy, %", ylim=(0, 100))
    axes[0].legend(frameon=False, fontsize=8)
    return figure


def partial_data(table: pd.DataFrame) -> Figure:
    """Figure 8: accuracies, and the gain of translation, by fraction of the training images."""
    figure, (left, right) = _axes(8.4, 3.4, 2)
    for name, marker in (("large", "o"), ("translation", "s"), ("random_initialisation", "^")):
        left.errorbar(
            table["fraction"],
            table[name],
            table[f"{name}_ci95"],
            color=COLOURS[name],
            marker=marker,
            markersize=4,
            capsize=2,
            label=LABELS[name],
        )
    left.set(ylabel="mean accuracy, %", ylim=(0, 100))
    left.legend(frameon=False, fontsize=8)
    right.axhline(0, color="black", linewidth=0.8)
    right.errorbar(
        table["fraction"], table["gain"], table["gain_ci95"], color=ORANGE, marker="s", capsize=2
    )
    right.set(ylabel="gain of translation, points")
    for ax in (left, right):
        ax.set_xlabel("fraction of the training images")
    return figure


def feature_maps(images: Tensor, maps: dict[str, Tensor]) -> Figure:
    """What blocks make of images: a row for each image, a group of six maps for each block.

    Args:
        images: (M, 28, 28).
        maps: (M, 6, 14, 14) for every label.
    """
    rows = len(images)
    figure = Figure(
        figsize=(1.1 + 1.5 * len(maps), 1.1 * rows + 0.4), layout="constrained", dpi=120
    )
    grid = figure.subplots(rows, 1 + len(maps), squeeze=False)
    for r, axes in enumerate(grid):
        axes[0].imshow(images[r], cmap="gray_r")
        top = max(float(m[r].max()) for m in maps.values())
        for ax, (label, m) in zip(axes[1:], maps.items(), strict=True):
            tiled = m[r].unflatten(0, (2, 3)).permute(0, 2, 1, 3).reshape(28, 42)
            ax.imshow(tiled, cmap="viridis", vmin=0, vmax=top)
            if r == 0:
                ax.set_title(label, fontsize=8)
        for ax in axes:
            ax.set_axis_off()
    return figure


def learning_curve(
    points: dict[int, dict], levels: dict[str, float], fit: Callable | None
) -> Figure:
    """Accuracy by number of training networks, and over the training of each number.

    Args:
        points: by number of networks, what `stages.tables.cell.measured` says.
        levels: mean accuracies of the references to draw as lines.
        fit: accuracy by number of networks, to draw along, if there is one.
    """
    figure, (left, right) = _axes(9.2, 3.8, 2)
    counts = list(points)
    for key, label, colour, marker in (
        ("training", "networks it was trained on", BLUE, "s"),
        ("translation", "unseen networks", ORANGE, "o"),
    ):
        results = [points[count][key] for count in counts]
        means, intervals = ([r[k] for r in results] for k in ("mean", "ci95"))
        style = {"color": colour, "marker": marker, "markersize": 4, "capsize": 3}
        left.errorbar(counts, means, intervals, label=label, **style)
    if fit is not None:
        along = np.geomspace(min(counts), 4 * max(counts), 100)
        left.plot(along, fit(along), color=ORANGE, linestyle=":", label="fit")
    shades = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(counts)))
    for count, shade in zip(counts, shades, strict=True):
        way = points[count]["evaluations"]
        right.plot(
            [e["seconds"] for e in way], [e["test"] for e in way], color=shade, label=f"{count:,}"
        )
    for ax in (left, right):
        for name, level in levels.items():
            ax.axhline(level, color=COLOURS[name], linestyle="--", linewidth=1, label=LABELS[name])
        ax.set(ylabel=f"accuracy, % (mean of {points[counts[0]]['translation']['n']} networks)")
    left.set(xlabel="training networks", xscale="log")
    left.set_ylim(top=min(100, left.get_ylim()[1]))  # the interval of two networks is endless
    right.set(xlabel="training time, s")
    left.legend(frameon=False, fontsize=7)
    right.legend(frameon=False, fontsize=7, title="training networks", title_fontsize=7, ncols=2)
    return figure
