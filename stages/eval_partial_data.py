"""Measure the gain of translation in networks trained on a fraction of the images (Figure 8)."""

import pandas as pd

from kt.ensemble import Compute
from kt.run.statistics import summary
from stages.common.base import outputs, runtime
from stages.common.base.inputs import RESULTS, TRANSLATOR, image_set
from stages.common.base.params import Params, fraction_name
from stages.common.evaluation import Subjects, translator

OUT = RESULTS / "partial"


def main(params: Params, compute: Compute) -> None:
    model = translator(TRANSLATOR, params, compute.device)
    images = image_set(params, "main", "test")
    stores = {
        fraction: Subjects.of_store(fraction_name(fraction), images, params)
        for fraction in params.partial.fractions
    }
    metrics, rows = {}, []
    for fraction, subjects in stores.items():
        accuracies = subjects.compared(model, params.seed, compute)
        results = {name: summary(values) for name, values in accuracies.items()}
        metrics[f"{fraction * 100:g}_percent".replace(".", "_")] = results
        row = {"fraction": fraction, "n": len(subjects)}
        for name, result in results.items():
            row |= {name: result["mean"], f"{name}_ci95": result["ci95"]}
        rows.append(row)
    outputs.write_json(OUT / "metrics.json", metrics)
    outputs.write_csv(OUT / "partial.csv", pd.DataFrame(rows))


if __name__ == "__main__":
    runtime.run(main, __doc__)
