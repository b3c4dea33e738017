"""Curves of the paper's translator by pairs and by updates, as it is and mended."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from kt.ensemble import Compute
from stages.common.base import inputs, runtime
from stages.common.base.params import Params, settings_of
from stages.figures import lines, style
from stages.tables import output
from stages.tables.cells import cell
from stages.tables.cells.mixer_curves import TABLE
from stages.tables.cells.settings import Ablation, MixerCurves

LEVELS = ("random_initialisation", "ceiling")
HALF = 50
"""Percent of the gap for which the caption gives a number of pairs."""
ERRORS = ("seen_error", "unseen_error")
PAIRS, UPDATES = "_pairs", "_updates"
"""Suffixes of points' names among the metrics."""


def main(params: Params, compute: Compute) -> None:
    settings, ablation = settings_of(TABLE, MixerCurves), settings_of("ablation", Ablation)
    baselines = output.references()
    levels = {name: baselines[name] for name in LEVELS}
    shares = sorted(settings.shares, reverse=True)
    found = {
        row: {share: cell.read(params, f"{TABLE}/{row}/{share}") for share in shares}
        for row in settings.rows
    }
    labels = {row: ablation.mixers[row].label for row in found}
    curves: dict[str, dict] = {row: points(cells) for row, cells in found.items()}
    lines_of = [
        in_words(labels[row], found[row][share], point, levels)
        for row, curve in curves.items()
        for share, point in zip(shares, curve["by_pairs"].values(), strict=True)
    ]
    trained = {labels[row]: list(cells.values()) for row, cells in found.items()}
    others = any(ERRORS[1] in at for one in curves.values() for at in one["by_pairs"].values())
    without = "" if others else "This scale has no pairs beside those, so no error on unseen ones. "
    caption = (
        f"{output.protocol(params)}. The mixer ({settings.size}) learns from more and more pairs, "
        "in as many updates each time. A row also has what the rows of the ablation before it add: "
        f"{'; '.join(row.label for row in ablation.mixers.values())}. Loss on behaviour comes in "
        f"over the first half of the updates. *Error* is the paper's loss on pairs of the same "
        "kind as those learned from, in percent of that of always answering with the mean small "
        "block; where targets are aligned, in the order of hidden channels nearest to the answer. "
        f"{without}"
        f"{' '.join(said(curves, labels, levels))} {output.yardstick(baselines)} "
        f"{output.trained_with(trained)}"
    )
    output.write(params, TABLE, caption, levels | curves, pd.DataFrame(lines_of))
    draw(output.folder(params))


def points(cells: Mapping[int, Mapping]) -> dict[str, dict]:
    """A row's points by pairs, at the chosen epochs; and by updates, on all pairs."""

    def errors(at: dict, mean_block: dict) -> dict[str, float]:
        return {name: 100 * at[name] / mean_block[name] for name in ERRORS if name in at}

    by_pairs = {}
    for one in cells.values():
        (at,) = [e for e in one["evaluations"] if e["epoch"] == one["epoch"]]
        point = {"unseen": one["translation"], "seen": one["training"]}
        by_pairs[f"{one['networks']}{PAIRS}"] = point | errors(at, one["mean_block"])
    whole = cells[1]
    each = whole["updates"] // whole["evaluations"][-1]["epoch"]
    by_updates = {
        f"{at['epoch'] * each}{UPDATES}": {"unseen": at["test"], "seen": at["seen"]}
        | errors(at, whole["mean_block"])
        for at in whole["evaluations"]
    }
    return {"by_pairs": by_pairs, "by_updates": by_updates}


def in_words(label: str, one: dict, point: dict, levels: dict) -> dict[str, object]:
    test = one["translation"]
    shown = {name: f"{point[name]:.1f}" if name in point else "" for name in ERRORS}
    return {
        "mixer": label,
        "pairs": one["networks"],
        "unseen": output.spread(test),
        "n": test["n"],
        "gap, %": f"{output.gap(test['mean'], levels):z.0f}",
        **output.told(output.beside(one["accuracies"])),
        "seen": f"{one['training']['mean']:.2f}",
        "error on unseen, %": shown["unseen_error"],
        "error on seen, %": shown["seen_error"],
        "epoch": one["epoch"],
        "updates": one["updates"],
    }


def said(curves: dict[str, dict], labels: dict[str, str], levels: dict[str, dict]) -> list[str]:
    """How many pairs each row needs, and how many fewer than the first row."""
    low = levels["random_initialisation"]
    plain, words = next(iter(curves)), []
    for row, curve in curves.items():
        counts, results = unseen(curve)
        means = [result["mean"] for result in results]
        ahead = [r["mean"] - r["ci95"] > low["mean"] + low["ci95"] for r in results]
        gaps = [output.gap(mean, levels) for mean in means]
        start = f"from {counts[ahead.index(True)]:,} pairs on" if any(ahead) else "nowhere"
        words.append(
            f"*{labels[row]}* is ahead of random initialisation {start}, closes "
            f"{gaps[-1]:z.0f} % of the gap with all, and {HALF} % {pairs_for(HALF, counts, gaps)}."
        )
        if row == plain:
            best, worth = max(means), any(ahead)
        elif worth:
            needed = pairs_for(best, counts, means)
            words.append(f"It reaches the best of *{labels[plain]}* {needed}.")
    if not worth:
        words.append(f"With so few pairs *{labels[plain]}* has learned nothing to be saved.")
    return words


def unseen(curve: dict) -> tuple[list[int], list[dict]]:
    """A row's numbers of pairs, and the summaries of unseen networks there."""
    counts = [int(name.removesuffix(PAIRS)) for name in curve["by_pairs"]]
    return counts, [point["unseen"] for point in curve["by_pairs"].values()]


def pairs_for(level: float, counts: list[int], values: list[float]) -> str:
    """With how many pairs a curve reaches a level, along straight lines over their logarithms."""
    for i, value in enumerate(values):
        if value < level:
            continue
        if i == 0:
            return f"with {counts[0]:,} or fewer"
        at = np.interp(level, values[i - 1 : i + 1], np.log(counts[i - 1 : i + 1]))
        return f"with about {np.exp(at):,.0f}"
    return "not even with all"


def draw(folder: Path) -> None:
    """Draw the table in a scale's folder."""
    metrics = inputs.read_json(folder / f"{TABLE}.json")
    labels = inputs.read_table(folder / f"{TABLE}.csv", words=("mixer",))["mixer"].unique()
    rows = [name for name in metrics if name not in LEVELS]
    levels = {metrics[name].get("by", name): metrics[name]["mean"] for name in LEVELS}

    def table(by: str) -> pd.DataFrame:
        return pd.DataFrame(
            {"mixer": label, "at": int(name.partition("_")[0])} | flat(point)
            for row, label in zip(rows, labels, strict=True)
            for name, point in metrics[row][by].items()
        )

    figure = lines.mixer_curves(table("by_pairs"), table("by_updates"), levels)
    style.save(figure, folder / f"{TABLE}.png")


def flat(point: dict) -> dict[str, float]:
    """Its means and errors; an error that was not measured is not a number."""
    means = {who: point[who] for who in ("unseen", "seen")}
    means = {who: one["mean"] if isinstance(one, dict) else one for who, one in means.items()}
    return dict.fromkeys(ERRORS, np.nan) | point | means


if __name__ == "__main__":
    runtime.run(main, __doc__)
