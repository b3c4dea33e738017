"""Figures of lines: training, learning curves, and what changes along a parameter."""

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stages.figures import style

MARKERS = "osD^v"
LINES = ("-", "--", "-.", ":")
TEACHER = "teacher"
FEW = 8
"""Networks below which an interval says nothing: Student's of two is 12.7 standard errors wide."""


def training_curves(
    loss: pd.DataFrame, selection: pd.DataFrame, test: pd.DataFrame, translator: str = "merge"
) -> Figure:
    """Training loss, and mean accuracy of selection and test networks, over epochs."""
    figure, (left, right) = style.new(8.4, 3.8, 2)
    colour = style.colour(translator)
    left.plot(loss["step"], loss["loss"], color=colour)
    style.fit_scale(left, "y", loss["loss"])
    left.set(xlabel="epoch", ylabel="training loss")
    for table, key, label, how in (
        (selection, "selection_accuracy", "selection networks, held-back images", "s--"),
        (test, "test_accuracy", "test networks, test images", "o-"),
    ):
        hollow = {"markerfacecolor": "white"} if key.startswith("selection") else {}
        right.plot(table["step"], table[key], how, color=colour, label=label, **hollow)
    right.set(xlabel="epoch", ylabel="mean accuracy, %")
    for ax in (left, right):
        style.whole_ticks(ax)
    style.legend(figure)
    return figure


def augmentation_effect(masking: pd.DataFrame, noise: pd.DataFrame) -> Figure:
    """Accuracy with the large or the re-trained small block masked, or with noise in it."""
    figure, axes = style.new(8.4, 3.8, 2, sharey=True)
    texts = ("masking m: share of entries set to 0", "noise n: its standard deviation")
    for ax, table, key, text in zip(
        axes, (masking, noise), ("masking", "noise"), texts, strict=True
    ):
        for side, method, how in (("large", "large", "o-"), ("small", "retrained", "s--")):
            _interval(
                ax, table[key], table[side], table[f"{side}_ci95"], how, style.colour(method),
                f"{side} block augmented",
            )  # fmt: skip
        ax.set(xlabel=text, ylim=(0, 100))
    axes[0].set_ylabel("mean accuracy, %")
    style.legend(figure, axes[0])
    return figure


def partial_data(table: pd.DataFrame, translator: str = "merge") -> Figure:
    """Figure 8: accuracies, and the gain of translation, by fraction of the training images."""
    figure, (left, right) = style.new(8.4, 3.8, 2)
    for name, how in (("large", "o-"), ("translation", "s-"), ("random_initialisation", "^--")):
        colour = style.colour(translator if name == "translation" else name)
        means, intervals = table[name], table[f"{name}_ci95"]
        _interval(left, table["fraction"], means, intervals, how, colour, style.LABELS[name])
    left.set(ylabel="mean accuracy, %", ylim=(0, 100))
    colour = style.colour(translator)
    _interval(right, table["fraction"], table["gain"], table["gain_ci95"], "s-", colour)
    right.set(ylabel="gain of translation, points")
    right.set_ylim(bottom=min(0, right.get_ylim()[0]))
    right.axhline(0, color="black", linewidth=0.8)
    for ax in (left, right):
        ax.set_xlabel("fraction of the training images")
    style.legend(figure, left, columns=3)
    return figure


def gains_by_fraction(gains: dict[str, pd.DataFrame]) -> Figure:
    """The gain of each translator over random initialisation, by fraction of the images.

    Args:
        gains: columns `fraction`, `mean` and `ci95` by kind of translator.
    """
    figure, (ax,) = style.new()
    for (name, table), marker, line in zip(gains.items(), MARKERS, LINES, strict=False):
        how, colour = marker + line, style.colour(name)
        _interval(ax, table["fraction"], table["mean"], table["ci95"], how, colour, name)
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set(xlabel="fraction of the training images", ylabel="gain of translation, points")
    style.legend(figure)
    return figure


