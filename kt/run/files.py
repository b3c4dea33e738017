"""Files: one door for reading, one for writing.

Whatever is wrong with a file ends in one line that names the file, what is wrong and, in the words
of the caller, who alone knows whose file it is, what to do (`remedy`).
"""

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from kt.run.errors import KTError, NotFiniteError
from kt.run.finite import is_finite

SEAL = "sha256"
"""Key of a safetensors file's metadata under which `save_tensors` keeps a checksum."""
ROOM = 1 << 16
"""Bytes that must be free where a file is to be written."""
MALFORMED = (
    SafetensorError, ValueError, TypeError, KeyError, AttributeError, IndexError, RuntimeError,
    EOFError, RecursionError, OverflowError, MemoryError,
)  # fmt: skip
"""What readers of damaged files raise."""
REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "make room and run again"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "allow it, or choose another place"),
    errno.ENAMETOOLONG: "choose a shorter name",
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), "a part of the path is a file: choose another"),
    errno.EISDIR: "it is a folder: name a file",
}
"""What to do about a write that failed."""


# --- reading --------------------------------------------------------------------------------------


def problem(path: Path | str, what: str, remedy: str = "") -> KTError:
    """The error of a file: `path` `what`: `remedy`."""
    return KTError(f"{path} {_line(what)}" + (f": {remedy}" if remedy else ""))


def damaged(path: Path | str, how: object, remedy: str = "") -> KTError:
    """The error of a file whose content is wrong."""
    return problem(path, f"is damaged ({_line(how)})", remedy)


@contextlib.contextmanager
def reading(path: Path, remedy: str = "") -> Iterator[None]:
    """Read a regular file; whatever is wrong with it is a user's error.

    Raises:
        KTError: there is no such file, it is a folder or a device, or what is inside raised an
            error of those that readers of damaged files raise.
    """
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise problem(path, "is a folder, not a file", remedy)
        if not stat.S_ISREG(mode):
            raise problem(path, "is no regular file", remedy)
        yield
    except FileNotFoundError:
        raise problem(path, "is missing", remedy) from None
    except OSError as error:
        if error.errno is None:  # a decompressor's
            raise damaged(path, error, remedy) from None
        raise problem(path, f"cannot be read ({error.strerror or error})", remedy) from None
    except MALFORMED as error:
        raise damaged(path, error, remedy) from None


def read_bytes(path: Path, remedy: str = "", count: int = -1) -> bytes:
    """The content of a file, or only its first `count` bytes.

    Raises:
        KTError: it cannot be read.
    """
    with reading(path, remedy), path.open("rb") as file:
        return file.read(count)


def load_json(path: Path, remedy: str = "") -> Any:
    """What a JSON file says.

    Raises:
        KTError: it cannot be read, or is no JSON: NaN and infinity are none.
    """

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no number")

    with reading(path, remedy):
        return json.loads(path.read_bytes().decode(), parse_constant=refuse)


def load_tensors(
    path: Path, names: Iterable[str] | None = None, remedy: str = "", sealed: bool = False
) -> dict[str, Tensor]:
    """Read a safetensors file, or only the tensors `names` of it.

    Args:
        remedy: what to do about a file that cannot be used.
        sealed: the file must hold its own checksum. If it holds one it is always verified.

    Raises:
        KTError: the file is missing, truncated, not in that format, or not as it was written.
    """
    with reading(path, remedy), safe_open(path, framework="pt") as file:
        seal = (file.metadata() or {}).get(SEAL)
        there = file.keys()
        if sealed and seal is None:
            raise ValueError("it has no checksum")
        wanted = list(there if names is None else names)
        if absent := set(wanted).difference(there):
            raise ValueError(f"{min(absent)!r} is not in it")
        tensors = {name: file.get_tensor(name) for name in wanted}
        if seal is not None:
            if len(wanted) < len(there):
                whole = {name: file.get_tensor(name) for name in there}
            else:
                whole = tensors
            if checksum(whole) != seal:
                raise ValueError("its checksum is another")
        return tensors


def load_metadata(path: Path, remedy: str = "") -> dict[str, str]:
    """The metadata of a safetensors file.

    Raises:
        KTError: it cannot be read.
    """
    with reading(path, remedy), safe_open(path, framework="pt") as file:
        return file.metadata() or {}


def require_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    remedy: str = "",
) -> None:
    """Refuse what was read from a file unless it has these names, shapes and types, and is finite.

    Args:
        expected: tensors of any values, or of none (on the device "meta").

    Raises:
        KTError: naming the tensors that are missing, unknown, of another shape or type, or not
            finite.
    """
    lines = []
    for what, names in (
        ("missing", expected.keys() - tensors.keys()),
        ("unknown", tensors.keys() - expected.keys()),
    ):
        if names:
            some = sorted(names)[:5]
            more = f" and {len(names) - len(some)} more" if len(names) > len(some) else ""
            lines.append(f"{what}: {', '.join(some)}{more}")
    for name in sorted(expected.keys() & tensors.keys()):
        found, wanted = tensors[name], expected[name]
        if found.shape != wanted.shape:
            lines.append(f"{name} has shape {tuple(found.shape)}, not {tuple(wanted.shape)}")
        elif found.dtype != wanted.dtype:
            lines.append(f"{name} is {found.dtype}, not {wanted.dtype}")
        elif not is_finite(found):
            lines.append(f"{name} is not finite")
    if lines:
        raise problem(path, f"does not hold what is needed ({'; '.join(lines[:3])})", remedy)


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of tensors: of their names, types, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(_raw(tensor))
    return digest.hexdigest()


