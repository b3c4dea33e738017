"""Figure 5 of the paper: what blocks make of images, in one test network."""

from matplotlib.figure import Figure

from kt import ensemble
from kt.ensemble import Compute
from kt.networks.weights import part
from kt.pairs.store import Pairs
from kt.translators import Translator, baselines, translate
from stages import figures
from stages.common.base.inputs import PAIRS, image_set
from stages.common.base.params import Params

SHOWN_IMAGES = 4


def draw(params: Params, compute: Compute, model: Translator) -> Figure:
    """The first test network's former block, and every block behind it in turn."""
    images = image_set("main", "test").subset(slice(0, SHOWN_IMAGES))
    network = Pairs(PAIRS / "test").read(first=1)
    replaced = part(Pairs(PAIRS / "train").read("small"), "small")
    target, replacement = params.target, {}
    if replaced:
        drawn = baselines.random_replacement(replaced, 1, params.seed)
        replacement = {"random replacement": (target, drawn)}
    blocks = {
        "former block": (None, {}),
        "large block": ("large", part(network, "large")),
        "random initialisation": (target, baselines.random_initialisation(target, 1, params.seed)),
        **replacement,
        "translation": (target, translate(model, network, compute)),
        "re-trained": (target, part(network, "small")),
    }
    maps = {
        label: ensemble.features(images, network, kind, block, compute)[0]
        for label, (kind, block) in blocks.items()
    }
    return figures.feature_maps(images.images, maps)
