"""Train and evaluate many tiny networks at once: one front, whatever the engine behind it.

Weights are stacked (`kt.networks.weights`). A network's result depends on its seed, its
image stream, the recipe and the engine alone: not on the networks beside it, on the number of
workers, nor on how many networks are trained in one go (`Compute`). The same seeds give the same
images, flips and initial weights in every engine; the engines differ by rounding.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from kt.ensemble import torch_engine
from kt.ensemble.compute import Compute
from kt.ensemble.probe import Probe
from kt.images import ImageSet, ordered_batches, training_batches
from kt.networks.blocks import PAPER, Network, Sizes, initial_weights, require_images, sizes_of
from kt.networks.weights import Weights, concatenated, part, prefixed, take
from kt.run.bounds import bounded
from kt.run.finite import finite_networks
from kt.run.threads import full_precision, one_thread

__all__ = [
    "Compute",
    "Probe",
    "Progress",
    "Recipe",
    "evaluate",
    "features",
    "outputs",
    "train_blocks",
    "train_networks",
]
Progress = Callable[[int], None]
"""Called with the number of images that as many networks have just passed."""


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: SGD without weight decay or schedule (paper, Section 3.1)."""

    epochs: int = bounded(10, ge=1, le=1_000_000)
    batch_size: int = bounded(128, ge=2)
    lr: float = bounded(0.01, gt=0)
    momentum: float = bounded(0.9, ge=0, lt=1)
    flip: bool = True


EVALUATION_BATCH = 250


