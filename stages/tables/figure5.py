"""Figure 5 of the paper: feature maps, with blocks of its base translator."""

import pandas as pd

from kt import ensemble, translator
from kt.ensemble import Compute
from stages import feature_maps, runtime
from stages.evaluation import Subjects
from stages.inputs import TRANSLATOR, image_set
from stages.params import Params
from stages.tables import charts, output, paper_translator

SIZE = "base"


def main(params: Params, compute: Compute) -> None:
    model = translator.load(paper_translator.folder(params, SIZE) / TRANSLATOR.name, compute.device)
    test = Subjects.of_store("test", image_set("main", "test"), params.target)
    large = ensemble.features(test.images, first(test.networks), "large", first(test.large))
    translated = translator.translate(model, first(test.networks), compute)
    small = ensemble.features(test.images, first(test.networks), params.target, translated)
    distance = ((small - large).square().mean() / large.square().mean()).item()
    caption = (
        f"{output.protocol(params)}: what blocks make of the first test images in the first test "
        f"network, six channels each; translation by {paper_translator.named(params, SIZE)}."
    )
    table = pd.DataFrame({"relative squared distance to the large block's": [f"{distance:.3f}"]})
    output.write(params, "figure5", caption, {"relative_squared_distance": distance}, table)
    charts.save(feature_maps.draw(params, compute, model), params, "figure5")


def first(stacked: ensemble.Weights) -> ensemble.Weights:
    """The first of stacked networks, (1, ...)."""
    return {name: tensor[:1] for name, tensor in stacked.items()}


if __name__ == "__main__":
    runtime.run(main, __doc__)
