"""Translators at widths that they have learned, and at widths that they have not, as one table."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from kt.ensemble import Compute
from kt.run.statistics import gap_closed, summary
from stages.common import ceiling
from stages.common.base import inputs, runtime
from stages.common.base.inputs import Found
from stages.common.base.metrics import checked, several
from stages.common.base.params import Params, settings_of
from stages.figures import lines, style
from stages.tables import output
from stages.tables.cells import cell
from stages.tables.cells.settings import Widths
from stages.tables.findings import SHARES

GIVEN = ("networks", "updates", "images", "prototypes")
"""What a block was given, as cells say it and as the table heads its columns."""
LABELS = {
    "random_initialisation": "random initialisation",
    "pruned": "pruned and refitted",
    "untrained": "merge before any learning",
    "own": "merge, learned at this width",
    "retrained": "re-trained",
    "large": "large block",
}


def main(params: Params, compute: Compute) -> None:
    settings = settings_of("widths", Widths)
    learned = {name: cell.read(params, f"widths/learned/{name}") for name in settings.learned}
    metrics, rows, owns = {}, [], []
    for width in settings.measured:
        blocks = cell.read(params, f"widths/blocks/{width}")
        own = cell.read(params, f"widths/own/{width}")
        require_networks(width, settings.test, blocks, own, *learned.values())
        owns.append(own)
        found, labels = methods(width, blocks, learned, own)
        metrics[width] = compared(width, found, learned)
        rows += [
            in_words(width, labels[name], found[name], metrics[width], name) for name in labels
        ]
    trained = {LABELS["own"]: owns}
    trained |= {f"merge, learned at {named(c['widths'])}": [c] for c in learned.values()}
    caption = (
        f"{output.protocol(params)}. At the width 6 -> 2 networks have six channels and small "
        f"blocks two hidden ones. The *ceiling* was chosen for each width. *Of own* is the "
        "share of the gap that merge closes "
        "when it has learned the very width, and *beside own* the difference in points, network by "
        f"network. Every merge that learned had as many networks in all ({own['networks']}) and as "
        f"many updates. {output.trained_with(trained)}"
    )
    output.write(params, "widths", caption, metrics, pd.DataFrame(rows))
    draw(output.folder(params))


def require_networks(width: str, count: int, blocks: Found, *translators: Found) -> None:
    """Refuse cells that measured more or fewer networks of a width than there are.

    Raises:
        KTError: one of them did.
    """
    measured = [block for name, block in blocks.items() if name != "ceiling"]  # that is one of them
    found = [(blocks.path, block["accuracies"]) for block in measured]
    found += [(one.path, one["measured"][width]) for one in translators]
    for path, accuracies in found:
        if len(accuracies) != count:
            raise inputs.damaged(path, f"it measures {len(accuracies)} networks, not {count}")


def named(widths: list[str]) -> str:
    return ", ".join(width.replace("_to_", " -> ") for width in widths)


def methods(width: str, blocks: dict, learned: dict, own: dict) -> tuple[dict, dict[str, str]]:
    """Each block's `accuracies` and what it was given, and its label, in the table's order."""
    better = blocks["ceiling"]["by"]
    found = {name: blocks[name] for name in ("random_initialisation", "pruned", "untrained")}
    labels = {name: LABELS[name] for name in found}
    for name, one in learned.items():
        found[name] = one | {"accuracies": one["measured"][width]}
        labels[name] = f"merge, learned at {named(one['widths'])}"
    found["own"] = own | {"accuracies": own["measured"][width]}
    found |= {"retrained": blocks[better], "large": blocks["large"]}
    labels |= {name: LABELS[name] for name in ("own", "retrained", "large")}
    labels["retrained"] += f" by {ceiling.WAYS[better]} (the ceiling)"
    return found, labels


def compared(width: str, found: dict[str, dict], learned: Mapping[str, dict]) -> dict[str, dict]:
    """Summaries by block, with the share of the gap and `output.compared`; and shares of what the
    translator closes that has learned the width.
    """
    accuracies = {name: torch.tensor(one["accuracies"]).double() for name, one in found.items()}
    low, high = (accuracies[name].mean().item() for name in ("random_initialisation", "retrained"))

    def gap(values: Tensor) -> float:
        return gap_closed(values.mean().item(), low, high)

    results: dict[str, dict] = {
        name: summary(values)
        | output.compared(values.tolist(), accuracies["retrained"].tolist())
        | {"gap": round(gap(values), 4)}
        for name, values in accuracies.items()
    }
    whole = gap(accuracies["own"])
    results[SHARES] = {
        name: summary(accuracies[name] - accuracies["own"])
        | {
            "percent": round(100 * gap(accuracies[name]) / whole, 4) if whole > 0 else 0.0,
            "learned": name in learned and width in learned[name]["widths"],
        }
        for name in ("untrained", *learned)
    }
    return results


def in_words(width: str, label: str, one: dict, results: dict, name: str) -> dict[str, object]:
    share = results[SHARES].get(name)
    labelled = " labelled" if one.get("labels") else ""
    given = {key: f"{one[key]:,}" if one.get(key) else "" for key in GIVEN}
    return {
        "width": named([width]),
        "block": label,
        "accuracy": output.spread(results[name]),
        **output.told(results[name]),
        "n": results[name]["n"],
        "gap, %": f"{results[name]['gap']:z.1f}",
        "of own, %": f"{share['percent']:.1f}" if share else "",
        "beside own": output.spread(share) if share else "",
        **given | {"images": given["images"] + labelled if given["images"] else ""},
    }


def draw(folder: Path) -> None:
    """Draw the table in a scale's folder."""
    metrics = checked(folder / "widths.json", several(several(dict)))
    table = inputs.read_table(folder / "widths.csv", words=("width", "block"))
    names = [name for name in next(iter(metrics.values())) if name != SHARES]
    shown = [name for name in names if name not in ("random_initialisation", "large")]
    labels = dict(zip(names, table["block"], strict=False))
    labels["retrained"] = LABELS["retrained"]
    gaps = {labels[name]: [results[name]["gap"] for results in metrics.values()] for name in shown}
    widths = [named([width]) for width in metrics]
    style.save(lines.gaps_by_width(widths, gaps), folder / "widths.png")


if __name__ == "__main__":
    runtime.run(main, __doc__)
