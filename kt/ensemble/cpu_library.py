"""The compiled library behind `kt.ensemble.cpu_engine`: its compiler, its cache, its interface.

It is compiled with the system's C++ compiler on first use, anew for networks of other sizes, and
kept in the user's cache folder (`$XDG_CACHE_HOME/kt`), under a name that depends on the sources,
the compiler and its flags, the sizes among them; its size and checksum are beside it. It has a
plain C interface and uses no PyTorch headers, which alone take a minute to compile.

`KT_ISA` chooses the instruction set: `avx512`, `avx2`, `neon` or `generic`; without it the best
that the processor has. All but `generic` give the same bytes: it has no fused multiply-add.
"""

import contextlib
import ctypes
import functools
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from kt.networks.blocks import PAPER, Sizes
from kt.run.errors import KTError, one_line
from kt.run.files import read_bytes, replacing, save_text, writing

SOURCE = Path(__file__).parent / "cpu_engine.cpp"
HEADERS = SOURCE.parent / "cpu"
FLAGS = [
    *("-std=c++17", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"),
    *("-fPIC", "-shared", "-pthread", "-Wno-psabi", "-Wfatal-errors"),
    # Else libraries for other registers in one process share constants by name, of another size.
    "-fvisibility=hidden",
]
COMPILERS = ("c++", "g++", "clang++")
NATIVE: tuple[list[str], ...] = (["-march=native"], ["-mcpu=native"], [])
"""Ways to ask a compiler for this processor's instructions, the first it knows is taken."""
ISAS = {
    "avx512": [f"-mavx512{part}" for part in ("f", "bw", "dq", "vl")] + ["-mfma"],
    "avx2": ["-mavx2", "-mfma"],
    "neon": [],
    "generic": ["-DKT_GENERIC"],
}
"""Instruction sets, the best first, with the flags that ask for them."""
MACROS = {
    "avx512": [f"__AVX512{part}__" for part in ("F", "BW", "DQ", "VL")] + ["__FMA__"],
    "avx2": ["__AVX2__", "__FMA__"],
    "neon": ["__ARM_NEON", "__aarch64__"],
    "generic": [],
}
"""What a compiler defines for a processor that has them."""
KINDS = ("large", "conv", "conv_bias", "mlp", "attention")
TRIAL = "import ctypes, os, sys; ctypes.CDLL(sys.argv[1], mode=os.RTLD_NOW)"
"""Loads a library in a process of its own: one that is cut off ends the process that loads it."""


def available(sizes: Sizes = PAPER) -> bool:
    """Whether the engine can be used here; the first call compiles it. See `reason`."""
    return reason(sizes) is None


def reason(sizes: Sizes = PAPER) -> str | None:
    """Why the engine cannot be used here for networks of these sizes, in one line; None if it can.

    Raises:
        KTError: `KT_ISA` is no instruction set that this processor has.
    """
    loaded = _loaded(sizes)
    return _not_available(loaded) if isinstance(loaded, str) else None


def forget() -> None:
    """Look for the compiler and the library again: the environment has changed."""
    _load.cache_clear()
    _alike.clear()


def library(sizes: Sizes = PAPER) -> ctypes.CDLL:
    """The compiled library for networks of these sizes, built if it is not in the cache.

    Raises:
        KTError: there is no C++ compiler, or it does not compile the sources, or they cannot do
            these sizes; or `KT_ISA` is no instruction set that this processor has.
    """
    loaded = _loaded(sizes)
    if isinstance(loaded, str):
        raise KTError(_not_available(loaded))
    return loaded


def network_library(sizes: Sizes) -> ctypes.CDLL:
    """A library for what does not depend on hidden channels: one that is loaded, if there is any.

    Raises as `library` does.
    """
    return library(_alike.get(replace(sizes, hidden=1), sizes))


def executable() -> list[str]:
    """Instruction sets that this processor has, the best first.

    Raises:
        KTError: there is no C++ compiler to tell.
    """
    macros = set(_native(_compiler()).decode(errors="replace").split())
    return [isa for isa, needed in MACROS.items() if macros.issuperset(needed)]


def isa() -> str:
    """The instruction set that is compiled for: `KT_ISA`, or the best that this processor has.

    Raises:
        KTError: there is no C++ compiler to tell what it has, or `KT_ISA` is none of that.
    """
    return _chosen(os.environ.get("KT_ISA", ""), executable())


def _chosen(wanted: str, here: list[str]) -> str:
    if wanted and wanted not in here:
        raise KTError(f"KT_ISA={wanted}: this processor has {', '.join(here)}")
    return wanted or here[0]


def built(source: Path, isa: str, sizes: Sizes = PAPER) -> Path:
    """A C++ file's library in the cache, compiled if need be, by one process at a time.

    The compiler's macros tell its version: a cache shared between machines never mixes their
    libraries.

    Raises:
        KTError: there is no C++ compiler, or it does not compile the file, or what it writes is no
            library.
    """
    defined = [f"-DKT_{name.upper()}={value}" for name, value in asdict(sizes).items()]
    compiler = [*_compiler(), *FLAGS, *ISAS[isa], *defined]
    texts = [path.read_bytes() for path in [source, *_headers()]]
    key = hashlib.blake2b(digest_size=8)
    key.update(b"\0".join([*texts, _macros(compiler), " ".join(compiler[1:]).encode()]))
    target = _cache() / f"{source.stem}-{isa}-{key.hexdigest()}.so"
    if _whole(target):  # a lock that somebody left is no obstacle then
        return target
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(target.with_suffix(".lock"))
        lock.acquire()
    try:
        if not _whole(target):
            with replacing(target) as partial:
                try:
                    _run([*compiler, "-I", str(HEADERS), str(source), "-o", str(partial)])
                    _require_library(partial, compiler[0])
                    save_text(_sum_of(target), _sum(partial))
                finally:
                    if partial.is_dir():  # else no compiler could write there any more
                        shutil.rmtree(partial, ignore_errors=True)
    finally:
        lock.release()
    return target


def _require_library(path: Path, compiler: str) -> None:
    """Refuse what a compiler has written unless it can be loaded.

    Raises:
        KTError: it cannot.
    """
    if path.is_symlink() or not path.is_file():
        raise KTError(f"{compiler} succeeds, but writes no library")
    if getattr(sys, "frozen", False) or not sys.executable:  # there is no Python to try it in
        return
    tried = subprocess.run([sys.executable, "-I", "-S", "-c", TRIAL, path], capture_output=True)
    if tried.returncode != 0:
        said = tried.stderr.decode(errors="replace").splitlines()
        why = said[-1] if said else f"signal {-tried.returncode}"
        raise KTError(f"{compiler} succeeds, but what it writes cannot be loaded ({why})")


def _cache() -> Path:
    """The user's cache folder, or one among the temporary ones for a user without a home.

    Raises:
        KTError: that one is another user's.
    """
    if given := os.environ.get("XDG_CACHE_HOME"):
        return Path(given) / "kt"
    with contextlib.suppress(RuntimeError):
        if (home := Path.home()).is_absolute():
            return home / ".cache" / "kt"
    own = getattr(os, "getuid", lambda: 0)()
    folder = Path(tempfile.gettempdir()) / f"kt-{own}"
    with writing(folder):
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.stat().st_uid != own:
            raise KTError(f"{folder} is another user's: set XDG_CACHE_HOME")
    return folder


def _whole(library: Path) -> bool:
    """Whether a library is in the cache as it was built: the process would die of a damaged one."""
    try:
        return _sum(library) == read_bytes(_sum_of(library)).decode()
    except (KTError, UnicodeDecodeError):
        return False


def _sum(library: Path) -> str:
    content = read_bytes(library)
    return f"{len(content)} {hashlib.sha256(content).hexdigest()}\n"


def _sum_of(library: Path) -> Path:
    """Where a library's size and checksum are kept."""
    return library.with_suffix(".sum")


def sources() -> list[Path]:
    """The engine's C++ files, the one to compile first."""
    return [SOURCE, *_headers()]


def _headers() -> list[Path]:
    return sorted(HEADERS.glob("*.h"))


def _not_available(why: str) -> str:
    return f"the cpu engine is not available: {why}"


_loading = threading.Lock()


_alike: dict[Sizes, Sizes] = {}
"""Sizes of loaded libraries, by the same with any number of hidden channels."""


def _loaded(sizes: Sizes) -> ctypes.CDLL | str:
    with _loading:
        loaded = _load(os.environ.get("KT_ISA", ""), sizes)
        if not isinstance(loaded, str):
            _alike.setdefault(replace(sizes, hidden=1), sizes)
        return loaded


@functools.cache
def _load(wanted: str, sizes: Sizes) -> ctypes.CDLL | str:
    """The library, or why there is none: tried once in a process."""
    try:
        here = executable()
    except KTError as error:
        return str(error)
    chosen = _chosen(wanted, here)
    try:
        path = built(SOURCE, chosen, sizes)
        try:
            return _opened(path)
        except (OSError, AttributeError):  # the last: it lacks a function
            with contextlib.suppress(OSError):
                _sum_of(path).unlink()  # so that it is built again
            raise
    except (KTError, OSError, AttributeError) as error:
        return one_line(error)


def _opened(path: Path) -> ctypes.CDLL:
    """The library with the arguments' types, as in cpu_engine.cpp."""
    loaded = ctypes.CDLL(str(path))
    count, real, address = ctypes.c_int, ctypes.c_float, ctypes.c_void_p
    batch: list[Any] = [address, address, count]
    loaded.kt_step1_memory.restype = ctypes.c_int64
    loaded.kt_train_networks.argtypes = [
        *(count, address, address, address, *batch, real, real, count, address, count)
    ]
    loaded.kt_show.argtypes = [count, address, address, count, address, address, count]
    loaded.kt_choices.argtypes = [
        *(count, address, address, address, count, count, count, address, address, count),
        *(address, real, address, count),
    ]
    loaded.kt_equations.argtypes = [
        *(count, address, address, address, count, count, count, address, address, count)
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


def _compiler() -> list[str]:
    """The system's C++ compiler: $CXX, which may carry flags, or the first that is found.

    Raises:
        KTError: $CXX is no command, or there is none.
    """
    given = os.environ.get("CXX", "")
    try:
        command = shlex.split(given)
    except ValueError as error:
        raise KTError(f"CXX is {given!r}, which is no command ({error})") from None
    if command:
        if shutil.which(command[0]) is None:
            raise KTError(f"CXX is {given!r}, which is no command here")
        return command
    for compiler in COMPILERS:
        if shutil.which(compiler):
            return [compiler]
    raise KTError(f"no C++ compiler found ({', '.join(COMPILERS)}; CXX is not set)")


def _native(compiler: list[str]) -> bytes:
    """The compiler's macros for this processor."""
    for native in NATIVE:
        try:
            return _macros([*compiler, *native])
        except KTError as error:
            failure = error
    raise failure


def _macros(compiler: list[str]) -> bytes:
    macros = _run([*compiler, "-dM", "-E", "-x", "c++", os.devnull])
    if b"__cplusplus" not in macros:
        raise KTError(f"{compiler[0]} does not tell its macros: it is no C++ compiler")
    return macros


def _run(command: list[str]) -> bytes:
    try:
        done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL)
    except OSError as error:
        raise KTError(f"{command[0]} cannot be run ({error.strerror})") from None
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").splitlines()
        why = next((line for line in lines if "error" in line), f"exit status {done.returncode}")
        said = why.partition("error: #error ")[2]  # the sources say themselves why not
        raise KTError(said.strip() or f"{command[0]} failed: {why.strip()}")
    return done.stdout
