"""What the tables' numbers say, computed from them: sentences for the results page.

Two means are told apart only if their 95 % intervals do not overlap.
"""

from collections.abc import Callable

import pandas as pd

from stages.tables import output, printed

Summary = dict[str, float]
"""Of accuracies over networks: `mean` and `ci95` at least."""


def findings(name: str, metrics: dict, table: pd.DataFrame) -> list[str]:
    """Sentences on a table; none for one that no computed sentence fits.

    Args:
        metrics: its JSON file.
        table: its CSV file, all text.
    """
    return FINDINGS[name](metrics, table) if name in FINDINGS else []


def standing(label: str, own: Summary, others: dict[str, Summary]) -> str:
    """Which others a mean is ahead of, within the interval of, or behind; of many the nearest."""
    found: dict[str, list[str]] = {"ahead of": [], "within the interval of": [], "behind": []}
    for name, other in others.items():
        apart = abs(own["mean"] - other["mean"]) > own["ci95"] + other["ci95"]
        where = "ahead of" if own["mean"] > other["mean"] else "behind"
        found[where if apart else "within the interval of"].append(name)

    def told(names: list[str]) -> str:
        if len(names) <= NAMED:
            return f": {'; '.join(names)}"
        nearest = min(names, key=lambda name: abs(own["mean"] - others[name]["mean"]))
        result = output.spread(others[nearest])
        return f" {len(names)} of {len(others)}, of which the nearest is: {nearest} ({result})"

    words = ". It is ".join(f"{where}{told(names)}" for where, names in found.items() if names)
    return f"{label} ({output.spread(own)}) is {words}."


def gain(label: str, own: Summary) -> str:
    """Whether a gain in points differs from zero."""
    sign = "no clear change" if abs(own["mean"]) <= own["ci95"] else "a gain"
    if sign == "a gain" and own["mean"] < 0:
        sign = "a loss"
    return f"{label}: {sign} ({output.spread(own)} points)"


def table1(metrics: dict, table: pd.DataFrame) -> list[str]:
    """Translators beside what leaves a block of about the small one's size."""
    names = [name for name in metrics if name != "break_even"]
    labels = dict(zip(names, table["method"], strict=True))
    size = metrics["kt_merge"]["parameters"]
    small = {name for name in names if metrics[name]["parameters"] <= 1.1 * size}
    words = [
        standing(
            labels[kt],
            metrics[kt],
            {labels[n]: metrics[n] for n in names if n in small and n != kt},
        )
        for kt in ("kt_merge", "kt_mixer")
    ]
    return words


def grid(metrics: dict, table: pd.DataFrame) -> list[str]:
    blocks = [name for name in BLOCKS if name in metrics]
    references = {BLOCKS[name]: metrics[name] for name in blocks}
    mixers = [name for name in metrics if "_dropout_" in name]
    best = max(mixers, key=lambda name: metrics[name]["mean"])
    label = f"The best mixer, {mixer(best)}"
    return [
        standing(label, metrics[best], references),
        standing("Merge", metrics["merge"], references | {"the best mixer": metrics[best]}),
    ]


def mixer(name: str) -> str:
    """A grid's cell in words: small_dropout_0_1."""
    size, _, dropout = name.partition("_dropout_")
    return f"{size} with dropout {dropout.replace('_', '.')}"


def table2(metrics: dict, table: pd.DataFrame) -> list[str]:
    apart = {
        s: row["parameters"] / 2**20 - float(printed.MILLIONS[s]) for s, row in metrics.items()
    }
    worst = max(apart, key=lambda size: abs(apart[size]))
    return [
        "Our counts differ from the paper's by at most "
        f"{abs(apart[worst]):.3f} x 2^20 parameters ({worst})."
    ]


def table5(metrics: dict, table: pd.DataFrame) -> list[str]:
    chosen = {"no augmentation": "none", "masking": "masking_chosen", "noise": "noise_chosen"}
    whole = {"the mixer on all pairs": metrics["all_pairs"]}
    few = {f"few pairs, {label}": metrics[name] for label, name in chosen.items()}
    best = max(few, key=lambda label: few[label]["mean"])
    others = {label: result for label, result in few.items() if label != best}
    return [
        standing(f"The best on few pairs, {best.partition(', ')[2]}", few[best], whole | others)
    ]


def table6(metrics: dict, table: pd.DataFrame) -> list[str]:
    return [
        standing(
            f"Translation to {target}",
            result["translation"],
            {"random initialisation": result["random_initialisation"]},
        )
        for target, result in metrics.items()
    ]


