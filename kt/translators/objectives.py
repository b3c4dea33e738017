"""Objectives of a translator: predict known small blocks, or behave like the large block.

An objective has samples, `len(objective)`, and adds the gradient of its loss on some of them to a
translator's: `objective.backward(model, index, epoch)`. `kt.translators.fit` does the rest.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from kt import ensemble
from kt.ensemble import Compute, Probe
from kt.images import ImageSet, pixels
from kt.networks import symmetry
from kt.networks.weights import Rows, Weights, network_count, part, take
from kt.pairs.augment import Side, augment
from kt.run.threads import one_thread, spread
from kt.translators import losses
from kt.translators.losses import LossWeights

Samples = Mapping[str, Rows]
Part = Callable[[], Tensor]
PIECE, LARGE_PIECE = 32, 512
"""Pairs whose activations are in memory together: for one of a CPU's threads, and else. A batch's
gradient is the sum over its pieces, in order, and so depends on them by rounding."""


class Objective(Protocol):
    """What a translator learns.

    Attributes:
        draws_for_samples: whether it draws numbers for each sample by itself, so that processes
            which share a batch have streams of their own.
    """

    @property
    def draws_for_samples(self) -> bool: ...

    def __len__(self) -> int:
        """How many samples there are to learn from."""
        ...

    def backward(self, model: nn.Module, index: Tensor, epoch: int = 0) -> Tensor:
        """Add the gradient of the samples at `index` (B,); returns their mean loss, a scalar."""
        ...


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
        hidden: its hidden channels, of a translator that can be asked for any; None: its own.
    """

    networks: Samples
    images: ImageSet
    target: str
    compute: Compute
    images_per_step: int = 64
    flip: bool = True
    hidden: int | None = None
    draws_for_samples: ClassVar[bool] = False

    def __len__(self) -> int:
        return len(self.networks["latter.fc.bias"])

    def backward(
        self, model: nn.Module, index: Tensor, epoch: int = 0, share: float = 1.0
    ) -> Tensor:
        """Add the gradient of the networks at `index` (B,); returns their mean loss, a scalar.

        Both times `share`.

        The model is shown kernels that are turned by chance, and so mean the same, and returns a
        list of blocks. The last one, the translation, is judged, and one of the others at random.
        """
        networks = take(self.networks, index, next(model.parameters()).device)
        drawn, turn = self.draw(), int(torch.randint(symmetry.TURNS, ()))
        probe = self.probe(networks, drawn)
        wanted = self.wanted(networks, probe)

        def loss(block: Weights) -> Tensor:
            return _tamed(losses.divergence(self.target, block, probe, wanted))

        with one_thread():
            *before, translation = model(networks, self.compute, turn, self.hidden)
            final = loss(translation)
            total = final
            if before:
                total = final + 0.5 * loss(before[int(torch.randint(len(before), ()))])
            (share * total).backward()
        return share * final.detach()

    def alone(self) -> "BehaviourObjective":
        """The same, computed by the caller's thread alone."""
        return replace(self, compute=replace(self.compute, workers=1))

    def draw(self) -> ImageSet:
        """The images of one batch of networks."""
        chosen = torch.randint(len(self.images), (self.images_per_step,))
        drawn, mirrored = self.images.subset(chosen), torch.rand(()) < 0.5
        return ImageSet(drawn.images.flip(-1), drawn.labels) if self.flip and mirrored else drawn

    def probe(self, networks: Weights, drawn: ImageSet) -> Probe:
        """Networks (N, ...) that have been shown the images."""
        return Probe(self.target, networks, pixels(drawn.images), self.compute)

    def wanted(self, networks: Weights, probe: Probe) -> Tensor:
        """The answers of the networks with their large blocks: probabilities (N, B, 10)."""
        return probe.outputs("large", part(networks, "large")).softmax(-1)

    def parts(self, block: Weights, networks: Weights, drawn: ImageSet) -> dict[str, Part]:
        """The parts of `LossWeights` that look at what networks do with `block`, each a scalar."""
        probe = cache(lambda: self.probe(networks, drawn))

        def behaviour() -> Tensor:
            wanted = self.wanted(networks, probe())
            return _tamed(losses.divergence(self.target, block, probe(), wanted))

        def cross_entropy() -> Tensor:
            return _tamed(losses.cross_entropy(self.target, block, probe(), drawn.labels))

        def features() -> Tensor:
            maps = ensemble.features(drawn, networks, compute=self.compute).to(drawn.labels.device)
            wanted = losses.behind("large", part(networks, "large"), maps)
            return _tamed(losses.feature_error(self.target, block, maps, wanted))

        return {"behaviour": behaviour, "cross_entropy": cross_entropy, "features": features}


@dataclass(frozen=True)
class SeveralWidths:
    """The same for networks of several widths together: the samples of all, one after another."""

    parts: Sequence[BehaviourObjective]
    draws_for_samples: ClassVar[bool] = False

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def backward(self, model: nn.Module, index: Tensor, epoch: int = 0) -> Tensor:
        """Add the gradient of the networks at `index` (B,); returns their mean loss, a scalar."""
        total, start = torch.zeros((), device=next(model.parameters()).device), 0
        for one in self.parts:
            own = index[(index >= start) & (index < start + len(one))] - start
            start += len(one)
            if len(own):
                total += one.backward(model, own, epoch, len(own) / len(index))
        return total


