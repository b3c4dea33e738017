"""Section 5.5 of the paper: large blocks between blocks that were trained on other images."""

import pandas as pd

from kt.ensemble import Compute
from kt.run.statistics import summary
from stages.common.base import metrics, runtime
from stages.common.base.inputs import image_set
from stages.common.base.params import Params
from stages.common.evaluation import Subjects
from stages.tables import output, printed
from stages.tables.cells import mixers

SIZE = "large"


def main(params: Params, compute: Compute) -> None:
    model = mixers.load(params, SIZE, compute)
    subjects = Subjects.of_store("transfer", image_set(params, "transfer", "test"), params)
    accuracies = subjects.compared(model, params.seed, compute)
    mixer = {name: summary(values) for name, values in accuracies.items()}
    ours = metrics.read("transfer")
    ours_in_words = f"{params.model.kind} (the main job's)"
    if params.model.kind == "merge":
        ours_in_words += f", with {output.prototypes(params)}"
    rows = [
        {
            "translator": label,
            **{
                title: output.spread(result[key])
                for key, title in (
                    ("random_initialisation", "random initialisation"),
                    ("translation", "translation"),
                    ("retrained", "re-trained by SGD"),
                    ("gain", "gain, points"),
                )
                if key in result
            },
            "the paper's gain": theirs,
            "n": result["gain"]["n"],
        }
        for label, result, theirs in (
            (mixers.named(params, SIZE), mixer, printed.USPS_GAIN),
            (ours_in_words, ours, ""),
        )
    ]
    images = params.active.images
    caption = (
        f"{output.protocol(params)}. Here the former and latter blocks are trained on "
        f"{images.transfer} around the test networks' large blocks, which stay as they are. "
        f"Accuracy is in percent on the test images of {images.transfer}: the mean over n networks "
        "and its 95 % interval (Student). Re-training is the paper's step 2 with all labelled "
        f"training images of {images.transfer}. Gains are over random initialisation; the paper's "
        f"is from MNIST to USPS. {output.trained_beside(params, SIZE)} {output.given(params)}"
    )
    output.write(params, "usps", caption, {"mixer": mixer}, pd.DataFrame(rows).fillna(""))


if __name__ == "__main__":
    runtime.run(main, __doc__)