def learning_curve(
    points: pd.DataFrame, levels: dict[str, float], fit: Callable | None = None
) -> Figure:
    """Accuracy by number of training networks.

    Levels that lie far below every point are named at the foot instead of drawn, so that they do
    not set the scale. Networks seen in training show their interval if there are `FEW` or more.

    Args:
        points: columns `networks`, `unseen`, `unseen_ci95`, `seen`, `seen_ci95` and `seen_n`.
        levels: mean accuracies of references, by the names in `style.LABELS`.
        fit: accuracy by number of networks, to draw along, if there is one.
    """
    figure, (ax,) = style.new()
    colour = style.colour("merge")
    seen_interval = points["seen_ci95"].where(points["seen_n"] >= FEW)
    intervals = {"unseen": points["unseen_ci95"], "seen": seen_interval.fillna(0)}
    low = min((points[who] - interval).min() for who, interval in intervals.items())
    high = max((points[who] + interval).max() for who, interval in intervals.items())
    room = max(2.0, high - low)
    for who, interval, how, label in (
        ("seen", seen_interval, "s--", "networks it was trained on"),
        ("unseen", points["unseen_ci95"], "o-", "unseen networks"),
    ):
        hollow = {"markerfacecolor": "white"} if who == "seen" else {}
        _interval(ax, points["networks"], points[who], interval, how, colour, label, **hollow)
    if fit is not None:
        along = np.geomspace(min(points["networks"]), 2 * max(points["networks"]), 100)
        ax.plot(along, fit(along), color="black", linestyle=":", linewidth=1.5, label="fit")
    style.count_axis(ax, list(points["networks"]))
    far = []
    for name, level in levels.items():
        if low - room < level < high + room:
            low, high = min(low, level), max(high, level)
            ax.axhline(
                level, color=style.colour(name), linestyle="-.", linewidth=1.5,
                label=style.LABELS[name], zorder=1,
            )  # fmt: skip
        else:
            far.append(f"{style.LABELS[name]}: {level:.1f} %, off the scale")
    ax.text(0.98, 0.03, "\n".join(far), transform=ax.transAxes, ha="right", fontsize=10)
    ax.set(xlabel="training networks", ylabel="mean accuracy, %")
    ax.set_ylim(low - 0.25 * (high - low), min(100, high + 0.08 * (high - low)))
    style.legend(figure)
    return figure


def mixer_curves(
    by_pairs: pd.DataFrame, by_updates: pd.DataFrame, levels: dict[str, float]
) -> Figure:
    """Accuracy and error of mixers by pairs and by updates, on unseen and on training networks.

    Args:
        by_pairs, by_updates: columns `mixer`, `at`, `unseen`, `seen`, `unseen_error` and
            `seen_error`, the last two in percent of the mean small block's.
        levels: mean accuracies of references, by the names in `style.LABELS`.
    """
    figure, axes = style.new(9, 7.4, 2, rows=2)
    shades = (style.BLUE, style.ORANGE, style.PURPLE, style.VERMILLION)
    for column, (table, what) in enumerate(((by_pairs, "pairs"), (by_updates, "updates"))):
        for ax, suffix in ((axes[column], ""), (axes[2 + column], "_error")):
            for (mixer, own), shade, marker, width in zip(
                table.groupby("mixer", sort=False),
                shades,
                MARKERS,
                (6, 3.6, 1.4, 0.6),
                strict=False,
            ):  # thinner and thinner: none hides another
                how = {"color": shade, "marker": marker, "linewidth": width}
                if own["unseen" + suffix].notna().any():  # of error only where pairs are left over
                    ax.plot(own["at"], own["unseen" + suffix], "-", label=mixer, **how)
                ax.plot(own["at"], own["seen" + suffix], "--", markerfacecolor="white", **how)
            if what == "pairs":
                style.count_axis(ax, sorted(table["at"].unique()))
            else:
                style.whole_ticks(ax)
            ax.set(xlabel=what)
        for name, level in levels.items():
            how = {"color": style.colour(name), "linestyle": ":", "label": style.LABELS[name]}
            axes[column].axhline(level, **how)
        axes[2 + column].axhline(100, color="black", linestyle=":", label="mean small block")
    axes[0].set_ylabel("mean accuracy, %")
    axes[2].set_ylabel("error of weights,\n% of the mean small block's")
    axes[0].plot([], "k--", marker="o", markerfacecolor="white", label="networks learned from")
    style.legend(figure)
    return figure


