"""The last guard: whatever happens ends in one line."""

import contextlib
import errno
import io
import json
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import pytest

from kt.run.errors import KTError
from kt.run.guard import guard
from kt.run.strict_json import load_json, save_json

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (KTError("a\nb"), 1, "error: a b\n"),
        (KeyboardInterrupt(), 1, "interrupted: kept\n"),
        (
            OSError(errno.ENOSPC, "No space left"),
            1,
            "where it is written to, the standard output perhaps: kept\n",
        ),
        (OSError(errno.EMFILE, "Too many open files"), 1, "Too many open files: kept\n"),
        (RuntimeError("can't start new thread"), 1, "lower KT_WORKERS: kept\n"),
        (FileNotFoundError(2, "No usable temporary directory"), 1, "set TMPDIR: kept\n"),
        (MemoryError(), 1, "not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 1, "not enough memory"),
        (ZeroDivisionError("by\nzero"), 70, "unforeseen ZeroDivisionError (by zero); "),
        (OSError(errno.EIO, "Input/output error"), 70, "unforeseen OSError"),
    ],
)
def test_whatever_happens_ends_in_one_line(error, status, words, tmp_path):
    stream = io.StringIO()
    with pytest.raises(SystemExit) as end, guard(stream, tmp_path / ".kt", "kept"):
        raise error
    assert end.value.code == status
    line = stream.getvalue()
    assert words in line and line.count("\n") == 1 and line.endswith("\n")
    kept = list(tmp_path.rglob("traceback-*"))
    assert len(kept) == (status == 70)
    if kept:
        assert str(kept[0]) in line and "Traceback" in kept[0].read_text()


def test_a_traceback_that_cannot_be_kept_is_still_one_line(tmp_path, monkeypatch):
    def none():
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    (tmp_path / "file").touch()
    stream = io.StringIO()
    with pytest.raises(SystemExit) as end, guard(stream, tmp_path / "file"):
        raise ZeroDivisionError
    assert end.value.code == 70
    assert stream.getvalue().endswith("; its traceback could not be kept\n")


@pytest.mark.parametrize("fails", [True, False])
def test_warnings_are_notices_unless_an_error_stands_alone(fails, tmp_path, caplog):
    def work():
        for _ in range(2):
            warnings.warn("take\ncare", stacklevel=1)
        if fails:
            raise KTError("wrong")

    stream = io.StringIO()
    end = pytest.raises(SystemExit) if fails else contextlib.nullcontext()
    with end, guard(stream, tmp_path):
        work()
    assert stream.getvalue() == ("error: wrong\n" if fails else "")
    assert [record.getMessage() for record in caplog.records] == (
        [] if fails else ["notice: take care"]
    )


def test_names_that_a_terminal_cannot_show_are_printed_too(tmp_path):
    code = "from kt.run.guard import guard\nwith guard():\n print('\\udcff\xe9')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"},
        capture_output=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, rb"\udcff\xe9" + b"\n", b"")


def test_a_working_folder_that_is_gone_is_told_before_the_work(tmp_path, monkeypatch):
    gone, stream = tmp_path / "gone", io.StringIO()
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(SystemExit) as end, guard(stream):
        raise AssertionError
    assert end.value.code == 1
    assert stream.getvalue() == "error: the working folder has been deleted: change to another\n"


def test_a_guard_lets_an_end_pass_and_does_nothing_else(tmp_path):
    with guard(folder=tmp_path):
        pass
    with pytest.raises(SystemExit) as end, guard(folder=tmp_path):
        sys.exit(3)
    assert end.value.code == 3 and not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no /dev/full")
def test_a_full_standard_output_is_one_line(tmp_path):
    code = "from kt.run.guard import guard\nwith guard():\n print('x')"
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "No space left on device where it is written to, the standard output" in done.stderr


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_an_output_that_was_closed_from_the_start_stops_nothing(closed, tmp_path):
    code = (
        f"import sys; sys.{closed} = None\nfrom kt.run.guard import guard\n"
        "with guard():\n print('x'); print('y', file=sys.stderr)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    said = ("", "y\n") if closed == "stdout" else ("x\n", "")
    assert (done.returncode, done.stdout, done.stderr) == (0, *said)
    assert not list(tmp_path.iterdir())


def test_an_output_that_a_users_code_takes_away_stops_nothing(tmp_path, monkeypatch):
    with guard(folder=tmp_path):
        monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(SystemExit) as end, guard(io.StringIO(), tmp_path):
        raise KTError("no")
    assert end.value.code == 1 and not [*tmp_path.iterdir()]


def test_json_is_strict(tmp_path):
    path = tmp_path / "a.json"
    save_json(path, {"a": [1, 2.5, "x"]})
    assert load_json(path) == json.loads(path.read_text()) == {"a": [1, 2.5, "x"]}
    bad = [b"", b"[NaN]", b"\xff", b"[" * 100_000, b"9" * 5000, b'{"a": Infinity}', b"[1e999]"]
    for content in (*bad, b'{"a": 1, "a": 1}', b'[{"a": {"b": 1, "c": 2, "b": 3}}]'):
        path.write_bytes(content)
        with pytest.raises(KTError, match=r"a\.json is damaged .*: again$"):
            load_json(path, "again")
