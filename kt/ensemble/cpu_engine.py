"""Many networks at once in compiled C++: side by side, one per SIMD lane.

The functions mirror `kt.ensemble.torch_engine`. The library is `kt.ensemble.cpu_library`'s.

A network's result is the same to the last bit whichever networks are trained beside it, whatever
the number of threads, and on all processors with fused multiply-adds: a lane does the same
operations in the same order, and a pack of networks is computed by one thread.
"""

import ctypes
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice

import torch
from torch import Tensor

from kt.ensemble.cpu_library import KINDS, library, network_library
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
from kt.networks.blocks import CLASSES, CONVOLUTIONAL, Sizes, sizes_of
from kt.networks.weights import Weights, prefixed
from kt.run.errors import KTError


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
    batches, image_size = _looked_ahead(batches)
    compiled = network_library(sizes_of(initial, image_size))
    names = tensor_names("network")
    trained = Packs(compiled, [n for n in names if not is_statistic(n)], initial)
    statistics = Packs(compiled, [n for n in names if is_statistic(n)], initial)
    momenta = torch.zeros_like(trained.values)
    check_layout(compiled, "network_weights", trained)
    check_layout(compiled, "network_statistics", statistics)
    memory = torch.empty(0)

    def now() -> Weights:
        learned = trained.unpacked(trained.values.clone())
        return learned | statistics.unpacked(statistics.values.clone())

    kept = []
    for step, (images, labels) in enumerate(batches, 1):
        needed = threads * compiled.kt_step1_memory(len(labels)) * trained.lanes
        if memory.numel() < needed:
            memory = on_huge_pages(needed)
        compiled.kt_train_networks(
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
    batches, image_size = _looked_ahead(batches)
    compiled = _library_for(_sizes(former, image_size, initial), kind)
    step = _function(compiled, "train", kind)
    trained = packed_block(compiled, kind, initial)
    frozen = packed_frozen(compiled, former, latter)
    momenta = torch.zeros_like(trained.values)
    for images, labels in batches:
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
    images = map(checked_images, images)
    first = next(images)
    compiled = _library_for(_sizes(former, first.shape[-1], block), kind)
    run = _function(compiled, "outputs", kind)
    packed = packed_block(compiled, kind, block)
    frozen = packed_frozen(compiled, former, latter)
    for batch in chain([first], images):
        logits = torch.empty(packed.count, len(batch), CLASSES, packed.lanes)
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
        images = checked_images(images)
        self._sizes = _sizes(former, images.shape[-1])
        compiled = network_library(self._sizes)
        self.images, self.threads = len(images), threads
        self._frozen = packed_frozen(compiled, former, latter)
        packs, lanes = self._frozen.count, self._frozen.lanes
        self._around = torch.empty(packs, compiled.kt_around(), lanes)
        self._maps = on_huge_pages(packs * len(images) * compiled.kt_map() * lanes)
        compiled.kt_show(
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
        read = self._sizes.channels * self._sizes.read_size**2
        self._large = on_huge_pages(self._frozen.count * self.images * read * self._frozen.lanes)
        return self._outputs("large", large, slice(None), _address(self._large))

    def _outputs(self, kind: str, block: Weights, images: slice, kept: int | None) -> Tensor:
        run, packed = self._ready("shown_outputs", kind, block)
        first, count = self._range(images)
        logits = torch.empty(packed.count, count, CLASSES, packed.lanes)
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
        run, packed = self._ready("nearest", kind, block)
        first, count = self._range(images)
        found = torch.empty(packed.count, *packed.shapes["conv2.weight"], packed.lanes)
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
        run, packed = self._ready("whitening", kind, block)
        first, count = self._range(images)
        sizes = {name: packed.shapes[name][1:].numel() for name in ("conv1.weight", "conv2.weight")}
        found = torch.empty(packed.count, sum(s * s for s in sizes.values()), packed.lanes)
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
        compiled = library(replace(self._sizes, hidden=kept.shape[1]))
        packed = _candidates(compiled, wide)
        weighed = Packs(compiled, ["metric"], {"metric": metric})
        kept = kept.to(torch.int32).contiguous()
        explained = torch.empty(packed.count, len(kept), packed.lanes)
        compiled.kt_choices(
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

    def equations(self, wide: Weights, images: slice) -> tuple[Tensor, Tensor]:
        compiled, (first, count) = network_library(self._sizes), self._range(images)
        packed = _candidates(compiled, wide)
        channels, taps = self._sizes.channels, wide["conv1.weight"][0, 0].numel()
        found = torch.empty(packed.count, taps, taps + channels, packed.lanes)
        compiled.kt_equations(
            packed.count,
            _address(packed.values),
            *self._kept(),
            first,
            count,
            _address(self._large),
            _address(found),
            self.threads,
        )
        found = found.movedim(-1, 1).flatten(0, 1)[: packed.networks]
        upper = found[:, :, :taps].triu()
        return upper + upper.mT - torch.diag_embed(upper.diagonal(dim1=1, dim2=2)), found[
            :, :, taps:
        ]

    def behaviour(
        self, kind: str, block: Weights, targets: Tensor, images: slice = slice(None)
    ) -> tuple[Tensor, Weights]:
        run, packed = self._ready("behaviour", kind, block)
        first, count = self._range(images)
        assert targets.shape[1:] == (count, CLASSES), targets.shape
        wanted = Packs(self._library(kind, block), ["targets"], {"targets": targets})
        gradient = torch.empty_like(packed.values)
        losses = torch.empty(packed.count, packed.lanes)
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

    def _library(self, kind: str, block: Weights) -> ctypes.CDLL:
        return _library_for(_with_hidden(self._sizes, block), kind)

    def _ready(self, name: str, kind: str, block: Weights) -> tuple[Callable, Packs]:
        compiled = self._library(kind, block)
        return _function(compiled, name, kind), packed_block(compiled, kind, block)

    def _kept(self) -> tuple[int, int, int]:
        return _address(self._around), _address(self._maps), self.images

    def _range(self, images: slice) -> tuple[int, int]:
        first, stop, step = images.indices(self.images)
        assert step == 1 and first < stop, images
        return first, stop - first


def _candidates(compiled: ctypes.CDLL, wide: Weights) -> Packs:
    """Hidden channels to choose from, with biases, zero if they have none."""
    none = wide["conv1.weight"].new_zeros(wide["conv1.weight"].shape[:2])
    biases = {f"conv{i}.bias": wide.get(f"conv{i}.bias", none) for i in (1, 2)}
    return Packs(compiled, ["conv1.weight", *biases], wide | biases)


def _sizes(former: Weights, image_size: int | None, block: Weights | None = None) -> Sizes:
    return sizes_of(prefixed("former", former), image_size, block)


def _with_hidden(sizes: Sizes, block: Weights) -> Sizes:
    """With as many hidden channels as a convolutional block has; others have none."""
    weight = block.get("conv1.weight")
    return sizes if weight is None else replace(sizes, hidden=weight.shape[1])


def _looked_ahead(batches: Batches) -> tuple[Batches, int | None]:
    """Checked batches, and the side of their images; None if there are none."""
    checked = iter(checked_batches(batches))
    first = list(islice(checked, 1))
    return chain(first, checked), first[0][0].shape[-1] if first else None


def _library_for(sizes: Sizes, kind: str) -> ctypes.CDLL:
    """The library of these sizes; for blocks without hidden channels of their own, one like it."""
    return library(sizes) if kind in CONVOLUTIONAL else network_library(sizes)


def _function(compiled: ctypes.CDLL, name: str, kind: str) -> Callable:
    """The library's `name` for blocks of `kind`."""
    try:
        return getattr(compiled, f"kt_{name}_{kind}")
    except AttributeError:
        raise KTError(f"the cpu engine has no {name!r} for {kind!r} blocks: use torch's") from None


def _address(tensor: Tensor) -> int:
    assert tensor.is_contiguous()
    return tensor.data_ptr()
