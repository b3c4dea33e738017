"""The cost of a module's forward pass, counted."""

from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


@torch.no_grad()
def multiply_adds(module: nn.Module, *inputs: Any) -> int:
    """Multiply-adds of `module(*inputs)`.

    Matrix products, linear layers, convolutions and attention count; element-wise operations do
    not.
    """
    # PyTorch does not count its fused attention on CPUs, so attention uses matrix products here.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        module(*inputs)
    return counter.get_total_flops() // 2
