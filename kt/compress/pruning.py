"""Pruning: the large block keeps three of its six hidden channels, batch norm folded in.

Which three is decided by the norms of their weights (as Li et al., 2017, do with filters), or by
trying all twenty on unlabelled images. The second convolution can then be fitted anew by least
squares, so that the kept channels stand in for the others (He et al., 2017, and Luo et al., 2017).
The small block `conv` has no biases: those of the folded batch norm are dropped.
"""

from itertools import combinations

import torch
from torch import Tensor
from torch.nn import functional as F

from kt import ensemble, symmetry
from kt.blocks import CHANNELS, CONVOLUTIONAL, HIDDEN, block_shapes
from kt.data import ImageSet
from kt.ensemble import Compute, part
from kt.errors import KTError

Weights = dict[str, Tensor]
SUBSETS = torch.tensor(list(combinations(range(CHANNELS), HIDDEN)))
"""All ways to keep three of six hidden channels, (20, 3)."""
RIDGE = 1e-6
"""Added to the normal equations, relative to their mean diagonal entry."""


def keep(kind: str, large: Weights, kept: Tensor) -> Weights:
    """Blocks of `kind` with some of the large blocks' hidden channels, in this order.

    Args:
        large: stacked large blocks (N, ...), with batch norm.
        kept: the channels that stay, (N, 3) or for all blocks (3,).

    Raises:
        KTError: there is no pruning to this kind of block.
    """
    if kind not in CONVOLUTIONAL:
        raise KTError(f"pruning leaves {' or '.join(CONVOLUTIONAL)}, not {kind!r}")
    folded = symmetry.fold(large)
    networks = torch.arange(len(folded["conv1.bias"]))[:, None]
    block = {
        "conv1.weight": folded["conv1.weight"][networks, kept],
        "conv1.bias": folded["conv1.bias"][networks, kept],
        "conv2.weight": folded["conv2.weight"].transpose(1, 2)[networks, kept].transpose(1, 2),
        "conv2.bias": folded["conv2.bias"],
    }
    return {name: block[name].contiguous() for name in block_shapes(kind)}


def by_norm(kind: str, large: Weights) -> Weights:
    """The channels with the largest product of what goes in and what comes out.

    The product does not depend on how a hidden channel is scaled.
    """
    folded = symmetry.fold(large)
    into = folded["conv1.weight"].flatten(2).norm(dim=2)
    out = folded["conv2.weight"].transpose(1, 2).flatten(2).norm(dim=2)
    return keep(kind, large, (into * out).topk(HIDDEN).indices.sort().values)


def best_subset(
    kind: str,
    networks: Weights,
    images: ImageSet,
    compute: Compute = Compute(),
    refitted: bool = False,
) -> Weights:
    """Of all twenty subsets the one whose network's outputs diverge least from the original's.

    Args:
        networks: stacked `former.*`, `large.*` and `latter.*`.
        images: unlabelled: the labels are not used.
        refitted: every subset's second convolution is fitted anew before they are compared.
    """
    large = part(networks, "large")
    wanted = ensemble.outputs("large", images, networks, large, compute).softmax(-1)
    candidates = [keep(kind, large, subset) for subset in SUBSETS]
    if refitted:
        # A subset's equations are some of those of all six channels, which are made once.
        everything = keep(kind, large, torch.arange(CHANNELS))
        gram, right = _normal_equations(networks, everything, images, compute)
        for block, subset in zip(candidates, SUBSETS, strict=True):
            rows = (9 * subset[:, None] + torch.arange(9)).flatten()
            rows = torch.cat([rows, torch.arange(9 * CHANNELS, gram.shape[1])])
            block |= _solved(gram[:, rows[:, None], rows], right[:, rows])
    losses = []
    for block in candidates:
        answers = ensemble.outputs(kind, images, networks, block, compute).log_softmax(-1)
        losses.append(-(wanted * answers).sum(-1).mean(-1))  # divergence and a constant
    best = torch.stack(losses).argmin(0)
    each = torch.arange(len(best))
    return {name: torch.stack([c[name] for c in candidates])[best, each] for name in candidates[0]}


def refit(
    kind: str, networks: Weights, block: Weights, images: ImageSet, compute: Compute = Compute()
) -> Weights:
    """The second convolution that comes nearest to the large block, given the first.

    Nearest in least squares over the features of the images, before the input is added. With
    biases the second one is fitted too.

    Args:
        networks: stacked `former.*` and `large.*`.
        block: stacked blocks of `kind`, convolutional; their second convolution is replaced.
        images: unlabelled: the labels are not used.
    """
    fitted = _solved(*_normal_equations(networks, block, images, compute))
    return {name: fitted.get(name, tensor) for name, tensor in block.items()}


def _normal_equations(
    networks: Weights, block: Weights, images: ImageSet, compute: Compute
) -> tuple[Tensor, Tensor]:
    """What each block's second convolution reads, and what it should give, in products.

    Returns:
        (N, D, D) and (N, D, 6), float64. D is nine a hidden channel, and one more, at the end,
        for the column of ones that a bias takes.
    """
    large = symmetry.fold(part(networks, "large"))
    grams, rights = [], []
    for i, x in enumerate(ensemble.features(images, networks, compute=compute)):
        first, second, small = _layer(large, 1, i), _layer(large, 2, i), _layer(block, 1, i)
        wanted = F.conv2d(F.relu(F.conv2d(x, *first, padding=1)), *second, padding=1)
        hidden = F.relu(F.conv2d(x, *small, padding=1))
        columns = F.unfold(hidden, 3, padding=1).transpose(0, 1).flatten(1).double()
        if "conv2.bias" in block:
            columns = torch.cat([columns, columns.new_ones(1, columns.shape[1])])
        grams.append(columns @ columns.T)
        rights.append(columns @ wanted.transpose(0, 1).flatten(1).double().T)
    return torch.stack(grams), torch.stack(rights)


def _layer(block: Weights, number: int, i: int) -> tuple[Tensor, Tensor | None]:
    """Weight and bias, if there is one, of network i's first or second convolution."""
    bias = block.get(f"conv{number}.bias")
    return block[f"conv{number}.weight"][i], None if bias is None else bias[i]


def _solved(gram: Tensor, right: Tensor) -> Weights:
    """The second convolution that solves the normal equations, with a bias if they have it."""
    ridge = RIDGE * gram.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-12)
    identity = torch.eye(gram.shape[1], dtype=gram.dtype)
    solved = torch.linalg.solve(gram + ridge[:, None, None] * identity, right)
    solved = solved.float().transpose(1, 2)  # (N, 6, D)
    weight = solved[..., : solved.shape[-1] // 9 * 9].unflatten(2, (-1, 3, 3)).contiguous()
    return {"conv2.weight": weight} | (
        {"conv2.bias": solved[..., -1]} if solved.shape[-1] % 9 else {}
    )
