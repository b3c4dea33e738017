"""The translator's training loop: deterministic, checkpointed, resumable (Section 4.2)."""

import contextlib
import io
import math
import pickle
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kt import seeds
from kt.augment import Side, augment
from kt.losses import weight_mse
from kt.pairs import Rows

Weights = dict[str, Tensor]
Record = dict[str, Any]
CHECKPOINT_SECONDS = 20
PIECE, LARGE_PIECE = 32, 512
"""Pairs whose activations are in memory together: for one of a CPU's threads, and else. A batch's
gradient is the sum over its pieces, in order, and so depends on them by rounding."""


@dataclass(frozen=True)
class Training:
    """How a translator is trained; the defaults are the paper's.

    Attributes:
        momentum: of SGD; Adam has none.
        schedule: of the learning rate, set anew every epoch, down to 0 after the last.
        warmup_epochs: over which the learning rate grows linearly before its schedule begins.
        clip_norm: largest gradient norm; 0 for no clipping.
        precision: "bfloat16" computes the forward pass in it; weights stay float32.
        masking, noise, side: augmentation drawn afresh for every batch (Section 3.2).
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
    precision: str = "float32"
    masking: float = 0.0
    noise: float = 0.0
    side: Side = "large"
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
                "cosine": 0.5 * (1 + math.cos(math.pi * done)),
                "linear": 1 - done,
                "constant": 1.0,
            }[self.schedule]
        )

    def evaluates(self, epoch: int) -> bool:
        """Whether the translator is evaluated after this epoch, counted from 0."""
        return (epoch + 1) % self.evaluate_every == 0 or epoch + 1 == self.epochs

    def make_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        parameters, decay = model.parameters(), self.weight_decay
        if self.optimizer == "sgd":
            return torch.optim.SGD(parameters, self.lr, self.momentum, weight_decay=decay)
        adam = torch.optim.AdamW if decay else torch.optim.Adam
        # Fused: one pass over the weights instead of a dozen.
        return adam(parameters, self.lr, weight_decay=decay, fused=True)


@dataclass
class Fitted:
    """The outcome: a record per epoch, and the weights after the best-evaluated one.

    Every record has `epoch` (from 1), `loss`, `learning_rate` and `samples_per_second`; those of
    evaluated epochs also what the evaluation returned, which must be plain numbers and containers.
    """

    history: list[Record]
    best: Record
    weights: Weights


def fit(
    model: nn.Module,
    large: Weights | dict[str, Rows],
    small: Weights | dict[str, Rows],
    training: Training,
    evaluate: Callable[[nn.Module], Record],
    select_by: str,
    checkpoint: Path,
    on_epoch: Callable[[Record], None] = lambda record: None,
    workers: int = 1,
) -> Fitted:
    """Train `model` in place to translate `large` into `small` blocks.

    Each epoch draws its own random stream from the seed, so a run that is killed and started again
    with the same `checkpoint` ends with the same weights as one that was not; so does one with
    another number of workers.

    Args:
        large, small: the pairs, stacked (N, ...); moved to the model's device once, but a store's
            rows stay in its files while the model is on the CPU.
        evaluate: measures the model; called in evaluation mode after every `evaluate_every` epochs.
        select_by: key of the evaluation that decides the best epoch; the earliest of equals wins.
        checkpoint: file that keeps the state; not deleted at the end.
        on_epoch: called with every epoch's record, also with those read from the checkpoint.
        workers: CPU threads, each at a piece of a batch.
    """
    device = next(model.parameters()).device
    large = {name: tensor.to(device) for name, tensor in large.items()}
    small = {name: tensor.to(device) for name, tensor in small.items()}
    count = len(next(iter(small.values())))
    optimizer = training.make_optimizer(model)
    fitted = Fitted([], {}, {})
    _resume(checkpoint, model, optimizer, fitted)
    for record in fitted.history:
        on_epoch(record)

    saved = time.monotonic()
    for epoch in range(len(fitted.history), training.epochs):
        for group in optimizer.param_groups:
            group["lr"] = training.learning_rate(epoch)
        torch.manual_seed(seeds.derive(training.seed, "translator", "epoch", epoch))
        order = torch.randperm(count).to(device)
        model.train()
        total = torch.zeros((), device=device)
        started = time.perf_counter()
        with _pieces(model, workers) as pieces:
            for index in order.split(training.batch_size):
                batch = _rows(large, index), _rows(small, index)
                total += _step(model, optimizer, training, *batch, pieces) * len(index)
        record = {
            "epoch": epoch + 1,
            "loss": total.item() / count,
            "learning_rate": training.learning_rate(epoch),
            "samples_per_second": count / (time.perf_counter() - started),
        }
        if training.evaluates(epoch):
            model.eval()
            record |= evaluate(model)
            if not fitted.best or record[select_by] > fitted.best[select_by]:
                fitted.best = record
                fitted.weights = {
                    k: v.detach().cpu().clone() for k, v in model.state_dict().items()
                }
        fitted.history.append(record)
        if time.monotonic() - saved > CHECKPOINT_SECONDS or epoch + 1 == training.epochs:
            _save(checkpoint, model, optimizer, fitted)
            saved = time.monotonic()
        on_epoch(record)
    return fitted


@contextlib.contextmanager
def _pieces(model: nn.Module, workers: int) -> Iterator[tuple[Callable[..., Iterable], int]]:
    """A `map` for the pieces of a batch, and the number of pairs in a piece.

    On a CPU one thread computes a piece: the activations stay in its cache, it waits for no other
    within an operation, and sums are formed in the same order whatever the number of threads.
    Dropout draws from one stream for all threads, so with it pieces come one after the other.
    """
    on_cpu = next(model.parameters()).device.type == "cpu"
    draws = any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules())
    if draws or not on_cpu:
        yield map, LARGE_PIECE
        return
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool.map, PIECE
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


def _step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    training: Training,
    large: Weights,
    small: Weights,
    pieces: tuple[Callable[..., Iterable], int],
) -> Tensor:
    large, small = augment(large, small, training.masking, training.noise, training.side)
    parameters = list(model.parameters())
    device = parameters[0].device
    count = len(next(iter(small.values())))
    spread, size = pieces

    def gradients(start: int) -> tuple[Tensor, tuple[Tensor, ...]]:
        few = slice(start, min(start + size, count))
        with torch.autocast(device.type, torch.bfloat16, enabled=training.precision == "bfloat16"):
            predicted = model(_rows(large, few))
        predicted = {name: tensor.float() for name, tensor in predicted.items()}
        loss = weight_mse(predicted, _rows(small, few)) * ((few.stop - start) / count)
        return loss.detach(), torch.autograd.grad(loss, parameters)

    total = torch.zeros((), device=device)
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    for loss, gradient in spread(gradients, range(0, count, size)):
        total += loss
        for parameter, more in zip(parameters, gradient, strict=True):
            parameter.grad += more
    if training.clip_norm:
        nn.utils.clip_grad_norm_(parameters, training.clip_norm)
    optimizer.step()
    return total


def _rows(weights: Weights | dict[str, Rows], index: Tensor | slice) -> Weights:
    return {name: tensor[index] for name, tensor in weights.items()}


def _save(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, fitted: Fitted) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "history": fitted.history,
        "best": fitted.best,
        "weights": fitted.weights,
    }
    buffer = io.BytesIO()  # torch.save tells of a full disk by no error of the system's
    torch.save(state, buffer)
    partial.write_bytes(buffer.getbuffer())
    partial.replace(path)


def _resume(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, fitted: Fitted) -> None:
    """Take up the checkpoint if there is a readable one; a damaged one is as good as none."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, EOFError, RuntimeError, pickle.UnpicklingError):
        return
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    fitted.history, fitted.best, fitted.weights = state["history"], state["best"], state["weights"]
