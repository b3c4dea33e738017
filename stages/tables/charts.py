"""Figures of the tables: what cells found in, matplotlib figures out."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stages.common.base.params import Params
from stages.figures import GREY, SHADES
from stages.tables import output

MARKERS = "osD^"
LINES = ("-", "--", ":", "-.")


def save(figure: Figure, params: Params, name: str) -> None:
    """Write `tables/results/<scale>/<name>.png`."""
    figure.savefig(output.TABLES / params.scale / f"{name}.png", metadata={"Software": None})


def training_of_kinds(found: dict[str, list[dict]], mean_block: float, pairs: int) -> Figure:
    """Loss over epochs by kind of translator: on its training pairs, and dashed on held-out ones.

    Args:
        found: records with `epoch`, `loss` and `held_out_loss` by name.
        mean_block: the training loss of the mean small block, dotted.
        pairs: how many were learned from.
    """
    figure = Figure(figsize=(6.4, 3.8), layout="constrained", dpi=120)
    ax = figure.subplots()
    for (name, history), shade, marker in zip(found.items(), SHADES, MARKERS, strict=False):
        epochs = [at["epoch"] for at in history]
        style = {"color": shade, "marker": marker, "markersize": 4}
        style["markevery"] = max(1, len(epochs) // 10)
        ax.plot(epochs, [at["loss"] for at in history], label=name, **style)
        ax.plot(epochs, [at["held_out_loss"] for at in history], linestyle="--", **style)
    ax.plot([], color="black", linestyle="--", label="on held-out pairs")
    ax.axhline(mean_block, color="black", linestyle=":", label="the mean small block")
    ax.set(xlabel="epoch", ylabel=f"loss ({pairs:,} training pairs)", yscale="log")
    _plain(ax)
    ax.legend(frameon=False, fontsize=8)
    return figure


def training_of_sizes(found: dict[str, list[dict]]) -> Figure:
    """Training loss, and mean accuracy of the test networks, over epochs.

    Args:
        found: the evaluations of `stages.tables.cell.measured` by name.
    """
    figure = Figure(figsize=(8.4, 3.4), layout="constrained", dpi=120)
    left, right = figure.subplots(1, 2)
    for (name, evaluations), shade, marker in zip(found.items(), SHADES, MARKERS, strict=False):
        epochs = [at["epoch"] for at in evaluations]
        style = {"color": shade, "marker": marker, "markersize": 3, "label": name}
        left.plot(epochs, [at["loss"] for at in evaluations], **style)
        right.plot(epochs, [at["test"] for at in evaluations], **style)
    left.set(xlabel="epoch", ylabel="training loss", yscale="log")
    right.set(xlabel="epoch", ylabel="mean accuracy of test networks, %")
    for ax in (left, right):
        _plain(ax)
    left.legend(frameon=False, fontsize=8)
    return figure


def seconds_by_networks(found: dict[str, dict]) -> Figure:
    """Seconds of compute by the number of networks compressed: what is spent once, and for each.

    Args:
        found: `label`, `seconds` and `once_seconds` of some methods.
    """
    figure = Figure(figsize=(6.4, 3.8), layout="constrained", dpi=120)
    ax = figure.subplots()
    networks = np.geomspace(1, 1e5, 200)
    for row, shade, line in zip(found.values(), SHADES, LINES, strict=False):
        seconds = row["once_seconds"] + networks * row["seconds"]
        style = {"color": shade, "linewidth": 2, "linestyle": line}
        ax.plot(networks, seconds, label=row["label"], **style)
    ax.set(xlabel="networks compressed", ylabel="seconds in all", xscale="log", yscale="log")
    _plain(ax)
    ax.legend(frameon=False, fontsize=8)
    return figure


def histograms(found: dict[str, pd.Series]) -> Figure:
    """Accuracies in bins of 5 %, filled for the first and outlined for the others."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained", dpi=120)
    ax = figure.subplots()
    bins = [5 * i for i in range(21)]
    (first, values), *others = found.items()
    ax.hist(values, bins, color=GREY, alpha=0.6, label=first)
    for (name, accuracies), shade, line in zip(others, SHADES, LINES, strict=False):
        style = {"color": shade, "linewidth": 2, "linestyle": line}
        ax.hist(accuracies, bins, histtype="step", label=name, **style)
    ax.set(xlabel="accuracy, %", ylabel=f"networks (of {len(values)})", xlim=(0, 100))
    _plain(ax)
    ax.legend(frameon=False)
    return figure


def gains_by_fraction(gains: dict[float, dict[str, dict]]) -> Figure:
    """The gain of each translator over random initialisation, by fraction of the images."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained", dpi=120)
    ax = figure.subplots()
    fractions = list(gains)
    for i, name in enumerate(gains[fractions[0]]):
        means, intervals = ([gains[f][name][k] for f in fractions] for k in ("mean", "ci95"))
        style = {"color": SHADES[i], "marker": MARKERS[i], "markersize": 4, "capsize": 3}
        ax.errorbar(fractions, means, intervals, label=name, **style)
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set(xlabel="fraction of the training images", ylabel="gain of translation, points")
    _plain(ax)
    ax.legend(frameon=False)
    return figure


def _plain(ax: Axes) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.3)
