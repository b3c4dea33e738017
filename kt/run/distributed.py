"""One training run in several processes, as torchrun starts them; without it, all is in one.

Every process holds the whole model. Of a batch each sees its own share, and gradients are averaged
over the samples, so the steps are those of one process that sees the whole batch.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

Value = TypeVar("Value")


def size() -> int:
    """Number of processes."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Which of them this is; the first, 0, is the one that writes."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def share(index: Tensor) -> tuple[Tensor, float]:
    """This process's share of a batch (B,), and its weight in the mean over all of the batch.

    Where the batch is smaller than the number of processes, some get a sample that weighs nothing.
    """
    own = index[rank() :: size()]
    return (own, len(own) / len(index)) if len(own) else (index[:1], 0.0)


def average(loss: Tensor, model: nn.Module, weight: float) -> Tensor:
    """The weighted sum over processes of a loss, returned, and of a model's gradients, in place."""
    if size() == 1:
        return loss
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = weight * torch.cat([loss.reshape(1), *(g.reshape(-1) for g in gradients)])
    distributed.all_reduce(flat)
    mean, *summed = flat.split([1, *(g.numel() for g in gradients)])
    for gradient, total in zip(gradients, summed, strict=True):
        gradient.copy_(total.view_as(gradient))
    return mean.squeeze()


def from_first(make: Callable[[], Value]) -> Value:
    """Call `make` in the first process only, and return its result in all."""
    if size() == 1:
        return make()
    box: list[Any] = [make() if rank() == 0 else None]
    distributed.broadcast_object_list(box)
    return box[0]
