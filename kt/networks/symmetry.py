"""Symmetries: exact transforms of stacked weights (N, ...) that keep a network's function.

A block's hidden channels can be put in another order, and rescaled where no batch norm follows; the
channels of the residual path can be put in another order in all parts of a network; batch norm in
evaluation mode can be folded into the convolutions before it. Turning all kernels of a block turns
what it does to a map. (Not so for a whole network: pooling and the strided convolution read even
rows and columns, which a reflection of an even-sized map does not keep.)
"""

from itertools import permutations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import BatchNorm2d

from kt.networks.weights import Weights, part

TRIED = 4
"""Hidden channels whose orders are all tried, at most."""
TURNS = 8
"""Rotations and reflections of a square."""
EPSILON = BatchNorm2d(1).eps


def fold(large: Weights) -> Weights:
    """A large block's batch norm in evaluation mode, folded into its convolutions.

    Returns:
        `conv1.weight`, `conv1.bias`, `conv2.weight`, `conv2.bias`: the same function with biases
        and without batch norm.
    """
    folded: Weights = {}
    for i in (1, 2):
        weight, bias = fold_norm(large[f"conv{i}.weight"], part(large, f"bn{i}"))
        folded |= {f"conv{i}.weight": weight, f"conv{i}.bias": bias}
    return folded


def fold_norm(weight: Tensor, norm: Weights) -> tuple[Tensor, Tensor]:
    """A convolution (N, out, in, h, w) without bias and the batch norm after it, as one.

    Returns:
        The convolution's weight and bias (N, out).
    """
    scale = norm["weight"] / (norm["running_var"] + EPSILON).sqrt()
    return weight * scale[:, :, None, None, None], norm["bias"] - norm["running_mean"] * scale


def permute_hidden(block: Weights, order: Tensor) -> Weights:
    """The hidden channels of large or small blocks in another order, the same for all blocks."""

    def permuted(name: str, tensor: Tensor) -> Tensor:
        if name.startswith(("conv1.", "bn1.")):
            return tensor[:, order]
        return tensor[:, :, order] if name == "conv2.weight" else tensor

    return {name: permuted(name, tensor) for name, tensor in block.items()}


def permute_ends(block: Weights, order: Tensor) -> Weights:
    """The channels that large or small blocks read and write, in another order, the same for all.

    Args:
        block: (N, ...), convolutional.
        order: (6,).
    """

    def permuted(name: str, tensor: Tensor) -> Tensor:
        if name.startswith(("conv2.", "bn2.")):
            return tensor[:, order]
        return tensor[:, :, order] if name == "conv1.weight" else tensor

    return {name: permuted(name, tensor) for name, tensor in block.items()}


def permute_residual(networks: Weights, order: Tensor) -> Weights:
    """The channels between the parts in another order: in former, latter and every block.

    Args:
        networks: `former.*`, `latter.*`, and blocks under any other prefix.
        order: (6,), the same for all networks.
    """

    def permuted(name: str, tensor: Tensor) -> Tensor:
        part, _, rest = name.partition(".")
        if part == "former":
            return tensor[:, order]
        if part == "latter":
            return tensor[:, :, order] if rest == "conv.weight" else tensor
        return permute_ends({rest: tensor}, order)[rest]

    return {name: permuted(name, tensor) for name, tensor in networks.items()}


def turn(x: Tensor, number: int) -> Tensor:
    """One of the eight rotations and reflections of the last two dimensions; 0 changes nothing."""
    if number & 4:
        x = x.transpose(-1, -2)
    if number & 2:
        x = x.flip(-2)
    return x.flip(-1) if number & 1 else x


def turn_block(block: Weights, number: int) -> Weights:
    """The block with all kernels turned: it does to turned maps what `block` does to maps."""
    return {name: turn(t, number) if t.dim() == 5 else t for name, t in block.items()}


def rescale_hidden(block: Weights, scale: Tensor) -> Weights:
    """Hidden channels times `scale` (N, hidden) > 0, undone in the second convolution.

    The block must have no batch norm: a small one, or a folded large one.
    """
    rescaled = dict(block)
    rescaled["conv1.weight"] = block["conv1.weight"] * scale[:, :, None, None, None]
    if "conv1.bias" in block:
        rescaled["conv1.bias"] = block["conv1.bias"] * scale
    rescaled["conv2.weight"] = block["conv2.weight"] / scale[:, None, :, None, None]
    return rescaled


def balance(block: Weights) -> Weights:
    """Hidden channels rescaled so that what goes into each is as large as what comes out of it.

    A channel with nothing on one side is left as it is.
    """
    into = block["conv1.weight"].flatten(2).norm(dim=2)
    out = block["conv2.weight"].transpose(1, 2).flatten(2).norm(dim=2)
    alive = (into > 0) & (out > 0)
    return rescale_hidden(block, torch.where(alive, out / into, 1.0).sqrt())


def align(block: Weights, reference: Weights) -> Weights:
    """Small blocks balanced, and in the order of hidden channels that is nearest to a reference.

    Distance is Euclidean, over all weights of the balanced blocks. Every order is tried, or of more
    than four channels the best assignment is found.

    Args:
        reference: as many blocks as `block` has, or one, which stands for all.
    """
    block, reference = balance(block), balance(reference)
    if block["conv1.weight"].shape[1] > TRIED:
        return _assigned(block, reference)
    orders = [torch.tensor(o) for o in permutations(range(block["conv1.weight"].shape[1]))]
    candidates = [permute_hidden(block, order) for order in orders]
    zero = torch.zeros(())
    distances = torch.stack(
        [
            sum(((c[k] - reference[k]).flatten(1).square().sum(1) for k in block), zero)
            for c in candidates
        ]
    )
    best = distances.argmin(0)
    each = torch.arange(len(best))
    return {name: torch.stack([c[name] for c in candidates])[best, each] for name in block}


def _assigned(block: Weights, reference: Weights) -> Weights:
    """`align` by the assignment of hidden channels that has the least total distance."""

    def each(block: Weights) -> Tensor:  # (N, hidden, numbers)
        parts = [block["conv1.weight"].flatten(2), block["conv2.weight"].transpose(1, 2).flatten(2)]
        if "conv1.bias" in block:
            parts.append(block["conv1.bias"][:, :, None])
        return torch.cat(parts, 2)

    distances = torch.cdist(each(reference).expand(len(block["conv1.weight"]), -1, -1), each(block))
    orders = torch.stack(
        [
            torch.from_numpy(linear_sum_assignment(one)[1])
            for one in distances.square().cpu().numpy()
        ]
    ).to(distances.device)
    rows = torch.arange(len(orders), device=orders.device)[:, None]
    aligned = {k: w[rows, orders] if k.startswith("conv1.") else w for k, w in block.items()}
    return aligned | {
        "conv2.weight": block["conv2.weight"].transpose(1, 2)[rows, orders].transpose(1, 2)
    }