def figure4(metrics: dict, table: pd.DataFrame) -> list[str]:
    kinds = [name for name in metrics if "loss" in metrics[name] and "parameters" in metrics[name]]
    lowest = min(kinds, key=lambda kind: metrics[kind]["loss"])
    words = [f"The {lowest} ends with the lowest training loss, {metrics[lowest]['loss']:.6f}."]
    mean_block = metrics["mean_small_block"]["held_out_loss"]
    for kind in kinds:
        best = metrics[kind]["lowest_held_out_loss"]
        lowest_loss, last = (
            f"{abs(share):.1f} % {'above' if share > 0 else 'below'}"
            for share in (
                100 * (loss / mean_block - 1)
                for loss in (best["loss"], metrics[kind]["held_out_loss"])
            )
        )
        words.append(
            f"On held-out pairs the loss of the {kind} is at its lowest {lowest_loss} that of the "
            f"mean small block (epoch {best['epoch']}) and ends {last} it."
        )
    return words


def figure6(metrics: dict, table: pd.DataFrame) -> list[str]:
    words = [
        f"{size} {at['loss']:.4f} and {at['test_accuracy']:.2f} %" for size, at in metrics.items()
    ]
    return [f"Training loss and mean test accuracy end at: {'; '.join(words)}."]


def figure7(metrics: dict, table: pd.DataFrame) -> list[str]:
    random, mixer, *ours = metrics
    found = {"random initialisation": metrics[random], "the paper's mixer": metrics[mixer]}
    words = [standing("The paper's mixer", metrics[mixer], dict([*found.items()][:1]))]
    return words + [standing(name.capitalize(), metrics[name], found) for name in ours]


def figure8(metrics: dict, table: pd.DataFrame) -> list[str]:
    columns = [name for name in table if name.startswith("gain")]
    labels = ["The paper's mixer", *(n.removeprefix("gain of ").capitalize() for n in columns[1:])]
    return gains(table, dict(zip(labels, columns, strict=True)), table["images"])


def usps(metrics: dict, table: pd.DataFrame) -> list[str]:
    found = map(output.parsed, table["gain, points"])
    return [
        gain(label[0].upper() + label[1:], {"mean": mean, "ci95": ci95}) + "."
        for label, (mean, ci95) in zip(table["translator"], found, strict=True)
    ]


def gains(table: pd.DataFrame, columns: dict[str, str], where: pd.Series) -> list[str]:
    """A sentence for each column of gains, on every row of it."""
    words = []
    for label, column in columns.items():
        at = [
            gain(place, dict(zip(("mean", "ci95"), output.parsed(text), strict=True)))
            for place, text in zip(where, table[column], strict=True)
        ]
        words.append(f"{label}, by share of the images: {'; '.join(at)}.")
    return words


def ablation(metrics: dict, table: pd.DataFrame) -> list[str]:
    labels = dict(zip(metrics, table["row"], strict=True))
    others = {labels[name]: metrics[name] for name in metrics if name != "translation"}
    return [standing("The default translator", metrics["translation"], others)]


def epochs(metrics: dict, table: pd.DataFrame) -> list[str]:
    words = {name: name.replace("_", " ").replace("1 epochs", "1 epoch") for name in metrics}
    return [
        standing(
            f"With networks of {words[name]}, translation",
            result["translation"],
            {BLOCKS[key]: result[key] for key in ("retrained", "large")},
        )
        for name, result in metrics.items()
    ]


def widths(metrics: dict, table: pd.DataFrame) -> list[str]:
    """How much of what a translator closes at a width, having learned it, others close there."""
    methods = [name for name in next(iter(metrics.values())) if name != SHARES]
    labels = dict(zip(methods, table["block"], strict=False))
    words = []
    for name in next(iter(metrics.values()))[SHARES]:
        found = {
            width.replace("_to_", " -> "): results[SHARES][name]
            for width, results in metrics.items()
            if not results[SHARES][name]["learned"]
        }
        each = "; ".join(f"{share['percent']:.1f} % at {w}" for w, share in found.items())
        short = [
            f"{ENOUGH - share['percent']:.1f} % at {width}"
            for width, share in found.items()
            if share["percent"] < ENOUGH
        ]
        verdict = f"short of {ENOUGH} % by {', '.join(short)}" if short else f"{ENOUGH} % or more"
        words.append(
            f"{labels[name].capitalize()}: at widths that it has not learned it closes, of the gap "
            f"that the one closes which learned the very width, {each}: {verdict}."
        )
    return words


NAMED = 4
"""How many others a sentence names, at most."""
SHARES, ENOUGH = "of_own", 90
"""The key of those shares among a width's results; and what is asked of them, in percent."""
BLOCKS = {
    "random_initialisation": "random initialisation",
    "random_replacement": "random replacement",
    "greedy_replacement": "greedy replacement",
    "identity": "the identity block",
    "retrained": "re-training by SGD",
    "adam": "re-training by Adam",
    "large": "the large block",
}
FINDINGS: dict[str, Callable[[dict, pd.DataFrame], list[str]]] = {
    "table1": table1,
    "table2": table2,
    "table3": grid,
    "table4": grid,
    "table5": table5,
    "table6": table6,
    "figure4": figure4,
    "figure6": figure6,
    "figure7": figure7,
    "figure8": figure8,
    "usps": usps,
    "ablation": ablation,
    "epochs": epochs,
    "widths": widths,
}
