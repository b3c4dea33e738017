"""The cost of a module's forward pass, counted."""

from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


@torch.no_grad()
def multiply_adds(module: nn.Module, *inputs: Any, **named: Any) -> int:
    """Multiply-adds of `module(*inputs, **named)`.

    Matrix products, linear layers, convolutions and attention count; element-wise operations do
    not.
    """
    # PyTorch does not count its fused attention and recurrence on CPUs: here they are products.
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    onednn = torch.backends.mkldnn.set_flags(_enabled=False, _fp32_precision=None)[0]
    try:
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            module(*inputs, **named)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        torch.backends.mkldnn.set_flags(_enabled=onednn, _fp32_precision=None)
    return counter.get_total_flops() // 2
