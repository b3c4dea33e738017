"""The default translator on networks trained for other numbers of epochs, as one table."""

import pandas as pd

from kt.ensemble import Compute
from stages.common.base import runtime
from stages.common.base.params import Params, settings_of
from stages.tables import output
from stages.tables.cells import cell
from stages.tables.cells.settings import Epochs


def main(params: Params, compute: Compute) -> None:
    results = {
        f"{epochs}_epochs": cell.read(params, f"epochs/{epochs}")
        for epochs in settings_of("epochs", Epochs).epochs
    }
    lines = pd.DataFrame(
        {
            "epochs": name.removesuffix("_epochs"),
            **{title: output.spread(result[key]) for key, title in TITLES.items()},
            "n": result["gain"]["n"],
        }
        for name, result in results.items()
    )
    caption = (
        f"{output.protocol(params)}. The translator is the main job's ({params.model.kind}) "
        f"and learned from {params.active.pairs:,} such networks; the table shows "
        f"networks trained for other numbers of epochs. The gain is that of "
        "translation over random initialisation. Re-training is the paper's step 2, with all "
        f"labelled training images. {output.given(params)} "
        f"{output.trained_with({params.model.kind: [output.main_job(params)]})}"
    )
    output.write(params, "epochs", caption, results, lines)


TITLES = {
    "random_initialisation": "random initialisation",
    "translation": "translation",
    "retrained": "re-trained by SGD",
    "large": "large",
    "gain": "gain, points",
}

if __name__ == "__main__":
    runtime.run(main, __doc__)
