"""Hidden channels of a large block: the ways to keep some, and how much the outputs need each."""

from itertools import combinations

import torch
from torch import Tensor

from kt.networks import symmetry
from kt.networks.blocks import CHANNELS, HIDDEN
from kt.networks.weights import Weights, part

SUBSETS = torch.tensor(list(combinations(range(CHANNELS), HIDDEN)))
"""All ways to keep three of six hidden channels, (20, 3)."""


def reading(latter: Weights) -> Tensor:
    """How strongly the outputs depend on the channels that latter blocks read, (N, 6, 6).

    The metric of a squared error of these channels, by the squares of the linear layer's weights.
    """
    convolution, _ = symmetry.fold_norm(latter["conv.weight"], part(latter, "bn"))
    convolution = convolution.flatten(2)  # (N, 12, 6)
    weight = latter["fc.weight"].unflatten(2, (convolution.shape[1], -1)).square().sum((1, 3))
    return torch.einsum("no,noc,nod->ncd", weight, convolution, convolution)
