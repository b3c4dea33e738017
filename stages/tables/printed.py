"""The paper's numbers, and rows of ours beside them."""

from stages.common.base.params import Params
from stages.figures.style import LABELS
from stages.tables import output

MERGE = "merge (ours)"
MILLIONS = {"small": "1.32", "base": "2.61", "large": "3.90", "wide": "4.11"}
"""Table 2's parameters; its M is 2^20."""
BASELINES = {
    "random_initialisation": "27.38",
    "random_replacement": "23.67",
    "greedy_replacement": "26.53",
}
"""Table 3."""
GRIDS = {
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
EPOCHS = {"table3": 300, "table4": 1000}
DROPOUT = (0.0, 0.1, 0.2, 0.3)
TARGETS = {"mlp": ("26.60", "37.33"), "attention": ("26.72", "33.55")}
"""Table 6: random initialisation, translation."""
AUGMENTATION = {"full": "44.99", "none": "30.93", "masking": "48.76", "noise": "49.52"}
"""Table 5."""
USPS_GAIN = "11.11"
"""Section 5.5, in points, from MNIST to USPS."""


def merge(params: Params) -> str:
    """Our translator in words, with the images that it has and the others lack."""
    return f"{MERGE}, with {output.prototypes(params)}"


def accuracy(table: str, size: str, dropout: float) -> str:
    """The paper's number in Table 3 or 4; empty if there is none."""
    cells = dict(zip(DROPOUT, GRIDS[table].get(size, ()), strict=False))
    return cells.get(dropout, "")


def row(label: str, result: dict, baselines: dict[str, dict], printed: str = "") -> dict:
    """A translator's row in a table: both rules for the epoch, and the paper's number.

    Args:
        result: what `stages.tables.cell.measured` says.
    """
    test = result["translation"]
    return {
        "translator": label,
        "accuracy": output.spread(test),
        "best epoch on test": output.spread(result["paper_rule_best_on_test"]),
        "the paper's": printed,
        "n": test["n"],
        "gap, %": f"{output.gap(test['mean'], baselines):z.0f}",
        **output.told(output.beside(result["accuracies"])),
        "seen": f"{result['training']['mean']:.2f}",
        "pairs": result["networks"],
    }


def references(baselines: dict[str, dict]) -> list[dict]:
    """The rows of the blocks that need no translator, as far as they were measured."""
    return [
        {
            "translator": output.label(name, baselines),
            "accuracy": output.spread(baselines[name]),
            "the paper's": BASELINES.get(name, ""),
            "n": baselines[name]["n"],
            "gap, %": f"{output.gap(baselines[name]['mean'], baselines):z.0f}",
            **output.told(baselines[name]),
        }
        for name in LABELS
        if name in baselines
    ]


def numbers(result: dict) -> dict:
    """A cell's metrics."""
    kept = ("paper_rule_best_on_test", "training")
    own = result["translation"] | output.beside(result["accuracies"])
    return own | {name: result[name] for name in kept}
