"""Hidden channels of a large block: the ways to keep some, and how much the outputs need each."""

from itertools import combinations
from math import comb

import torch
from torch import Tensor

from kt.networks import symmetry
from kt.networks.weights import Weights, part
from kt.run.finite import solving

ENUMERATED = 100
"""Ways to keep some channels that are all tried, at most."""


def subsets(channels: int, kept: int) -> Tensor:
    """All ways to keep some of the channels, in increasing order: (S, kept)."""
    return torch.tensor(list(combinations(range(channels), kept)))


def keep(wide: Weights, kept: Tensor) -> Weights:
    """Convolutional blocks without batch norm that keep some of the hidden channels, in this order.

    Args:
        wide: stacked blocks (N, ...): large ones, `folded`.
        kept: the channels that stay, (N, hidden) or for all blocks (hidden,).
    """
    each = torch.arange(len(wide["conv1.weight"]))[:, None]
    block = {k: w[each, kept] if k.startswith("conv1.") else w for k, w in wide.items()}
    block["conv2.weight"] = wide["conv2.weight"].transpose(1, 2)[each, kept].transpose(1, 2)
    return block


def are_few(channels: int, kept: int) -> bool:
    """Whether all subsets can be tried; else `eliminated` looks for one."""
    return comb(channels, kept) <= ENUMERATED


def reading(latter: Weights) -> Tensor:
    """How strongly the outputs depend on the channels that latter blocks read, (N, 6, 6).

    The metric of a squared error of these channels, by the squares of the linear layer's weights.
    """
    convolution, _ = symmetry.fold_norm(latter["conv.weight"], part(latter, "bn"))
    convolution = convolution.flatten(2)  # (N, 12, 6)
    weight = latter["fc.weight"].unflatten(2, (convolution.shape[1], -1)).square().sum((1, 3))
    return torch.einsum("no,noc,nod->ncd", weight, convolution, convolution)


def eliminated(
    products: Tensor, wanted: Tensor, metric: Tensor, channels: int, kept: int, decay: float
) -> Tensor:
    """The channels that backward elimination keeps: (N, kept), in increasing order.

    A convolution of K x K taps reads C channels and is fitted by least squares. In every round the
    channel goes without which the best fit loses least. With G the equations' products, B the right
    side and S the inverse of G, that is tr(M X_c' (S_cc)^-1 X_c) for the solution X = S B and the
    metric M: one inversion a round. A single round finds the best subset.

    Args:
        products, wanted: normal equations, (N, C K^2, C K^2) and (N, C K^2, outputs), by channels.
        metric: of the squared error, (N, outputs, outputs).
        channels: C.
        decay: relative to the mean of the products' diagonal, as in `Probe.score_subsets`.
    """
    count, taps = len(products), products.shape[1] // channels
    products, wanted, metric = products.double(), wanted.double(), metric.double()
    left = torch.arange(channels).expand(count, -1)
    while left.shape[1] > kept:
        rows = (taps * left[:, :, None] + torch.arange(taps)).flatten(1)  # (N, left K^2)
        each = torch.arange(count)[:, None]
        some = products[each[:, :, None], rows[:, :, None], rows[:, None]]
        more = decay * some.diagonal(dim1=1, dim2=2).mean(1) + 1e-6
        some.diagonal(dim1=1, dim2=2).add_(more[:, None])
        with solving("the networks' large blocks"):
            inverse = torch.linalg.inv(some)
        solution = (inverse @ wanted[each, rows]).unflatten(
            1, (-1, taps)
        )  # (N, left, K^2, outputs)
        blocks = inverse.unflatten(2, (-1, taps)).unflatten(1, (-1, taps))
        own = blocks.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)  # (N, left, K^2, K^2)
        with solving("the networks' large blocks"):
            lost = solution.mT @ torch.linalg.solve(own, solution)
        losses = (metric[:, None] * lost).sum((2, 3))
        stays = torch.ones_like(left, dtype=torch.bool)
        stays[torch.arange(count), losses.argmin(1)] = False
        left = left[stays].view(count, -1)
    return left
