"""Stacked weights: the tensors of many networks under one name each, {name: (N, ...)}.

Names are those of `kt.networks.blocks.Network`: `former.conv.weight`, `block.conv1.weight`, ... A
store has `large.*` and `small.*` in place of `block.*`.
"""

from collections.abc import Mapping
from typing import Protocol, TypeVar

import torch
from torch import Tensor

Weights = dict[str, Tensor]
Value = TypeVar("Value")


class Rows(Protocol):
    """Anything with rows: a tensor (N, ...), or one in files (`kt.pairs.store.Rows`)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Tensor | slice, /) -> Tensor: ...


def part(weights: Mapping[str, Value], name: str) -> dict[str, Value]:
    """The tensors under `name.`, without that prefix: `part(networks, "former")`."""
    prefix = f"{name}."
    return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}


def prefixed(name: str, weights: Mapping[str, Value]) -> dict[str, Value]:
    """The inverse of `part`: every name behind `name.`."""
    return {f"{name}.{k}": v for k, v in weights.items()}


def take(
    weights: Mapping[str, Rows],
    index: Tensor | slice = slice(None),
    device: torch.device | None = None,
) -> Weights:
    """The networks at `index`, in memory, on a device if one is given."""
    taken = {name: rows[index] for name, rows in weights.items()}
    return taken if device is None else {name: tensor.to(device) for name, tensor in taken.items()}


def concatenated(pieces: list[Weights]) -> Weights:
    """Stacks of a few networks each as one stack, in order."""
    return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}


def stack_of_one(weights: Weights) -> Weights:
    """The weights of one network as a stack of one: {name: (1, ...)}."""
    return {name: tensor[None] for name, tensor in weights.items()}


def network_count(weights: Mapping[str, Rows]) -> int:
    """How many networks are stacked."""
    return len(next(iter(weights.values())))
