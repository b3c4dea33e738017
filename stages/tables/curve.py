"""The learning curve: accuracy by number of training networks."""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import curve_fit

from kt.ensemble import Compute
from stages.common.base import inputs, runtime
from stages.common.base.params import Params, settings_of
from stages.figures import lines, style
from stages.tables import output
from stages.tables.cells import cell
from stages.tables.cells.settings import Curve

LEVELS = ("random_initialisation", "ceiling")
NETWORKS = "_networks"
"""Suffix of a point's name among the metrics."""
MARKS = (85, 95)
"""Shares of the gap, in percent, for which the fit gives the number of networks."""


def main(params: Params, compute: Compute) -> None:
    baselines = output.references()
    counts = settings_of("curve", Curve).networks
    points = {count: cell.read(params, f"curve/{count}") for count in counts}
    metrics = {
        f"{count}{NETWORKS}": {
            "unseen": point["translation"] | output.beside(point["accuracies"]),
            "seen": point["training"],
        }
        for count, point in points.items()
    }
    metrics |= {name: baselines[name] for name in LEVELS}
    fitted = fit(metrics)
    needed = {share: networks_for(share, fitted) for share in MARKS}
    gaps = gaps_closed(metrics)
    lines_of = pd.DataFrame(
        {
            "networks": count,
            "unseen": output.spread(point["translation"]),
            "n": point["translation"]["n"],
            "seen": f"{point['training']['mean']:.2f}",
            "gap, %": f"{gap:z.1f}",
            **output.told(output.beside(point["accuracies"])),
        }
        for (count, point), gap in zip(points.items(), gaps, strict=True)
    )
    updates = output.trained_with({params.model.kind: list(points.values())})
    caption = (
        f"{output.protocol(params)}. Every row trains for about as many updates. *Unseen* are "
        "the test networks. The point of as many networks as the main job's is its translator. "
        f"{output.yardstick(baselines)} {said(fitted, needed, counts, gaps)} "
        f"{output.given(params)} {updates}"
    )
    metrics["networks_for_gap"] = {f"{share}_percent": needed[share] for share in MARKS}
    output.write(params, "curve", caption, metrics, lines_of)
    draw(output.folder(params))


def draw(folder: Path) -> None:
    """Draw the table in a scale's folder."""
    metrics = inputs.read_json(folder / "curve.json")
    points = pd.DataFrame(
        {
            "networks": count,
            **{who: point[who]["mean"] for who in ("unseen", "seen")},
            **{f"{who}_ci95": point[who]["ci95"] for who in ("unseen", "seen")},
            "seen_n": point["seen"]["n"],
        }
        for count, point in counted(metrics).items()
    )
    levels = {metrics[name].get("by", name): metrics[name]["mean"] for name in LEVELS}
    fitted = fit(metrics)
    along = None if fitted is None else lambda n: levelled(fall(n, *fitted), levels)
    style.save(lines.learning_curve(points, levels, along), folder / "curve.png")


def counted(metrics: dict) -> dict[int, dict]:
    """The points among the metrics, by number of networks."""
    return {
        int(name.removesuffix(NETWORKS)): point
        for name, point in metrics.items()
        if name.endswith(NETWORKS)
    }


def gaps_closed(metrics: dict) -> np.ndarray:
    """The share of the gap, in percent, that each point closes."""
    means = [point["unseen"]["mean"] for point in counted(metrics).values()]
    return np.array([output.gap(mean, metrics) for mean in means])


def fit(metrics: dict) -> tuple[float, float, float] | None:
    """The power law through the points; None if they are few or differ by chance."""
    unseen = [point["unseen"] for point in counted(metrics).values()]
    rise = np.ptp([result["mean"] for result in unseen])
    if rise <= 2 * max(result["ci95"] for result in unseen):
        return None
    return power_law(np.array(list(counted(metrics)), float), gaps_closed(metrics))


def fall(networks: np.ndarray, limit: float, scale: float, power: float) -> np.ndarray:
    """The gap closed, in percent: a limit that is approached by a power of the networks."""
    return limit - scale * networks**-power


def power_law(networks: np.ndarray, gaps: np.ndarray) -> tuple[float, float, float] | None:
    """Least squares of `fall`; None if the points do not determine it."""
    if len(networks) < 4:
        return None
    try:
        found, _ = curve_fit(
            fall, networks, gaps, p0=(max(gaps), 100, 0.5), bounds=([0, 0, 0.05], [150, 1e5, 3])
        )
    except RuntimeError:
        return None
    limit, scale, power = map(float, found)
    return limit, scale, power


def networks_for(share: float, fitted: tuple[float, float, float] | None) -> int | None:
    """The fitted number of networks for a share of the gap; None beyond the fitted limit."""
    if fitted is None or share >= fitted[0]:
        return None
    limit, scale, power = fitted
    return int(np.ceil((scale / (limit - share)) ** (1 / power)))


def levelled(gap: np.ndarray, levels: dict[str, float]) -> np.ndarray:
    low, high = levels.values()
    return low + gap / 100 * (high - low)


def said(
    fitted: tuple[float, float, float] | None,
    needed: dict[int, int | None],
    counts: list[int],
    gaps: np.ndarray,
) -> str:
    if fitted is None:
        fewest = min(counts)
        return (
            "The points determine no fit: they are few, or differ by no more than their intervals. "
            f"The fewest networks, {fewest}, close {gaps[counts.index(fewest)]:.0f} % of the gap."
        )
    limit, scale, power = fitted
    words = [
        f"The fit: N networks close {limit:.1f} - {scale:.0f} / N^{power:.2f} percent of the gap."
    ]
    for share, count in needed.items():
        if count is None:
            words.append(f"By the fit, more networks alone never close {share} %.")
        else:
            words.append(f"By the fit, {count:,} networks close {share} %.")
    return " ".join(words)


if __name__ == "__main__":
    runtime.run(main, __doc__)
