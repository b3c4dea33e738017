"""A network that is being made smaller."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from kt.real.blocks import Block
from kt.real.graph import Graph

Progress = Callable[[str, int, int], None]
"""Called with what is done now, how much of it, and of how much."""


@dataclass(frozen=True)
class Subject:
    """What all ways of making a network smaller are given.

    Attributes:
        original: the network, in evaluation mode.
        graph, blocks: of it.
        positions: in each image, at most, from which least squares learns.
        draw: of all that is drawn.
        told: of progress.
    """

    original: nn.Module
    graph: Graph
    blocks: list[Block]
    positions: int
    draw: torch.Generator
    told: Progress
