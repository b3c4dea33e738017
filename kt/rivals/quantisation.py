"""Quantisation: weights as small integers times a scale for each output channel.

Symmetric and uniform, rounded to nearest, after training and without images (Krishnamoorthi,
"Quantizing deep convolutional networks for efficient inference", 2018, Sections 2 and 3). Numbers
between the layers, batch norm and biases stay float32. The architecture stays.
"""

from math import ceil, prod
from pathlib import Path

import torch
from torch import Tensor

from kt.networks.blocks import PAPER, Sizes, block_shapes
from kt.networks.weights import Weights
from kt.run.files import load_tensors, save_tensors

BITS = (8, 6, 4, 3, 2)
CLIPPED = torch.linspace(0.3, 1, 71)
"""Scales that are tried for the least squared error, over the one that clips nothing."""
SCALE = ".scale"
"""Of the tensor of this name without it, in a file."""


def quantise(weight: Tensor, bits: int, least_squares: bool = False) -> tuple[Tensor, Tensor]:
    """Codes and scales of stacked weights.

    Args:
        weight: (N, out, ...).
        bits: of a code, from 2 to 8; codes go from 1 - 2^(bits - 1) to 2^(bits - 1) - 1.
        least_squares: clip the largest weights where that lowers the squared error of the channel.
            Else nothing is clipped: no weight is off by more than half a scale.

    Returns:
        The codes, int8 in the weights' shape, and the scales (N, out); weight ~ scale * code.
    """
    top = 2 ** (bits - 1) - 1
    rows = weight.flatten(2)
    whole = rows.abs().amax(2) / top
    whole = torch.where(whole > 0, whole, 1.0)
    best, scale = torch.full_like(whole, torch.inf), whole
    for share in CLIPPED if least_squares else CLIPPED[-1:]:
        tried = share * whole
        error = (rows - dequantise(_codes(rows, tried, top), tried)).square().sum(2)
        scale = torch.where(error <= best, tried, scale)
        best = torch.minimum(best, error)
    return _codes(rows, scale, top).view(weight.shape), scale


def dequantise(codes: Tensor, scale: Tensor) -> Tensor:
    """The weights that codes (N, out, ...) and scales (N, out) stand for, float32."""
    return codes * scale.view(*scale.shape, *[1] * (codes.dim() - scale.dim()))


def _codes(rows: Tensor, scale: Tensor, top: int) -> Tensor:
    return (rows / scale[:, :, None]).round().clamp(-top, top).to(torch.int8)


def quantised(large: Weights, bits: int, least_squares: bool = False) -> Weights:
    """Stacked large blocks (N, ...) with the weights that their quantised convolutions stand for.

    Batch norm stays as it is. As it scales every output channel, quantising the convolutions with
    batch norm folded in would give the same codes and the same function.
    """
    block = dict(large)
    for name in ("conv1.weight", "conv2.weight"):
        block[name] = dequantise(*quantise(large[name], bits, least_squares))
    return block


def block_bytes(bits: int, sizes: Sizes = PAPER) -> int:
    """What a quantised large block takes: packed codes, a float32 scale and bias a channel.

    Batch norm in evaluation mode is a scale and a bias: it takes no more.
    """
    shapes = block_shapes("large", sizes)
    count = sum(prod(shapes[f"conv{i}.weight"]) for i in (1, 2))
    return ceil(count * bits / 8) + 2 * sizes.channels * 2 * 4


def save_int8(path: Path, network: Weights) -> None:
    """Write one network with the weights of all its convolutions and its linear layer in 8 bits.

    Args:
        network: the weights of a `Network`, as `kt.networks.blocks.weights` gives them.

    Raises:
        KTError: the file cannot be written.
    """
    tensors = dict(network)
    for name, tensor in network.items():
        if tensor.dim() > 1:
            codes, scale = quantise(tensor[None], 8)
            tensors |= {name: codes[0], name + SCALE: scale[0]}
    save_tensors(path, tensors)


def load_int8(path: Path) -> Weights:
    """Read what `save_int8` wrote: the weights of a `Network`, dequantised to float32.

    Raises:
        KTError: the file is missing or damaged.
    """
    tensors = load_tensors(path)
    return {
        name: dequantise(tensor, tensors[name + SCALE]) if tensor.dtype == torch.int8 else tensor
        for name, tensor in tensors.items()
        if not name.endswith(SCALE)
    }
