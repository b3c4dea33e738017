"""The rows of the table: ways of narrowing the blocks of a trained network."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kt.real import Schedule, compress, cost, drawing
from kt.real.blocks import find
from kt.real.graph import Graph
from kt.real.images import stream
from kt.real.translate import ADAPTED
from kt.real.widths import evenly
from stages.networks import rivals
from stages.networks.training import BATCH, train

LABELLED_RATE, LABELLED_STEPS = 0.01, 2
"""Of the row that is trained with labels: its highest learning rate, and its steps for each one of
`translated`, which asks the original as well. So labels have at least as many seconds."""


@dataclass(frozen=True)
class Task:
    """What a method is given: a network, how much of it to keep, and images without labels."""

    network: nn.Module
    keep: float
    images: Tensor
    labels: Tensor
    schedule: Schedule
    seed: int


@dataclass(frozen=True)
class Method:
    """A way of making a network smaller.

    Attributes:
        label: its name in the table.
        images: what it sees: the unlabelled images; those that it draws itself; or none.
        labels: whether it sees their labels too.
        narrow: what it does.
    """

    label: str
    images: str
    narrow: Callable[[Task], nn.Module]
    labels: bool = False


def _narrowed(how: rivals.Narrow, recalibrate: bool = False) -> Callable[[Task], nn.Module]:
    """All blocks by the same share, each narrowed by itself; then batch norms measured anew."""

    def narrow(task: Task) -> nn.Module:
        smaller = copy.deepcopy(task.network)
        _, blocks, widths = _evenly(task)
        draw = torch.Generator().manual_seed(task.seed)
        for block in blocks:
            how(smaller, block, widths[block.into], draw)
        if recalibrate:
            drawing.recalibrate(smaller, task.images.split(ADAPTED))
        return smaller

    return narrow


def _fitted(pointwise: bool) -> Callable[[Task], nn.Module]:
    def narrow(task: Task) -> nn.Module:
        draw = torch.Generator().manual_seed(task.seed)
        return rivals.fitted(task.network, *_evenly(task), task.images, draw, pointwise)

    return narrow


def _evenly(task: Task) -> tuple:
    graph = Graph(task.network, task.images[:2])
    blocks, _ = find(task.network, graph)
    costs = cost.shares(task.network, graph, task.images[:2], "multiply-adds")
    return graph, blocks, evenly(blocks, costs, task.keep * sum(costs.values()), 1)


def _translated(task: Task) -> nn.Module:
    return _compressed(task, task.images)


def _least_squares(task: Task) -> nn.Module:
    return _compressed(task, task.images, Schedule(0))


def _labelled(task: Task) -> nn.Module:
    smaller = _least_squares(task).requires_grad_(True)
    steps = LABELLED_STEPS * task.schedule.steps
    epochs = max(1, steps * BATCH // len(task.images))
    draw = torch.Generator().manual_seed(task.seed)
    train(smaller, task.images, task.labels, epochs, LABELLED_RATE, draw)
    return smaller


def _adam(task: Task) -> nn.Module:
    smaller = _least_squares(task)
    draw = torch.Generator().manual_seed(task.seed)
    batches = stream(task.images, task.schedule.batch, draw, True)
    blocks = len(smaller.kt_report.blocks)
    rivals.adam(smaller, task.network, batches, task.schedule.steps, blocks)
    return smaller


def _from_weights(task: Task) -> nn.Module:
    return compress(task.network, task.images[:1], task.keep, weights_alone=True, seed=task.seed)


def _adapted(task: Task) -> nn.Module:
    return _compressed(task, None, Schedule(0))


def _without_images(task: Task) -> nn.Module:
    return _compressed(task, None)


def _drawn(task: Task) -> nn.Module:
    draw = torch.Generator().manual_seed(task.seed)
    images = drawing.make(task.images[:1], draw, lambda done, total: None)
    return _compressed(task, images, Schedule(0))


def _compressed(task: Task, images: Tensor | None, schedule: Schedule | None = None) -> nn.Module:
    return compress(
        task.network, task.images[:2], task.keep, images, schedule=schedule or task.schedule,
        seed=task.seed,
    )  # fmt: skip


METHODS = {
    "random": Method("random channels", "none", _narrowed(rivals.randomly)),
    "norm": Method("by norm", "none", _narrowed(rivals.by_norm)),
    "norm_statistics": Method(
        "by norm, batch norm measured anew", "given", _narrowed(rivals.by_norm, True)
    ),
    "folding": Method("folding with repair", "given", _narrowed(rivals.folded, True)),
    "pointwise": Method("by norm, 1x1 ridge map", "given", _fitted(True)),
    "least_squares": Method("by norm, 3x3 least squares", "given", _fitted(False)),
    "ours_weights": Method("translated, weights alone", "none", _from_weights),
    "ours_drawn": Method("translated, drawn images as they are, no steps", "drawn", _drawn),
    "ours_adapted": Method("translated, drawn images, no steps", "drawn", _adapted),
    "ours_alone": Method("translated, drawn images", "drawn", _without_images),
    "ours_fitted": Method("translated, no steps", "given", _least_squares),
    "ours_adam": Method("translated, steps of Adam", "given", _adam),
    "ours": Method("translated", "given", _translated),
    "labelled": Method("the same start, twice the steps with labels", "given", _labelled, True),
}
