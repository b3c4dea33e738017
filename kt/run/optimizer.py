"""Adam and SGD over some weights: torch's own kernels, ready at once.

The classes of `torch.optim` import torch's compiler when they are first used, which takes seconds;
its functional forms do not. `python -m benchmarks.optimizer` measures both.
"""

import math
from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from kt.run.errors import NotFiniteError
from kt.run.finite import LOWER

Kept = dict[str, list[Tensor]]
Batch = TypeVar("Batch")


class _Optimizer:
    """Weights, what is kept for each of them by name, and the learning rate, to be set anew."""

    def __init__(
        self, weights: Iterable[Tensor], lr: float, weight_decay: float, kept: list[str]
    ) -> None:
        self.weights = list(weights)
        self.lr = lr
        self.weight_decay = weight_decay
        self.kept = {name: [torch.zeros_like(w.data) for w in self.weights] for name in kept}

    def zero_grad(self) -> None:
        for weight in self.weights:
            weight.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Update the weights that have gradients, in place.

        Raises:
            NotFiniteError: the learning rate or the weight decay is too large to compute with.
        """
        gradients = {i: w.grad for i, w in enumerate(self.weights) if w.grad is not None}
        weights: list[Tensor] = [self.weights[i] for i in gradients]
        kept = {name: [tensors[i] for i in gradients] for name, tensors in self.kept.items()}
        try:
            self._update(weights, list(gradients.values()), kept)
        except RuntimeError as error:
            if "without overflow" not in str(error):
                raise
            raise NotFiniteError(f"a step of the training overflows: {LOWER}") from None

    def _update(self, weights: list[Tensor], gradients: list[Tensor], kept: Kept) -> None:
        raise NotImplementedError

    def state_dict(self) -> dict[str, list[Tensor]]:
        return self.kept

    def load_state_dict(self, state_dict: dict[str, list[Tensor]]) -> None:
        """Go on from a state.

        Raises:
            KeyError: it is another optimizer's.
        """
        for name, tensors in self.kept.items():
            for tensor, value in zip(tensors, state_dict[name], strict=True):
                tensor.copy_(value)


class Adam(_Optimizer):
    """`torch.optim.Adam`, and with weight decay `torch.optim.AdamW`, at their defaults.

    Args:
        fused: one pass over the weights instead of a dozen. False gives `foreach`'s rounding.
    """

    def __init__(
        self,
        weights: Iterable[Tensor],
        lr: float,
        weight_decay: float = 0.0,
        fused: bool = True,
    ) -> None:
        super().__init__(weights, lr, weight_decay, ["means", "squares"])
        self.fused = fused
        self.kept["steps"] = [torch.zeros((), device=weight.device) for weight in self.weights]

    def _update(self, weights: list[Tensor], gradients: list[Tensor], kept: Kept) -> None:
        adam(
            weights, gradients, kept["means"], kept["squares"], [], kept["steps"], fused=self.fused,
            foreach=not self.fused, decoupled_weight_decay=True, amsgrad=False, beta1=0.9,
            beta2=0.999, lr=self.lr, weight_decay=self.weight_decay, eps=1e-8, maximize=False,
        )  # fmt: skip


class SGD(_Optimizer):
    """`torch.optim.SGD` with momentum."""

    def __init__(
        self, weights: Iterable[Tensor], lr: float, momentum: float, weight_decay: float = 0.0
    ) -> None:
        super().__init__(weights, lr, weight_decay, ["velocities"])
        self.momentum = momentum

    def _update(self, weights: list[Tensor], gradients: list[Tensor], kept: Kept) -> None:
        velocities: list[Tensor | None] = [*kept["velocities"]]
        sgd(
            weights, gradients, velocities, weight_decay=self.weight_decay, lr=self.lr,
            momentum=self.momentum, dampening=0.0, nesterov=False, maximize=False,
        )  # fmt: skip


def cosine(done: float) -> float:
    """From 1 to 0 along half a cosine, as `done` goes from 0 to 1."""
    return 0.5 * (1 + math.cos(math.pi * done))


def minimise(
    start: dict[str, Tensor],
    loss: Callable[[dict[str, Tensor], Batch], Tensor],
    batches: Iterable[Batch],
    steps: int,
    lr: float,
) -> dict[str, Tensor]:
    """Tensors after some steps of Adam, whose learning rate falls linearly to 0.

    Args:
        start: where to begin; left as they are.
        loss: of the tensors on a batch, a scalar. A sum over stacked networks gives each its own
            gradient.
        batches: `steps` of them.
    """
    learned = {name: tensor.clone().requires_grad_() for name, tensor in start.items()}
    optimizer = Adam(learned.values(), lr, fused=False)
    for step, batch in enumerate(batches):
        optimizer.lr = lr * (1 - step / steps)
        optimizer.zero_grad()
        with torch.enable_grad():
            loss(learned, batch).backward()
        optimizer.step()
    return {name: tensor.detach() for name, tensor in learned.items()}
