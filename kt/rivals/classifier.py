"""Training of networks on colour images: SGD, mixed precision, resumable.

Optimiser, schedule, checkpoint and image sets are those of the rest of the library. The loop is its
own: it goes over a stream of augmented images, that of `kt.translators.fit` over indices of pairs.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from kt.images import ImageSet
from kt.images.cifar import augmented_batches, pixels
from kt.run import checkpoint
from kt.run.errors import KTError
from kt.run.finite import require_finite
from kt.run.optimizer import SGD, cosine

Record = dict[str, float]
Losses = dict[str, Tensor]
Module = TypeVar("Module", bound=nn.Module)
EVALUATION_BATCH = 500


@dataclass(frozen=True)
class Training:
    """How a network is trained.

    Attributes:
        lr: highest learning rate. It rises linearly over the first `warmup` of all steps, and falls
            along a cosine to 0.
        momentum: of SGD.
        weight_decay: of all weights.
        precision: "float32", or "bfloat16" for convolutions and products of matrices.
        seed: of the images' order and augmentation.
    """

    epochs: int
    batch_size: int
    lr: float
    warmup: float
    momentum: float
    weight_decay: float
    precision: str
    seed: int

    def images(self, count: int) -> int:
        """How many images pass through the network in all, of a set with `count`."""
        return self.epochs * (count - count % self.batch_size)

    def learning_rate(self, done: float) -> float:
        """That of a step before which this share of all steps is done, in terms of `lr`."""
        if done < self.warmup:
            return done / self.warmup
        return cosine((done - self.warmup) / (1 - self.warmup))


def train(
    learner: nn.Module,
    losses: Callable[[Tensor, Tensor], Losses],
    data: ImageSet,
    training: Training,
    kept: Path,
    progress: Callable[[int, bool], None] = lambda images, done_before: None,
) -> list[Record]:
    """Train all of `learner` in place; the last epoch's weights are the result.

    Each epoch draws its own random stream from the seed, so a run that is killed and started again
    with the same file `kept` ends with the same weights as an uninterrupted run.

    Args:
        learner: on the device of `data`.
        losses: of images (B, 3, 32, 32) and labels (B,): scalars by name, of which "loss" is made
            small and the others are recorded.
        data: at least one batch of images.
        kept: the checkpoint, written after every epoch; not deleted at the end.
        progress: called with (images passed, whether that was found done already).

    Returns:
        For every epoch its number (from 1), mean losses and `seconds`.

    Raises:
        KTError: the images fill no batch.
        NotFiniteError: a loss or a weight is not finite; the last checkpoint is the last that is.
    """
    batches = len(data) // training.batch_size
    if batches == 0:
        raise KTError(f"batch_size: got {training.batch_size}; there are {len(data)} images")
    optimizer = SGD(learner.parameters(), training.lr, training.momentum, training.weight_decay)
    steps = training.epochs * batches
    parts: dict[str, checkpoint.Stateful] = {"learner": learner, "optimizer": optimizer}
    history = checkpoint.restore(checkpoint.load(kept), parts, {"history": []})["history"]
    progress(len(history) * batches * training.batch_size, True)
    reduced = training.precision == "bfloat16"
    for epoch in range(len(history), training.epochs):
        learner.train()
        started = time.perf_counter()
        sums: Losses = {}
        passed = augmented_batches(data, training.batch_size, training.seed, epoch)
        for step, (images, labels) in enumerate(passed, epoch * batches):
            optimizer.lr = training.lr * training.learning_rate((step + 0.5) / steps)
            optimizer.zero_grad()
            with torch.autocast(images.device.type, torch.bfloat16, enabled=reduced):
                values = losses(images, labels)
            values["loss"].backward()
            optimizer.step()
            progress(len(labels), False)
            for name, value in values.items():
                sums[name] = sums[name] + value.detach() if name in sums else value.detach()
        diverged = f"the training diverged in epoch {epoch + 1}"
        require_finite({**sums, **learner.state_dict()}, diverged)
        record = {name: total.item() / batches for name, total in sums.items()}
        record = {"epoch": epoch + 1, **record, "seconds": time.perf_counter() - started}
        history.append(record)
        checkpoint.save(kept, parts, history=history)
    return history


def accuracy(network: nn.Module, data: ImageSet) -> float:
    """Percent of the images that a `Classifier`, set to evaluation, assigns to their labels."""
    network.eval()
    right = 0
    with torch.no_grad():
        for images, labels in zip(
            data.images.split(EVALUATION_BATCH), data.labels.split(EVALUATION_BATCH), strict=True
        ):
            _, logits = network(pixels(images))
            right += (logits.argmax(1) == labels).sum().item()
    return 100 * right / len(data)


def frozen(module: Module) -> Module:
    """The module, set to evaluation, its weights no longer to be trained."""
    return module.eval().requires_grad_(False)
