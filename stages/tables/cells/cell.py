"""What cells share: where they are kept, and a translator measured."""

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

CELLS = Path("tables/cells")
TIMES = "times"
"""The folder of what the clock said, among a scale's cells but no output of any stage."""
MEASURED = 64
"""Training networks to evaluate, at most: a gap between them and unseen ones shows memorising."""


def write(params: Params, name: str, content: dict, seconds: dict | None = None) -> None:
    """Keep a cell of the active scale: `ablation/mixer`, say.

    Args:
        seconds: what the clock said, kept elsewhere: made again, a cell is the same.
    """
    runtime.write_json(CELLS / params.scale / f"{name}.json", content)
    if seconds:
        runtime.write_json(CELLS / params.scale / TIMES / f"{name}.json", seconds)


def read(params: Params, name: str) -> dict:
    """Read the cell that `write` wrote."""
    return json.loads((CELLS / params.scale / f"{name}.json").read_text())


def seconds_of(params: Params, name: str) -> dict:
    """What the clock said of a cell; nothing where it was made elsewhere."""
    path = CELLS / params.scale / TIMES / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def measured(params: Params, compute: Compute, store: str) -> tuple[dict, float]:
    """Train the translator of `params` on a store's networks and measure it.

    Returns:
        `Trained.metrics`, the accuracy of `training` networks on the test images, and the
        evaluations on the way; and the seconds of training, evaluations aside.
    """
    trained = translation.train(params, compute, store=PAIRS / store)
    count = params.active.pairs
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
                    "loss": record["loss"],
                    "selection": record["selection_accuracy"],
                    "test": summary(record["test"])["mean"],
                }
            )
    found = {
        **trained.metrics(),
        "training": summary(seen.translated(trained.model, compute)),
        "networks": count,
        "updates": params.updates,
        "evaluations": evaluations,
    }
    return found, round(seconds, 2)
