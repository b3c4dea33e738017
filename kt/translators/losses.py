"""Losses of the translator: small pure functions on weights and on what networks do."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.func import functional_call
from torch.nn import functional as F

from kt.ensemble import Probe
from kt.networks import symmetry
from kt.networks.blocks import BLOCKS, CLASSES, PAPER, Sizes, skeleton
from kt.networks.weights import Weights, concatenated, network_count
from kt.run.bounds import bounded
from kt.run.errors import KTError


@dataclass(frozen=True)
class LossWeights:
    """How much each part of a loss counts; the paper's is the error of weights alone (Equation 1).

    Attributes:
        weights: the error of the predicted weights.
        behaviour: the divergence of the network's outputs from those with its large block.
        cross_entropy: that of the network's outputs with the images' labels.
        features: the error of the feature maps behind the block.
        ramp_epochs: over which the last three grow linearly from 0, so that weights lead at first.
    """

    weights: float = bounded(1.0, ge=0)
    behaviour: float = bounded(0.0, ge=0)
    cross_entropy: float = bounded(0.0, ge=0)
    features: float = bounded(0.0, ge=0)
    ramp_epochs: int = bounded(0, ge=0)

    def __post_init__(self) -> None:
        if not (self.weights or self.looks):
            raise KTError("none of weights, behaviour, cross_entropy and features counts")
        if self.ramp_epochs and not self.weights:
            raise KTError(f"weights is 0, so nothing counts before ramp_epochs {self.ramp_epochs}")

    @property
    def looks(self) -> bool:
        """Whether any part looks at what networks do."""
        return max(self.behaviour, self.cross_entropy, self.features) > 0

    def at(self, epoch: int) -> dict[str, float]:
        """The parts that count in an epoch, from 0, and how much."""
        ramp = min(1.0, epoch / self.ramp_epochs) if self.ramp_epochs else 1.0
        shares = {
            "weights": self.weights,
            "behaviour": ramp * self.behaviour,
            "cross_entropy": ramp * self.cross_entropy,
            "features": ramp * self.features,
        }
        return {name: share for name, share in shares.items() if share > 0}


# --- on weights ---------------------------------------------------------------------------------


def weight_mse(predicted: Weights, target: Weights) -> Tensor:
    """Mean squared error between weights, averaged over the block's tensors (Equation 1).

    Both are {name: (B, ...)} with the same names and shapes; the result is a scalar.
    """
    return torch.stack([F.mse_loss(predicted[name], target[name]) for name in target]).mean()


def standardised_mse(predicted: Weights, target: Weights, deviation: Weights) -> Tensor:
    """`weight_mse` with each entry's error in units of its standard deviation (1, ...).

    Predicting the mean of the training set then costs 1.
    """
    return weight_mse(
        {name: tensor / deviation[name] for name, tensor in predicted.items()},
        {name: tensor / deviation[name] for name, tensor in target.items()},
    )


def aligned(target: Weights, predicted: Weights) -> Weights:
    """The targets, balanced, in the order of hidden channels that is nearest to the prediction.

    Every order and scale of a small block's hidden channels does the same, and a plain error asks
    for their average. Aligned to one reference for all, targets would still average over what that
    reference leaves open; aligned to the prediction, the loss is the least of the six orders' (as
    in permutation invariant training, Yu et al., 2017), at most as large as with any reference, and
    the translator chooses the order. No gradient passes through the choice.
    """
    return symmetry.align(target, {name: t.detach() for name, t in predicted.items()})


def deviation(blocks: Iterable[Weights], align: bool = False) -> Weights:
    """Standard deviation of each entry over stacks of small blocks, {name: (1, ...)}.

    Entries that never vary get 1: their error stays as it is.

    Args:
        blocks: the training set in pieces, {name: (B, ...)}.
        align: for targets that are `aligned`: of balanced blocks, and one for all hidden channels,
            which have no order of their own then.
    """
    count = 0
    first: Weights = {}
    sums: Weights = {}
    squares: Weights = {}
    for block in blocks:
        for name, tensor in (_all_orders(block) if align else block).items():
            origin = first.setdefault(name, tensor[:1])  # what never varies is exactly 0 from here
            apart = (tensor - origin).double()
            zero = torch.zeros_like(apart[:1])
            sums[name] = sums.get(name, zero) + apart.sum(0, True)
            squares[name] = squares.get(name, zero) + apart.square().sum(0, True)
        count += len(tensor)
    spread = {
        name: (squares[name] / count - (sums[name] / count).square()).clamp(min=0).sqrt()
        for name in sums
    }
    return {name: torch.where(s > 0, s, 1.0).float() for name, s in spread.items()}


def _all_orders(block: Weights) -> Weights:
    """Balanced blocks with every hidden channel once in every place: (B, ...) -> (3 B, ...)."""
    block = symmetry.balance(block)
    order = torch.arange(block["conv1.weight"].shape[1])
    turns = [symmetry.permute_hidden(block, order.roll(i)) for i in range(len(order))]
    return concatenated(turns)


# --- on what networks do: one number a network ---------------------------------------------------


def divergence(kind: str, block: Weights, probe: Probe, targets: Tensor) -> Tensor:
    """Kullback-Leibler divergence of assembled networks' outputs from wanted ones, per network.

    Args:
        block: stacked blocks of `kind`, {name: (N, ...)}, to which the loss is differentiable.
        probe: the networks, before the images.
        targets: (N, B, 10) probabilities, the large networks' for instance.

    Returns:
        (N,), the mean over the images.
    """
    names = list(block)
    targets = targets.to(block[names[0]].device)
    cross_entropy = _Behaviour.apply(kind, names, probe, targets, *(block[name] for name in names))
    return cross_entropy - torch.special.entr(targets).sum(-1).mean(-1)


def cross_entropy(kind: str, block: Weights, probe: Probe, labels: Tensor) -> Tensor:
    """Cross-entropy of assembled networks' outputs with the labels (B,) of the images: (N,)."""
    count = network_count(block)
    sure = F.one_hot(labels, CLASSES).float().repeat(count, 1, 1)
    return divergence(kind, block, probe, sure)


