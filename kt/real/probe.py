"""What a translator sees of a block in any network; `kt.ensemble.Probe` shows many tiny ones."""

import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from kt.real.blocks import Block, norm_behind
from kt.real.graph import Example, Graph, Walk, call
from kt.real.moments import Moments, gather
from kt.real.steps import divergence


@dataclass(frozen=True)
class Probe:
    """A block between two maps, in a network that has been shown examples.

    Attributes:
        maps: `into.weight`, `into.bias`, `out.weight`, `out.bias`, with batch norm folded in.
        moments: second moments of what the second map reads, and of what it gives.
        loss: divergence of the network's answers from those wanted, a scalar.
        gradient: of the loss with respect to `maps`, by the same names.
    """

    maps: dict[str, Tensor]
    moments: Moments
    loss: Tensor
    gradient: dict[str, Tensor]


def probe(
    model: nn.Module,
    graph: Graph,
    block: Block,
    examples: Example,
    wanted: Any,
    positions: int,
    draw: torch.Generator,
) -> Probe:
    """See a block of any shape: strides, kernels, widths, with a shortcut beside it or without.

    Args:
        model: in evaluation mode; it is not changed.
        examples: one batch.
        wanted: answers that the loss compares the network's with.
        positions: drawn at random in each example, at most, for the moments.
    """
    model = copy.deepcopy(model).requires_grad_(False)
    _fold(model, block.into, norm_behind(model, graph, block.first))
    _fold(model, block.out, norm_behind(model, graph, block.outcome))
    plain = replace(block, norm=None)
    with torch.no_grad():
        walks = [Walk(graph, model, examples)]
        moments = gather(plain, graph, model, walks, walks, positions, draw)
    maps = {}
    for end, name in (("into", block.into), ("out", block.out)):
        for key, parameter in model.get_submodule(name).named_parameters(recurse=False):
            maps[f"{end}.{key}"] = parameter.requires_grad_(True)
    with torch.enable_grad():
        loss = divergence(call(model, examples), wanted)
        gradient = torch.autograd.grad(loss, list(maps.values()))
    seen = {name: parameter.detach() for name, parameter in maps.items()}
    return Probe(seen, moments, loss.detach(), dict(zip(maps, gradient, strict=True)))


def _fold(model: nn.Module, name: str, norm_name: str | None) -> None:
    """Give a map a bias, and the batch norm behind it, in place."""
    layer = model.get_submodule(name)
    if layer.bias is None:
        layer.bias = nn.Parameter(layer.weight.new_zeros(len(layer.weight)), requires_grad=False)
    if norm_name is None:
        return
    norm = model.get_submodule(norm_name)
    fuse = fuse_linear_bn_weights if isinstance(layer, nn.Linear) else fuse_conv_bn_weights
    statistics = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
    weight, bias = fuse(layer.weight, layer.bias, *statistics)
    layer.weight, layer.bias = (nn.Parameter(t, requires_grad=False) for t in (weight, bias))
    model.set_submodule(norm_name, nn.Identity())
