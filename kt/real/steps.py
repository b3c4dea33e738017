"""Descent on what a smaller network answers: towards the original's answers, without labels.

As in `merge`, gradients are whitened (`kt.real.whiten`), each tensor's step is a share of its own
size, and steps become shorter as `merge` learned it on tiny networks. `benchmarks.descent` holds
these steps against others, `tables/networks` against Adam's.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kt.real.graph import Example, Graph, call, tensors, users_code
from kt.real.request import require_schedule
from kt.real.whiten import Whitening, root_mean_square, unit, whitenings
from kt.run.errors import KTError, one_line
from kt.run.finite import is_finite

MOMENTUM = 0.8

TEMPERATURE = 4.0
"""Softens the classes' probabilities, as in distillation (Hinton et al., 2015): the small ones tell
much about a network, and images without labels are few."""

LEARNED = (1.0, 0.839, 0.685, 0.584, 0.476, 0.382, 0.272, 0.14)
"""Lengths of the steps of a default run's translator, relative to its first. Those of a run on
another processor were up to 0.12 away."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Schedule:
    """How long and how far.

    Attributes:
        steps: of `batch` examples each.
        stride: the longest step, as a share of a tensor's root mean square; it falls as `LEARNED`.
            None is 0.015 over the square root of the number of blocks, since their steps add up.
        warmup: steps in which it rises.
    """

    steps: int = 300
    batch: int = 64
    stride: float | None = None
    warmup: int = 5

    def __post_init__(self) -> None:
        require_schedule(self.steps, self.batch, self.stride, self.warmup)

    def length(self, step: int, blocks: int) -> float:
        """How far a step goes in a network of so many blocks, as a share of a tensor's size."""
        longest = 0.015 * blocks**-0.5 if self.stride is None else float(self.stride)
        rising = min(1.0, (step + 1) / self.warmup)
        share = np.interp(step / self.steps * len(LEARNED), range(len(LEARNED) + 1), (*LEARNED, 0))
        return longest * rising * float(share)


def divergence(given: Any, expected: Any, temperature: float = 1.0) -> Tensor:
    """How far answers are from others, all their floating-point tensors summed.

    Of class scores, (N, classes), the Kullback-Leibler divergence; of other tensors the mean
    squared error as a share of the variance.

    Args:
        temperature: by which scores are divided; the divergence is multiplied by its square.

    Raises:
        KTError: their shapes differ.
    """
    total = torch.zeros(())
    for ours, theirs in paired(given, expected):
        if are_scores(theirs):
            ours, theirs = ((scores / temperature).log_softmax(1) for scores in (ours, theirs))
            apart = F.kl_div(ours, theirs, log_target=True, reduction="batchmean")
            total = total + temperature**2 * apart
        else:
            total = total + F.mse_loss(ours, theirs) / _variance(theirs)
    return total


def paired(given: Any, expected: Any) -> list[tuple[Tensor, Tensor]]:
    """The floating-point tensors of two answers to the same examples, in pairs.

    Raises:
        KTError: their shapes differ, or those expected are not finite.
    """
    ours, theirs = tensors(given), tensors(expected)
    shapes = [[tuple(tensor.shape) for tensor in answer] for answer in (theirs, ours)]
    if shapes[0] != shapes[1]:
        what = "the network's answers to the same examples change shape from call to call"
        raise KTError(f"{what}: {one_line(shapes[0], 100)}, then {one_line(shapes[1], 100)}")
    pairs = [pair for pair in zip(ours, theirs, strict=True) if pair[1].is_floating_point()]
    if not all(is_finite(wanted) for _, wanted in pairs):
        raise KTError("the network's answers to some examples are not finite")
    return pairs


def are_scores(answer: Tensor) -> bool:
    """Whether a tensor is taken for the scores of classes."""
    return answer.ndim == 2 and answer.shape[1] > 1


def descend(
    smaller: nn.Module,
    original: nn.Module,
    graph: Graph,
    batches: Iterator[Example],
    schedule: Schedule,
    blocks: int,
    draw: torch.Generator,
    progress: Progress | None = None,
) -> None:
    """Move the parameters of the smaller network, in place; both networks stay as evaluated.

    Not those by which a batch norm multiplies what a map gives: the map's weights do the same.

    Args:
        graph: of the original.
        batches: an endless stream of examples.
        blocks: of the network.
        draw: of the places at which maps are watched.

    Raises:
        KTError: its answers carry no gradients, or change shape from call to call.
    """
    white = whitenings(smaller, graph, next(batches), draw)
    moved = _moved(smaller, white)
    parameters = list(smaller.parameters())
    trained = [p.requires_grad for p in parameters]
    for parameter in parameters:
        parameter.requires_grad_(any(parameter is tensor for tensor, _ in moved))
    sizes = [by.size(p) if by else root_mean_square(p) for p, by in moved]
    momenta = [torch.zeros_like(p) for p, _ in moved]
    try:
        for step in range(schedule.steps):
            batch = next(batches)
            with torch.no_grad():
                expected = call(original, batch)
            with torch.enable_grad():
                loss = divergence(call(smaller, batch), expected, TEMPERATURE)
                if not loss.requires_grad:
                    raise KTError("the network's answers carry no gradients: ask for 0 steps")
            with users_code("the network's answers give no gradients: ask for 0 steps"):
                slopes = torch.autograd.grad(loss, [p for p, _ in moved], allow_unused=True)
            length = schedule.length(step, blocks)
            for (parameter, by), size, momentum, slope in zip(
                moved, sizes, momenta, slopes, strict=True
            ):
                if slope is not None:
                    momentum.lerp_(slope, 1 - MOMENTUM)
                    direction = by.direction(momentum) if by else unit(momentum)
                    parameter.detach().sub_(length * size * direction)
            if progress is not None:
                progress(step + 1, schedule.steps)
    finally:
        for parameter, before in zip(parameters, trained, strict=True):
            parameter.requires_grad_(before)


def _moved(
    model: nn.Module, white: Mapping[str, Whitening]
) -> list[tuple[nn.Parameter, Whitening | None]]:
    """The parameters to move, and what whitens each one's gradient."""
    by = {id(model.get_submodule(name).weight): one for name, one in white.items()}
    fixed = {id(one.norm.weight) for one in white.values() if one.norm is not None}
    return [
        (p, by.get(id(p)))
        for p in model.parameters()
        if p.is_floating_point() and id(p) not in fixed
    ]


def _variance(tensor: Tensor) -> Tensor:
    return tensor.var(correction=0).clamp(min=torch.finfo(tensor.dtype).tiny)
