"""Weights as the compiled engine reads them: packs of networks, one in each SIMD lane."""

import contextlib
import ctypes
import functools
import mmap
from collections.abc import Iterable

import torch
from torch import Tensor

from kt.networks.blocks import CLASSES, Network, block_shapes, skeleton, weights
from kt.networks.weights import Weights, prefixed

Batches = Iterable[tuple[Tensor, Tensor]]
"""(images (B, 1, 28, 28) in [0, 1], labels (B,)), the same for all networks."""


def packed_block(library: ctypes.CDLL, kind: str, block: Weights) -> "Packs":
    packed = Packs(library, tensor_names(kind), block)
    check_layout(library, f"{kind}_weights", packed)
    return packed


@functools.cache
def tensor_names(what: str) -> list[str]:
    """Tensors of a network or of a kind of block, learned ones before running statistics.

    That is the order of the C++ structs.
    """
    names = weights(skeleton(Network)) if what == "network" else block_shapes(what)
    return sorted(names, key=is_statistic)


def is_statistic(name: str) -> bool:
    return "running_" in name


class Packs:
    """Stacked tensors {name: (N, ...)} as packs of as many networks as the library has lanes.

    `values` is (packs, elements, lanes): the named tensors one after another, networks innermost.
    The last pack is filled up with copies of the last network.
    """

    def __init__(self, library: ctypes.CDLL, names: list[str], stacked: Weights) -> None:
        self.shapes = {name: stacked[name].shape[1:] for name in names}
        self.networks = len(stacked[names[0]])
        self.lanes = library.kt_lanes()
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


def packed_frozen(library: ctypes.CDLL, former: Weights, latter: Weights) -> Packs:
    both = prefixed("former", former) | prefixed("latter", latter)
    names = [n for n in tensor_names("network") if not n.startswith("block.")]
    packed = Packs(library, names, both)
    check_layout(library, "frozen_weights", packed)
    return packed


def check_layout(library: ctypes.CDLL, layout: str, packed: Packs) -> None:
    """The C++ structs and the names here describe the same layout."""
    expected = (getattr(library, f"kt_{layout}")(), packed.lanes)
    assert packed.values.shape[1:] == expected, (layout, packed.values.shape, expected)


def checked_batches(batches: Batches) -> Batches:
    """The batches as the C++ side reads them."""
    for images, labels in batches:
        assert labels.dtype == torch.int64 and len(labels) == len(images)
        assert labels.min() >= 0 and labels.max() < CLASSES, labels
        yield checked_images(images), labels.contiguous()


def checked_images(images: Tensor) -> Tensor:
    assert images.dtype == torch.float32
    return images.contiguous()


def on_huge_pages(count: int) -> Tensor:
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
