"""Augmentation of pairs by random masking and noise addition (paper, Section 3.2)."""

from typing import Literal

import torch
from torch import Tensor

from kt.networks.weights import Weights

Side = Literal["large", "small", "both"]


def mask(tensor: Tensor, m: float, generator: torch.Generator | None = None) -> Tensor:
    """Random masking: every entry becomes 0 with probability m; the others are not rescaled."""
    drawn = torch.rand(tensor.shape, generator=generator, device=tensor.device)
    return tensor * (drawn >= m)


def add_noise(tensor: Tensor, n: float, generator: torch.Generator | None = None) -> Tensor:
    """Noise addition: n times standard normal noise."""
    return tensor + n * torch.randn(tensor.shape, generator=generator, device=tensor.device)


def augment(
    large: Weights,
    small: Weights,
    m: float,
    n: float,
    side: Side,
    generator: torch.Generator | None = None,
) -> tuple[Weights, Weights]:
    """Masking, then noise, drawn afresh for every tensor of the chosen side or sides.

    Args:
        large, small: weights, {name: (B, ...)}; both are left as they are. A large block's batch
            norm (`bn*`), which the paper's translator does not see, is passed on unchanged.
        generator: on the tensors' device; None for the global one.
    """

    def change(weights: Weights) -> Weights:
        changed = {}
        for name, tensor in weights.items():
            if name.startswith("bn"):
                changed[name] = tensor
                continue
            masked = mask(tensor, m, generator) if m > 0 else tensor
            changed[name] = add_noise(masked, n, generator) if n > 0 else masked
        return changed

    return (
        change(large) if side in ("large", "both") else large,
        change(small) if side in ("small", "both") else small,
    )
