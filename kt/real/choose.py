"""Which hidden channels a block keeps, and how its second map reads them: least squares."""

import torch
from torch import Tensor

from kt.real.moments import Moments
from kt.run.finite import solving

RIDGE = 1e-3
"""Of the mean square of what is read, added to each square, so that no weight grows wild."""
LEAST = 1e-30
"""Of that mean square."""
SHARE = 8
"""Of the channels that are to go, one in so many goes a round."""


def eliminate(moments: Moments, widths: list[int]) -> dict[int, list[int]]:
    """The channels to keep at some widths, fewer ones among more, by backward elimination.

    Each round measures for every channel how much the error of the least-squares second map would
    grow without it, and drops the cheapest. With B the map and K the inverse of the inputs' second
    moments, dropping the rows c costs B_c' (K_cc)^-1 B_c.

    Returns:
        For each width the kept channels in increasing order.

    Raises:
        NotFiniteError: the moments cannot be inverted.
    """
    each = moments.each
    channels = (len(moments.inputs) - 1) // each
    kept = list(range(channels))
    inputs = _ridged(moments)
    crossed = moments.crossed * moments.importance.sqrt()
    chosen = {}
    for width in sorted(set(widths), reverse=True):
        surplus = len(kept) - width
        while len(kept) > width:
            rows = _rows(kept, channels, each)
            with solving("the network's blocks"):
                inverse = torch.linalg.inv(inputs[rows][:, rows])
                fitted = (inverse @ crossed[rows])[:-1].view(len(kept), each, -1)
                own = inverse[:-1, :-1].view(len(kept), each, len(kept), each)
                own = own.diagonal(dim1=0, dim2=2).permute(2, 0, 1)
                cost = (fitted * torch.linalg.solve(own, fitted)).sum((1, 2))
            dropped = min(-(-surplus // SHARE), len(kept) - width)
            gone = set(cost.argsort()[:dropped].tolist())
            kept = [channel for at, channel in enumerate(kept) if at not in gone]
        chosen[width] = kept
    return chosen


def fit(moments: Moments, kept: list[int]) -> tuple[Tensor, Tensor]:
    """The second map from kept channels by ridge regression.

    Returns:
        Weights (outputs, kept x each), and biases (outputs,), in double precision.

    Raises:
        NotFiniteError: the moments cannot be inverted.
    """
    channels = (len(moments.inputs) - 1) // moments.each
    rows = _rows(kept, channels, moments.each)
    with solving("the network's blocks"):
        solution = torch.linalg.solve(_ridged(moments)[rows][:, rows], moments.crossed[rows])
    return solution[:-1].T, solution[-1]


def _ridged(moments: Moments) -> Tensor:
    inputs = moments.inputs.clone()
    squares = inputs.diagonal()[:-1]
    # A channel that is always 0 must not make the matrix singular, nor may all of them.
    squares += RIDGE * squares.mean().clamp(min=LEAST)
    return inputs


def _rows(kept: list[int], channels: int, each: int) -> Tensor:
    """The rows of kept channels, and of the constant."""
    own = torch.tensor(kept)[:, None] * each + torch.arange(each)
    return torch.cat([own.flatten(), torch.tensor([channels * each])])
