"""The store of generated networks: a few safetensors shards with a manifest and checksums.

A store is a folder. Its tensors are float32, stacked over networks, (N, ...), and named by part:
`former.*`, `large.*`, `small.*` and `latter.*`. A shard is filled in while its networks arrive, and
read through a memory map, so memory stays flat however many there are.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Collection, Iterable, Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kt.networks.weights import Weights, network_count, take
from kt.run.errors import KTError
from kt.run.files import (
    check_output,
    damaged,
    load_tensors,
    not_written,
    problem,
    read_bytes,
    reading,
    sync,
    writing,
)
from kt.run.finite import require_finite
from kt.run.strict_json import parsed

MANIFEST = "manifest.json"
SHARD_SIZE = 65536
"""Networks in a shard; about 1.8 GB of complete pairs."""


def check_store(folder: Path) -> None:
    """Before the work begins: can a store be written there?

    Raises:
        KTError: it cannot: there is a file, writing is not allowed, or there is no room.
    """
    check_output(folder.with_name(f".{folder.name}.trial"))
    if folder.is_file():
        raise not_written(folder, FileExistsError(errno.EEXIST, "File exists"))


def write_store(
    folder: Path, parts: Iterable[Weights], count: int, about: dict, shard_size: int = SHARD_SIZE
) -> None:
    """Write a new store from stacked parts of any sizes, streaming.

    Args:
        folder: where the store is written; it appears whole or not at all.
        parts: weights stacked over a few networks each, in order.
        count: networks in all parts together; the shards' sizes follow from it beforehand.
        about: what the networks are, kept in the manifest.
        shard_size: networks in a shard, but for the last one.

    Raises:
        NotFiniteError: weights are not finite.
        KTError: the store cannot be written.
        ValueError: the parts do not hold `count` networks.
    """
    building = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(building, ignore_errors=True)
    with writing(building):
        building.unlink(missing_ok=True)  # no folder, but a file or a link
        building.mkdir(parents=True)
    pieces = _cut(parts, shard_size)
    try:
        shards = [
            _write_shard(building / f"{i:05d}.safetensors", pieces, min(shard_size, count - at))
            for i, at in enumerate(range(0, count, shard_size))
        ]
        if next(pieces, None) is not None:
            raise ValueError(f"the parts hold more than {count} networks")
        manifest = {"count": count, "shards": shards, "about": about}
        manifest["sha256"] = _seal(manifest)
        with writing(folder):
            (building / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
            if folder.is_symlink():  # what it leads to is not this store's
                folder.unlink()
            shutil.rmtree(folder, ignore_errors=True)
            building.replace(folder)
        sync(folder.parent)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _seal(manifest: dict) -> str:
    """SHA-256 of what a manifest says beside its own checksum."""
    said = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _cut(parts: Iterable[Weights], shard_size: int) -> Iterator[Weights]:
    """The same networks, cut so that no piece belongs to two shards."""
    seen = 0
    for part in parts:
        size, at = network_count(part), 0
        while at < size:
            stop = min(size, at + shard_size - seen % shard_size)
            yield take(part, slice(at, stop))
            seen, at = seen + stop - at, stop


def _write_shard(path: Path, pieces: Iterator[Weights], count: int) -> dict:
    """Fill a safetensors file with the next `count` networks; returns its entry in the manifest.

    The header is written first, then every piece's tensors at their places, by plain writes: a full
    disk is an error then, where it would kill a process that writes through a memory map.
    """
    filled, size = 0, 0
    place: dict[str, int] = {}
    digests = {}
    with writing(path):
        file = path.open("wb", buffering=0)
    with file:
        while filled < count:
            piece = next(pieces, None)
            if piece is None or filled + network_count(piece) > count:
                raise ValueError(f"the parts do not end at {path.name}'s {count} networks")
            if not place:
                shapes = {name: (count, *piece[name].shape[1:]) for name in sorted(piece)}
                header, place, size = _header(shapes)
                digests = {name: hashlib.sha256() for name in place}
                with writing(path):
                    _write_all(file, header)
            require_finite(piece, f"{path.parent.name} is not written")
            for name in place:
                data = piece[name].contiguous().numpy().reshape(-1).view("uint8").data
                digests[name].update(data)
                with writing(path):
                    file.seek(place[name])
                    _write_all(file, data)
                place[name] += len(data)
            filled += network_count(piece)
        with writing(path):
            os.fsync(file.fileno())
    sums = {name: digest.hexdigest() for name, digest in digests.items()}
    return {"file": path.name, "count": count, "bytes": size, "sha256": sums}


def _header(shapes: dict[str, tuple[int, ...]]) -> tuple[bytes, dict[str, int], int]:
    """The head of a safetensors file of float32 tensors, where each begins, and the file's size."""
    entries: dict[str, dict[str, Any]] = {}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * prod(shape)
        entries[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text
    return head, {n: len(head) + e["data_offsets"][0] for n, e in entries.items()}, len(head) + end


def _write_all(file, data: bytes | memoryview) -> None:
    """Write to an unbuffered file, which may accept only part of the data at a time."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


class Rows:
    """A tensor (N, ...) that lies in memory-mapped pieces: only the rows asked for are read.

    Attributes:
        pieces: of it, each (n, ...), in order.
    """

    def __init__(self, pieces: list[Tensor]) -> None:
        self.pieces = pieces
        self._ends = np.cumsum([len(piece) for piece in pieces])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        """Copies of the rows at `index`: (n,) int64 on the CPU, or a slice without a step.

        Raises:
            IndexError: an index is negative or beyond the last row.
        """
        starts = [int(end) - len(p) for end, p in zip(self._ends, self.pieces, strict=True)]
        placed = list(zip(starts, self.pieces, strict=True))
        if isinstance(index, slice):
            first, stop, _ = index.indices(len(self))
            return torch.cat([p[max(first - at, 0) : max(stop - at, 0)] for at, p in placed])
        # NumPy copies faster: PyTorch's threads wait for one another on a busy machine.
        wanted = index.numpy()
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < len(self):
            raise IndexError(f"rows {wanted.min()} to {wanted.max()} of {len(self)}")
        shard = np.searchsorted(self._ends, wanted, side="right")
        rows = np.empty((len(wanted), *self.pieces[0].shape[1:]), np.float32)
        for number, (at, piece) in enumerate(placed):
            (here,) = np.nonzero(shard == number)
            rows[here] = piece.numpy()[wanted[here] - at]
        return torch.from_numpy(rows)

    def to(self, device: torch.device) -> "Tensor | Rows":
        """All rows on another device; on the CPU they stay where they are, in the files."""
        if device.type == "cpu":
            return self
        return torch.cat([piece.to(device) for piece in self.pieces])


class Pairs:
    """A store opened for reading.

    Its manifest and its files' sizes are verified here; the checksum of a tensor when it is first
    mapped or read, so that large stores open at once and nothing is used unverified.

    Attributes:
        about: what the networks are, from the manifest.
        checksum: SHA-256 of the manifest, and so of all that is in the store.

    Args:
        remedy: what to do about a store that is missing or damaged, behind its errors.

    Raises:
        KTError: the store is missing, incomplete or damaged.
    """

    def __init__(self, folder: Path, remedy: str = "") -> None:
        self.folder, self.remedy = Path(folder), remedy
        self._maps: dict[str, Weights] = {}
        if not os.path.exists(self.folder):
            raise problem(self.folder, "is missing", remedy)
        text = read_bytes(self.folder / MANIFEST, remedy)
        with reading(self.folder / MANIFEST, remedy):
            manifest = _checked_manifest(parsed(text.decode()))
        self._shards: list[dict] = manifest["shards"]
        self._count: int = manifest["count"]
        self.about: dict = manifest["about"]
        self.checksum = hashlib.sha256(text).hexdigest()
        for shard in self._shards:
            path = self.folder / shard["file"]
            if not path.is_file() or path.stat().st_size != shard["bytes"]:
                raise self._damaged(
                    path, "it is missing or has another size than the manifest says"
                )

    def __len__(self) -> int:
        return self._count

    def read(
        self, *parts: str, first: int | None = None, optional: Collection[str] = ()
    ) -> Weights:
        """The tensors of the named parts ("large", "small", ...), stacked over all networks.

        Args:
            parts: prefixes of tensor names; none for all.
            first: read only that many networks from the start.
            optional: parts that need not be there.

        Raises:
            KTError: a part is not in the store, or a tensor's checksum is not the manifest's.
        """
        mapped = self.mapped(*parts, first=first, optional=optional)
        return {name: rows[:] for name, rows in mapped.items()}

    def mapped(
        self, *parts: str, first: int | None = None, optional: Collection[str] = ()
    ) -> dict[str, Rows]:
        """Like `read`, but the rows stay in the files until they are asked for.

        Raises:
            KTError: a part is not in the store, or a tensor's checksum is not the manifest's.
        """
        there = {name.split(".")[0] for name in self._shards[0]["sha256"]}
        if absent := set(parts) - there - set(optional):
            what = f"holds no {min(absent)!r} blocks; it has {', '.join(sorted(there))}"
            raise problem(self.folder, what, self.remedy)
        limit = len(self) if first is None else min(first, len(self))
        pieces: dict[str, list[Tensor]] = {}
        for shard in self._shards:
            if limit <= 0:
                break
            names = [n for n in shard["sha256"] if not parts or n.split(".")[0] in parts]
            for name, tensor in self._map(shard, names).items():
                pieces.setdefault(name, []).append(tensor[:limit])
            limit -= shard["count"]
        return {name: Rows(tensors) for name, tensors in pieces.items()}

    def require(self, count: int) -> None:
        """Refuse a store that holds fewer networks than are needed.

        Raises:
            KTError: it does.
        """
        if len(self) < count:
            what = f"holds {len(self):,} networks, but {count:,} are needed"
            raise problem(self.folder, what, self.remedy)

    def _map(self, shard: dict, names: list[str]) -> Weights:
        path = self.folder / shard["file"]
        maps = self._maps.setdefault(shard["file"], {})
        if new := [name for name in names if name not in maps]:
            for name, tensor in load_tensors(path, new, self.remedy).items():
                if tensor.dtype != torch.float32 or tensor.shape[:1] != (shard["count"],):
                    found = f"{name} is {tensor.dtype} of shape {tuple(tensor.shape)}"
                    raise self._damaged(path, f"{found}, not float32 of {shard['count']} networks")
                if hashlib.sha256(tensor.numpy().data).hexdigest() != shard["sha256"][name]:
                    raise self._damaged(path, f"the checksum of {name} is not the manifest's")
                first = next((m[name] for m in self._maps.values() if name in m), tensor)
                if first.shape[1:] != tensor.shape[1:]:
                    raise self._damaged(path, f"{name} has another shape than in other shards")
                maps[name] = tensor
        return {name: maps[name] for name in names}

    def _damaged(self, path: Path, how: str) -> KTError:
        return damaged(path, how, self.remedy)


def _checked_manifest(manifest: Any) -> dict:
    """A manifest as `write_store` writes it.

    Raises:
        ValueError: it says something else.
    """

    def require(right: bool, what: str) -> None:
        if not right:
            raise ValueError(what)

    def is_count(value: Any) -> bool:
        return type(value) is int and value >= 1

    require(isinstance(manifest, dict), "it is no mapping")
    shards, about = manifest.get("shards"), manifest.get("about")
    require(isinstance(about, dict), "about is no mapping")
    require(isinstance(shards, list) and len(shards) > 0, "there are no shards")
    for number, shard in enumerate(shards):
        place = f"shards.{number}"
        require(isinstance(shard, dict), f"{place} is no mapping")
        require(shard.get("file") == f"{number:05d}.safetensors", f"{place}.file is another name")
        require(is_count(shard.get("count")), f"{place}.count is no count")
        require(is_count(shard.get("bytes")), f"{place}.bytes is no count")
        sums = shard.get("sha256")
        require(isinstance(sums, dict) and len(sums) > 0, f"{place}.sha256 is no mapping")
        require(all(isinstance(s, str) for s in sums.values()), f"{place}.sha256 holds no text")
        require(sums.keys() == shards[0]["sha256"].keys(), f"{place} has other tensors")
    whole = sum(shard["count"] for shard in shards)
    require(
        is_count(manifest.get("count")) and manifest["count"] == whole,
        f"count is {manifest.get('count')!r}, but the shards hold {whole} networks",
    )
    require(manifest.get("sha256") == _seal(manifest), "its checksum is another")
    return manifest
