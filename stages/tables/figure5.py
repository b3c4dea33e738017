"""Figure 5 of the paper: feature maps, with blocks of its base translator."""

import pandas as pd

from kt import ensemble
from kt.ensemble import Compute
from kt.networks.weights import part
from kt.pairs.store import Pairs
from kt.translators import translate
from stages import feature_maps
from stages.common.base import runtime
from stages.common.base.inputs import PAIRS, image_set
from stages.common.base.params import Params
from stages.tables import charts, output, paper_translator

SIZE = "base"


def main(params: Params, compute: Compute) -> None:
    model = paper_translator.load(params, SIZE, compute)
    network, images = Pairs(PAIRS / "test").read(first=1), image_set("main", "test")
    large = ensemble.features(images, network, "large", part(network, "large"))
    translated = translate(model, network, compute)
    small = ensemble.features(images, network, params.target, translated)
    distance = ((small - large).square().mean() / large.square().mean()).item()
    caption = (
        f"{output.protocol(params)}: what blocks make of the first test images in the first test "
        f"network, six channels each; translation by {paper_translator.named(params, SIZE)}."
    )
    table = pd.DataFrame({"relative squared distance to the large block's": [f"{distance:.3f}"]})
    output.write(params, "figure5", caption, {"relative_squared_distance": distance}, table)
    charts.save(feature_maps.draw(params, compute, model), params, "figure5")


if __name__ == "__main__":
    runtime.run(main, __doc__)
