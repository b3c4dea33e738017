"""The last guard of a program: whatever happens inside ends in one line."""

import contextlib
import errno
import os
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from kt.run.errors import KTError, notice, one_line

UNFORESEEN = 70
"""Exit status of an error that nobody foresaw (EX_SOFTWARE of sysexits.h)."""
SCRATCH = Path(".kt")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
USERS = (*FULL, errno.EACCES, errno.EPERM, errno.EROFS, errno.EMFILE, errno.ENFILE)
"""Numbers of a system's errors that the user can mend."""
LACKING = {
    "can't start new thread": "allow more processes, or lower KT_WORKERS",
    "No usable temporary directory": "make room there, or set TMPDIR",
}
"""What Python says where the system refuses something, and what to do."""


@contextlib.contextmanager
def guard(stream: TextIO | None = None, folder: Path = SCRATCH, kept: str = "") -> Iterator[None]:
    """End the program with one line on a stream, whatever what is inside raises.

    Exit status 1 for a user's error (`KTError`, a full disk, too little memory) and for an
    interruption; 70 for an exception that nobody foresaw, whose traceback is kept in a file. An
    output that is closed early (`| head`) ends it in silence; to one that was closed from the start
    nothing is said. Warnings of libraries are notices, a line each, when all has gone well; an
    error stands alone.

    Args:
        stream: standard error, if none is given.
        folder: keeps tracebacks.
        kept: what is said of the work so far, behind a full disk's or an interruption's line.

    Raises:
        SystemExit: in place of what was raised. One raised inside is left alone.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed before the start (`>&-`)
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
    stdout, stderr = sys.stdout, sys.stderr  # a user's code may set others, or none
    with contextlib.suppress(AttributeError, OSError):  # names that are not UTF-8 are printed too
        stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        _require_folder()
        with _warnings_at_the_end():
            yield
        stdout.flush()
    except BrokenPipeError:
        _silence(stdout)
        raise SystemExit(1) from None
    except (Exception, KeyboardInterrupt) as error:
        line, status = explained(error, folder, kept)
        with contextlib.suppress(OSError, ValueError):  # that one may be closed as well
            out = stream or stderr
            out.write(f"{line}\n")
            out.flush()
        try:
            stdout.flush()
        except OSError:
            _silence(stdout)
        raise SystemExit(status) from None


def _require_folder() -> None:
    """Refuse to work in a folder that has been deleted: libraries ask for its name, too.

    Raises:
        KTError: it has been.
    """
    try:
        os.getcwd()
    except FileNotFoundError:
        raise KTError("the working folder has been deleted: change to another") from None


def explained(error: BaseException, folder: Path = SCRATCH, kept: str = "") -> tuple[str, int]:
    """The line and the exit status that an exception ends a program with; see `guard`."""
    text = one_line(error) or type(error).__name__
    behind = f": {kept}" if kept else ""
    if isinstance(error, KeyboardInterrupt):
        return f"interrupted{behind}", 1
    if isinstance(error, KTError):
        return f"error: {text}", 1
    if isinstance(error, OSError) and error.errno in USERS:
        if error.filename is None and error.errno in FULL:  # files' errors name them
            text = f"{error.strerror} where it is written to, the standard output perhaps"
        return f"error: {text}{behind}", 1
    if (remedy := next((LACKING[words] for words in LACKING if words in text), None)) is not None:
        return f"error: {text}: {remedy}{behind}", 1
    if lacks_memory(error):
        what = f"there is not enough memory ({one_line(text, 120)})"
        return f"error: {what}: make it smaller{behind}", 1
    place = _keep_traceback(error, folder)
    return f"error: unforeseen {type(error).__name__} ({one_line(text, 200)}); {place}", UNFORESEEN


@contextlib.contextmanager
def _warnings_at_the_end() -> Iterator[None]:
    """Tell Python's warnings as notices, each once, if what is inside ends well."""
    told: dict[str, None] = {}

    def keep(message: Warning | str, *where: object) -> None:
        told.setdefault(one_line(message))

    with warnings.catch_warnings():
        warnings.showwarning = keep  # type: ignore[assignment]
        yield
    for text in told:
        notice(text)


def lacks_memory(error: BaseException) -> bool:
    """Whether an error says that memory is short."""
    names = {kind.__name__ for kind in type(error).__mro__}  # torch need not be imported here
    said = any(words in str(error) for words in ("DefaultCPUAllocator", os.strerror(errno.ENOMEM)))
    return bool({"MemoryError", "OutOfMemoryError"} & names) or said


def _keep_traceback(error: BaseException, folder: Path) -> str:
    """Write an exception's traceback to a file, and say where it is."""
    name = f"traceback-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    text = "".join(traceback.format_exception(error))
    for find in (lambda: folder, tempfile.gettempdir):  # the second fails where there is none
        with contextlib.suppress(OSError):
            place = Path(find())
            place.mkdir(parents=True, exist_ok=True)
            (place / name).write_text(text, errors="backslashreplace")
            return f"its traceback is in {place / name}: please report it"
    return "its traceback could not be kept"


def _silence(stream: TextIO) -> None:
    """Let what is still to be written to a closed output vanish, Python's last flush included."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
