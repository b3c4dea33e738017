"""The learning curve: accuracy by number of training networks and by training time."""

import numpy as np
import pandas as pd
from scipy.optimize import curve_fit

from kt.ensemble import Compute
from stages import figures
from stages.common.base import runtime
from stages.common.base.params import Params
from stages.tables import cell, output
from stages.tables.curve_store import Curve

MARKS = (85, 95)
"""Shares of the gap in percent for which the number of networks is asked."""


def main(params: Params, compute: Compute) -> None:
    baselines = output.references()
    counts = params.table("curve", Curve).networks
    points = {count: cell.read(params, f"curve/{count}") for count in counts}
    unseen = [point["translation"] for point in points.values()]
    gaps = np.array([output.gap(result["mean"], baselines) for result in unseen])
    rise = np.ptp([result["mean"] for result in unseen])
    fitted = None
    if rise > 2 * max(result["ci95"] for result in unseen):
        fitted = power_law(np.array(list(points), float), gaps)
    needed = {share: networks_for(share, fitted) for share in MARKS}
    table = pd.DataFrame(
        {
            "networks": count,
            "unseen": output.spread(point["translation"]),
            "n": point["translation"]["n"],
            "seen": f"{point['training']['mean']:.2f}",
            "gap, %": f"{gap:.1f}",
            "training, s": f"{point['seconds']:.0f}",
        }
        for (count, point), gap in zip(points.items(), gaps, strict=True)
    )
    caption = (
        f"{output.protocol(params)}. Every point makes as many training steps. Accuracy in percent "
        "on test images, of test networks (unseen, with the 95 % interval over them) and of "
        f"networks that the translator was trained on (seen). {said(fitted, needed, points, gaps)}"
    )
    metrics = {
        f"{count}_networks": {"unseen": p["translation"], "seen": p["training"]}
        for count, p in points.items()
    }
    metrics["networks_for_gap"] = {f"{share}_percent": needed[share] for share in MARKS}
    output.write(params, "curve", caption, metrics, table)
    levels = {name: baselines[name]["mean"] for name in ("random_initialisation", "retrained")}
    fit = None if fitted is None else lambda n: levelled(fall(n, *fitted), levels)
    figure = figures.learning_curve(points, levels, fit)
    figure.savefig(output.TABLES / params.scale / "curve.png", metadata={"Software": None})


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
    return tuple(float(value) for value in found)


def networks_for(share: float, fitted: tuple[float, float, float] | None) -> int | None:
    """The fitted number of networks for a share of the gap; None beyond the fitted limit."""
    if fitted is None or share >= fitted[0]:
        return None
    limit, scale, power = fitted
    return int(np.ceil((scale / (limit - share)) ** (1 / power)))


def levelled(gap: np.ndarray, levels: dict[str, float]) -> np.ndarray:
    low, high = levels["random_initialisation"], levels["retrained"]
    return low + gap / 100 * (high - low)


def said(
    fitted: tuple[float, float, float] | None,
    needed: dict[int, int | None],
    points: dict[int, dict],
    gaps: np.ndarray,
) -> str:
    if fitted is None:
        fewest = min(points)
        return (
            "The points determine no fit: they are few, or differ by no more than their intervals. "
            f"The fewest networks, {fewest}, close {gaps[list(points).index(fewest)]:.0f} %."
        )
    limit, scale, power = fitted
    words = [f"Fitted: gap closed = {limit:.1f} - {scale:.0f} N^-{power:.2f} percent."]
    for share, count in needed.items():
        if count is None:
            words.append(f"{share} % lies beyond the fitted limit: more networks alone do not do.")
        else:
            words.append(f"{share} % takes {count:,} networks by the fit.")
    return " ".join(words)


if __name__ == "__main__":
    runtime.run(main, __doc__)
