"""Translate blocks inside networks of the transfer set (paper, Section 5.5: USPS)."""

import pandas as pd

from kt import baselines, ensemble, translator
from kt.ensemble import Compute
from kt.statistics import summary
from stages import runtime
from stages.evaluation import Subjects
from stages.inputs import RESULTS, TRANSLATOR, image_set
from stages.params import Params

OUT = RESULTS / "transfer"


def main(params: Params, compute: Compute) -> None:
    transfer = Subjects.of_store("transfer", image_set("transfer", "test"), params.target)
    count = len(transfer)
    random = baselines.random_initialisation(params.target, count, params.seed)
    model = translator.load(TRANSLATOR, compute.device)
    accuracies = {
        "random_initialisation": transfer.with_small(random, compute),
        "identity": transfer.with_small(baselines.identity(params.target, count), compute),
        "translation": transfer.translated(model, compute),
        "retrained": transfer.with_small(ensemble.part(transfer.networks, "small"), compute),
        "large": transfer.with_large(compute),
    }
    gain = accuracies["translation"] - accuracies["random_initialisation"]
    chosen = params.active.images
    metrics = {"from": chosen.main, "to": chosen.transfer}
    metrics |= {name: summary(values) for name, values in accuracies.items()}
    runtime.write_json(OUT / "metrics.json", metrics | {"gain": summary(gain)})
    table = pd.DataFrame({"network": range(count), **accuracies})
    runtime.write_csv(OUT / "accuracies.csv", table)


if __name__ == "__main__":
    runtime.run(main, __doc__)
