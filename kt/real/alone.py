"""Blocks made smaller from their weights alone: the network is shown nothing.

Each block by itself reads noise, whose amplitude falls with frequency where it reads images. Its
batch norms give what they pass on the mean and the deviation that it had in training, and the
weights before them say how its channels go together.
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from kt.real import choose, surgery
from kt.real.blocks import NORMS
from kt.real.drawing import texture
from kt.real.graph import Example, Walk
from kt.real.images import take
from kt.real.moments import Moments, gather, places_in
from kt.real.subject import Subject
from kt.real.widths import measured_at

BATCH, BATCHES = 32, 128
"""Of noise, and how many at most."""
ROWS, FEWEST = 8, 4096
"""Of what a second map reads, for each number in a row, and in all; as far as batches go."""
LARGEST = 3.0
"""By what an output is multiplied at most, so that it varies as it did."""


@torch.no_grad()
def harms(subject: Subject, example: Example) -> dict[str, dict[int, float]]:
    """What narrowing each block leaves unexplained of what it gives: a share, at some widths."""
    found: dict[str, dict[int, float]] = {}
    for at, (block, moments) in enumerate(
        zip(subject.blocks, imagined(subject, example), strict=True)
    ):
        weights = _weights(subject.original.get_submodule(block.out))
        wanted = choose.eliminate(moments, measured_at(block.channels))
        found[block.into] = {w: unexplained(moments, weights, kept) for w, kept in wanted.items()}
        subject.told("measure harm", at + 1, len(subject.blocks))
    return found


@torch.no_grad()
def translate(subject: Subject, example: Example, widths: Mapping[str, int]) -> nn.Module:
    """A copy of a network with smaller blocks, each made by itself."""
    smaller = copy.deepcopy(subject.original)
    for at, (block, moments) in enumerate(
        zip(subject.blocks, imagined(subject, example), strict=True)
    ):
        width = widths[block.into]
        if width < block.channels:
            kept = choose.eliminate(moments, [width])[width]
            weights = _weights(subject.original.get_submodule(block.out))
            surgery.shrink(smaller, block, kept)
            surgery.replace(smaller, block, *fit(moments, weights, kept))
        subject.told("translate", at + 1, len(subject.blocks))
    return smaller


def imagined(subject: Subject, example: Example) -> Iterator[Moments]:
    """For each block the second moments of what its second map reads and gives, on noise.

    Args:
        example: the sizes of its first tell how large is what each block reads.
    """
    draw, graph, model = subject.draw, subject.graph, subject.original
    walk = Walk(graph, model, take(example, torch.zeros(BATCH, dtype=torch.long)))
    alive = copy.deepcopy(model)
    for module in alive.modules():
        if type(module) in NORMS:
            module.train()  # it takes its statistics from what it reads
    for block in subject.blocks:
        walk.before(block.first)
        (source,) = block.first.all_input_nodes
        spatial = isinstance(model.get_submodule(block.into), nn.Conv2d)
        out = model.get_submodule(block.out)
        rows = BATCH * min(subject.positions, places_in(out, graph.shapes[block.outcome]))
        wanted = max(FEWEST, ROWS * out.weight[0].numel())
        moments = None
        for _ in range(min(BATCHES, -(-wanted // rows))):
            inside = [walk.branch(alive)]
            inside[0].change(source, partial(_noise, spatial=spatial, draw=draw))
            alone = replace(block, shortcut=None)
            part = gather(alone, graph, model, inside, inside, subject.positions, draw)
            if moments is None:
                moments = part
            else:
                moments.inputs += part.inputs
                moments.crossed += part.crossed
        yield moments


def unexplained(moments: Moments, weights: Tensor, kept: list[int]) -> float:
    """What a map from kept channels misses, as a share of the variance of the outputs.

    Args:
        weights: of the map from all channels, biases behind, (n each + 1, outputs).
    """
    inputs = moments.inputs / moments.inputs[-1, -1]
    missed = _whole(weights, kept, *choose.fit(moments, kept)) - weights
    variance = _variance(inputs, weights) * moments.importance
    error = _products(inputs, missed) * moments.importance
    return (error.sum() / variance.sum().clamp(min=torch.finfo(error.dtype).tiny)).item()


def fit(moments: Moments, weights: Tensor, kept: list[int]) -> tuple[Tensor, Tensor]:
    """The second map from kept channels: least squares, its outputs as spread as before.

    Least squares alone gives outputs that vary less than they should, block after block; nothing
    that the network answers tells by how much.

    Returns:
        Weights (outputs, kept x each), and biases (outputs,), in double precision.
    """
    inputs = moments.inputs / moments.inputs[-1, -1]
    weight, bias = choose.fit(moments, kept)
    own = _whole(weights, kept, weight, bias)
    before, now = _variance(inputs, weights), _variance(inputs, own)
    gain = (before / now.clamp(min=torch.finfo(now.dtype).tiny)).sqrt().clamp(1, LARGEST)
    centre = inputs[-1]
    return weight * gain[:, None], centre @ weights - gain * (centre @ own - bias)


def _weights(out: nn.Module) -> Tensor:
    """Of a map, (numbers read + 1, outputs): biases behind."""
    weight = out.weight.flatten(1).double()
    bias = weight.new_zeros(len(weight)) if out.bias is None else out.bias.double()
    return torch.cat([weight, bias[:, None]], 1).T


def _whole(like: Tensor, kept: list[int], weight: Tensor, bias: Tensor) -> Tensor:
    """A map from kept channels as one from all of them, zeros for the others."""
    whole = torch.zeros_like(like)
    each = weight.shape[1] // len(kept)
    whole[:-1].view(-1, each, len(bias))[kept] = weight.T.reshape(len(kept), each, -1)
    whole[-1] = bias
    return whole


def _products(inputs: Tensor, weights: Tensor) -> Tensor:
    """The mean square of each output."""
    return ((inputs @ weights) * weights).sum(0)


def _variance(inputs: Tensor, weights: Tensor) -> Tensor:
    return (_products(inputs, weights) - (inputs[-1] @ weights).square()).clamp(min=0)


def _noise(like: Tensor, spatial: bool, draw: torch.Generator) -> Tensor:
    """Of deviation 1; over two axes behind the channels, its amplitude falls with frequency."""
    if spatial and min(like.shape[2:]) > 1:
        return texture(like.shape, draw).to(like)
    return torch.randn(*like.shape, generator=draw).to(like)