def feature_error(kind: str, block: Weights, maps: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared error of the feature maps behind stacked blocks of `kind`, per block.

    Args:
        block: {name: (N, ...)}, to which the error is differentiable.
        maps: (N, B, 6, 14, 14), behind the former blocks.
        wanted: (N, B, 6, 14, 14), behind the large blocks for instance.

    Returns:
        (N,), the mean over images and entries.
    """
    return (behind(kind, block, maps) - wanted).square().flatten(1).mean(1)


def behind(kind: str, block: Weights, maps: Tensor) -> Tensor:
    """What stacked blocks of `kind` make of feature maps: (N, B, 6, 14, 14) -> same, contiguous."""
    convolution = block.get("conv1.weight")
    sizes = PAPER if convolution is None else Sizes(kernel=convolution.shape[-1])
    module = skeleton(lambda: BLOCKS[kind](sizes)).eval()

    def single(weights: Weights, x: Tensor) -> Tensor:
        return functional_call(module, weights, (x,))

    return torch.vmap(single)(block, maps).contiguous()


class _Behaviour(torch.autograd.Function):
    """`kt.ensemble.Probe.behaviour`, which computes the gradient along with the loss."""

    @staticmethod
    def forward(ctx, kind, names, probe, targets, *block):
        stacked = dict(zip(names, (tensor.detach() for tensor in block), strict=True))
        losses, gradient = probe.behaviour(kind, stacked, targets)
        ctx.save_for_backward(*(gradient[name] for name in names))
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx, slope):
        gradients = (slope.view(-1, *[1] * (g.dim() - 1)) * g for g in ctx.saved_tensors)
        return None, None, None, None, *gradients
