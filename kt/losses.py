"""Losses of the translator: small pure functions."""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from kt import ensemble
from kt.ensemble import Compute


def weight_mse(predicted: dict[str, Tensor], target: dict[str, Tensor]) -> Tensor:
    """Mean squared error between weights, averaged over the block's tensors (Equation 1).

    Both are {name: (B, ...)} with the same names and shapes; the result is a scalar.
    """
    return torch.stack([F.mse_loss(predicted[name], target[name]) for name in target]).mean()


def behaviour(
    kind: str,
    block: dict[str, Tensor],
    networks: dict[str, Tensor],
    images: Tensor,
    targets: Tensor,
    compute: Compute = Compute(),
) -> Tensor:
    """Kullback-Leibler divergence of assembled networks' outputs from wanted ones, per network.

    Args:
        block: stacked blocks of `kind`, {name: (N, ...)}, to which the loss is differentiable.
        networks: stacked `former.*` and `latter.*`, in evaluation mode.
        images: (B, 1, 28, 28) in [0, 1].
        targets: (N, B, 10) probabilities, the large networks' for instance.

    Returns:
        (N,), the mean over the images.
    """
    return divergence(kind, block, ensemble.show(kind, networks, images, compute), targets)


def divergence(
    kind: str, block: dict[str, Tensor], shown: ensemble.Shown, targets: Tensor
) -> Tensor:
    """`behaviour` of networks that have been shown the images already."""
    names = list(block)
    targets = targets.to(block[names[0]].device)
    cross_entropy = _Behaviour.apply(kind, names, shown, targets, *(block[name] for name in names))
    return cross_entropy - torch.special.entr(targets).sum(-1).mean(-1)


class _Behaviour(torch.autograd.Function):
    """`kt.ensemble.Shown.behaviour`, which computes the gradient along with the loss."""

    @staticmethod
    def forward(ctx, kind, names, shown, targets, *block):
        stacked = dict(zip(names, (tensor.detach() for tensor in block), strict=True))
        losses, gradient = shown.behaviour(kind, stacked, targets)
        ctx.save_for_backward(*(gradient[name] for name in names))
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx, slope):
        gradients = (slope.view(-1, *[1] * (g.dim() - 1)) * g for g in ctx.saved_tensors)
        return None, None, None, None, *gradients
