"""What a module's answer costs, counted."""

from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


@torch.no_grad()
def multiply_adds(module: nn.Module, *inputs: Any) -> int:
    """Multiplications with additions of `module(*inputs)`.

    Matrix products, linear layers, convolutions and attention count; what is done entry by entry
    does not.
    """
    # PyTorch does not count its fused attention for CPUs: this is attention of matrix products.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        module(*inputs)
    return counter.get_total_flops() // 2
