"""Figures of accuracies: bars, histograms, and Table 1's methods by what they need."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stages.figures import style

BIN = 5
"""Width of a histogram's bins in percent (the paper's Figure 7)."""


def bars(results: dict[str, dict], title: str, translator: str = "merge") -> Figure:
    """Mean accuracy with its 95 % interval, a bar for each kind of block.

    Args:
        results: summaries by the names in `style.LABELS`.
        translator: the kind of translator behind `translation`.
    """
    figure, (ax,) = style.new(height=0.9 + 0.36 * len(results))
    names = list(results)[::-1]
    means = [results[name]["mean"] for name in names]
    drawn = ax.barh(
        [style.LABELS[name] for name in names],
        means,
        xerr=[results[name]["ci95"] for name in names],
        color=[style.colour(translator if name == "translation" else name) for name in names],
        height=0.7,
        error_kw={"ecolor": "black", "elinewidth": 1.2, "capsize": 3},
    )
    for name, bar in zip(names, drawn, strict=True):
        if name == "large":  # black on black
            bar.set(facecolor="#404040")
    ax.bar_label(drawn, [f"{mean:.1f}" for mean in means], padding=6, fontsize=10)
    ax.set(xlim=(0, 108), xticks=range(0, 101, 20))
    ax.set_xlabel(f"accuracy, % (mean and 95 % interval over {results[names[0]]['n']} networks)")
    ax.set_title(title, fontsize=11)
    ax.grid(axis="y", visible=False)
    return figure


def histograms(found: dict[str, pd.Series], colours: list[str]) -> Figure:
    """Networks by accuracy in bins of 5 %, filled for the first series, outlined for the others."""
    figure, (ax,) = style.new()
    edges = np.arange(0, 100 + BIN, BIN)
    lines = ("-", "--", "-.", ":")
    for i, ((name, values), colour) in enumerate(zip(found.items(), colours, strict=True)):
        counts, _ = np.histogram(values, edges)
        filled = np.flatnonzero(counts)
        first, last = filled[0], filled[-1] + 1  # no line along the axis where there is nothing
        how = {"fill": True, "alpha": 0.4} if i == 0 else {"linewidth": 2.4}
        ax.stairs(
            counts[first:last], edges[first : last + 1], color=colour, label=name,
            linestyle=lines[max(0, i - 1)], **how,
        )  # fmt: skip
    ax.set(xlabel="accuracy, %", ylabel=f"networks (of {len(values)})", xlim=(0, 100))
    style.legend(figure, columns=3)
    return figure


def table1(rows: pd.DataFrame, n: int) -> Figure:
    """What Table 1's methods reach, grouped by what they need.

    Args:
        rows: `method` (in words), `colour`, `group` (what it needs), `mean`, `ci95` and `whole`
            (the block keeps all its parameters or nearly), in the groups' order; the large block
            has the group "".
        n: networks that the accuracies are of.
    """
    figure, (ax,) = style.new(7.2, 7.4)
    methods(ax, rows)
    ax.set_xlabel(f"mean accuracy and 95 % interval, % (n = {n})")
    ax.plot([], "o", color=style.GREY, mfc="white", label="keeps all parameters of the block")
    style.legend(figure, ax)
    return figure


def methods(ax: Axes, rows: pd.DataFrame) -> None:
    """Accuracies with intervals, a line each under a heading for each group."""
    at, ticks, names = 0, [], []
    for group, own in rows[rows["group"] != ""].groupby("group", sort=False):
        place = ax.get_yaxis_transform()
        ax.text(0.015, at, group, fontweight="bold", va="center", transform=place)
        at += 1
        for row in own.itertuples():
            style_of = {"color": row.colour, "mfc": "white" if row.whole else row.colour}
            ax.errorbar(row.mean, at, xerr=row.ci95, fmt="o", capsize=3, markersize=6, **style_of)
            ticks.append(at)
            names.append(row.method)
            at += 1
    for row in rows[rows["group"] == ""].itertuples():
        ax.axvline(row.mean, color=row.colour, linestyle="--", linewidth=1.2)
        ax.annotate(
            f"{row.method}: {row.mean:.1f}", (row.mean, 1), (0, 4), ha="right", va="bottom",
            xycoords=("data", "axes fraction"), textcoords="offset points", fontsize=10,
        )  # fmt: skip
    ax.set_yticks(ticks, names)
    ax.set(ylim=(at - 0.4, -0.6), xlim=(0, 100))
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", visible=False)
