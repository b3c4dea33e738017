"""Figure 5 of the paper: feature maps, with blocks of its base translator."""

import pandas as pd

from kt.ensemble import Compute
from stages import feature_maps
from stages.common.base import inputs, runtime
from stages.common.base.params import Params
from stages.figures import style
from stages.tables import output
from stages.tables.cells import mixers

SIZE = "base"


def main(params: Params, compute: Compute) -> None:
    model = mixers.load(params, SIZE, compute)
    path = mixers.folder(params, SIZE) / "accuracies.csv"
    accuracies = inputs.read_table(path, "translation", percent=True)
    drawn = feature_maps.draw(params, compute, model, accuracies["translation"])
    caption = (
        f"{output.protocol(params)}; the translation is by {mixers.named(params, SIZE)}. "
        f"{drawn.caption()}"
    )
    numbers = {
        "relative_squared_distance": drawn.distance,
        "accuracy": drawn.accuracy,
        "dead_retrained_blocks": drawn.dead,
        "networks": drawn.networks,
    }
    table = pd.DataFrame([{name.replace("_", " "): f"{n:.4g}" for name, n in numbers.items()}])
    output.write(params, "figure5", caption, numbers, table)
    style.save(drawn.figure, output.folder(params) / "figure5.png")


if __name__ == "__main__":
    runtime.run(main, __doc__)
