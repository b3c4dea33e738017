"""Many networks at once in compiled C++: side by side, one per SIMD lane.

The functions mirror `kt.ensemble.torch_engine`. The library is `kt.ensemble.cpu_library`'s.

A network's result is the same to the last bit whichever networks are trained beside it, whatever
the number of threads, and on all processors with fused multiply-adds: a lane does the same
operations in the same order, and a pack of networks is computed by one thread.
"""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from kt.ensemble.cpu_library import KINDS, lanes, library
from kt.ensemble.cpu_library import available as available
from kt.ensemble.cpu_library import forget as forget
from kt.ensemble.cpu_library import reason as reason
from kt.ensemble.cpu_library import sources as sources
from kt.ensemble.cpu_packs import (
    Batches,
    Packs,
    check_layout,
    checked_batches,
    checked_images,
    is_statistic,
    on_huge_pages,
    packed_block,
    packed_frozen,
    tensor_names,
)
from kt.networks.blocks import (
    CHANNELS,
    CLASSES,
    HIDDEN,
)
from kt.networks.weights import Weights
from kt.run.errors import KTError

READ_AREA = 7 * 7
"""Positions that the latter block reads."""


def supports(kind: str) -> bool:
    """Whether this engine knows the kind of block; `torch_engine` knows them all."""
    return kind in KINDS


# --- training and evaluation --------------------------------------------------------------------


def train_networks(
    initial: Weights,
    batches: Batches,
    lr: float,
    momentum: float,
    freeze_block: bool = False,
    snapshots: Sequence[int] = (),
    threads: int = 1,
) -> Weights:
    """Step 1: train former + large block + latter. See `kt.ensemble.train_networks`.

    Args:
        initial: stacked weights and running statistics of `Network`, {name: (N, ...)}.
        snapshots: numbers of steps after which to keep the networks as they are, S increasing ones.
        threads: how many packs of networks are computed at the same time.

    Returns:
        {name: ((1 + S) * N, ...)}: the networks in the end, then the snapshots, the latest first.

    Raises:
        KTError: the engine is not available here.
    """
    library()
    names = tensor_names("network")
    trained = Packs([n for n in names if not is_statistic(n)], initial)
    statistics = Packs([n for n in names if is_statistic(n)], initial)
    momenta = torch.zeros_like(trained.values)
    check_layout("network_weights", trained)
    check_layout("network_statistics", statistics)
    memory = torch.empty(0)

    def now() -> Weights:
        learned = trained.unpacked(trained.values.clone())
        return learned | statistics.unpacked(statistics.values.clone())

    kept = []
    for step, (images, labels) in enumerate(checked_batches(batches), 1):
        needed = threads * library().kt_step1_memory(len(labels)) * lanes()
        if memory.numel() < needed:
            memory = on_huge_pages(needed)
        library().kt_train_networks(
            trained.count,
            _address(trained.values),
            _address(momenta),
            _address(statistics.values),
            _address(images),
            _address(labels),
            len(labels),
            lr,
            momentum,
            freeze_block,
            _address(memory),
            threads,
        )
        if step in snapshots:
            kept.append(now())
    kept.append(now())
    return {name: torch.cat([at[name] for at in reversed(kept)]) for name in initial}


def train_blocks(
    kind: str,
    initial: Weights,
    former: Weights,
    latter: Weights,
    batches: Batches,
    lr: float,
    momentum: float,
    threads: int = 1,
) -> Weights:
    """Step 2: train small blocks between frozen parts. See `kt.ensemble.train_blocks`.

    Raises:
        KTError: the engine is not available here, or does not train this kind of block.
    """
    step = _function("train", kind)
    trained, frozen = packed_block(kind, initial), packed_frozen(former, latter)
    momenta = torch.zeros_like(trained.values)
    for images, labels in checked_batches(batches):
        step(
            trained.count,
            _address(trained.values),
            _address(momenta),
            _address(frozen.values),
            _address(images),
            _address(labels),
            len(labels),
            lr,
            momentum,
            threads,
        )
    return trained.unpacked()


def outputs(
    kind: str,
    former: Weights,
    block: Weights,
    latter: Weights,
    images: Iterable[Tensor],
    threads: int = 1,
) -> Iterator[Tensor]:
    """Logits (N, B, 10) for every batch of images. See `kt.ensemble.outputs`.

    Raises:
        KTError: the engine is not available here, or does not know this kind of block.
    """
    run = _function("outputs", kind)
    packed, frozen = packed_block(kind, block), packed_frozen(former, latter)
    for batch in map(checked_images, images):
        logits = torch.empty(packed.count, len(batch), CLASSES, lanes())
        run(
            packed.count,
            _address(packed.values),
            _address(frozen.values),
            _address(batch),
            len(batch),
            _address(logits),
            threads,
        )
        yield logits.permute(0, 3, 1, 2).flatten(0, 1)[: packed.networks]