def limits(table: pd.DataFrame, levels: dict[str, float]) -> Figure:
    """Accuracy and error of means of small blocks of the same networks, by how many they are of.

    Args:
        table: columns `target`, `at`, `mean`, `ci95` and `error`, the last in percent of the mean
            small block's.
        levels: mean accuracies of references, by the names in `style.LABELS`.
    """
    figure, axes = style.new(9, 4.4, 2)
    shades = (style.BLUE, style.PURPLE, style.ORANGE, style.VERMILLION)
    for (target, own), shade, marker in zip(
        table.groupby("target", sort=False), shades, MARKERS, strict=False
    ):
        how = {"color": shade, "marker": marker, "label": target}
        axes[0].errorbar(own["at"], own["mean"], own["ci95"], capsize=3, **how)
        axes[1].plot(own["at"], own["error"], **how)
    for name, level in levels.items():
        how = {"color": style.colour(name), "linestyle": ":", "label": style.LABELS[name]}
        axes[0].axhline(level, **how)
    axes[1].axhline(100, color="black", linestyle=":", label="mean small block")
    for ax in axes:
        style.count_axis(ax, sorted(table["at"].unique()))
        ax.set(xlabel="trainings averaged")
    axes[0].set_ylabel("accuracy of the mean block, %")
    axes[1].set_ylabel("error of weights,\n% of the mean small block's")
    style.legend(figure)
    return figure


def gaps_by_width(widths: list[str], gaps: dict[str, list[float]]) -> Figure:
    """Share of the gap between random initialisation and large blocks closed, by width.

    Args:
        gaps: in percent, one for each width, by method. Marks stand side by side at a width.
    """
    figure, (ax,) = style.new(6.8, 4.6)
    shades = (style.PURPLE, style.GREY, style.ORANGE, style.VERMILLION, style.BLUE, style.GREEN)
    markers, aside = "v^soDP", np.linspace(-0.2, 0.2, len(gaps))
    for (name, shares), shade, marker, by in zip(
        gaps.items(), itertools.cycle(shades), itertools.cycle(markers), aside, strict=False
    ):
        at = np.arange(len(widths)) + by
        ax.plot(at, shares, color=shade, marker=marker, markersize=7, linestyle="", label=name)
    ax.set_xticks(range(len(widths)), widths)
    ax.grid(axis="x", visible=False)
    for between in range(len(widths) - 1):
        ax.axvline(between + 0.5, color=style.GREY, linewidth=0.6, alpha=0.5)
    ax.set(xlabel="channels -> hidden channels of the small block", ylabel="gap closed, %")
    style.legend(figure)
    return figure


