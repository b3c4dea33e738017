"""Losses of the translator: small pure functions."""

import torch
from torch import Tensor
from torch.nn import functional as F


def weight_mse(predicted: dict[str, Tensor], target: dict[str, Tensor]) -> Tensor:
    """Mean squared error between weights, averaged over the block's tensors (Equation 1).

    Both are {name: (B, ...)} with the same names and shapes; the result is a scalar.
    """
    return torch.stack([F.mse_loss(predicted[name], target[name]) for name in target]).mean()