@dataclass(frozen=True)
class WeightObjective:
    """Predict the small block's weights from the large block's; the defaults are Equation 1.

    Attributes:
        large, small: the pairs, stacked (N, ...), in memory or in a store's files.
        masking, noise, side: augmentation drawn afresh for every batch (Section 3.2).
        precision: "bfloat16" computes the forward pass in it; weights stay float32.
        workers: CPU threads, each at a piece of a batch; they change no result.
        align: compare with targets in the prediction's order of hidden channels
            (`losses.aligned`).
        deviation: (1, ...), the entries' standard deviations, in whose units errors are measured.
        initial: (1, ...), weights to which the model's output is the difference.
        reorder: show each batch with the hidden channels of its large blocks, and with the
            channels of the residual path, in an order drawn at random. The output is brought back
            from that order, which is the same as reordering small block, former and latter too: no
            loss depends on the order, nor does a network's function.
        shares: how much the parts of the loss count.
        function: the networks of the pairs with images, if the loss needs them.
    """

    large: Samples
    small: Samples
    masking: float = 0.0
    noise: float = 0.0
    side: Side = "large"
    precision: str = "float32"
    workers: int = 1
    align: bool = False
    deviation: Weights | None = None
    initial: Weights | None = None
    reorder: bool = False
    shares: LossWeights = field(default_factory=LossWeights)
    function: BehaviourObjective | None = None
    draws_for_samples: ClassVar[bool] = True

    def __len__(self) -> int:
        return network_count(self.small)

    def backward(self, model: nn.Module, index: Tensor, epoch: int = 0) -> Tensor:
        """Add the gradient of the pairs at `index` (B,); returns their mean loss, a scalar."""
        parameters, count = list(model.parameters()), len(index)
        device = parameters[0].device
        large, small = (take(side, index, device) for side in (self.large, self.small))
        large, small = augment(large, small, self.masking, self.noise, self.side)
        back = None
        if self.reorder:
            channels = large["conv1.weight"].shape[1]
            hidden, ends = torch.randperm(channels), torch.randperm(channels)
            large = symmetry.permute_ends(symmetry.permute_hidden(large, hidden), ends)
            back = ends.argsort()
        spreads, shares = _spreads(model), self.shares.at(epoch)
        function = None if shares.keys() == {"weights"} else self.function
        if function is not None:
            networks, drawn = take(function.networks, index, device), function.draw()
            function = function.alone() if spreads else function

        def gradients(piece: slice) -> tuple[Tensor, tuple[Tensor, ...]]:
            with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
                predicted = model(take(large, piece))
            block = self._block(predicted, back)
            parts = {"weights": lambda: self._weight_error(block, take(small, piece))}
            if function is not None:
                parts |= function.parts(block, take(networks, piece), drawn)
            loss = sum(share * parts[name]() for name, share in shares.items())
            loss = loss * ((piece.stop - piece.start) / count)
            return loss.detach(), torch.autograd.grad(loss, parameters)

        total = torch.zeros((), device=device)
        over, size = (partial(spread, self._pool), PIECE) if spreads else (map, LARGE_PIECE)
        pieces = [slice(at, min(at + size, count)) for at in range(0, count, size)]
        for loss, gradient in over(gradients, pieces):
            total += loss
            for parameter, more in zip(parameters, gradient, strict=True):
                parameter.grad = more if parameter.grad is None else parameter.grad + more
        return total

    def _block(self, predicted: Weights, back: Tensor | None) -> Weights:
        """The small block that a model's output stands for, {name: (B, ...)}."""
        block = {name: tensor.float() for name, tensor in predicted.items()}
        if back is not None:
            block = symmetry.permute_ends(block, back)
        if self.initial is not None:
            block = {name: tensor + self.initial[name] for name, tensor in block.items()}
        return block

    def _weight_error(self, block: Weights, target: Weights) -> Tensor:
        wanted = losses.aligned(target, block) if self.align else target
        if self.deviation is None:
            return losses.weight_mse(block, wanted)
        return losses.standardised_mse(block, wanted, self.deviation)

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        """One for all batches; its threads end with the objective."""
        return ThreadPoolExecutor(self.workers)


def _spreads(model: nn.Module) -> bool:
    """Whether the pieces of a batch are spread over threads.

    On a CPU one thread computes a piece: the activations stay in its cache, it waits for no other
    within an operation, and sums are formed in the same order whatever the number of threads.
    Dropout draws from one stream for all threads, so with it pieces come one after the other.
    """
    draws = any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules())
    return next(model.parameters()).device.type == "cpu" and not draws


def _tamed(loss: Tensor) -> Tensor:
    """The mean of log(1 + loss) over networks (N,): a few hopeless ones do not drown the others."""
    return loss.clamp(min=0).log1p().mean()
