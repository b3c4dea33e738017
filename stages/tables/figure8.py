"""Figure 8 of the paper: what translation gains in networks trained on part of the images."""

import pandas as pd

from kt.ensemble import Compute
from kt.run.statistics import summary
from stages.common.base import runtime
from stages.common.base.inputs import RESULTS, image_set
from stages.common.base.params import Params
from stages.common.evaluation import Subjects
from stages.tables import charts, output, paper_translator

SIZE = "large"


def main(params: Params, compute: Compute) -> None:
    model = paper_translator.load(params, SIZE, compute)
    ours = pd.read_csv(RESULTS / "partial" / "partial.csv").set_index("fraction")
    images, rows, metrics, gains = image_set("main", "test"), [], {}, {}
    for fraction in params.partial.fractions:
        subjects = Subjects.of_store(f"partial/{fraction:g}", images, params.target)
        accuracies = subjects.compared(model, params.seed, compute)
        results = {name: summary(values) for name, values in accuracies.items()}
        main_gain = {"mean": ours["gain"][fraction], "ci95": ours["gain_ci95"][fraction]}
        gains[fraction] = {"the paper's mixer": results["gain"], params.model.kind: main_gain}
        metrics[f"{fraction * 100:g}_percent".replace(".", "_")] = results
        rows.append(
            {
                "images": f"{fraction * 100:g} %",
                **{
                    key.replace("_", " "): output.spread(results[key])
                    for key in ("large", "random_initialisation", "translation")
                },
                "gain, points": output.spread(results["gain"]),
                f"gain of {params.model.kind}": output.spread(main_gain),
                "n": results["gain"]["n"],
            }
        )
    caption = (
        f"{output.protocol(params)}; networks trained on a fraction of the training images. "
        f"Accuracy in percent on the test images, of networks translated by "
        f"{paper_translator.named(params, SIZE)}; gains are over random initialisation, in "
        f"points, also of the main job's translator ({params.model.kind}); intervals are 95 % over "
        "networks (Student)."
    )
    output.write(params, "figure8", caption, metrics, pd.DataFrame(rows))
    charts.save(charts.gains_by_fraction(gains), params, "figure8")


if __name__ == "__main__":
    runtime.run(main, __doc__)
