"""What the paper's tables have in common: its translator's sizes, and what it printed."""

from typing import Literal

from kt.ensemble import Compute
from kt.errors import KTError
from kt.translator.mixer import PAPER_SIZES
from stages import figures
from stages.params import Change, Params
from stages.tables import cell, output

Size = Literal[tuple(PAPER_SIZES)]
"""A size of the translator (Table 2)."""

PRINTED_MILLIONS = {"small": "1.32", "base": "2.61", "large": "3.90", "wide": "4.11"}
"""Table 2's parameters; its M is 2^20."""
PRINTED_BASELINES = {
    "random_initialisation": "27.38",
    "random_replacement": "23.67",
    "greedy_replacement": "26.53",
}
"""Table 3."""
PRINTED = {
    "table3": {
        "small": ("45.54", "31.08", "30.23", "30.63"),
        "base": ("47.33", "32.49", "31.20", "31.19"),
        "large": ("44.99", "39.x", "34.x", "31.14"),
        "wide": ("30.31", "30.98", "30.x", "29.08"),
    },
    "table4": {
        "small": ("46.56", "39.85", "31.87", "31.66"),
        "base": ("46.16", "49.41", "47.11", "32.77"),
        "large": ("51.21", "52.07", "50.00", "49.31"),
    },
}
"""Best accuracies of Tables 3 and 4 by size, for dropout 0, 0.1, 0.2 and 0.3; x: not legible."""
PRINTED_EPOCHS = {"table3": 300, "table4": 1000}
DROPOUT = (0.0, 0.1, 0.2, 0.3)
PRINTED_TARGETS = {"mlp": ("26.60", "37.33"), "attention": ("26.72", "33.55")}
"""Table 6: random initialisation, translation."""


def printed(table: str, size: str, dropout: float) -> str:
    """A cell of the paper's Table 3 or 4; nothing for one that it does not have."""
    cells = dict(zip(DROPOUT, PRINTED[table].get(size, ()), strict=False))
    return cells.get(dropout, "")


def mixer(size: str, epochs: int, pairs: int | None = None, **train: object) -> Change:
    """The change of parameters that trains the paper's translator the paper's way.

    Args:
        size: a key of `PAPER_SIZES`.
        epochs: of its training, at the active scale.
        pairs: how many it learns from; None: as many as the scale says.
        train: further parameters under `train`.
    """
    config = PAPER_SIZES[size]
    schedule: dict = {"mixer": {"epochs": epochs}}
    return {
        "model": {
            "kind": "mixer",
            "layers": config.layers,
            "hidden_size": config.hidden_size,
            "mixer": {
                "sequence_dim": config.sequence_dim,
                "channel_dim": config.channel_dim,
            },
        },
        "train": train,
        "active": {"train": schedule | ({} if pairs is None else {"pairs": pairs})},
    }


def epochs_at_scale(params: Params, table: str, epochs: dict[str, int]) -> int:
    """A table's epochs at the active scale.

    Raises:
        KTError: it has none for that scale.
    """
    if params.scale not in epochs:
        raise KTError(
            f"params.yaml: tables.{table}.epochs: none for scale {params.scale!r}; there are some "
            f"for {', '.join(epochs)}"
        )
    return epochs[params.scale]


def measure(
    params: Params, compute: Compute, table: str, change: Change, store: str = "train"
) -> dict:
    """What `cell.measured` says under changed parameters.

    Args:
        table: of the parameters, which the change comes from.
    """
    return cell.measured(params.changed(change, f"tables.{table}"), compute, store)


def spread(summary: dict) -> str:
    """A mean with its interval."""
    return f"{summary['mean']:.2f} ± {summary['ci95']:.2f}"


def row(label: str, result: dict, baselines: dict[str, dict], printed: str = "") -> dict:
    """A translator's line in a table: both rules for the epoch, and the paper's number beside.

    Args:
        result: what `stages.tables.cell.measured` says.
    """
    test = result["translation"]
    return {
        "translator": label,
        "accuracy": spread(test),
        "best epoch on test": spread(result["paper_rule_best_on_test"]),
        "the paper's": printed,
        "n": test["n"],
        "gap, %": f"{output.gap(test['mean'], baselines):.0f}",
        "seen": f"{result['training']['mean']:.2f}",
        "pairs": result["networks"],
        "training, s": f"{result['seconds']:.0f}",
    }


def references(baselines: dict[str, dict]) -> list[dict]:
    """The lines of the blocks that need no translator, those that there are."""
    return [
        {
            "translator": figures.LABELS[name],
            "accuracy": spread(baselines[name]),
            "the paper's": PRINTED_BASELINES.get(name, ""),
            "n": baselines[name]["n"],
            "gap, %": f"{output.gap(baselines[name]['mean'], baselines):.0f}",
        }
        for name in figures.LABELS
        if name in baselines
    ]


def numbers(result: dict) -> dict:
    """A cell's metrics."""
    kept = ("paper_rule_best_on_test", "training")
    return result["translation"] | {name: result[name] for name in kept}


RULES = (
    "Accuracy in percent on the test images, of test networks that no translator saw, mean and "
    "95 % interval over them (Student); its epoch was chosen on selection networks and held-back "
    "images. *Best epoch on test* is the paper's rule: the best evaluation on the test networks "
    "and images themselves. *The paper's* numbers go by that rule, on MNIST with 300,000 pairs. "
    "*Gap* is the share of the way from random initialisation to the re-trained small block, "
    "*seen* the accuracy of training networks; seconds are of training, evaluations aside."
)
