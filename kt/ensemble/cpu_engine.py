"""Many networks at once in compiled C++: sixteen side by side, one per SIMD lane.

The functions mirror `kt.ensemble.torch_engine`. The library is compiled with the system's C++
compiler on first use and kept in the user's cache folder (`$XDG_CACHE_HOME/kt`), under a name that
depends on the sources, the compiler, its flags and the processor. It has a plain C interface and
uses no PyTorch headers, which alone take a minute to compile.

A network's result is the same to the last bit whichever networks are trained beside it and whatever
the number of threads: a lane does the same operations in the same order, and a pack of sixteen is
computed by one thread.
"""

import contextlib
import ctypes
import functools
import hashlib
import mmap
import os
import shlex
import shutil
import subprocess
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor

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

LANES = 16
SOURCES = Path(__file__).parent
FLAGS = [
    *("-std=c++17", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"),
    *("-fPIC", "-shared", "-pthread", "-Wno-psabi"),
]
NATIVE = (["-march=native"], ["-mcpu=native"], [])
"""Ways to ask a compiler for this processor's instructions, the first it knows is taken."""
READ_AREA = 7 * 7
"""Positions that the latter block reads."""
KINDS = ("large", "conv", "conv_bias", "mlp", "attention")


def supports(kind: str) -> bool:
    """Whether this engine knows the kind of block; `torch_engine` knows them all."""
    return kind in KINDS


def available() -> bool:
    """Whether the engine can be used here; the first call compiles it. See `reason`."""
    return reason() is None


def reason() -> str | None:
    """Why the engine cannot be used here, in one line; None if it can."""
    try:
        library()
    except KTError as error:
        return str(error)
    return None


def forget() -> None:
    """Look for the compiler and the library again: the environment has changed."""
    _load.cache_clear()


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
        threads: how many packs of sixteen networks are computed at the same time.

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
        needed = threads * library().kt_step1_memory(len(labels)) * LANES
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
        logits = torch.empty(packed.count, len(batch), CLASSES, LANES)
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
        self._around = torch.empty(packs, library().kt_around(), LANES)
        self._maps = _on_huge_pages(packs * len(images) * library().kt_map() * LANES)
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
            self._frozen.count * self.images * CHANNELS * READ_AREA * LANES
        )
        return self._outputs("large", large, slice(None), _address(self._large))

    def _outputs(self, kind: str, block: Weights, chosen: slice, kept: int | None) -> Tensor:
        run = _function("shown_outputs", kind)
        packed, (first, count) = _block(kind, block), self._range(chosen)
        logits = torch.empty(packed.count, count, CLASSES, LANES)
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
        found = torch.empty(packed.count, CHANNELS, HIDDEN, 3, 3, LANES)
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
        found = torch.empty(packed.count, sum(s * s for s in sizes.values()), LANES)
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
        explained = torch.empty(packed.count, len(kept), LANES)
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
        losses = torch.empty(packed.count, LANES)
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
    """Stacked tensors {name: (N, ...)} as packs of sixteen networks.

    `values` is (packs, elements, 16): the named tensors one after another, networks innermost. The
    last pack is filled up with copies of the last network.
    """

    def __init__(self, names: list[str], stacked: Weights) -> None:
        self.shapes = {name: stacked[name].shape[1:] for name in names}
        self.networks = len(stacked[names[0]])
        self.count = -(-self.networks // LANES)
        sizes = [shape.numel() for shape in self.shapes.values()]
        self.values = torch.empty(self.count, sum(sizes), LANES)
        filled = torch.arange(self.count * LANES).clamp(max=self.networks - 1)
        for name, values in zip(names, self.values.split(sizes, 1), strict=True):
            flat = stacked[name].flatten(1)
            flat = flat[filled] if self.networks % LANES else flat
            values.copy_(flat.view(self.count, LANES, -1).transpose(1, 2))
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
    assert packed.values.shape[1:] == (expected, LANES), (layout, packed.values.shape, expected)


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


# --- the library --------------------------------------------------------------------------------


def library() -> ctypes.CDLL:
    """The compiled library, built if it is not in the cache.

    Raises:
        KTError: there is no C++ compiler, or it does not compile the sources.
    """
    with _loading:
        loaded = _load()
    if isinstance(loaded, str):
        raise KTError(f"the cpu engine is not available: {loaded}")
    return loaded


_loading = threading.Lock()


@functools.cache
def _load() -> ctypes.CDLL | str:
    """The library, or why there is none: tried once in a process."""
    try:
        return _declared(ctypes.CDLL(str(_build())))
    except (KTError, OSError) as error:
        return str(error)


def _declared(loaded: ctypes.CDLL) -> ctypes.CDLL:
    """With the arguments' types, as in cpu_engine.cpp."""
    count, real, address = ctypes.c_int, ctypes.c_float, ctypes.c_void_p
    batch = [address, address, count]
    loaded.kt_step1_memory.restype = ctypes.c_int64
    loaded.kt_train_networks.argtypes = [
        *(count, address, address, address, *batch, real, real, count, address, count)
    ]
    loaded.kt_show.argtypes = [count, address, address, count, address, address, count]
    loaded.kt_choices.argtypes = [
        *(count, address, address, address, count, count, count, address, address, count),
        *(address, real, address, count),
    ]
    for kind in KINDS:
        for name, types in {
            "train": [count, address, address, address, *batch, real, real, count],
            "outputs": [count, address, address, address, count, address, count],
            "shown_outputs": [count, *[address] * 3, count, count, count, address, address, count],
            "nearest": [count, *[address] * 3, *[count] * 3, address, real, address, count],
            "whitening": [count, *[address] * 3, *[count] * 3, real, address, count],
            "behaviour": [count, *[address] * 3, count, count, count, *[address] * 3, count],
        }.items():
            if hasattr(loaded, f"kt_{name}_{kind}"):
                getattr(loaded, f"kt_{name}_{kind}").argtypes = types
    return loaded


def _build() -> Path:
    """The library's path in the cache, compiled if need be, by one process at a time."""
    compiler = _compiler()
    flags, macros = _native(compiler)
    texts = [path.read_bytes() for path in sources()]
    key = hashlib.blake2b(b"\0".join([*texts, macros, " ".join(flags).encode()]), digest_size=8)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kt"
    target = cache / f"cpu_engine-{key.hexdigest()}.so"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_suffix(".lock")):
        if not target.exists():
            partial = target.with_suffix(".partial")
            _run([*compiler, *flags, str(sources()[0]), "-o", str(partial)])
            partial.replace(target)
    return target


