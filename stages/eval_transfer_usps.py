"""Translate blocks inside networks of the transfer set (paper, Section 5.5: USPS)."""

import pandas as pd

from kt.ensemble import Compute
from kt.evaluation import baselines
from kt.evaluation.statistics import summary
from kt.translators import load_translator
from stages import runtime
from stages.evaluation import Subjects
from stages.inputs import RESULTS, TRANSLATOR, image_set
from stages.params import Params

OUT = RESULTS / "transfer"


def main(params: Params, compute: Compute) -> None:
    transfer = Subjects.of_store("transfer", image_set("transfer", "test"), params.target)
    model = load_translator(TRANSLATOR, compute.device)
    accuracies = transfer.compared(model, params.seed, compute)
    identity = baselines.identity(params.target, len(transfer))
    accuracies["identity"] = transfer.with_small(identity, compute)
    chosen = params.active.images
    metrics = {"from": chosen.main, "to": chosen.transfer}
    metrics |= {name: summary(values) for name, values in accuracies.items()}
    runtime.write_json(OUT / "metrics.json", metrics)
    table = pd.DataFrame({"network": range(len(transfer)), **accuracies})
    runtime.write_csv(OUT / "accuracies.csv", table)


if __name__ == "__main__":
    runtime.run(main, __doc__)
