"""Gradients freed from the correlations of what maps read."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kt.real.blocks import MAPS, norm_behind
from kt.real.graph import Example, Graph, call
from kt.real.moments import norm_scale, places_for, read_at
from kt.run.finite import solving

DAMPING = 0.1
"""Added to the products' diagonal, relative to its mean."""
LARGEST = 2048
"""Numbers that a map reads at once, at most; of a larger one only channels are whitened."""
FAINTEST = 0.01
"""The smallest scale of a batch norm's channel that counts, relative to its largest."""
POSITIONS = 64
"""In each example, at most."""


@dataclass(frozen=True)
class Whitening:
    """What turns the gradient of a map's weights into a direction.

    The inputs' half of the natural gradient (K-FAC: Martens and Grosse, 2015), as
    `kt.ensemble.Probe.whitening` gives it for tiny networks. The other half, of what comes behind,
    is a batch norm's scale alone: directions are those of weights with the norm folded in.

    Attributes:
        inverse: of the second moments of what the map reads at one place, (n, n): n is the numbers
            in a row of its weights, or its input channels.
        scale: by what a batch norm behind it multiplies its outputs, (outputs,); else 1.
        norm: that batch norm.
    """

    inverse: Tensor
    scale: Tensor
    norm: nn.Module | None = None

    def direction(self, gradient: Tensor) -> Tensor:
        """Of the weights (outputs, channels, ...), their root mean square 1 behind the norm."""
        scale = self.scale.view(-1, *[1] * (gradient.ndim - 1))
        given = (gradient / scale).flatten(1)
        if len(self.inverse) < given.shape[1]:
            given = given.unflatten(1, (len(self.inverse), -1)).transpose(1, 2)
            white = (given @ self.inverse).transpose(1, 2).reshape(gradient.shape)
        else:
            white = (given @ self.inverse).view(gradient.shape)
        return unit(white) / scale

    def size(self, weight: Tensor) -> float:
        """The root mean square of the weights, behind the norm."""
        return root_mean_square(weight.flatten(1) * self.scale[:, None])


def unit(tensor: Tensor) -> Tensor:
    """The tensor at a root mean square of 1; zeros stay zeros."""
    return tensor / (tensor.square().mean().sqrt() + torch.finfo(tensor.dtype).tiny)


def root_mean_square(tensor: Tensor) -> float:
    return tensor.detach().square().mean().sqrt().item()


@torch.no_grad()
def whitenings(
    model: nn.Module, graph: Graph, examples: Example, draw: torch.Generator
) -> dict[str, Whitening]:
    """One for each convolution (not grouped) and linear layer that is called, by its name.

    Args:
        model: in evaluation mode.
        graph: of it, or of the network that it is a copy of.
        examples: a batch, whose products are taken.
        draw: of the places in it.
    """
    maps = {
        name: layer
        for name, layer in model.named_modules()
        if type(layer) in MAPS and getattr(layer, "groups", 1) == 1
    }
    norms = {
        str(node.target): norm_behind(model, graph, node)
        for node in graph.nodes
        if node.op == "call_module" and node.target in maps
    }
    products: dict[str, Tensor] = {}
    with _watched(maps, products, draw):
        call(model, examples)
    found = {}
    for name, summed in products.items():
        scale = torch.ones(len(maps[name].weight)).to(summed)
        behind = norms.get(name)
        norm = None if behind is None else model.get_submodule(behind)
        if norm is not None:
            scale = norm_scale(norm).abs().expand_as(scale).to(scale)
            scale = scale.clamp(min=FAINTEST * scale.max().clamp(min=torch.finfo(scale.dtype).tiny))
        mean = summed.diagonal().mean()
        if 0 < mean < math.inf:  # else it reads zeros alone, say
            summed = summed / mean
            summed.diagonal().add_(DAMPING)
            with solving(f"the gradients of {name}"):
                inverse = torch.linalg.inv(summed)
            found[name] = Whitening(inverse.float(), scale.float(), norm)
    return found


@contextmanager
def _watched(
    maps: dict[str, nn.Module], products: dict[str, Tensor], draw: torch.Generator
) -> Iterator[None]:
    """Within it, what maps read adds to their products, in double precision."""

    def watcher(name: str):
        def watch(layer: nn.Module, given: tuple[Tensor], answer: Tensor) -> None:
            if not given or given[0].ndim < layer.weight.ndim:
                return  # called by names, or without a batch
            places = places_for(layer, answer.shape, len(answer), POSITIONS, draw)
            rows = read_at(layer, given[0], places)
            channels = layer.weight.shape[1]
            if (taps := math.prod(layer.weight.shape[2:])) > 1 and channels * taps > LARGEST:
                rows = rows.unflatten(1, (channels, taps)).transpose(1, 2).flatten(0, 1)
            products[name] = products.get(name, 0) + (rows.T @ rows).double()

        return watch

    handles = [layer.register_forward_hook(watcher(name)) for name, layer in maps.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
