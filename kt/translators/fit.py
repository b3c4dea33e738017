"""The translator's training loop: deterministic, checkpointed, resumable (Section 4.2)."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from kt.networks.weights import Weights
from kt.run import checkpoint, distributed, seeds
from kt.run.errors import NotFiniteError
from kt.run.finite import LOWER, require_finite
from kt.run.optimizer import SGD, Adam, cosine
from kt.translators.objectives import Objective

Record = dict[str, Any]
Model = TypeVar("Model", bound=nn.Module)
CHECKPOINT_SECONDS = 20


@dataclass(frozen=True)
class Training:
    """How a translator is trained; the defaults are the paper's.

    Attributes:
        momentum: of SGD; Adam has none.
        schedule: of the learning rate, set anew every epoch, down to 0 after the last.
        warmup_epochs: over which the learning rate grows linearly before its schedule begins.
        clip_norm: largest gradient norm; 0 for no clipping.
        evaluate_every: epochs between evaluations; the last epoch is always evaluated.
    """

    epochs: int = 300
    batch_size: int = 4096
    optimizer: str = "adam"
    lr: float = 0.001
    momentum: float = 0.9
    schedule: str = "cosine"
    warmup_epochs: int = 0
    weight_decay: float = 0.0
    clip_norm: float = 0.0
    evaluate_every: int = 25
    seed: int = 0

    def learning_rate(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 0."""
        if epoch < self.warmup_epochs:
            return self.lr * (epoch + 1) / (self.warmup_epochs + 1)
        done = (epoch - self.warmup_epochs) / max(1, self.epochs - self.warmup_epochs)
        return (
            self.lr
            * {
                "cosine": cosine(done),
                "linear": 1 - done,
                "constant": 1.0,
            }[self.schedule]
        )

    def evaluates(self, epoch: int) -> bool:
        """Whether the translator is evaluated after this epoch, counted from 0."""
        return (epoch + 1) % self.evaluate_every == 0 or epoch + 1 == self.epochs

    def make_optimizer(self, model: nn.Module) -> Adam | SGD:
        if self.optimizer == "sgd":
            return SGD(model.parameters(), self.lr, self.momentum, self.weight_decay)
        return Adam(model.parameters(), self.lr, self.weight_decay)


@dataclass
class Fitted:
    """The outcome: a record per epoch, and the weights after the best-evaluated one.

    Every record has `epoch` (from 1), `loss`, `learning_rate` and `samples_per_second`; those of
    evaluated epochs also what the evaluation returned: tensors, plain numbers and containers.
    """

    history: list[Record]
    best: Record
    weights: Weights

    @property
    def late_fall(self) -> float | None:
        """`late_fall` of its losses, rounded."""
        fall = late_fall([record["loss"] for record in self.history])
        return None if fall is None else round(fall, 4)


def late_fall(losses: Sequence[float]) -> float | None:
    """Whether a training had come to an end: how far its loss still fell.

    Args:
        losses: one an epoch.

    Returns:
        By how many percent the mean of the last tenth of them, one at least, is below that of the
        tenth before; None for a single epoch.
    """
    tenth = max(1, len(losses) // 10)
    last, before = losses[-tenth:], losses[-2 * tenth : -tenth]
    if not before:
        return None
    mean = sum(before) / tenth
    return 100 * (1 - sum(last) / tenth / mean) if mean else 0.0


def fit(
    model: Model,
    objective: Objective,
    training: Training,
    evaluate: Callable[[Model], Record],
    select_by: str,
    kept: Path,
    on_epoch: Callable[[Record], None] = lambda record: None,
) -> Fitted:
    """Train `model` in place on an objective.

    Each epoch draws its own random stream from the seed, so a run that is killed and started again
    with the same file `kept` ends with the same weights as one that was not.

    In several processes (`kt.run.distributed`) all call this with the same arguments and get the
    same; the first one alone evaluates and writes. Their number changes losses by rounding only,
    but for what is drawn for single samples: masks, noise and dropout.

    Args:
        objective: what to learn, and the samples to learn from.
        evaluate: measures the model; called in evaluation mode after every `evaluate_every` epochs.
        select_by: key of the evaluation that decides the best epoch; the earliest of equals wins.
        kept: the checkpoint; not deleted at the end.
        on_epoch: called with every epoch's record, also with those read from the checkpoint.

    Raises:
        KTError: a loss or a weight is not finite; the last checkpoint is the last that is.
    """
    device = next(model.parameters()).device
    count = len(objective)
    optimizer = training.make_optimizer(model)
    parts = {"model": model, "optimizer": optimizer}
    state = distributed.from_first(lambda: checkpoint.load(kept))
    start: Record = {"history": [], "best": {}, "weights": {}}
    fitted = Fitted(**checkpoint.restore(state, parts, start))
    model.load_state_dict(distributed.from_first(lambda: _weights(model)))
    for record in fitted.history:
        on_epoch(record)

    saved = time.monotonic()
    for epoch in range(len(fitted.history), training.epochs):
        optimizer.lr = training.learning_rate(epoch)
        torch.manual_seed(seeds.derive(training.seed, "translator", "epoch", epoch))
        order = torch.randperm(count)
        if distributed.rank() and objective.draws_for_samples:
            # Masks, noise and dropout of its own; networks are shown the same images everywhere.
            torch.manual_seed(seeds.derive(training.seed, "epoch", epoch, distributed.rank()))
        model.train()
        total = torch.zeros((), device=device)
        started = time.perf_counter()
        for index in order.split(training.batch_size):
            model.zero_grad()
            own, weight = distributed.share(index)
            loss = objective.backward(model, own, epoch)
            total += distributed.average(loss, model, weight) * len(index)
            if training.clip_norm:
                nn.utils.clip_grad_norm_(model.parameters(), training.clip_norm)
            optimizer.step()
        record = {
            "epoch": epoch + 1,
            "loss": total.item() / count,
            "learning_rate": training.learning_rate(epoch),
            "samples_per_second": count / (time.perf_counter() - started),
        }
        diverged = f"the training diverged in epoch {epoch + 1}"
        require_finite({"loss": total} | model.state_dict(), diverged)
        if training.evaluates(epoch):
            model.eval()
            try:
                record |= distributed.from_first(lambda: evaluate(model))
            except NotFiniteError as error:
                raise NotFiniteError(f"{diverged} ({error}): {LOWER}") from None
            if not fitted.best or record[select_by] > fitted.best[select_by]:
                fitted.best = record
                fitted.weights = _weights(model)
        fitted.history.append(record)
        due = time.monotonic() - saved > CHECKPOINT_SECONDS or epoch + 1 == training.epochs
        if due and distributed.rank() == 0:
            checkpoint.save(kept, parts, **vars(fitted))
            saved = time.monotonic()
        on_epoch(record)
    return fitted


def _weights(model: nn.Module) -> Weights:
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
