"""The cache of the compiled engine: damaged, read-only, without a home."""

import errno
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from kt.ensemble import Compute, cpu_engine, cpu_library, torch_engine
from kt.run.errors import KTError

compiled = pytest.mark.skipif(not cpu_engine.available(), reason=str(cpu_engine.reason()))


@pytest.fixture
def unloaded():
    cpu_engine.forget()
    yield
    cpu_engine.forget()


@pytest.fixture
def cache(unloaded, monkeypatch, tmp_path):
    """A cache of its own, for a small library that compiles at once."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = tmp_path / "little.cpp"
    source.write_text('extern "C" [[gnu::visibility("default")]] int answer() { return 42; }\n')
    return source


def answer(path):
    code = f"import ctypes; print(ctypes.CDLL({str(path)!r}).answer())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return done.stdout.strip() or done.returncode


@compiled
@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "no checksum", "checksum alone"])
def test_a_damaged_library_is_built_again(cache, damage):
    path = cpu_library.built(cache, "generic")
    assert answer(path) == "42"
    whole = path.read_bytes()
    if damage == "no checksum":
        path.with_suffix(".sum").unlink()
    elif damage == "checksum alone":
        path.unlink()
    else:
        middle = len(whole) // 2
        flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
        path.write_bytes({"cut": whole[:middle], "flip": flipped, "empty": b""}[damage])
    assert cpu_library.built(cache, "generic") == path
    assert answer(path) == "42"


@compiled
def test_a_library_that_can_only_be_read_is_used(cache, monkeypatch):
    path = cpu_library.built(cache, "generic")

    def refuse(*args, **options):
        raise PermissionError(errno.EACCES, "Permission denied")

    for name in ("mkdir", "write_bytes", "replace", "unlink"):
        monkeypatch.setattr(Path, name, refuse)
    assert cpu_library.built(cache, "generic") == path
    monkeypatch.setattr(cpu_library, "FLAGS", [*cpu_library.FLAGS, "-DOTHER"])
    with pytest.raises(KTError, match=r"Permission denied.*: allow it"):
        cpu_library.built(cache, "generic")


@compiled
def test_a_user_without_a_home_has_a_cache_among_temporary_files(cache, monkeypatch, tmp_path):
    def nobody(cls):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", classmethod(nobody))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    path = cpu_library.built(cache, "generic")
    assert path.is_relative_to(tmp_path / "temporary") and answer(path) == "42"


def test_a_compiler_with_an_open_quote_is_said_in_one_line(unloaded, monkeypatch):
    monkeypatch.setenv("CXX", "g++ '-O3")
    assert 'CXX is "g++ \'-O3", which is no command' in cpu_engine.reason()
    cpu_engine.forget()
    monkeypatch.setenv("CXX", "/nowhere/g++ -O3")
    assert "CXX is '/nowhere/g++ -O3', which is no command here" in cpu_engine.reason()
    assert "\n" not in cpu_engine.reason()


LIES = {
    "empty": (': > "$out"', "file too short"),
    "head": ('"$@"; truncate -s 8000 "$out"', "cannot be loaded"),
    "half": ('"$@"; truncate -s "$(( $(stat -c %s "$out") / 2 ))" "$out"', "cannot be loaded"),
    "other": ('echo text > "$out"', "cannot be loaded"),
    "nothing": (":", "writes no library"),
    "folder": ('mkdir -p "$out/inside"', "writes no library"),
    "link": ('ln -s /dev/null "$out"', "writes no library"),
    "another": ('echo "int kt;" | "$1" -shared -fPIC -x c++ - -o "$out"', "undefined symbol: kt_"),
}
"""What a compiler may do that ends well and leaves no library: in a shell, and what is said."""


def lying(folder, lie, macros='"$@"'):
    """A compiler that does something else than it is told, or tells no macros."""
    real = shlex.join(cpu_library._compiler())
    script = folder / "liar"
    script.write_text(
        f'#!/bin/sh\ncase " $* " in *" -dM "*) set -- {real} "$@"; {macros}; exit 0;; esac\n'
        f'for out; do :; done\nset -- {real} "$@"\n{lie}\nexit 0\n'
    )
    script.chmod(0o755)
    return str(script)


@compiled
@pytest.mark.parametrize("name", LIES)
def test_a_compiler_that_lies_ends_in_plain_pytorch_and_spoils_no_cache(
    unloaded, monkeypatch, tmp_path, name
):
    lie, message = LIES[name]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    small = tmp_path / "small.cpp"  # the engine's own takes long
    small.write_text('extern "C" [[gnu::visibility("default")]] int answer() { return 42; }\n')
    with monkeypatch.context() as patch:
        patch.setattr(cpu_library, "SOURCE", small)
        patch.setenv("CXX", lying(tmp_path, lie))
        assert message in cpu_engine.reason() and "\n" not in cpu_engine.reason()
        assert Compute().engine_for("large") is torch_engine
        with pytest.raises(KTError, match="the cpu engine is not available"):
            Compute(engine="cpu").engine_for("large")
    path = cpu_library.built(small, cpu_library.executable()[0])
    assert answer(path) == "42"
    assert not [left for left in path.parent.iterdir() if left.name.startswith(".")]


@compiled
def test_a_compiler_that_tells_no_macros_is_none(unloaded, monkeypatch, tmp_path):
    """It is not taken for one whose processor has no instruction set of those that are known."""
    monkeypatch.setenv("CXX", lying(tmp_path, ":", macros=":"))
    assert "does not tell its macros" in cpu_engine.reason()
    assert Compute().engine_for("large") is torch_engine
