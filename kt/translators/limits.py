"""What a translator that predicts weights by squared error can reach at best.

A small block that is trained once more, from other initial weights and on images in another order,
ends elsewhere. Over such trainings the squared error of a prediction is, on average, its squared
distance to their mean plus their variance. So the best prediction is the mean, and neither pairs
nor updates bring the error below the variance.
"""

import torch

from kt.networks.weights import Weights
from kt.translators import losses

ROUNDS = 50
"""Of averaging aligned blocks, at most; 32 blocks of three hidden channels take about five."""


def mean(blocks: Weights, align: bool = False) -> Weights:
    """The mean of K small blocks of each network: {name: (K, N, ...)} to {name: (N, ...)}.

    Args:
        align: of blocks in the orders of hidden channels that are nearest to the mean. These are
            found by turns, from the first block's order.
    """
    if not align:
        return {name: tensor.mean(0) for name, tensor in blocks.items()}
    found = {name: tensor[0] for name, tensor in blocks.items()}
    for _ in range(ROUNDS):
        before, found = found, mean(_aligned(blocks, found))
        if all(torch.allclose(found[name], before[name]) for name in found):
            break
    return found


def error(predicted: Weights, blocks: Weights, align: bool = False) -> float:
    """The paper's loss of a prediction {name: (N, ...)}, over K blocks of each network.

    Args:
        align: blocks are in the orders nearest to the prediction.
    """
    wanted = _aligned(blocks, predicted) if align else blocks
    return losses.weight_mse(_repeated(predicted, wanted), _flat(wanted)).item()


def variance(blocks: Weights) -> float:
    """The paper's loss of the mean over all trainings, estimated without bias from K blocks."""
    count = len(next(iter(blocks.values())))
    return error(mean(blocks), blocks) * count / (count - 1)


def _aligned(blocks: Weights, to: Weights) -> Weights:
    """K blocks of each network in the orders nearest to one block of each."""
    aligned = losses.aligned(_flat(blocks), _repeated(to, blocks))
    return {name: tensor.view_as(blocks[name]) for name, tensor in aligned.items()}


def _flat(blocks: Weights) -> Weights:
    return {name: tensor.flatten(0, 1) for name, tensor in blocks.items()}


def _repeated(block: Weights, blocks: Weights) -> Weights:
    """One block of each network (N, ...), for each of K blocks: (K * N, ...)."""
    return _flat({name: block[name].expand_as(tensor) for name, tensor in blocks.items()})
