"""Networks whose large block is to be replaced, and the images that judge the replacement."""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from kt import ensemble
from kt.ensemble import Compute
from kt.images import ImageSet
from kt.networks.blocks import Sizes
from kt.networks.weights import Weights, part
from kt.run.files import problem
from kt.translators import Translator, baselines, load_translator, translate
from stages.common import kinds
from stages.common.base.inputs import PAIRS, REMEDY
from stages.common.base.params import Params
from stages.common.base.stores import pairs


def translator(path: Path, params: Params, device: torch.device) -> Translator:
    """A translator that a stage trained with these parameters.

    Raises:
        KTError: it is missing or damaged, holds numbers that are not finite, or is of another kind
            or other settings.
    """
    model = load_translator(path, device, REMEDY)
    own = {"kind": model.kind} | asdict(model.config)
    wanted = {"kind": params.model.kind} | asdict(kinds.configuration(params))
    for name, value in wanted.items():
        if (found := own.get(name)) != value:
            what = f"was trained with {name} {found}, but the parameters say {value}"
            raise problem(path, what, REMEDY)
    return model


@dataclass(frozen=True)
class Subjects:
    """A store's networks with one image set; accuracies are in percent, one for each network."""

    networks: Weights
    images: ImageSet
    target: str
    sizes: Sizes

    @classmethod
    def of_store(cls, split: str, images: ImageSet, params: Params, *parts: str) -> "Subjects":
        """The networks of data/pairs/<split>.

        Args:
            parts: "small" if small blocks of the target kind are needed beside the networks.

        Raises:
            KTError: the store is missing or damaged, or does not hold them.
        """
        kind = params.target if "small" in parts else None
        wanted = ("former", "large", "latter", *parts)
        store = pairs(params, PAIRS / split, *wanted, target=kind)
        return cls(store.read(), images, params.target, params.sizes)

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
        fresh = baselines.random_initialisation(self.target, len(self), seed, self.sizes)
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
