"""What a translator is trained to do: like known small blocks, or like the large block behaves.

An objective has samples, `len(objective)`, and adds the gradient of its loss on some of them to a
translator's: `objective.backward(model, index)`. `kt.fit` does the rest.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kt import ensemble, losses, symmetry
from kt.augment import Side, augment
from kt.data import ImageSet, pixels
from kt.ensemble import Compute
from kt.pairs import Rows

Weights = dict[str, Tensor]
Samples = Weights | dict[str, Rows]
MICRO_BATCH = 512
"""Pairs whose activations are in memory at a time; the gradients of a batch are their sum."""


@dataclass(frozen=True)
class WeightObjective:
    """Predict the small block's weights from the large block's (Equation 1).

    Attributes:
        large, small: the pairs, stacked (N, ...), in memory or in a store's files.
        masking, noise, side: augmentation drawn afresh for every batch (Section 3.2).
        precision: "bfloat16" computes the forward pass in it; weights stay float32.
    """

    large: Samples
    small: Samples
    masking: float = 0.0
    noise: float = 0.0
    side: Side = "large"
    precision: str = "float32"

    def __len__(self) -> int:
        return len(next(iter(self.small.values())))

    def backward(self, model: nn.Module, index: Tensor) -> Tensor:
        """Add the gradient of the pairs at `index` (B,); returns their mean loss, a scalar."""
        device = next(model.parameters()).device
        large, small = (_rows(side, index, device) for side in (self.large, self.small))
        large, small = augment(large, small, self.masking, self.noise, self.side)
        total = torch.zeros((), device=device)
        for at in range(0, len(index), MICRO_BATCH):
            few = slice(at, min(at + MICRO_BATCH, len(index)))
            with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
                predicted = model({name: tensor[few] for name, tensor in large.items()})
            predicted = {name: tensor.float() for name, tensor in predicted.items()}
            wanted = {name: tensor[few] for name, tensor in small.items()}
            loss = losses.weight_mse(predicted, wanted) * ((few.stop - few.start) / len(index))
            loss.backward()
            total += loss.detach()
        return total


@dataclass(frozen=True)
class BehaviourObjective:
    """Make networks with translated blocks answer as those with large blocks do.

    The loss is log(1 + KL) of their outputs on random training images, averaged over networks: the
    logarithm keeps a few hopeless networks from drowning the others. Labels are not used.

    Attributes:
        networks: stacked `former.*`, `large.*`, `latter.*`, (N, ...), in memory or in files.
        images: those to compare the outputs on.
        images_per_step: how many of them, drawn anew for every batch of networks.
        flip: mirror half of the batches.
        target: kind of the translated block.
    """

    networks: Samples
    images: ImageSet
    target: str
    compute: Compute
    images_per_step: int = 64
    flip: bool = True

    def __len__(self) -> int:
        return len(self.networks["latter.fc.bias"])

    def backward(self, model: nn.Module, index: Tensor) -> Tensor:
        """Add the gradient of the networks at `index` (B,); returns their mean loss, a scalar.

        The translation and one of the blocks on the way to it, drawn at random, are both judged.
        """
        networks = _rows(self.networks, index, next(model.parameters()).device)
        chosen = torch.randint(len(self.images), (self.images_per_step,))
        mirrored, turn = torch.rand(()) < 0.5, int(torch.randint(symmetry.TURNS, ()))
        shown = self.images.subset(chosen)
        if self.flip and mirrored:
            shown = ImageSet(shown.images.flip(-1), shown.labels)
        large = ensemble.part(networks, "large")
        wanted = ensemble.outputs("large", shown, networks, large, self.compute).softmax(-1)
        images = pixels(shown.images)

        def loss(block: Weights) -> Tensor:
            apart = losses.behaviour(self.target, block, networks, images, wanted, self.compute)
            return apart.clamp(min=0).log1p().mean()

        *before, translation = model(networks, self.compute, turn)
        final = loss(translation)
        total = final
        if before:
            total = final + 0.5 * loss(before[int(torch.randint(len(before), ()))])
        total.backward()
        return final.detach()


def _rows(samples: Samples, index: Tensor, device: torch.device) -> Weights:
    return {name: tensor[index].to(device) for name, tensor in samples.items()}
