"""Figure 8 of the paper: the gain of translation in networks trained on part of the images."""

from pathlib import Path

import pandas as pd

from kt.ensemble import Compute
from kt.run.statistics import summary
from stages.common.base import inputs, runtime
from stages.common.base.inputs import RESULTS, image_set
from stages.common.base.params import Params, fraction_name
from stages.common.evaluation import Subjects
from stages.figures import lines, style
from stages.tables import output
from stages.tables.cells import mixers

SIZE = "large"
GAIN, GAIN_OF = "gain, points", "gain of "


def main(params: Params, compute: Compute) -> None:
    model = mixers.load(params, SIZE, compute)
    numbers = ("fraction", "gain", "gain_ci95")
    ours = inputs.read_table(RESULTS / "partial" / "partial.csv", *numbers).set_index("fraction")
    if lacking := [str(f) for f in params.partial.fractions if f not in ours.index]:
        raise inputs.damaged(RESULTS / "partial" / "partial.csv", f"it has no row {lacking[0]}")
    images, rows, metrics = image_set(params, "main", "test"), [], {}
    for fraction in params.partial.fractions:
        subjects = Subjects.of_store(fraction_name(fraction), images, params)
        accuracies = subjects.compared(model, params.seed, compute)
        results = {name: summary(values) for name, values in accuracies.items()}
        main_gain = {"mean": ours["gain"][fraction], "ci95": ours["gain_ci95"][fraction]}
        metrics[f"{fraction * 100:g}_percent".replace(".", "_")] = results
        rows.append(
            {
                "images": f"{fraction * 100:g} %",
                **{
                    key.replace("_", " "): output.spread(results[key])
                    for key in ("large", "random_initialisation", "translation")
                },
                GAIN: output.spread(results["gain"]),
                GAIN_OF + params.model.kind: output.spread(main_gain),
                "n": results["gain"]["n"],
            }
        )
    caption = (
        f"{output.protocol(params)}, here on a fraction of the training images. "
        f"Translation is by {mixers.named(params, SIZE)}. Gains are over random "
        f"initialisation, in points, also that of the main job's translator ({params.model.kind}). "
        f"{output.trained_beside(params, SIZE)} {output.given(params)}"
    )
    output.write(params, "figure8", caption, metrics, pd.DataFrame(rows))
    draw(output.folder(params))


def draw(folder: Path) -> None:
    """Draw the table in a scale's folder."""
    table = inputs.read_table(folder / "figure8.csv", words=("images", GAIN))
    (ours,) = (name for name in table if name.startswith(GAIN_OF))
    fractions = [float(images.removesuffix(" %")) / 100 for images in table["images"]]
    gains = {
        kind: pd.DataFrame(map(output.parsed, table[column]), columns=["mean", "ci95"]).assign(
            fraction=fractions
        )
        for kind, column in (("mixer", GAIN), (ours.removeprefix(GAIN_OF), ours))
    }
    style.save(lines.gains_by_fraction(gains), folder / "figure8.png")


if __name__ == "__main__":
    runtime.run(main, __doc__)
