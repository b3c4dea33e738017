"""Many networks at once in compiled C++: side by side, one per SIMD lane.

The functions mirror `kt.ensemble.torch_engine`. The library is `kt.ensemble.cpu_library`'s.

A network's result is the same to the last bit whichever networks are trained beside it, whatever
the number of threads, and on all processors with fused multiply-adds: a lane does the same
operations in the same order, and a pack of networks is computed by one thread.
"""

import contextlib
import functools
import mmap
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from kt.ensemble.cpu_library import KINDS, lanes, library
from kt.ensemble.cpu_library import available as available
from kt.ensemble.cpu_library import forget as forget
from kt.ensemble.cpu_library import reason as reason
from kt.ensemble.cpu_library import sources as sources
from kt.networks.blocks import (
    CHANNELS,
    CLASSES,
    HIDDEN,
    IMAGE_SIZE,
    Network,
    block_shapes,
    skeleton,
    weights,
)
from kt.networks.weights import Weights
from kt.run.errors import KTError

Batches = Iterable[tuple[Tensor, Tensor]]
"""(images (B, 1, 28, 28) in [0, 1], labels (B,)), the same for all networks."""

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
    names = _names("network")
    trained = _Packs([n for n in names if not _is_statistic(n)], initial)
    statistics = _Packs([n for n in names if _is_statistic(n)], initial)
    momenta = torch.zeros_like(trained.values)
    _check("network_weights", trained)
    _check("network_statistics", statistics)
    memory = torch.empty(0)

    def now() -> Weights:
        learned = trained.unpacked(trained.values.clone())
        return learned | statistics.unpacked(statistics.values.clone())

    kept = []
    for step, (images, labels) in enumerate(_checked(batches), 1):
        needed = threads * library().kt_step1_memory(len(labels)) * lanes()
        if memory.numel() < needed:
            memory = _on_huge_pages(needed)
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
    trained, frozen = _block(kind, initial), _frozen(former, latter)
    momenta = torch.zeros_like(trained.values)
    for images, labels in _checked(batches):
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
    packed, frozen = _block(kind, block), _frozen(former, latter)
    for batch in map(_checked_images, images):
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


class Shown:
    """Networks that have been shown images. See `kt.ensemble.Shown`."""

    def __init__(self, former: Weights, latter: Weights, images: Tensor, threads: int = 1) -> None:
        """Raises KTError: the engine is not available here."""
        library()
        images = _checked_images(images)
        self.images, self.threads = len(images), threads
        self._frozen = _frozen(former, latter)
        packs = self._frozen.count
        self._around = torch.empty(packs, library().kt_around(), lanes())
        self._maps = _on_huge_pages(packs * len(images) * library().kt_map() * lanes())
        library().kt_show(
            packs,
            _address(self._frozen.values),
            _address(images),
            len(images),
            _address(self._around),
            _address(self._maps),
            threads,
        )

    def outputs(self, kind: str, block: Weights, chosen: slice = slice(None)) -> Tensor:
        return self._outputs(kind, block, chosen, None)

    def follow(self, large: Weights) -> Tensor:
        self._large = _on_huge_pages(
            self._frozen.count * self.images * CHANNELS * READ_AREA * lanes()
        )
        return self._outputs("large", large, slice(None), _address(self._large))

    def _outputs(self, kind: str, block: Weights, chosen: slice, kept: int | None) -> Tensor:
        run = _function("shown_outputs", kind)
        packed, (first, count) = _block(kind, block), self._range(chosen)
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

    def nearest(self, kind: str, block: Weights, chosen: slice, decay: float) -> Tensor:
        run = _function("nearest", kind)
        packed, (first, count) = _block(kind, block), self._range(chosen)
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

    def whitening(self, kind: str, block: Weights, chosen: slice, damping: float) -> Weights:
        run = _function("whitening", kind)
        packed, (first, count) = _block(kind, block), self._range(chosen)
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

    def choices(
        self, wide: Weights, kept: Tensor, metric: Tensor, chosen: slice, decay: float
    ) -> Tensor:
        first, count = self._range(chosen)
        none = torch.zeros(len(wide["conv1.weight"]), CHANNELS)
        biases = {f"conv{i}.bias": wide.get(f"conv{i}.bias", none) for i in (1, 2)}
        packed = _Packs(["conv1.weight", *biases], wide | biases)
        metric = _Packs(["metric"], {"metric": metric})
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
            _address(metric.values),
            decay,
            _address(explained),
            self.threads,
        )
        return explained.transpose(1, 2).flatten(0, 1)[: packed.networks]

    def behaviour(
        self, kind: str, block: Weights, targets: Tensor, chosen: slice = slice(None)
    ) -> tuple[Tensor, Weights]:
        run = _function("behaviour", kind)
        packed, (first, count) = _block(kind, block), self._range(chosen)
        assert targets.shape[1:] == (count, CLASSES), targets.shape
        wanted = _Packs(["targets"], {"targets": targets})
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

    def _range(self, chosen: slice) -> tuple[int, int]:
        first, stop, step = chosen.indices(self.images)
        assert step == 1 and first < stop, chosen
        return first, stop - first