def losses_of_kinds(table: pd.DataFrame, mean_block: dict[str, float]) -> Figure:
    """Loss over epochs by kind of translator: on its training pairs, and on held-out ones.

    Args:
        table: columns `kind`, `epoch`, `loss` and `held_out_loss`.
        mean_block: `loss` and `held_out_loss` of always answering with the mean small block.
    """
    figure, axes = style.new(8.4, 3.8, 2)
    titles = {"loss": "training pairs", "held_out_loss": "held-out pairs"}
    for ax, (key, title) in zip(axes, titles.items(), strict=True):
        for (kind, own), marker, line in zip(
            table.groupby("kind", sort=False), MARKERS, LINES, strict=False
        ):
            every = max(1, len(own) // 10)
            how = {"marker": marker, "markevery": every, "linestyle": line}
            ax.plot(own["epoch"], own[key], color=style.colour(kind), label=kind, **how)
        ax.axhline(mean_block[key], color="black", linestyle=":", label="mean small block")
        ax.set(xlabel="epoch")
        ax.set_title(title, fontsize=11)
        style.fit_scale(ax, "y", [*table[key], mean_block[key]])
    axes[0].set_ylabel("mean squared error of weights")
    style.legend(figure, axes[0], columns=4)
    return figure


def training_of_sizes(table: pd.DataFrame) -> Figure:
    """Training loss, and mean accuracy of the test networks, over epochs, of the paper's mixers.

    Args:
        table: columns `translator` (its size), `epoch`, `loss` and `test`.
    """
    figure, (left, right) = style.new(8.4, 3.8, 2)
    shades = (style.BLUE, style.ORANGE, style.BLACK, style.PURPLE)
    for (size, own), shade, marker, line in zip(
        table.groupby("translator", sort=False), shades, MARKERS, LINES, strict=False
    ):
        how = {"color": shade, "marker": marker, "linestyle": line, "label": f"mixer, {size}"}
        left.plot(own["epoch"], own["loss"], **how)
        right.plot(own["epoch"], own["test"], **how)
    style.fit_scale(left, "y", table["loss"])
    left.set(xlabel="epoch", ylabel="training loss")
    right.set(xlabel="epoch", ylabel="mean accuracy of\ntest networks, %")
    for ax in (left, right):
        style.whole_ticks(ax)
    style.legend(figure, left, columns=4)
    return figure


def losses_of_students(curves: pd.DataFrame, labels: dict[str, str]) -> Figure:
    """Cross-entropy with the labels on training images, over epochs: all seeds, and their mean.

    The first method's line is broad and the others, above it, are thin and mostly broken, so that
    all are visible where they coincide.

    Args:
        curves: columns `method`, `seed`, `epoch` and `cross_entropy`; of the teacher only the
            students' epochs are drawn.
        labels: of the methods to draw, in order; the teacher is `teacher`.
    """
    figure, (ax,) = style.new(height=4.4)
    last = curves.loc[curves["method"] != TEACHER, "epoch"].max()
    shades = (style.GREY, style.ORANGE, style.BLUE, style.GREEN, style.PURPLE)
    for i, (method, label) in enumerate(labels.items()):
        own = curves[(curves["method"] == method) & (curves["epoch"] <= last)]
        by_epoch = own.pivot(index="epoch", columns="seed", values="cross_entropy")
        if method == TEACHER:
            ax.plot(by_epoch.index, by_epoch, "k:", linewidth=1.5, label=label)
            continue
        ax.plot(by_epoch.index, by_epoch, color=shades[i], linewidth=0.6, alpha=0.5)
        how = {"marker": MARKERS[i], "markersize": 9 if i == 0 else 5}
        how |= {"linewidth": 6 if i == 0 else 2, "linestyle": LINES[max(0, i - 1) % len(LINES)]}
        ax.plot(by_epoch.index, by_epoch.mean(axis=1), color=shades[i], label=label, **how)
    ax.plot([], color=style.GREY, linewidth=0.6, label="single seeds")
    ax.set(xlabel="epoch", ylabel="cross-entropy, training images")
    style.whole_ticks(ax)
    style.legend(figure)
    return figure


def growth(table: pd.DataFrame, limit: float) -> Figure:
    """Time a network and step of both trainings, and peak memory, by the number of networks.

    Args:
        table: columns `networks`, `ms_per_step` and `peak_gib`.
        limit: of memory, in GiB.
    """
    figure, (left, right) = style.new(9, 3.6, 2)
    left.plot(table["networks"], table["ms_per_step"], "o-", color=style.BLUE)
    left.set_ylabel("ms a network and step")
    right.plot(table["networks"], table["peak_gib"], "o-", color=style.BLUE)
    right.set_ylabel("peak memory, GiB")
    right.axhline(limit, color=style.BLACK, linestyle="--", linewidth=1.2)
    right.annotate(
        f"limit: {limit:g} GiB", (0.02, limit), (0, 4), va="bottom",
        xycoords=("axes fraction", "data"), textcoords="offset points",
    )  # fmt: skip
    for ax, top in ((left, table["ms_per_step"].max()), (right, limit)):
        ax.set(xlabel="networks", ylim=(0, 1.15 * top))
        style.count_axis(ax, list(table["networks"]))
    return figure


def break_even(curves: dict[str, tuple[float, float]], colours: dict[str, str]) -> Figure:
    """Seconds of compute by the number of networks compressed: what is spent once, and for each.

    It stands beside Table 1's accuracies and is as high. A dot marks where a method that spends
    something once breaks even with one that does not.

    Args:
        curves: (seconds a network, seconds once) by method.
        colours: of the methods.
    """
    figure, (ax,) = style.new(5.2, 7.4)
    networks = np.geomspace(1, 1e5, 200)
    for (name, (each, once)), line in zip(curves.items(), LINES, strict=False):
        total = once + networks * each
        ax.plot(networks, total, label=name, color=colours[name], linestyle=line)
        for each_other, once_other in curves.values():
            if once and not once_other and each_other > each:
                crossing = once / (each_other - each)
                ax.plot(crossing, crossing * each_other, "o", color=colours[name])
    for axis in "xy":
        style.log_scale(ax, axis)
    ax.set(xlabel="networks compressed", ylabel="seconds in all")
    style.legend(figure, ax, columns=1)
    return figure


def _interval(
    ax: Axes,
    x: Sequence,
    means: Sequence,
    intervals: Sequence,
    how: str,
    colour: str,
    label: str | None = None,
    **options: object,
) -> None:
    ax.errorbar(x, means, intervals, fmt=how, color=colour, capsize=3, label=label, **options)
