"""Low-rank factorisation: each convolution of the large block as a chain of smaller ones.

Batch norm is folded in first, so that an error counts by its effect on the block's output. Biases
stay as they are. A chain's function is that of one 3x3 kernel, the product of its factors: `dense`
gives it as a block of the kind `large`, which the engines evaluate.

No images are needed. The architecture stays: a residual block with 3x3 receptive fields.
"""

from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
import torch
from tensorly.decomposition import partial_tucker
from torch import Tensor, nn
from torch.nn import functional as F

from kt.networks import symmetry
from kt.networks.blocks import PAPER, LargeBlock, Sizes, block_shapes
from kt.networks.weights import Weights

Chain = Callable[[int, Any], nn.Sequential]
"""Makes the convolutions that stand for one, from the number of channels and a rank."""
SPATIAL_RANKS = (4, 5)
"""Of both convolutions: 36 weights a rank, 324 in all, as the small block `conv` has."""
TUCKER_RANKS = ((2, 5), (4, 4))
"""(input, output) ranks of both convolutions: 132 + 192 weights, again 324.

Of all ranks with 324 weights, these and `SPATIAL_RANKS` leave the least squared error, relative to
the kernels' squares, in networks of the digits and of MNIST together. The 12 biases of the folded
batch norm come on top: 336 parameters in all (the small block with biases, `conv_bias`, has 333).
"""


class LowRankBlock(nn.Module):
    """The large block with a chain of convolutions in place of each, (B, 6, 14, 14) -> same.

    Args:
        chain: makes the convolutions that stand for one; the last has a bias.
        ranks: of the first and of the second chain.
    """

    def __init__(self, chain: Chain, ranks: tuple, channels: int = PAPER.channels) -> None:
        super().__init__()
        self.conv1, self.conv2 = (chain(channels, rank) for rank in ranks)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv2(F.relu(self.conv1(x))) + x)


def separable(channels: int, rank: int) -> nn.Sequential:
    """Columns, then rows: 3x1 from 6 to `rank` channels, 1x3 back. 36 weights a rank."""
    return nn.Sequential(
        nn.Conv2d(channels, rank, (3, 1), padding=(1, 0), bias=False),
        nn.Conv2d(rank, channels, (1, 3), padding=(0, 1)),
    )


def bottleneck(channels: int, ranks: tuple[int, int]) -> nn.Sequential:
    """A core 3x3 between the ranks, 1x1 before and behind. 6 a + 9 a b + 6 b weights."""
    into, out = ranks
    return nn.Sequential(
        nn.Conv2d(channels, into, 1, bias=False),
        nn.Conv2d(into, out, 3, padding=1, bias=False),
        nn.Conv2d(out, channels, 1),
    )


def spatial_ranks(sizes: Sizes) -> tuple[int, int]:
    """With as many weights as the small block `conv` has: `SPATIAL_RANKS` for the paper's sizes."""
    both = sizes.kernel * sizes.hidden
    return max(1, both // 2), max(1, both - both // 2)


def tucker_ranks(sizes: Sizes) -> tuple[tuple[int, int], tuple[int, int]]:
    """With at most as many weights: `TUCKER_RANKS` for the paper's sizes.

    For others input and output have the same rank in both convolutions.
    """
    if sizes == PAPER:
        return TUCKER_RANKS
    channels, weights = sizes.channels, sizes.channels * sizes.hidden * sizes.kernel**2
    fits = (
        r for r in range(channels, 1, -1) if 2 * channels * r + (sizes.kernel * r) ** 2 <= weights
    )
    rank = next(fits, 1)
    return (rank, rank), (rank, rank)


def spatial_svd(large: Weights, ranks: tuple[int, int] = SPATIAL_RANKS) -> Weights:
    """Weights of `LowRankBlock(separable, ranks)` for stacked large blocks (N, ...).

    Jaderberg et al., "Speeding up convolutional neural networks with low rank expansions", 2014,
    scheme 2, by the singular value decomposition (Tai et al., 2016): of all kernels of these ranks
    the nearest.
    """

    def factors(kernel: Tensor, rank: int) -> list[Tensor]:
        out, into, high, wide = kernel.shape[1:]
        matrix = kernel.permute(0, 2, 3, 1, 4).flatten(3).flatten(1, 2)  # (N, in high, out wide)
        u, s, v = torch.linalg.svd(matrix)
        root = s[:, :rank].sqrt()
        columns = (u[:, :, :rank] * root[:, None]).mT.unflatten(2, (into, high))
        rows = (root[:, :, None] * v[:, :rank]).unflatten(2, (out, wide))
        return [columns[..., None], rows.transpose(1, 2)[:, :, :, None]]

    return _factorised(large, factors, ranks)


def tucker2(
    large: Weights, ranks: tuple[tuple[int, int], tuple[int, int]] = TUCKER_RANKS
) -> Weights:
    """Weights of `LowRankBlock(bottleneck, ranks)` for stacked large blocks (N, ...).

    Kim et al., "Compression of deep convolutional neural networks for fast and low power mobile
    applications", ICLR 2016: Tucker decomposition of the two channel modes, by alternating steps of
    least squares, a kernel at a time.
    """

    def factors(kernel: Tensor, rank: tuple[int, int]) -> list[Tensor]:
        cores, into, out = [], [], []
        for one in kernel.double().numpy():
            (core, modes), _ = partial_tucker(one, rank[::-1], modes=[0, 1])
            cores.append(core)
            out.append(modes[0])
            into.append(modes[1].T)
        core, before, after = (torch.tensor(np.stack(f)).float() for f in (cores, into, out))
        return [before[..., None, None], core, after[..., None, None]]

    return _factorised(large, factors, ranks)


def _factorised(large: Weights, factors: Callable[..., list[Tensor]], ranks: tuple) -> Weights:
    folded = symmetry.fold(large)
    block: Weights = {}
    for i, rank in enumerate(ranks, 1):
        chain = factors(folded[f"conv{i}.weight"], rank)
        block |= {f"conv{i}.{at}.weight": factor for at, factor in enumerate(chain)}
        block[f"conv{i}.{len(chain) - 1}.bias"] = folded[f"conv{i}.bias"]
    return block


def dense(block: Weights) -> Weights:
    """Stacked low-rank blocks multiplied out: blocks of the kind `large` with the same function.

    Their batch norm only adds the biases: its mean is 0, its scale exactly 1.
    """
    count, _, channels = block["conv1.0.weight"].shape[:3]
    shapes = block_shapes("large", Sizes(channels))
    large = {k: torch.zeros(count, *shape) for k, shape in shapes.items()}
    for i in (1, 2):
        names = sorted(k for k in block if k.startswith(f"conv{i}.") and k.endswith("weight"))
        large[f"conv{i}.weight"] = reduce(_then, (block[name] for name in names))
        large[f"bn{i}.bias"] = block[names[-1].replace("weight", "bias")]
        large[f"bn{i}.weight"] += 1
        large[f"bn{i}.running_var"] += 1 - LargeBlock().bn1.eps
    return large


def _then(first: Tensor, second: Tensor) -> Tensor:
    """The kernel of one convolution after another, where one of both is 1 wide in each direction.

    (N, r, in, ., .) and (N, out, r, ., .) -> (N, out, in, ., .)
    """
    return (second[:, :, :, None] * first[:, None]).sum(2)
