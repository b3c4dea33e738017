"""Descent on what a smaller network answers: towards the original's answers, without labels.

The steps are fixed: Adam, each tensor's step a share of its own size. A learned descent would take
their place in `descend`, behind the same arguments: it needs translators of any width, which this
project does not have yet.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kt.real.graph import Example, call, tensors
from kt.run.errors import KTError, one_line
from kt.run.finite import is_finite

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Schedule:
    """How long and how far.

    Attributes:
        steps: of `batch` examples each. stride: the longest step, as a share of a tensor's root
        mean square; it falls as a cosine. None
            is 0.15 over the number of blocks, since the steps of deep networks add up, and 0.02 at
            most.
        warmup: steps in which it rises.
    """

    steps: int = 300
    batch: int = 64
    stride: float | None = None
    warmup: int = 20

    def among(self, blocks: int) -> float:
        """The stride for a network of so many blocks."""
        return min(0.02, 0.15 / blocks) if self.stride is None else self.stride


def divergence(given: Any, expected: Any) -> Tensor:
    """How far answers are from others, all their floating-point tensors summed.

    Of class scores, (N, classes), the Kullback-Leibler divergence; of other tensors the mean
    squared error as a share of the variance.

    Raises:
        KTError: their shapes differ.
    """
    total = torch.zeros(())
    for ours, theirs in paired(given, expected):
        if are_scores(theirs):
            ours, theirs = ours.log_softmax(1), theirs.log_softmax(1)
            total = total + F.kl_div(ours, theirs, log_target=True, reduction="batchmean")
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
    batches: Iterator[Example],
    schedule: Schedule,
    blocks: int,
    progress: Progress | None = None,
) -> None:
    """Move all parameters of the smaller network, in place; both networks stay in evaluation mode.

    Args:
        batches: an endless stream of examples.
        blocks: of the network.

    Raises:
        KTError: its answers carry no gradients, or change shape from call to call.
    """
    parameters = [p for p in smaller.parameters() if p.is_floating_point()]
    trained = [p.requires_grad for p in parameters]
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(
        [{"params": [p], "lr": schedule.among(blocks) * _size(p)} for p in parameters]
    )
    falling = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: (
            min(1.0, (step + 1) / schedule.warmup)
            * (0.5 + 0.5 * math.cos(math.pi * step / schedule.steps))
        ),
    )
    try:
        for step in range(schedule.steps):
            batch = next(batches)
            with torch.no_grad():
                expected = call(original, batch)
            with torch.enable_grad():
                loss = divergence(call(smaller, batch), expected)
                if not loss.requires_grad:
                    raise KTError("the network's answers carry no gradients: ask for 0 steps")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            falling.step()
            if progress is not None:
                progress(step + 1, schedule.steps)
    finally:
        for parameter, before in zip(parameters, trained, strict=True):
            parameter.grad = None
            parameter.requires_grad_(before)


def _size(parameter: Tensor) -> float:
    return parameter.detach().square().mean().sqrt().item()


def _variance(tensor: Tensor) -> Tensor:
    return tensor.var(correction=0).clamp(min=torch.finfo(tensor.dtype).tiny)