def train_networks(
    data: ImageSet,
    seeds: Sequence[int],
    stream_seed: int,
    recipe: Recipe,
    compute: Compute = Compute(),
    large: Weights | None = None,
    progress: Progress | None = None,
    checkpoints: Sequence[int] = (),
    sizes: Sizes = PAPER,
) -> Weights:
    """Step 1: N networks former -> large -> latter (cross-entropy).

    Args:
        data: training images, seen by all networks in the order and flips of `stream_seed`.
        seeds: one a network, for its initial weights.
        large: stacked large blocks (N, ...) to put in place and keep frozen, batch norm in
            evaluation mode (the USPS experiment, Section 5.5). None: the large block is trained.
        checkpoints: increasing numbers of epochs, C of them, below the recipe's: the networks as
            they are then are returned as well.
        sizes: of the networks.

    Raises:
        NotFiniteError: a network diverges.
        KTError: the images are not of the networks' sizes.

    Returns:
        All weights and running statistics, stacked: `former.*`, `block.*` (large), `latter.*`,
        each ((1 + C) * N, ...): the trained networks, then the checkpoints, the latest first.
    """
    require_images(data.images, sizes)
    initial = initial_weights(lambda: Network(sizes=sizes), seeds)
    if large is not None:
        initial |= prefixed("block", take(large, device=torch.device("cpu")))
    engine = compute.engine_for("large", sizes)
    steps = [epoch * -(-len(data) // recipe.batch_size) for epoch in checkpoints]

    def work(chunk: slice, device_data: ImageSet, tick: Progress) -> Weights:
        batches = _counted(_stream(device_data, recipe, stream_seed), chunk, tick)
        trained = engine.train_networks(
            take(initial, chunk, compute.device),
            batches,
            recipe.lr,
            recipe.momentum,
            large is not None,
            steps,
        )
        return {k: w.unflatten(0, (1 + len(steps), -1)).transpose(0, 1) for k, w in trained.items()}

    joined = _over_networks(len(seeds), data, compute, progress, work)  # (N, 1 + C, ...)
    finite_networks(joined)
    return {name: tensor.transpose(0, 1).flatten(0, 1) for name, tensor in joined.items()}


def train_blocks(
    kind: str,
    data: ImageSet,
    networks: Weights,
    seeds: Sequence[int],
    stream_seed: int,
    recipe: Recipe,
    compute: Compute = Compute(),
    progress: Progress | None = None,
    sizes: Sizes = PAPER,
) -> Weights:
    """Step 2: fresh blocks of `kind`, trained between frozen former and latter blocks.

    The frozen blocks' batch norm is in evaluation mode, their statistics untouched (Section 3.1).

    Args:
        kind: a target, `kt.networks.blocks.TARGETS`.
        networks: stacked `former.*` and `latter.*` (others are ignored).
        seeds: one a block, for its initial weights.
        sizes: of the networks and the blocks.

    Returns:
        The blocks' weights, stacked, without a prefix.

    Raises:
        NotFiniteError: one diverges.
        KTError: the images are not of the networks' sizes.
    """
    require_images(data.images, sizes)
    initial = initial_weights(kind, seeds, sizes)
    engine = compute.engine_for(kind, sizes)

    def work(chunk: slice, device_data: ImageSet, tick: Progress) -> Weights:
        return engine.train_blocks(
            kind,
            take(initial, chunk, compute.device),
            take(part(networks, "former"), chunk, compute.device),
            take(part(networks, "latter"), chunk, compute.device),
            _counted(_stream(device_data, recipe, stream_seed), chunk, tick),
            recipe.lr,
            recipe.momentum,
        )

    return finite_networks(_over_networks(len(seeds), data, compute, progress, work))


def outputs(
    kind: str,
    data: ImageSet,
    networks: Weights,
    block: Weights,
    compute: Compute = Compute(),
    progress: Progress | None = None,
) -> Tensor:
    """Logits (N, M, 10) of former + `block` (of `kind`) + latter for the M images of `data`."""

    def joined(batches: Iterator[Tensor], labels: Tensor) -> Tensor:
        return torch.cat(list(batches), 1)

    return _assembled(kind, data, networks, block, compute, progress, joined)


def evaluate(
    kind: str,
    data: ImageSet,
    networks: Weights,
    block: Weights,
    compute: Compute = Compute(),
    progress: Progress | None = None,
) -> Tensor:
    """Accuracy in percent of former + `block` (of `kind`) + latter on `data`: (N,) float64."""

    def correct(batches: Iterator[Tensor], labels: Tensor) -> Tensor:
        answers = torch.cat([logits.argmax(-1) for logits in batches], 1)
        return (answers == labels).sum(-1)

    right = _assembled(kind, data, networks, block, compute, progress, correct)
    return right.double() * 100 / len(data)


def features(
    data: ImageSet,
    networks: Weights,
    kind: str | None = None,
    block: Weights | None = None,
    compute: Compute = Compute(),
) -> Tensor:
    """Feature maps (N, M, 6, 14, 14) behind the former block, or behind `block` of `kind`.

    Always by the `torch` engine: what uses features looks at few of them.
    """

    def work(chunk: slice, device_data: ImageSet, tick: Progress) -> Weights:
        images = (x for x, _ in ordered_batches(device_data, EVALUATION_BATCH))
        former = take(part(networks, "former"), chunk, compute.device)
        behind = take(block or {}, chunk, compute.device)
        maps = torch_engine.features(kind, former, behind, images)
        return {"maps": torch.cat(list(maps), 1)}

    return _over_networks(len(networks["former.bn.weight"]), data, compute, None, work)["maps"]


def _stream(data: ImageSet, recipe: Recipe, seed: int):
    return training_batches(data, recipe.batch_size, recipe.epochs, recipe.flip, seed)


def _counted(batches, chunk: slice, tick: Progress):
    for images, labels in batches:
        yield images, labels
        tick(len(labels) * (chunk.stop - chunk.start))


def _assembled(
    kind: str,
    data: ImageSet,
    networks: Weights,
    block: Weights,
    compute: Compute,
    progress: Progress | None,
    reduce: Callable[[Iterator[Tensor], Tensor], Tensor],
) -> Tensor:
    """`reduce` of all batches' logits (N, B, 10) and the labels (M,), joined over networks."""
    sizes = sizes_of(networks, data.images.shape[-1], block)
    require_images(data.images, sizes)
    engine = compute.engine_for(kind, sizes)

    def work(chunk: slice, device_data: ImageSet, tick: Progress) -> Weights:
        batches = _counted(ordered_batches(device_data, EVALUATION_BATCH), chunk, tick)
        logits = engine.outputs(
            kind,
            take(part(networks, "former"), chunk, compute.device),
            take(block, chunk, compute.device),
            take(part(networks, "latter"), chunk, compute.device),
            (images for images, _ in batches),
        )
        return {"reduced": reduce(logits, device_data.labels)}

    count = len(networks["latter.fc.bias"])
    return _over_networks(count, data, compute, progress, work)["reduced"]


def _over_networks(
    count: int,
    data: ImageSet,
    compute: Compute,
    progress: Progress | None,
    work: Callable[[slice, ImageSet, Progress], Weights],
) -> Weights:
    """Run `work` on chunks of networks, a thread each, and join the results on the CPU in order.

    Every chunk is computed by one thread, so that sums are formed in the same order whatever the
    number of workers.
    """
    data = data.to(compute.device)
    stopped = threading.Event()
    lock = threading.Lock()

    def tick(images: int) -> None:
        if stopped.is_set():
            raise InterruptedError
        if progress is not None:
            with lock:
                progress(images)

    def one(chunk: slice) -> Weights:
        torch.set_num_threads(1)
        return {name: tensor.cpu() for name, tensor in work(chunk, data, tick).items()}

    chunks = [slice(at, min(at + compute.chunk, count)) for at in range(0, count, compute.chunk)]
    workers = max(1, compute.workers)
    with one_thread(), full_precision(), ThreadPoolExecutor(workers) as pool:
        try:
            parts = list(pool.map(one, chunks))
        finally:
            stopped.set()
            pool.shutdown(cancel_futures=True)
    return concatenated(parts)
