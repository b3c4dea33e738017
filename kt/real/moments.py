"""What a block's second map reads, and what it should give, gathered over images."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from kt.real.blocks import Block
from kt.real.graph import Graph, Walk


@dataclass
class Moments:
    """Sums over rows: of what a map reads at one place, its weights' worth of numbers.

    Attributes:
        inputs: (n each + 1, n each + 1) products of what is read, and of 1; n hidden channels.
        crossed: (n each + 1, outputs) products of that with what is to be given.
        each: numbers in a row of each hidden channel, which come channel by channel.
        importance: (outputs,) what an error in each output counts.
    """

    inputs: Tensor
    crossed: Tensor
    each: int
    importance: Tensor


def gather(
    block: Block,
    graph: Graph,
    original: nn.Module,
    before: list[Walk],
    now: list[Walk],
    positions: int,
    draw: torch.Generator,
) -> Moments:
    """Second moments, in double precision, of a block's second map.

    It reads what the hidden channels hold now, where the blocks before this one have been
    translated, and this one has not. It is to give what it gave before, and what the shortcut
    beside it is short of now.

    Args:
        original: the network as it was. before, now: the original and the translated network on
        their way through all batches. They are
            left in front of the block.
        positions: drawn at random in each image, at most.
    """
    out = original.get_submodule(block.out)
    scale = torch.ones(()) if block.norm is None else norm_scale(original.get_submodule(block.norm))
    inputs = crossed = torch.zeros(())
    for first, second in zip(before, now, strict=True):
        for walk in {first, second}:
            walk.before(block.first)
        places = places_for(out, graph.shapes[block.outcome], first.size, positions, draw)
        given = partial(_given, out, places=places)
        theirs = {node: given for node in (block.outcome, block.shortcut) if node is not None}
        ours = {node: given for node in (block.shortcut,) if node is not None}
        ours[block.hidden] = partial(read_at, out, places=places)
        if first is second:
            was = seen = _read(first.branch(), block, graph, theirs | ours)
        else:
            was, seen = first.branch().read(theirs), _read(second.branch(), block, graph, ours)
        target = was[block.outcome]
        if block.shortcut is not None:
            missing = was[block.shortcut] - seen[block.shortcut]
            square = scale.square()  # of 0, where training has switched a block off
            target = target + missing * scale / (square + 1e-4 * square.mean().clamp(min=1e-30))
        rows = F.pad(seen[block.hidden], (0, 1), value=1.0)
        # Products of a batch in single precision, which is fast; their sum in double.
        inputs = inputs + (rows.T @ rows).double()
        crossed = crossed + (rows.T @ target).double()
    each = (len(inputs) - 1) // block.channels
    importance = scale.square().to(crossed).expand(crossed.shape[1])
    return Moments(inputs, crossed, each, importance)


def _read(walk: Walk, block: Block, graph: Graph, wanted: Mapping[fx.Node, Callable]) -> dict:
    """Values on a walk; the hidden ones as `out` reads them, after all that is done in place."""
    reads = graph.places[block.outcome]
    early = {n: how for n, how in wanted.items() if n != block.hidden and graph.places[n] < reads}
    seen = walk.read(early)
    walk.before(block.outcome)
    return seen | walk.read({node: how for node, how in wanted.items() if node not in seen})


def norm_scale(norm: nn.Module) -> Tensor:
    """By what a batch norm multiplies each channel."""
    scale = (norm.running_var + norm.eps).rsqrt()
    return scale if norm.weight is None else scale * norm.weight.detach()


def _padding(out: nn.Module) -> tuple[tuple[int, int], ...]:
    """What a convolution adds before and behind each axis."""
    if out.padding == "valid":
        return ((0, 0),) * len(out.kernel_size)
    if out.padding == "same":
        spans = [d * (k - 1) for d, k in zip(out.dilation, out.kernel_size, strict=True)]
        return tuple((span // 2, span - span // 2) for span in spans)
    return tuple((size, size) for size in out.padding)


def places_in(out: nn.Module, shape: torch.Size) -> int:
    """How many places an outcome of a map has, by its shape."""
    return prod(shape[1:-1] if isinstance(out, nn.Linear) else shape[2:])


def places_for(
    out: nn.Module, shape: torch.Size, count: int, most: int, draw: torch.Generator
) -> Tensor:
    """Places among a map's outputs, flattened, for each image: (count, places)."""
    total = places_in(out, shape)
    if total <= most:
        return torch.arange(total).expand(count, -1)
    return torch.randint(total, (count, most), generator=draw)


def _given(out: nn.Module, value: Tensor, places: Tensor) -> Tensor:
    """A map's outputs at some places, (images x places, outputs)."""
    if isinstance(out, nn.Linear):
        value = value.reshape(len(value), -1, value.shape[-1])
    else:
        value = value.flatten(2).transpose(1, 2)
    index = places.to(value.device)[:, :, None].expand(-1, -1, value.shape[2])
    return value.gather(1, index).flatten(0, 1)


def read_at(out: nn.Module, value: Tensor, places: Tensor) -> Tensor:
    """What a map reads for its outputs at some places, (images x places, weights of an output)."""
    if isinstance(out, nn.Linear):
        return _given(out, value, places)
    sizes = [out.kernel_size, out.stride, out.dilation, _padding(out)]
    if value.ndim == 3:  # positions in a line: one row of an image
        value = value[:, :, None]
        sizes = [(whole, *size) for whole, size in zip((1, 1, 1, (0, 0)), sizes, strict=True)]
    kernel, stride, dilation, ((top, bottom), (left, right)) = sizes
    mode = "constant" if out.padding_mode == "zeros" else out.padding_mode
    if any((top, bottom, left, right)):
        value = F.pad(value, (left, right, top, bottom), mode)
    width = value.shape[3]
    columns = (width - dilation[1] * (kernel[1] - 1) - 1) // stride[1] + 1
    y, x = places // columns * stride[0], places % columns * stride[1]
    down = torch.arange(kernel[0])[:, None] * dilation[0]
    across = torch.arange(kernel[1]) * dilation[1]
    index = (y[:, :, None, None] + down) * width + x[:, :, None, None] + across
    images, channels, taps = len(value), value.shape[1], kernel[0] * kernel[1]
    index = index.reshape(images, 1, -1).expand(-1, channels, -1).to(value.device)
    found = value.flatten(2).gather(2, index).view(images, channels, -1, taps)
    return found.transpose(1, 2).flatten(2).flatten(0, 1)
