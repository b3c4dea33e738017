"""Figures as a reader sees them: labels have room, every line can be seen, scales fit the data."""

import importlib
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from scipy.ndimage import maximum_filter

from benchmarks import growth
from stages import feature_maps
from stages.figures import accuracies, lines, maps, style
from stages.tables import factor_transfer, redraw, times

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "tables" / "results"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Figure]:
    """A function that runs a drawing function and returns the figure that it would save."""
    kept: list[Figure] = []
    monkeypatch.setattr(style, "save", lambda figure, path: kept.append(figure))

    def draw(function: Callable[..., None], *arguments: object) -> Figure:
        function(*arguments)
        return kept.pop()

    return draw


def canvas(figure: Figure) -> np.ndarray:
    """The figure's pixels, (height, width, 3), from 0 to 1."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    agg = FigureCanvasAgg(figure)
    agg.draw()
    return np.asarray(agg.buffer_rgba())[..., :3] / 255


def labels(figure: Figure) -> dict[str, object]:
    """The boxes of all texts that are shown, by place and words."""
    canvas(figure)
    shown = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]
    # Ticks outside of their axis' limits are not drawn, but have a text.
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                if not low <= tick.get_loc() <= high or not axis.get_visible():
                    shown = [t for t in shown if t not in (tick.label1, tick.label2)]
            if not ax.axison:
                texts = [t.label1 for t in axis.get_major_ticks()]
                shown = [t for t in shown if t not in texts]
    return {f"{i}: {t.get_text()}": t.get_window_extent() for i, t in enumerate(shown)}


def check_labels(figure: Figure) -> None:
    boxes = labels(figure)
    for (one, first), (other, second) in itertools.combinations(boxes.items(), 2):
        assert not first.overlaps(second), f"{one!r} overlaps {other!r}"
    for name, box in boxes.items():
        inside = box.x0 >= -1 and box.y0 >= -1
        inside &= box.x1 <= figure.bbox.width + 1 and box.y1 <= figure.bbox.height + 1
        assert inside, f"{name!r} leaves the figure"


def check_scales(figure: Figure) -> None:
    """An axis is logarithmic only where the values span more than a decade."""
    for ax in figure.axes:
        for which, at in (("x", 0), ("y", 1)):
            if getattr(ax, f"get_{which}scale")() != "log":
                continue
            data = np.concatenate([line.get_xydata()[:, at] for line in data_lines(ax)])
            data = data[data > 0]
            assert data.max() > 10 * data.min(), f"{which} axis of {ax}"


def data_lines(ax) -> list[Line2D]:
    """Lines with two points or more in the data's coordinates, not those of an interval's cap."""
    return [
        line
        for line in ax.lines
        if len(line.get_xdata()) > 1
        and line.get_linestyle() not in ("None", "")
        and line.get_transform() == ax.transData
    ]


def check_visible(figure: Figure) -> None:
    """Along every line its own colour is seen, at one place in ten at least."""
    pixels = canvas(figure)
    for ax in figure.axes:
        for line in data_lines(ax):
            if line.get_alpha() is not None:  # single seeds behind their mean
                continue
            path = ax.transData.transform(line.get_xydata())
            between = np.linspace(0, len(path) - 1, 300)
            places = np.stack([np.interp(between, range(len(path)), at) for at in path.T], 1)
            box = ax.get_window_extent()
            x, y = places[[box.contains(*place) for place in places]].astype(int).T
            own = np.abs(pixels - to_rgb(line.get_color())).max(-1) < 0.1
            near = maximum_filter(own, 7)  # three pixels to either side
            assert near[len(pixels) - 1 - y, x].mean() > 0.1, f"{line.get_label()} is hidden"


SCALES = [scale for scale in ("quick", "mnist") if (RESULTS / scale).exists()]


@pytest.mark.parametrize(
    ("name", "scale"),
    [
        (name, scale)
        for name in redraw.DRAWN
        for scale in SCALES
        if (RESULTS / scale / f"{name}.json").exists()
    ],
)
def test_figures_of_the_committed_tables_can_be_read(name, scale, drawn):
    figure = drawn(redraw.DRAWN[name].draw, RESULTS / scale)
    check_labels(figure)
    check_scales(figure)
    check_visible(figure)


@pytest.mark.parametrize("scale", SCALES)
def test_the_break_even_chart_can_be_read(scale, drawn):
    figure = drawn(times.draw, times.TIMES / scale)
    check_labels(figure)
    check_visible(figure)


def test_growth_has_room_for_its_labels_and_names_its_limit(drawn):
    figure = drawn(growth.draw, ROOT / "benchmarks" / "results")
    check_labels(figure)
    check_visible(figure)
    assert any("limit: 3 GiB" in words for words in labels(figure))
    close = pd.DataFrame({"networks": [16, 8192, 10_000], "ms_per_step": 1.0, "peak_gib": 1.0})
    check_labels(lines.growth(close, 3))


def test_no_students_losses_hide_anothers(drawn):
    folder = ROOT / "tables" / "factor_transfer" / "results" / "resnet20_to_8"
    methods = pd.read_csv(folder / "loss.csv")["method"].unique()
    check_visible(
        drawn(factor_transfer.draw, folder, {m: m for m in methods if m != lines.TEACHER})
    )
    epochs = range(1, 5)
    same = pd.DataFrame(
        [
            {"method": method, "seed": 1, "epoch": epoch, "cross_entropy": 1 / epoch}
            for method in ("alone", "logits", "factor_1", lines.TEACHER)
            for epoch in epochs
        ]
    )
    names = {name: name for name in same["method"].unique()}
    figure = lines.losses_of_students(same[same["method"].isin(["alone", "logits"])], names)
    check_visible(figure)


def points(seen_n: list[int], seen_ci95: list[float]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "networks": [2, 8, 128],
            "unseen": [83.0, 86.0, 87.0],
            "unseen_ci95": 1.0,
            "seen": [89.0, 88.0, 87.0],
            "seen_ci95": seen_ci95,
            "seen_n": seen_n,
        }
    )


def test_neither_two_networks_interval_nor_a_far_level_sets_the_learning_curves_scale():
    levels = {"random_initialisation": 28.4, "retrained": 90.0}
    figure = lines.learning_curve(points([2, 8, 64], [18.9, 2.0, 1.0]), levels)
    (ax,) = figure.axes
    low, high = ax.get_ylim()
    assert low > 75 and high < 95
    assert any("random initialisation: 28.4 %, off the scale" in t for t in labels(figure))
    check_labels(figure)
    wide = lines.learning_curve(points([8, 8, 64], [10.0, 2.0, 1.0]), levels)
    assert wide.axes[0].get_ylim()[1] > high


@pytest.mark.parametrize(("values", "scale"), [([0.07, 0.11], "linear"), ([0.01, 0.2], "log")])
def test_an_axis_is_logarithmic_beyond_a_decade_alone(values, scale):
    loss = pd.DataFrame({"step": [1, 2], "loss": values})
    accuracy = pd.DataFrame({"step": [1, 2], "selection_accuracy": 87.0, "test_accuracy": 90.0})
    figure = lines.training_curves(loss, accuracy, accuracy)
    assert figure.axes[0].get_yscale() == scale
    check_labels(figure)
    check_visible(figure)


def test_figures_of_the_report_can_be_read():
    summary_of = {"mean": 90.0, "ci95": 8.0, "n": 64}
    bars = accuracies.bars(dict.fromkeys(style.LABELS, summary_of), "test networks, digits")
    values = pd.Series(np.linspace(20, 60, 64))
    colours = [style.colour(name) for name in ("random_initialisation", "mixer", "merge")]
    found = {"random initialisation": values, "mixer": values, "merge": values + 35}
    histograms = accuracies.histograms(found, colours)
    table = pd.DataFrame({"masking": [0.0, 0.5], "large": 90.0, "large_ci95": 1.0})
    table = table.assign(small=89.5, small_ci95=1.0, noise=table["masking"])
    fractions = pd.DataFrame({"fraction": [0.1, 1.0]} | {"gain": 40.0, "gain_ci95": 2.0})
    for name in ("large", "translation", "random_initialisation"):
        fractions = fractions.assign(**{name: 80.0, f"{name}_ci95": 1.0})
    partial = lines.partial_data(fractions)
    for figure in (bars, histograms, lines.augmentation_effect(table, table), partial):
        check_labels(figure)


def test_each_method_has_one_colour_and_those_with_different_colours_differ():
    special = [style.colour(name) for name in ("large", "retrained", "adam", "merge", "mixer")]
    assert len({*special, style.colour("random_initialisation")}) == 6
    assert style.colour("somebody's own") == style.PURPLE


def test_feature_maps_mark_a_dead_block_on_one_scale_with_a_bar():
    images = torch.rand(2, 28, 28)
    made = {name: torch.rand(2, 6, 14, 14) for name in ("former block", "large block")}
    made["re-trained"] = made["former block"]
    figure = maps.feature_maps(images, made, "large block", {"re-trained": "dead: repeats"})
    check_labels(figure)
    *grid, bar = figure.axes
    assert bar.get_ylabel() == "activation"
    framed = [ax for ax in grid if ax.spines["left"].get_visible() and ax.axison]
    assert len(framed) == 2 and framed[0].get_title() == "re-trained\ndead: repeats"
    scales = {ax.images[0].get_clim() for ax in grid if ax.axison}
    assert len(scales) == 1


def test_a_block_is_dead_if_it_repeats_its_input():
    former = torch.rand(3, 2, 6, 14, 14)
    behind = former.clone()
    behind[1] += 0.1
    behind[2, 0, 0, 0, 0] += 1e-4
    assert feature_maps.is_dead(former, behind).tolist() == [True, False, True]
    assert feature_maps.distance(former, former) == 0
    assert feature_maps.distance(torch.zeros(4), torch.ones(4)) == 1


def test_the_median_network_is_one_of_the_networks():
    assert feature_maps.median_of(pd.Series([3.0, 1.0, 2.0])) == 2
    assert feature_maps.median_of(pd.Series([4.0, 1.0, 2.0, 3.0])) == 2


def test_a_users_matplotlibrc_changes_no_figure():
    before = dict(style.matplotlib.rcParams)
    style.matplotlib.rcParams |= {"figure.dpi": 10, "text.usetex": True, "font.size": 40}
    importlib.reload(style)
    assert dict(style.matplotlib.rcParams) == before
