"""What a network costs: multiply-adds, parameters, time."""

import time
from collections.abc import Mapping
from math import prod
from statistics import median

import torch
from torch import nn

from kt.networks.cost import multiply_adds as counted
from kt.real.blocks import MAPS, Block
from kt.real.graph import Example, Graph, arguments, call, size, users_code

REST = ""
"""The name under which stands what no map costs that the graph calls."""


def multiply_adds(model: nn.Module, example: Example) -> int:
    """For one example: of convolutions, linear layers and all other products of matrices.

    Args:
        example: a batch, whose multiply-adds are shared out.
    """
    positional, named = arguments(example)
    with users_code(f"the network fails on a batch of {size(example)}"):
        return counted(model, *positional, **named) // size(example)


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def shares(model: nn.Module, graph: Graph, example: Example, of: str) -> dict[str, int]:
    """What each part of a network costs, `REST` included: multiply-adds, or parameters.

    Parts are the convolutions and linear layers that the graph calls; of parameters so are their
    biases, and the layers that may lie between two of them.
    """
    if of == "multiply-adds":
        each, whole = _each(model, graph), multiply_adds(model, example)
    else:
        each, whole = {}, parameters(model)
        for node in graph.nodes:
            if node.op == "call_module":
                layer = model.get_submodule(node.target)
                own = {key: p.numel() for key, p in layer.named_parameters(recurse=False)}
                if type(layer) in MAPS and "bias" in own:
                    each[bias_of(node.target)] = own.pop("bias")
                each[node.target] = sum(count for count in own.values() if count > 1)
    return each | {REST: max(0, whole - sum(each.values()))}


def new_biases(model: nn.Module, blocks: list[Block]) -> int:
    """Parameters that second maps without biases get when their blocks become smaller."""
    outs = [model.get_submodule(block.out) for block in blocks]
    return sum(len(out.weight) for out in outs if out.bias is None)


def bias_of(name: str) -> str:
    return f"{name}.bias"


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
    """All parts whose cost is in proportion to a block's width."""
    return (block.into, bias_of(block.into), *block.between, block.out)


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
