"""The store of generated networks: a few safetensors shards with a manifest and checksums.

A store is a folder. Its tensors are stacked over networks, (N, ...), and named by part:
`former.*`, `large.*`, `small.*` and `latter.*`. Shards are written one at a time, so memory stays
flat, and read through memory maps.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from kt.errors import KTError

Weights = dict[str, Tensor]
MANIFEST = "manifest.json"
SHARD_SIZE = 4096
"""Networks in a shard; about 115 MB of complete pairs."""


def save(path: Path, tensors: Weights, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file atomically: after a crash it is there whole or not at all.

    Raises:
        KTError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        save_file({name: t.contiguous() for name, t in tensors.items()}, partial, metadata)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except SafetensorError as error:  # a full disk, above all
        raise KTError(f"{path} could not be written ({error}): make room and run again") from None
    finally:
        partial.unlink(missing_ok=True)


def load(path: Path, names: Iterable[str] | None = None) -> Weights:
    """Read a safetensors file, or only the tensors `names` of it.

    Raises:
        KTError: the file is missing, truncated or not in that format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in names or file.keys()}
    except FileNotFoundError:
        raise KTError(f"{path} is missing: run `dvc repro` to make it") from None
    except SafetensorError as error:
        raise KTError(f"{path} is damaged ({error}): delete it and run again") from None


def checksum(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write(folder: Path, parts: Iterable[Weights], about: dict) -> None:
    """Write a new store from stacked parts of any sizes, streaming.

    Args:
        folder: where the store comes to be; it appears whole or not at all.
        parts: weights stacked over a few networks each, in order.
        about: what the networks are, kept in the manifest.
    """
    building = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(building, ignore_errors=True)
    shards: list[dict] = []
    waiting: list[Weights] = []

    def flush() -> None:
        tensors = {name: torch.cat([part[name] for part in waiting]) for name in waiting[0]}
        path = building / f"{len(shards):05d}.safetensors"
        save(path, tensors)
        count = len(next(iter(tensors.values())))
        shards.append({"file": path.name, "count": count, "sha256": checksum(path)})
        waiting.clear()

    pending = 0
    for part in parts:
        size = len(next(iter(part.values())))
        if waiting and pending + size > SHARD_SIZE:
            flush()
            pending = 0
        waiting.append(part)
        pending += size
    flush()
    manifest = {"count": sum(s["count"] for s in shards), "shards": shards, "about": about}
    (building / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    building.replace(folder)


class Pairs:
    """A store opened for reading, its sizes and checksums verified once.

    Attributes:
        about: what the networks are, from the manifest.

    Raises:
        KTError: the store is missing, incomplete or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        try:
            manifest = json.loads((self.folder / MANIFEST).read_text())
            self._shards, self._count = manifest["shards"], manifest["count"]
            self.about: dict = manifest["about"]
        except FileNotFoundError:
            raise KTError(f"{self.folder} is missing: run `dvc repro` to make it") from None
        except (json.JSONDecodeError, KeyError, TypeError):
            raise KTError(f"{self.folder / MANIFEST} is damaged: delete the folder") from None
        for shard in self._shards:
            path = self.folder / shard["file"]
            if not path.exists() or checksum(path) != shard["sha256"]:
                raise KTError(
                    f"{path} is damaged (its checksum is not the manifest's): "
                    f"delete {self.folder} and run `dvc repro`"
                )

    def __len__(self) -> int:
        return self._count

    def read(self, *parts: str, first: int | None = None) -> Weights:
        """The tensors of the named parts ("large", "small", ...), stacked over all networks.

        Args:
            parts: prefixes of tensor names; none for all.
            first: read only that many networks from the start.
        """
        limit = len(self) if first is None else first
        pieces: list[Weights] = []
        seen = 0
        for shard in self._shards:
            take = min(shard["count"], limit - seen)
            if take <= 0:
                break
            with safe_open(self.folder / shard["file"], framework="pt") as file:
                names = [n for n in file.keys() if not parts or n.split(".")[0] in parts]  # noqa: SIM118
                pieces.append({name: file.get_slice(name)[:take] for name in names})
            seen += take
        return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}