def sources() -> list[Path]:
    """The C++ files, the one to compile first."""
    return [SOURCES / "cpu_engine.cpp", *sorted((SOURCES / "cpu").glob("*.h"))]


def _compiler() -> list[str]:
    """The system's C++ compiler: $CXX, which may carry flags, or the first that is found."""
    for candidate in (os.environ.get("CXX", ""), "c++", "g++", "clang++"):
        command = shlex.split(candidate)
        if command and shutil.which(command[0]):
            return command
    raise KTError("no C++ compiler found ($CXX, c++, g++, clang++)")


def _native(compiler: list[str]) -> tuple[list[str], bytes]:
    """Flags for this processor, and the compiler's macros under them.

    The macros name the compiler's version and every instruction set that it may use, so that a
    cache shared between machines never mixes their libraries.
    """
    for native in NATIVE:
        flags = [*FLAGS, *native]
        try:
            return flags, _run([*compiler, *flags, "-dM", "-E", "-x", "c++", os.devnull])
        except KTError as error:
            failure = error
    raise failure


def _run(command: list[str]) -> bytes:
    done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").splitlines()
        why = next((line for line in lines if "error" in line), f"exit status {done.returncode}")
        raise KTError(f"{command[0]} failed: {why.strip()}")
    return done.stdout
