"""Small blocks that need no training: the paper's baselines (Section 5.2) and the identity."""

import torch
from torch import Tensor

from kt.networks.blocks import PAPER, Sizes, block_shapes, initial_weights
from kt.networks.weights import Weights, network_count
from kt.run import seeds


def random_initialisation(target: str, count: int, seed: int, sizes: Sizes = PAPER) -> Weights:
    """PyTorch's fresh default initialisation, another one for each network."""
    drawn = [seeds.derive(seed, "random initialisation", i) for i in range(count)]
    return initial_weights(target, drawn, sizes)


def random_replacement(small: Weights, count: int, seed: int) -> Weights:
    """Small blocks drawn at random (with replacement) from the training pairs' (M, ...)."""
    available = network_count(small)
    draw = seeds.generator(seed, "random replacement")
    index = torch.randint(available, (count,), generator=draw)
    return {name: tensor[index] for name, tensor in small.items()}


def greedy_replacement(large: Weights, train_large: Weights, train_small: Weights) -> Weights:
    """The small block of the training pair whose large block is nearest in MSE.

    Args:
        large: large blocks to be replaced, (N, ...).
        train_large, train_small: the training pairs, (M, ...).
    """
    index = nearest(_convolutions(large), _convolutions(train_large))
    return {name: tensor[index] for name, tensor in train_small.items()}


def identity(target: str, count: int, sizes: Sizes = PAPER) -> Weights:
    """Zero weights: every target block then passes its (non-negative) input through."""
    return {name: torch.zeros(count, *shape) for name, shape in block_shapes(target, sizes).items()}


def nearest(queries: Tensor, points: Tensor, block: int = 16384) -> Tensor:
    """Index of the nearest point (Euclidean) of each query: (N, D), (M, D) -> (N,) int64."""
    best = torch.full((len(queries),), torch.inf)
    index = torch.zeros(len(queries), dtype=torch.int64)
    for start in range(0, len(points), block):
        distance, at = torch.cdist(queries, points[start : start + block]).min(1)
        closer = distance < best
        best[closer], index[closer] = distance[closer], at[closer] + start
    return index


def _convolutions(large: Weights) -> Tensor:
    return torch.cat([large[f"conv{i}.weight"].flatten(1) for i in (1, 2)], 1)
