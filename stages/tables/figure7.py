"""Figure 7 of the paper: the accuracies of all test networks in bins of 5 %."""

from pathlib import Path

import pandas as pd
import torch

from kt.ensemble import Compute
from kt.run.statistics import summary
from stages.common.base import inputs, runtime
from stages.common.base.inputs import RESULTS
from stages.common.base.params import Params
from stages.figures import accuracies, style
from stages.tables import output
from stages.tables.cells import mixers

SIZE = "large"


def main(params: Params, compute: Compute) -> None:
    found = {
        "random initialisation": column(RESULTS / "baselines", "random_initialisation"),
        "the paper's mixer": column(mixers.folder(params, SIZE), "translation"),
        params.model.kind: column(RESULTS / "train", "translation"),
    }
    summaries = {
        name: summary(torch.tensor(values.to_numpy())) | output.beside(values.tolist())
        for name, values in found.items()
    }
    kinds = dict(zip(found, ("random_initialisation", "mixer", params.model.kind), strict=True))
    table = pd.DataFrame(
        {
            "block": name,
            "mean": output.spread(result),
            **{key: f"{result[key]:.2f}" for key in ("std", "min", "max")},
            **output.told(result),
            "images": output.prototypes(params, kinds[name]),
            "n": result["n"],
        }
        for name, result in summaries.items()
    )
    caption = (
        f"{output.protocol(params)}. The figure counts test networks by their accuracy on test "
        "images, in bins of 5 %; the table shows means with their 95 % intervals (Student). The "
        f"blocks are random ones, translations by {mixers.named(params, SIZE)}, and "
        f"translations by the main job's translator ({params.model.kind}). Selection networks "
        f"chose the epochs. {output.yardstick(output.references())} "
        f"{output.trained_beside(params, SIZE)}"
    )
    metrics = {name.replace(" ", "_").replace("'", ""): r for name, r in summaries.items()}
    output.write(params, "figure7", caption, metrics, table)
    colours = [style.colour(kind) for kind in kinds.values()]
    style.save(accuracies.histograms(found, colours), output.folder(params) / "figure7.png")


def column(folder: Path, name: str) -> pd.Series:
    """Accuracies that a stage kept in a folder."""
    return inputs.read_table(folder / "accuracies.csv", name, percent=True)[name]


if __name__ == "__main__":
    runtime.run(main, __doc__)
