"""What a network costs: multiply-adds, parameters, time."""

import time
from collections.abc import Mapping
from math import prod
from statistics import median

import torch
from torch import nn

from kt.real.blocks import MAPS, Block
from kt.real.graph import Example, Graph, call


def multiply_adds(model: nn.Module, graph: Graph) -> int:
    """Of all convolutions and linear layers that the graph calls, for one example."""
    return sum(_each(model, graph).values())


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def shares(model: nn.Module, graph: Graph, of: str) -> dict[str, int]:
    """Of each convolution and linear layer its multiply-adds, or its parameters without biases."""
    if of == "multiply-adds":
        return _each(model, graph)
    return {name: model.get_submodule(name).weight.numel() for name in _each(model, graph)}


def at_widths(
    costs: Mapping[str, int], blocks: list[Block], widths: Mapping[str, int]
) -> dict[str, float]:
    """The cost of each layer where blocks have other widths.

    Args:
        costs: of each layer as it is.
        widths: of blocks, by the name of their first map.
    """
    costs: dict[str, float] = dict(costs)
    for block in blocks:
        part = widths[block.into] / block.channels
        for name in layers(block):
            if name in costs:
                costs[name] *= part
    return costs


def layers(block: Block) -> tuple[str, ...]:
    """All layers whose size a block's width decides."""
    return (block.into, *block.between, block.out)


def latency(model: nn.Module, example: Example, seconds: float = 0.1) -> float:
    """Milliseconds that a network needs for an example: the median of calls for so many seconds."""
    times = []
    with torch.no_grad():
        call(model, example)
        begun = time.perf_counter()
        while not times or time.perf_counter() - begun < seconds:
            start = time.perf_counter()
            call(model, example)
            times.append(time.perf_counter() - start)
    return 1000 * median(times)


def _each(model: nn.Module, graph: Graph) -> dict[str, int]:
    costs: dict[str, int] = {}
    for node in graph.nodes:
        if node.op != "call_module":
            continue
        layer = model.get_submodule(node.target)
        if type(layer) in MAPS:
            shape = graph.shapes[node]
            places = prod(shape[1:-1]) if isinstance(layer, nn.Linear) else prod(shape[2:])
            costs[node.target] = costs.get(node.target, 0) + places * layer.weight.numel()
    return costs
