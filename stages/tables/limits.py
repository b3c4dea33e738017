"""What a translator that learns weights by squared error can reach at best."""

from pathlib import Path

import pandas as pd

from kt.ensemble import Compute
from stages.common.base import inputs, runtime
from stages.common.base.params import Params, settings_of
from stages.figures import lines, style
from stages.tables import output
from stages.tables.cells import cell
from stages.tables.cells.limits import ORDERS, TABLE
from stages.tables.cells.settings import Limits, draws_of

LEVELS = ("random_initialisation", "identity", "ceiling")
STARTS = {"fresh": "fresh initial weights", "shared": "shared initial weights"}
ORDER = {"plain": "channels as they are", "aligned": "channels aligned"}


def main(params: Params, compute: Compute) -> None:
    settings, baselines = settings_of(TABLE, Limits), output.references()
    draws, held_out = draws_of(params)
    metrics: dict = {name: baselines[name] for name in LEVELS}
    rows, unexplained = [], []
    for initial in settings.initial:
        found = cell.read(params, f"{TABLE}/{initial}")
        for order in ORDERS:
            own = found["orders"][order]
            points = {
                count: at["accuracy"]
                | output.beside(at["accuracies"])
                | {"error": 100 * at["error"] / own["mean_block"]}
                for count, at in own["means"].items()
            }
            metrics[f"{initial}_{order}"] = {f"mean_of_{n}": at for n, at in points.items()}
            rows += [in_words(initial, order, n, at, baselines) for n, at in points.items()]
        share = 100 * found["variance"] / found["mean_block"]
        metrics[f"{initial}_plain"]["unexplained"] = share
        unexplained.append(f"{share:.1f} % with {STARTS[initial]}")
    caption = (
        f"{output.protocol(params)}. Of each test network {draws} small blocks are "
        "trained by step 2, from weights and on images drawn anew. The best answer to the paper's "
        "loss, the squared error of weights, is their mean, however many pairs and updates a "
        "translator has; here it is estimated from more and more of them. *Error* is that loss on "
        f"{held_out} others, in percent of that of one mean block for all networks. What "
        "no translator brings it below, the variance of trainings, "
        f"is {' and '.join(unexplained)}. *Channels aligned*: hidden channels are in the order "
        f"nearest to the mean. {output.yardstick(baselines)}"
    )
    output.write(params, TABLE, caption, metrics, pd.DataFrame(rows))
    draw(output.folder(params))


def in_words(initial: str, order: str, count: str, at: dict, baselines: dict) -> dict[str, object]:
    return {
        "target": f"{STARTS[initial]}, {ORDER[order]}",
        "trainings averaged": count,
        "accuracy": output.spread(at),
        "n": at["n"],
        "gap, %": f"{output.gap(at['mean'], baselines):z.0f}",
        **output.told(at),
        "error, %": f"{at['error']:.1f}",
    }


def draw(folder: Path) -> None:
    """Draw the table in a scale's folder."""
    metrics = inputs.read_json(folder / f"{TABLE}.json")
    levels = {metrics[name].get("by", name): metrics[name]["mean"] for name in LEVELS}
    table = pd.DataFrame(
        {"target": target, "at": int(name.rpartition("_")[2])}
        | {"mean": at["mean"], "ci95": at["ci95"], "error": at["error"]}
        for target, means in metrics.items()
        if target not in LEVELS
        for name, at in means.items()
        if name != "unexplained"
    )
    words = {f"{i}_{o}": f"{STARTS[i]}, {ORDER[o]}" for i in STARTS for o in ORDER}
    figure = lines.limits(table.replace({"target": words}), levels)
    style.save(figure, folder / f"{TABLE}.png")


if __name__ == "__main__":
    runtime.run(main, __doc__)