class Probe:
    """Networks and images. See `kt.ensemble.Probe`."""

    def __init__(self, former: Weights, latter: Weights, images: Tensor, threads: int = 1) -> None:
        """Raises KTError: the engine is not available here."""
        library()
        images = checked_images(images)
        self.images, self.threads = len(images), threads
        self._frozen = packed_frozen(former, latter)
        packs = self._frozen.count
        self._around = torch.empty(packs, library().kt_around(), lanes())
        self._maps = on_huge_pages(packs * len(images) * library().kt_map() * lanes())
        library().kt_show(
            packs,
            _address(self._frozen.values),
            _address(images),
            len(images),
            _address(self._around),
            _address(self._maps),
            threads,
        )

    def outputs(self, kind: str, block: Weights, images: slice = slice(None)) -> Tensor:
        return self._outputs(kind, block, images, None)

    def watch_teacher(self, large: Weights) -> Tensor:
        self._large = on_huge_pages(
            self._frozen.count * self.images * CHANNELS * READ_AREA * lanes()
        )
        return self._outputs("large", large, slice(None), _address(self._large))

    def _outputs(self, kind: str, block: Weights, images: slice, kept: int | None) -> Tensor:
        run = _function("shown_outputs", kind)
        packed, (first, count) = packed_block(kind, block), self._range(images)
        logits = torch.empty(packed.count, count, CLASSES, lanes())
        run(
            packed.count,
            _address(packed.values),
            *self._kept(),
            first,
            count,
            _address(logits),
            kept,
            self.threads,
        )
        return logits.permute(0, 3, 1, 2).flatten(0, 1)[: packed.networks]

    def fit_second_convolution(
        self, kind: str, block: Weights, images: slice, decay: float
    ) -> Tensor:
        run = _function("nearest", kind)
        packed, (first, count) = packed_block(kind, block), self._range(images)
        found = torch.empty(packed.count, CHANNELS, HIDDEN, 3, 3, lanes())
        run(
            packed.count,
            _address(packed.values),
            *self._kept(),
            first,
            count,
            _address(self._large),
            decay,
            _address(found),
            self.threads,
        )
        return found.movedim(-1, 1).flatten(0, 1)[: packed.networks]

    def whitening(self, kind: str, block: Weights, images: slice, damping: float) -> Weights:
        run = _function("whitening", kind)
        packed, (first, count) = packed_block(kind, block), self._range(images)
        sizes = {"conv1.weight": CHANNELS * 9, "conv2.weight": HIDDEN * 9}
        found = torch.empty(packed.count, sum(s * s for s in sizes.values()), lanes())
        run(
            packed.count,
            _address(packed.values),
            *self._kept(),
            first,
            count,
            damping,
            _address(found),
            self.threads,
        )
        found = found.transpose(1, 2).flatten(0, 1)[: packed.networks]
        parts = found.split([size * size for size in sizes.values()], 1)
        return {n: p.unflatten(1, (sizes[n], -1)) for n, p in zip(sizes, parts, strict=True)}

    def score_subsets(
        self, wide: Weights, kept: Tensor, metric: Tensor, images: slice, decay: float
    ) -> Tensor:
        first, count = self._range(images)
        none = torch.zeros(len(wide["conv1.weight"]), CHANNELS)
        biases = {f"conv{i}.bias": wide.get(f"conv{i}.bias", none) for i in (1, 2)}
        packed = Packs(["conv1.weight", *biases], wide | biases)
        weighed = Packs(["metric"], {"metric": metric})
        kept = kept.to(torch.int32).contiguous()
        explained = torch.empty(packed.count, len(kept), lanes())
        library().kt_choices(
            packed.count,
            _address(packed.values),
            *self._kept(),
            first,
            count,
            _address(self._large),
            _address(kept),
            len(kept),
            _address(weighed.values),
            decay,
            _address(explained),
            self.threads,
        )
        return explained.transpose(1, 2).flatten(0, 1)[: packed.networks]

    def behaviour(
        self, kind: str, block: Weights, targets: Tensor, images: slice = slice(None)
    ) -> tuple[Tensor, Weights]:
        run = _function("behaviour", kind)
        packed, (first, count) = packed_block(kind, block), self._range(images)
        assert targets.shape[1:] == (count, CLASSES), targets.shape
        wanted = Packs(["targets"], {"targets": targets})
        gradient = torch.empty_like(packed.values)
        losses = torch.empty(packed.count, lanes())
        run(
            packed.count,
            _address(packed.values),
            *self._kept(),
            first,
            count,
            _address(wanted.values),
            _address(gradient),
            _address(losses),
            self.threads,
        )
        return losses.flatten()[: packed.networks], packed.unpacked(gradient)

    def _kept(self) -> tuple[int, int, int]:
        return _address(self._around), _address(self._maps), self.images

    def _range(self, images: slice) -> tuple[int, int]:
        first, stop, step = images.indices(self.images)
        assert step == 1 and first < stop, images
        return first, stop - first


def _function(name: str, kind: str):
    """The library's `name` for blocks of `kind`."""
    try:
        return getattr(library(), f"kt_{name}_{kind}")
    except AttributeError:
        raise KTError(f"the cpu engine has no {name!r} for {kind!r} blocks: use torch's") from None


def _address(tensor: Tensor) -> int:
    assert tensor.is_contiguous()
    return tensor.data_ptr()
