"""Figure 5 of the paper: what blocks make of images, in one test network."""

from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from kt import ensemble
from kt.ensemble import Compute
from kt.networks.weights import part
from kt.run.errors import KTError
from kt.translators import Translator, baselines, translate
from stages.common.base.inputs import PAIRS, REMEDY, image_set
from stages.common.base.params import Params
from stages.common.base.stores import pairs
from stages.figures import maps
from stages.figures.style import Figure

SHOWN_IMAGES = 4
WORDS = [
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
]
LARGE, DEAD = "large block", "re-trained"
UNCHANGED = 1e-3
"""A block is dead if it changes maps by less than this share of their squared norm."""


@dataclass(frozen=True)
class FeatureMaps:
    """The figure, and what its caption says of it.

    Attributes:
        network: which of the test networks is shown, counted from 0.
        accuracy: in percent, of that network with its translated block.
        distance: squared distance of the translated block's maps to the large block's, relative to
            the latter's squared norm.
        dead: test networks whose re-trained block passes its input on nearly unchanged.
        networks: test networks.
        channels: of every block's maps.
    """

    figure: Figure
    network: int
    accuracy: float
    distance: float
    dead: int
    networks: int
    channels: int

    def caption(self) -> str:
        """What the figure shows, in words."""
        return (
            f"Each row is one of the first {SHOWN_IMAGES} test images, each column a block with "
            f"its {in_words(self.channels)} channels: the former block (the large block's input), "
            "then the large block and what may stand in its place. All maps share one colour "
            "scale, which ends where the large block's brightest do. The network is "
            f"number {self.network + 1} of {self.networks} test networks, the median by accuracy "
            f"after translation ({self.accuracy:.2f} %). Its translated block's maps have a "
            f"squared distance of {self.distance:.3f} to the large block's, relative to the "
            f"latter's squared norm. Re-training left a dead block in {self.dead} of "
            f"{self.networks} test networks: one that passes its input on nearly unchanged."
        )


def draw(params: Params, compute: Compute, model: Translator, accuracies: pd.Series) -> FeatureMaps:
    """The median test network's former block, and every block behind it in turn.

    Args:
        accuracies: of all test networks with the model's blocks, in their order.
    """
    images = image_set(params, "main", "test").subset(slice(0, SHOWN_IMAGES))
    kind = params.target
    test = pairs(params, PAIRS / "test", "former", "large", "latter", "small", target=kind)
    train = pairs(params, PAIRS / "train", "large", target=kind)
    everything = test.read()
    if len(accuracies) != len(test):
        raise KTError(
            f"{PAIRS / 'test'} holds {len(test)} networks, but there are accuracies of "
            f"{len(accuracies)}: {REMEDY}"
        )
    former = ensemble.features(images, everything, None, {}, compute)
    small = part(everything, "small")
    dead = is_dead(former, ensemble.features(images, everything, params.target, small, compute))
    shown = median_of(accuracies)
    network = {name: tensor[shown : shown + 1] for name, tensor in everything.items()}
    replaced = part(train.read("small", optional=["small"]), "small")
    target, replacement = params.target, {}
    fresh = baselines.random_initialisation(target, 1, params.seed, params.sizes)
    if replaced:
        drawn = baselines.random_replacement(replaced, 1, params.seed)
        replacement = {"random replacement": (target, drawn)}
    blocks = {
        "former block": (None, {}),
        LARGE: ("large", part(network, "large")),
        "random initialisation": (target, fresh),
        **replacement,
        "translation": (target, translate(model, network, compute)),
        DEAD: (target, part(network, "small")),
    }
    made = {
        label: ensemble.features(images, network, kind, block, compute)[0]
        for label, (kind, block) in blocks.items()
    }
    marked = {DEAD: "dead: repeats its input"} if dead[shown] else {}
    return FeatureMaps(
        maps.feature_maps(images.images, made, LARGE, marked),
        shown,
        float(accuracies[shown]),
        distance(made["translation"], made[LARGE]),
        int(dead.sum()),
        len(dead),
        former.shape[2],
    )


def in_words(number: int) -> str:
    """A small number in letters, others in figures."""
    return WORDS[number - 1] if number <= len(WORDS) else str(number)


def median_of(accuracies: pd.Series) -> int:
    """The place of the median; of an even number, of the lower of the middle two."""
    order = accuracies.argsort(kind="stable").to_numpy()
    return int(order[(len(order) - 1) // 2])


def distance(maps: Tensor, reference: Tensor) -> float:
    """Squared distance to a reference, relative to its squared norm."""
    return ((maps - reference).square().sum() / reference.square().sum()).item()


def is_dead(before: Tensor, behind: Tensor) -> Tensor:
    """Networks whose block passes its input on: maps before it and behind it, (N, ...) -> (N,)."""
    change = (behind - before).square().flatten(1).sum(1)
    norm = before.square().flatten(1).sum(1)
    return change <= UNCHANGED * norm if len(norm) else torch.zeros(0, dtype=torch.bool)