def _raw(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous tensor on the CPU."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _line(text: object) -> str:
    """A text without line breaks, and not too long."""
    line = re.sub(r"\s+", " ", str(text) or type(text).__name__).strip()
    return line if len(line) <= 300 else f"{line[:300]}..."


# --- writing --------------------------------------------------------------------------------------


def check_output(
    path: Path, inputs: Iterable[Path] = (), force: bool = False, needed: int = ROOM
) -> None:
    """Before the work begins: can its result be written there?

    Args:
        inputs: files that are read, which the result must not replace.
        force: it may.
        needed: free bytes.

    Raises:
        KTError: it cannot: the path is a folder, a device, an input, too long, or below a file;
            writing is not allowed there, or there is no room.
    """
    with writing(path):
        with contextlib.suppress(FileNotFoundError):
            os.lstat(path)
        _require_regular(path)
        for given in inputs:
            if not force and path.exists() and given.exists() and path.samefile(given):
                raise problem(path, "is read too", "choose another name, or add --force")
        folder = path.absolute().parent
        while not os.path.lexists(folder):
            folder = folder.parent
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{folder} is no folder")
        trial = folder / f".{os.getpid()}.partial"
        try:
            trial.write_bytes(b"")
        finally:
            trial.unlink(missing_ok=True)
        if shutil.disk_usage(folder).free < needed:
            raise OSError(errno.ENOSPC, "No space left on device")


def _require_regular(path: Path) -> None:
    """Refuse to replace a folder or a device."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "Is a directory")
    in_dev = path.absolute().is_relative_to("/dev") and not path.absolute().is_relative_to(
        "/dev/shm"
    )
    if path.exists() and (in_dev or not path.is_file()):  # /dev/stdout may lead to a file
        raise problem(path, "is no regular file", "choose another name")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Report a failed write as a user's error, which says what to do.

    Raises:
        KTError: what is inside raised an `OSError`.
    """
    if "\0" in str(path):
        raise problem(repr(str(path)), "could not be written", "choose a name without NUL")
    try:
        yield
    except OSError as error:
        remedy = REMEDIES.get(error.errno or 0, "choose another place")
        why = error.strerror or error
        raise problem(path, f"could not be written ({_line(why)})", remedy) from None


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write in place of another: after a crash it is there whole or not at all.

    Its mode is that of any new file (the umask's).

    Raises:
        KTError: it cannot be written.
    """
    with writing(path):
        _require_regular(path)  # a rename would replace even /dev/null
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.parent / f".{path.name[:40]}.partial"
        try:
            yield partial
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
    sync(path.parent)


def sync(folder: Path) -> None:
    """Put a folder's list of files on the disk, where the system can."""
    with contextlib.suppress(OSError, AttributeError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def save_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write a file atomically.

    Raises:
        KTError: it cannot be written; the one before is still there.
    """
    with replacing(path) as partial:
        partial.write_bytes(content)


def save_text(path: Path, text: str) -> None:
    """Write a text file atomically, in UTF-8.

    Raises:
        KTError: it cannot be written; the one before is still there.
    """
    save_bytes(path, text.encode())


def save_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically.

    Raises:
        NotFiniteError: a number is not finite, which JSON cannot say.
        KTError: it cannot be written; the one before is still there.
    """
    if (place := _not_finite(content)) is not None:
        raise NotFiniteError(f"{path} is not written: {place} is not finite")
    save_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def _not_finite(content: Any, place: str = "a number") -> str | None:
    """Where in nested mappings and lists a number is not finite, if anywhere."""
    if isinstance(content, float):
        return None if math.isfinite(content) else place
    if isinstance(content, Mapping):
        parts: Iterable[tuple[Any, Any]] = content.items()
    elif isinstance(content, list | tuple):
        parts = enumerate(content)
    else:
        return None
    inside = (
        _not_finite(value, f"{place}.{key}".removeprefix("a number.")) for key, value in parts
    )
    return next((found for found in inside if found is not None), None)


def save_tensors(
    path: Path,
    tensors: dict[str, Tensor],
    metadata: dict[str, str] | None = None,
    seal: bool = False,
) -> None:
    """Write a safetensors file atomically.

    Args:
        metadata: kept in the file. With one entry at most its bytes are the same every time:
            safetensors writes several in random order.
        seal: keep a checksum in the metadata, which whoever reads the file verifies.

    Raises:
        NotFiniteError: a tensor is not finite.
        KTError: the file cannot be written; the one before is still there.
    """
    for name, tensor in tensors.items():
        if not is_finite(tensor):
            raise NotFiniteError(f"{path} is not written: {name} is not finite")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    if seal:
        metadata = (metadata or {}) | {SEAL: checksum(tensors)}
    save_bytes(path, save(tensors, metadata))