def _function(name: str, kind: str):
    """The library's `name` for blocks of `kind`."""
    try:
        return getattr(library(), f"kt_{name}_{kind}")
    except AttributeError:
        raise KTError(f"the cpu engine has no {name!r} for {kind!r} blocks: use torch's") from None


def _block(kind: str, block: Weights) -> "_Packs":
    packed = _Packs(_names(kind), block)
    _check(f"{kind}_weights", packed)
    return packed


@functools.cache
def _names(what: str) -> list[str]:
    """Tensors of a network or of a kind of block, learned ones before running statistics.

    That is the order of the C++ structs.
    """
    names = weights(skeleton(Network)) if what == "network" else block_shapes(what)
    return sorted(names, key=_is_statistic)


def _is_statistic(name: str) -> bool:
    return "running_" in name


class _Packs:
    """Stacked tensors {name: (N, ...)} as packs of as many networks as there are lanes.

    `values` is (packs, elements, lanes): the named tensors one after another, networks innermost.
    The last pack is filled up with copies of the last network.
    """

    def __init__(self, names: list[str], stacked: Weights) -> None:
        self.shapes = {name: stacked[name].shape[1:] for name in names}
        self.networks = len(stacked[names[0]])
        self.lanes = lanes()
        self.count = -(-self.networks // self.lanes)
        sizes = [shape.numel() for shape in self.shapes.values()]
        self.values = torch.empty(self.count, sum(sizes), self.lanes)
        filled = torch.arange(self.count * self.lanes).clamp(max=self.networks - 1)
        for name, values in zip(names, self.values.split(sizes, 1), strict=True):
            flat = stacked[name].flatten(1)
            flat = flat[filled] if self.networks % self.lanes else flat
            values.copy_(flat.view(self.count, self.lanes, -1).transpose(1, 2))
        assert self.values.data_ptr() % 64 == 0  # PyTorch's alignment, which vectors rely on

    def unpacked(self, values: Tensor | None = None) -> Weights:
        """Stacked again, in the order of the names; `values` may be others in the same layout."""
        flat = (
            (self.values if values is None else values)
            .transpose(1, 2)
            .flatten(0, 1)[: self.networks]
        )
        parts = flat.split([shape.numel() for shape in self.shapes.values()], 1)
        return {
            name: part.reshape(self.networks, *shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }


def _frozen(former: Weights, latter: Weights) -> _Packs:
    both = {f"former.{k}": v for k, v in former.items()}
    both |= {f"latter.{k}": v for k, v in latter.items()}
    names = [n for n in _names("network") if not n.startswith("block.")]
    packed = _Packs(names, both)
    _check("frozen_weights", packed)
    return packed


def _check(layout: str, packed: _Packs) -> None:
    """The C++ structs and the names here describe the same layout."""
    expected = getattr(library(), f"kt_{layout}")()
    assert packed.values.shape[1:] == (expected, lanes()), (layout, packed.values.shape, expected)


def _checked(batches: Batches) -> Batches:
    """The batches as the C++ side reads them."""
    for images, labels in batches:
        assert labels.dtype == torch.int64 and len(labels) == len(images)
        assert labels.min() >= 0 and labels.max() < CLASSES, labels
        yield _checked_images(images), labels.contiguous()


def _checked_images(images: Tensor) -> Tensor:
    assert images.dtype == torch.float32
    assert images.shape[1:] == (1, IMAGE_SIZE, IMAGE_SIZE), images.shape
    return images.contiguous()


def _on_huge_pages(count: int) -> Tensor:
    """Room for floats, on huge pages where Linux grants them.

    Step 1 streams through tens of megabytes again and again, which small pages slow by some
    percent, more in virtual machines.
    """
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(count)
    memory = mmap.mmap(-1, 4 * count, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without them
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.float32)


def _address(tensor: Tensor) -> int:
    assert tensor.is_contiguous()
    return tensor.data_ptr()
