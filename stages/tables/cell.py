"""A cell of a table: train a translator with changed parameters, and measure it."""

import json
from pathlib import Path

from kt.ensemble import Compute
from kt.pairs.store import Pairs
from kt.run.statistics import summary
from stages.common import translation
from stages.common.base import runtime
from stages.common.base.inputs import PAIRS, image_set
from stages.common.base.params import Params
from stages.common.evaluation import Subjects
from stages.tables import output

CELLS = Path("tables/cells")
MEASURED = 64
"""Training networks to evaluate, at most: a gap between them and unseen ones shows memorising."""


def write(params: Params, name: str, content: dict) -> None:
    """Write a cell of the active scale, for example `ablation/mixer`."""
    runtime.write_json(CELLS / params.scale / f"{name}.json", content)


def read(params: Params, name: str) -> dict:
    """Read the cell that `write` wrote."""
    return json.loads((CELLS / params.scale / f"{name}.json").read_text())


def measured(params: Params, compute: Compute, store: str) -> dict:
    """Train the translator of `params` on a store's networks and measure it.

    Returns:
        `Trained.metrics`; the accuracy of `training` networks on the test images; the training's
        cost in `seconds`, evaluations aside; and the evaluations on the way.
    """
    trained = translation.train(params, compute, store=PAIRS / store)
    count = params.active.train.pairs
    seen = Subjects(
        Pairs(PAIRS / store).read("former", "large", "latter", first=min(count, MEASURED)),
        image_set("main", "test"),
        params.target,
    )
    seconds, evaluations = 0.0, []
    for record in trained.fitted.history:
        seconds += count / record["samples_per_second"]
        if "test" in record:
            evaluations.append(
                {
                    "epoch": record["epoch"],
                    "seconds": round(seconds, 2),
                    "loss": record["loss"],
                    "selection": record["selection_accuracy"],
                    "test": summary(record["test"])["mean"],
                }
            )
    return {
        **trained.metrics(),
        "training": summary(seen.translated(trained.model, compute)),
        "networks": count,
        "updates": output.updates(params),
        "seconds": round(seconds, 2),
        "evaluations": evaluations,
    }
