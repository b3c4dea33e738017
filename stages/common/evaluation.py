"""Networks whose large block is to be replaced, and the images that judge the replacement."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kt import ensemble
from kt.ensemble import Compute
from kt.images import ImageSet
from kt.networks.weights import Weights, part
from kt.run.errors import KTError
from kt.translators import Translator, baselines, load_translator, translate
from stages.common.base.inputs import PAIRS, REMEDY
from stages.common.base.stores import pairs


def translator(path: Path, target: str, device: torch.device) -> Translator:
    """A translator that a stage trained.

    Raises:
        KTError: it is missing or damaged, holds numbers that are not finite, or translates to
            another kind of block.
    """
    model = load_translator(path, device, REMEDY)
    if (own := model.config.target) != target:
        raise KTError(
            f"{path} translates to {own} blocks, but params.yaml's target is {target}: {REMEDY}"
        )
    return model


@dataclass(frozen=True)
class Subjects:
    """A store's networks with one image set; accuracies are in percent, one for each network."""

    networks: Weights
    images: ImageSet
    target: str

    @classmethod
    def of_store(cls, split: str, images: ImageSet, target: str, *parts: str) -> "Subjects":
        """The networks of data/pairs/<split>.

        Args:
            parts: "small" if small blocks of the target kind are needed beside the networks.

        Raises:
            KTError: the store is missing or damaged, or does not hold them.
        """
        kind = target if "small" in parts else None
        store = pairs(PAIRS / split, "former", "large", "latter", *parts, target=kind)
        return cls(store.read(), images, target)

    def __len__(self) -> int:
        return len(self.networks["latter.fc.bias"])

    @property
    def large(self) -> Weights:
        return part(self.networks, "large")

    def with_large(self, compute: Compute) -> Tensor:
        """Accuracies of the networks as they were trained."""
        return ensemble.evaluate("large", self.images, self.networks, self.large, compute)

    def with_small(self, small: Weights, compute: Compute) -> Tensor:
        """Accuracies with `small` (N, ...) in place of the large blocks."""
        return ensemble.evaluate(self.target, self.images, self.networks, small, compute)

    def translated(self, model: Translator, compute: Compute) -> Tensor:
        """Accuracies with the large blocks translated."""
        return self.with_small(translate(model, self.networks, compute), compute)

    def compared(self, model: Translator, seed: int, compute: Compute) -> dict[str, Tensor]:
        """Accuracies with fresh, translated, re-trained (if there are any) and large blocks. Also
        the gain of translation over fresh blocks, in points.

        Args:
            seed: of the fresh blocks.
        """
        fresh = baselines.random_initialisation(self.target, len(self), seed)
        accuracies = {
            "random_initialisation": self.with_small(fresh, compute),
            "translation": self.translated(model, compute),
        }
        if retrained := part(self.networks, "small"):
            accuracies["retrained"] = self.with_small(retrained, compute)
        accuracies["large"] = self.with_large(compute)
        gain = accuracies["translation"] - accuracies["random_initialisation"]
        return accuracies | {"gain": gain}

    def tensors(self) -> list[Tensor]:
        """Everything the accuracies depend on, for fingerprints."""
        return [*self.networks.values(), self.images.images, self.images.labels]
