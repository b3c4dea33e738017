"""Files: one door for reading, one for writing.

Whatever is wrong with a file ends in one line that names the file, what is wrong and, in the words
of the caller, who alone knows whose file it is, what to do (`remedy`).
"""

import contextlib
import errno
import hashlib
import os
import shutil
import stat
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from kt.run.errors import KTError, NotFiniteError, one_line
from kt.run.finite import is_finite
from kt.run.guard import lacks_memory

SEAL = "sha256"
"""Key of a safetensors file's metadata under which `save_tensors` keeps a checksum."""
ROOM = 1 << 16
"""Bytes that must be free where a file is to be written."""
SHOWN = 320
"""Characters of what is wrong with a file, at most."""
MALFORMED = (
    SafetensorError, ValueError, TypeError, KeyError, AttributeError, IndexError, RuntimeError,
    EOFError, RecursionError, OverflowError, MemoryError, zlib.error, tarfile.TarError,
)  # fmt: skip
"""What readers of damaged files raise."""
REPLACE = "choose another name, or add --force"
REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "make room and run again"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "allow it, or choose another place"),
    errno.ENAMETOOLONG: "choose a shorter name",
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), "a part of the path is a file: move it away"),
    errno.EISDIR: "it is a folder: name a file",
}
"""What to do about a write that failed."""


# --- reading --------------------------------------------------------------------------------------


def problem(path: Path | str, what: str, remedy: str = "") -> KTError:
    """The error of a file: `path` `what`: `remedy`."""
    name = str(path)
    name = name if name == " ".join(name.split()) else repr(name)  # a line break in it, say
    return KTError(f"{name} {one_line(what, SHOWN)}" + (f": {remedy}" if remedy else ""))


def damaged(path: Path | str, how: object, remedy: str = "") -> KTError:
    """The error of a file whose content is wrong."""
    words = one_line(how, SHOWN - 20) or type(how).__name__
    return problem(path, f"is damaged ({words})", remedy)


def require_name(path: Path, what: str, unicode: bool = True) -> None:
    """Refuse a path that cannot be a file's.

    Args:
        what: becomes of the file because of it.
        unicode: refuse bytes that are not UTF-8, too: not every library can name such a file.

    Raises:
        KTError: it cannot.
    """
    name = str(path)
    if "\0" in name:
        raise problem(path, f"{what}: choose a name without NUL")
    if unicode and not name.isascii() and any("\ud800" <= c <= "\udfff" for c in name):
        raise problem(path, f"{what}: choose a name in UTF-8")


@contextlib.contextmanager
def reading(path: Path, remedy: str = "") -> Iterator[None]:
    """Read a regular file; whatever is wrong with it is a user's error.

    Raises:
        KTError: there is no such file, it is a folder or a device, or what is inside raised an
            error of those that readers of damaged files raise.
        MemoryError: there is too little memory to read it; it may be whole.
    """
    require_name(path, "cannot be read", unicode=False)
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
        if lacks_memory(error):
            raise MemoryError(f"{path} cannot be read") from None
        if error.errno is None:  # a decompressor's
            raise damaged(path, error, remedy) from None
        raise problem(path, f"cannot be read ({error.strerror or error})", remedy) from None
    except MALFORMED as error:
        if lacks_memory(error):
            raise MemoryError(f"{path} cannot be read") from None
        if (why := os.strerror(errno.EMFILE)) in str(error):  # safetensors raises errors of its own
            raise problem(path, f"cannot be read ({why})", "allow more: ulimit -n") from None
        raise damaged(path, error, remedy) from None


def read_bytes(path: Path, remedy: str = "", count: int = -1) -> bytes:
    """The content of a file, or only its first `count` bytes.

    Raises:
        KTError: it cannot be read.
    """
    with reading(path, remedy), path.open("rb") as file:
        return file.read(count)


def read_text(path: Path, remedy: str = "") -> str:
    """The content of a text file in UTF-8.

    Raises:
        KTError: it cannot be read, or is something else.
    """
    with reading(path, remedy):
        return path.read_bytes().decode()


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
    with reading(path, remedy), _opened(path) as file:
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
    with reading(path, remedy), _opened(path) as file:
        return file.metadata() or {}


def _opened(path: Path) -> safe_open:
    require_name(path, "cannot be read")
    return safe_open(path, framework="pt")


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
    # Of one number, any stride is contiguous; a view as bytes wants 1.
    return tensor.as_strided((tensor.numel(),), (1,)).view(torch.uint8).numpy().data


# --- writing --------------------------------------------------------------------------------------


def check_output(
    path: Path, inputs: Iterable[Path] = (), force: bool = False, needed: int = ROOM
) -> None:
    """Before the work begins: can its result be written there?

    Args:
        inputs: files that are read, and folders of such, which the result must not replace.
        force: it may.
        needed: free bytes.

    Raises:
        KTError: it cannot: the path is a folder, a device, an input, too long, or below a file;
            writing is not allowed there, or there is no room.
    """
    with writing(path):
        _require_regular(path)
        real = Path(os.path.realpath(path))  # of new/../old, too, where there is no new yet
        for given in inputs:
            if not force and real.exists() and given.exists():
                if real.samefile(given):
                    raise problem(path, "is a file that is read", REPLACE)
                if given.is_dir() and real.is_relative_to(given.resolve()):
                    raise problem(path, "is in a folder that is read", REPLACE)
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
    """Refuse to replace a folder, a device, or a link that leads to itself."""
    with contextlib.suppress(FileNotFoundError):
        os.stat(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "Is a directory")
    in_dev = path.absolute().is_relative_to("/dev") and not path.absolute().is_relative_to(
        "/dev/shm"
    )
    if path.exists() and (in_dev or not path.is_file()):  # /dev/stdout may lead to a file
        raise problem(path, "is no regular file", "choose another name")


def set_aside(path: Path) -> Path:
    """Move a damaged file out of the way, to a name beside it.

    Raises:
        KTError: it cannot be moved.
    """
    aside = path.with_suffix(".damaged")
    with writing(aside):
        path.replace(aside)
    return aside


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Report a failed write as a user's error, which says what to do.

    Raises:
        KTError: what is inside raised an `OSError`.
    """
    require_name(path, "could not be written")
    try:
        yield
    except OSError as error:
        if error.errno is None:  # no system's: a decompressor's, of what is copied there
            raise
        raise not_written(path, error) from None


def not_written(path: Path | str, error: OSError) -> KTError:
    """The error of a file that could not be written, with what to do."""
    remedy = REMEDIES.get(error.errno or 0, "choose another place")
    return problem(path, f"could not be written ({error.strerror or error})", remedy)


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
