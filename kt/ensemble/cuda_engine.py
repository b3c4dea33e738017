"""Many networks at once in Triton kernels on a GPU: a network a lane, 32 side by side in a warp.

The functions mirror `kt.ensemble.torch_engine`; the kernels are in `kt.ensemble.cuda`, whose
docstring says how they divide the work. A step goes through the network in passes over the batch,
between which batch norm's statistics are formed; the maps between the passes stay in device
memory. Batch norm and ReLU are applied by whoever reads a map, on the way.

A network's result is the same to the last bit whichever networks are trained beside it: lanes
share no arithmetic. Nothing is specific to a GPU but the tiles, so that the same code runs on CPU
tensors in Triton's interpreter (TRITON_INTERPRET=1), slowly.
"""

import importlib.util
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kt.ensemble import torch_engine
from kt.ensemble.cuda_tiles import GPU, INTERPRETED, Tiles
from kt.networks.blocks import PAPER, Sizes
from kt.networks.weights import Weights
from kt.run.errors import KTError

if TYPE_CHECKING:
    from kt.ensemble.cuda.passes import Passes

Batches = Iterable[tuple[Tensor, Tensor]]
"""(images (B, 1, 28, 28) in [0, 1], labels (B,)), the same for all networks."""

KINDS = ("large", "conv")


def supports(kind: str) -> bool:
    """Whether this engine knows the kind of block; `torch_engine` knows them all."""
    return kind in KINDS


def available(sizes: Sizes = PAPER) -> bool:
    """Whether the engine can be used here. See `reason`."""
    return reason(sizes) is None


def reason(sizes: Sizes = PAPER) -> str | None:
    """Why the engine cannot be used here for networks of these sizes, in one line; None if it can.

    Its tiles are laid out for the paper's sizes.
    """
    if sizes != PAPER:
        return f"the cuda engine is not available: it trains networks of {PAPER} only"
    if not torch.cuda.is_available():
        return "the cuda engine is not available: no CUDA device"
    if torch.cuda.get_device_capability() < (8, 0):
        return "the cuda engine is not available: Triton needs compute capability 8.0"
    if importlib.util.find_spec("triton") is None:
        return "the cuda engine is not available: Triton is not installed"
    return None


def require(device: torch.device, sizes: Sizes = PAPER) -> None:
    """See that the engine can be used on the device, for networks of these sizes.

    Raises:
        KTError: it cannot.
    """
    if (why := reason(sizes)) is not None:
        raise KTError(why)
    if device.type != "cuda":
        raise KTError(f"the cuda engine trains on a CUDA device, not on {str(device)!r}")


def sources() -> list[Path]:
    """The kernels' files."""
    return sorted((Path(__file__).parent / "cuda").glob("*.py"))


def train_networks(
    initial: Weights,
    batches: Batches,
    lr: float,
    momentum: float,
    freeze_block: bool = False,
    snapshots: Sequence[int] = (),
    tiles: Tiles | None = None,
) -> Weights:
    """Step 1: train former + large block + latter. See `kt.ensemble.train_networks`.

    Args:
        initial: stacked weights and running statistics of `Network`, {name: (N, ...)}.
        snapshots: numbers of steps after which to keep the networks as they are, S increasing ones.
        tiles: how the work is divided; None: as suits the device.

    Returns:
        {name: ((1 + S) * N, ...)}: the networks in the end, then the snapshots, the latest first.

    Raises:
        KTError: the engine cannot be used here, or the weights are not on a CUDA device.
    """
    trained = ("former", "latter") if freeze_block else ("former", "block", "latter")
    passes = _passes(initial, trained, tiles)

    def now() -> Weights:
        return {name: tensor.clone() for name, tensor in passes.weights(initial).items()}

    kept = []
    for step, (images, labels) in enumerate(batches, 1):
        passes.train(images, labels, lr, momentum)
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
    tiles: Tiles | None = None,
) -> Weights:
    """Step 2: train small blocks between frozen parts. See `kt.ensemble.train_blocks`.

    Raises:
        KTError: as `train_networks`, or this kind of block is not trained here.
    """
    if kind != "conv":
        raise KTError(f"the cuda engine trains 'conv' blocks, not {kind!r}: use the torch engine")
    passes = _passes(_joined(former, initial, latter), ("block",), tiles)
    for images, labels in batches:
        passes.train(images, labels, lr, momentum)
    trained = passes.weights([f"block.{name}" for name in initial])
    return {name.removeprefix("block."): tensor for name, tensor in trained.items()}


def outputs(
    kind: str,
    former: Weights,
    block: Weights,
    latter: Weights,
    images: Iterable[Tensor],
    tiles: Tiles | None = None,
) -> Iterator[Tensor]:
    """Logits (N, B, 10) for every batch of images. See `kt.ensemble.outputs`.

    Raises:
        KTError: as `train_networks`, or this kind of block is not known here.
    """
    if not supports(kind):
        raise KTError(f"the cuda engine evaluates {KINDS}, not {kind!r}: use the torch engine")
    passes = _passes(_joined(former, block, latter), (), tiles)
    for batch in images:
        yield passes.outputs(batch)


Probe = torch_engine.Probe
"""Not among the kernels: plain PyTorch computes it, on the GPU."""


def _joined(former: Weights, block: Weights, latter: Weights) -> Weights:
    parts = {"former": former, "block": block, "latter": latter}
    return {f"{part}.{name}": w for part, named in parts.items() for name, w in named.items()}


def _passes(weights: Weights, trained: tuple[str, ...], tiles: Tiles | None) -> "Passes":
    """The passes over a batch, on these weights' device."""
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if not interpreted:
        require(weights["latter.fc.bias"].device)
    from kt.ensemble.cuda.passes import Passes  # not every platform has Triton

    return Passes(weights, trained, tiles or (INTERPRETED if interpreted else GPU))
