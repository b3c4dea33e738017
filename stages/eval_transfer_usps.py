"""Translate blocks inside networks of the transfer set (paper, Section 5.5: USPS)."""

from typing import Any

import pandas as pd

from kt.ensemble import Compute
from kt.run.statistics import summary
from kt.translators import baselines
from stages.common.base import outputs, runtime
from stages.common.base.inputs import RESULTS, TRANSLATOR, image_set
from stages.common.base.params import Params
from stages.common.evaluation import Subjects, translator

OUT = RESULTS / "transfer"


def main(params: Params, compute: Compute) -> None:
    transfer = Subjects.of_store("transfer", image_set(params, "transfer", "test"), params, "small")
    model = translator(TRANSLATOR, params, compute.device)
    accuracies = transfer.compared(model, params.seed, compute)
    identity = baselines.identity(params.target, len(transfer), params.sizes)
    accuracies["identity"] = transfer.with_small(identity, compute)
    chosen = params.active.images
    metrics: dict[str, Any] = {"from": chosen.main, "to": chosen.transfer}
    metrics |= {name: summary(values) for name, values in accuracies.items()}
    outputs.write_json(OUT / "metrics.json", metrics)
    table = pd.DataFrame({"network": range(len(transfer)), **accuracies})
    outputs.write_csv(OUT / "accuracies.csv", table)


if __name__ == "__main__":
    runtime.run(main, __doc__)
