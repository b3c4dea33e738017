"""How stages begin and end: settings, scratch space, the last guard, several processes."""

import contextlib
import getpass
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from filelock import FileLock

from kt.networks.blocks import PAPER
from kt.run.errors import KTError
from stages.common import torchrun, translation
from stages.common.base import outputs, runtime
from tests.test_layout import imports

STAGES = Path(__file__).resolve().parent.parent / "stages"


@pytest.fixture
def empty(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fail(error):
    raise error


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (KeyError("a\nb"), 70, "error: unforeseen KeyError ('a"),
        (
            ValueError("one\ntwo"),
            70,
            "unforeseen ValueError (one two); its traceback is in .kt/",
        ),
        (MemoryError(), 1, "error: there is not enough memory (MemoryError): make it smaller: run"),
        (torch.OutOfMemoryError("CUDA out of memory"), 1, "not enough memory (CUDA out of memory)"),
        (OSError(28, "No space left on device"), 1, "the standard output perhaps: run again to go"),
        (KTError("the user's"), 1, "error: the user's"),
        (KeyboardInterrupt(), 1, "interrupted: run again to go on from what is kept in .kt/"),
    ],
)
def test_every_error_ends_in_one_line(empty, capsys, error, status, said):
    with pytest.raises(SystemExit) as end:
        runtime.one_line(lambda: fail(error))
    written = capsys.readouterr().err
    assert said in written and written.count("\n") == 1 and end.value.code == status
    kept = [path.read_text() for path in empty.glob(".kt/*.txt")]
    assert len(kept) == (status == 70) and all(type(error).__name__ in text for text in kept)


def test_finished_work_is_not_lost_to_a_folder_that_cannot_be_deleted(empty, monkeypatch):
    def keeps_open_files(path, ignore_errors=False, **_):
        if not ignore_errors:
            raise OSError(39, "Directory not empty")

    monkeypatch.setattr(shutil, "rmtree", keeps_open_files)
    with runtime.scratch("work", ("run",), 1) as folder:
        (folder / "part").write_text("done")
    with runtime.scratch("work", ("run",), 1) as again:  # and the lock is free
        assert again == folder


def test_finished_work_leaves_neither_folder_nor_lock(empty):
    with runtime.scratch("work", ("run",), 1) as folder:
        (folder / "part").write_text("done")
        (lock,) = empty.glob(".kt/*.lock")
        assert lock.parent == (empty / folder).parent
        again = runtime.scratch("work", ("run",), 1)
        with pytest.raises(KTError, match="another process is doing this work"), again:
            pass
    assert not list((empty / ".kt").iterdir())


def test_an_experiment_in_a_copy_goes_on_from_what_the_project_keeps(empty, monkeypatch):
    copies = [empty / ".dvc" / "tmp" / "exps" / name for name in ("one", "two")]
    for copy in copies:
        copy.mkdir(parents=True)
    monkeypatch.chdir(copies[0])
    with pytest.raises(RuntimeError), runtime.scratch("work", ("run",), 1) as folder:
        (folder / "part").write_text("half")
        raise RuntimeError
    shutil.rmtree(copies[0])
    monkeypatch.chdir(copies[1])
    with runtime.scratch("work", ("run",), 1) as folder:
        assert folder.parent == empty / ".kt" and (folder / "part").read_text() == "half"
        lock = folder.with_suffix(".lock")
    with FileLock(lock), runtime.scratch("work", ("run",), 1) as folder:  # another one's
        assert (copies[1] / folder).parent == copies[1] / ".kt"


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "many", " 2", "9" * 5000, "\u0663", "10001"])
@pytest.mark.parametrize("name", ["workers", "chunk"])
def test_nonsense_in_the_environment_is_refused(name, value, empty, monkeypatch, capsys):
    monkeypatch.setenv(f"KT_{name.upper()}", value)
    monkeypatch.setattr(runtime, "checked", lambda: SimpleNamespace(sizes=PAPER))
    monkeypatch.setattr(sys, "argv", ["stage"])
    with pytest.raises(SystemExit):
        runtime.run(lambda params, compute: None, "")
    said = capsys.readouterr().err
    assert f"--{name} (KT_{name.upper()}): got " in said and len(said) < 200


@pytest.mark.parametrize("device", ["meta", "abacus", "cuda:99", "cpu:x"])
def test_other_devices_are_refused(device, empty, monkeypatch, capsys):
    monkeypatch.setenv("KT_DEVICE", device)
    monkeypatch.setattr(runtime, "checked", lambda: SimpleNamespace(sizes=PAPER))
    monkeypatch.setattr(sys, "argv", ["stage"])
    with pytest.raises(SystemExit):
        runtime.run(lambda params, compute: None, "")
    assert f"--device (KT_DEVICE): '{device}' cannot be used here" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    ["abc", '"open', "--nproc-per-node", "--nproc-per-node two", "--nproc-per-node 0", "--help",
     "--nproc-per-node 2 more", "--no-such-option", "--nproc-per-node 2 -- x",
     "--nnodes two", "--nnodes 2:1", "--rdzv-conf x", "--redirects x"],
)  # fmt: skip
def test_nonsense_for_torchrun_is_refused(words):
    with pytest.raises(KTError, match=r"KT_TORCHRUN: got .*; accepts options of") as caught:
        torchrun.options_of(words)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(sys.platform not in torchrun.LOOPBACK, reason="no known loopback")
def test_processes_of_one_machine_meet_at_its_loopback_address(monkeypatch):
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    several = ["--nnodes", "2", "--rdzv-endpoint", "head:29500"]
    assert torchrun.options_of(" ".join(several)) == several
    assert "GLOO_SOCKET_IFNAME" not in os.environ
    for words in ("--nproc-per-node 2", "--standalone --nproc-per-node 2"):
        options = torchrun.options_of(words)
        assert options[:3] == ["--standalone", "--local-addr", "127.0.0.1"]
        assert os.environ["GLOO_SOCKET_IFNAME"] in torchrun.LOOPBACK.values()
        monkeypatch.delenv("GLOO_SOCKET_IFNAME")


def test_processes_that_do_not_come_are_not_waited_for_for_ever(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    there = {"LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 2, "RANK": 0, "WORLD_SIZE": 2}
    there |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "KT_WORKERS": 1}
    for name, value in there.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(torchrun, "PATIENCE", timedelta(seconds=2))
    with pytest.raises(KTError, match=f"processes did not meet at 127.0.0.1:{port} within"):
        torchrun.join()


@pytest.mark.parametrize("what", ["file", "link", "lock"])
def test_scratch_space_that_cannot_be_is_one_line(what, empty):
    place = Path(".kt")
    if what == "file":
        place.touch()
    elif what == "link":
        place.symlink_to("nowhere")
    else:
        with pytest.raises(RuntimeError), runtime.scratch("work", ("run",), 1) as folder:
            raise RuntimeError
        folder.with_suffix(".lock").unlink()
        folder.with_suffix(".lock").mkdir()
    work = runtime.scratch("work", ("run",), 1)
    with pytest.raises(KTError, match=r"\.kt/work-\w+\.lock could not be written"), work:
        pass


@pytest.mark.parametrize("killed", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_earlier_results_are_there_again_after_an_error(fails, killed, empty):
    """Those before a run that was killed, too: it leaves half of its own."""
    earlier, half = (empty / name for name in (".out.before" if killed else "out", "out"))
    for folder, text in ((half, "half"), (earlier, "earlier")):
        (folder / "plots").mkdir(parents=True, exist_ok=True)
        for name in ("plots/a", "metrics"):
            (folder / name).write_text(text)
    (half / "other").touch()
    end = pytest.raises(KTError) if fails else contextlib.nullcontext()
    with end, outputs.restored_on_error(half, ["plots", "metrics", "missing"]):
        shutil.rmtree(half / "plots", ignore_errors=True)  # as DVCLive does
        (half / "plots").mkdir()
        (half / "plots" / "b").touch()
        (half / "metrics").write_text("new")
        if fails:
            raise KTError
    assert (half / "metrics").read_text() == ("earlier" if fails else "new")
    assert [path.name for path in (half / "plots").iterdir()] == ["a" if fails else "b"]
    assert {path.name for path in half.iterdir()} == {"plots", "metrics", "other"}
    assert not (empty / ".out.before").exists()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("LOCAL_RANK", "x", "LOCAL_RANK is 'x', no number from 0 on"),
        ("LOCAL_WORLD_SIZE", None, "LOCAL_WORLD_SIZE is not set, which torchrun sets"),
        ("LOCAL_WORLD_SIZE", "0", "LOCAL_WORLD_SIZE is '0', no number from 1 on"),
        ("RANK", "-1", "RANK is '-1'"),
        ("RANK", "5", "RANK is 5 among 2 processes"),
        ("WORLD_SIZE", None, "WORLD_SIZE is not set"),
        ("MASTER_PORT", "", "MASTER_PORT is ''"),
    ],
)
def test_an_environment_that_torchrun_did_not_make_is_named(name, value, words, monkeypatch):
    there = {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2", "RANK": "0", "WORLD_SIZE": "2"}
    for key, given in (there | {"MASTER_PORT": "1", name: value}).items():
        monkeypatch.delenv(key, raising=False)
        if given is not None:
            monkeypatch.setenv(key, given)
    with pytest.raises(KTError, match=words):
        torchrun.join()


def test_drawing_never_depends_on_the_users_matplotlib():
    """matplotlib reads MPLBACKEND at its import, which `stages.figures` comes before."""
    for path in STAGES.rglob("*.py"):
        if path.parent.name != "figures":
            assert not any(name.startswith("matplotlib") for name in imports(path)), path
    code = "from stages.figures import style, maps; from stages.common.base import runtime"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=STAGES.parent, env=os.environ | {"MPLBACKEND": "none"}
    )
    assert done.returncode == 0


def test_a_user_without_a_home_or_a_name_gets_both(monkeypatch):
    for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: fail(KeyError(uid)))
    removed = []
    monkeypatch.setattr(runtime.atexit, "register", lambda *call, **_: removed.append(call))
    runtime.give_home()
    monkeypatch.setenv("USER", os.environ["USER"])  # to be undone
    assert Path.home().is_dir() and getpass.getuser()
    ((delete, home),) = removed
    delete(home)
    monkeypatch.setenv("HOME", home)


def test_a_repository_without_a_commit_is_told_in_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "-q"], check=True)
    with pytest.raises(KTError, match=r"cannot use this Git repository .*: commit once"):
        translation.logger(tmp_path / "results")


@pytest.mark.parametrize("error", [sqlite3.OperationalError("disk I/O error"), ValueError("[")])
def test_what_is_wrong_with_the_files_of_git_and_dvc_is_one_line(error, tmp_path, monkeypatch):
    def fail(*given, **named):
        raise error

    monkeypatch.setattr(translation, "Live", fail)
    with pytest.raises(KTError, match=f"DVCLive cannot use .*{type(error).__name__}"):
        translation.logger(tmp_path / "results")


def test_earlier_results_wait_on_the_disk_of_a_folder_that_is_a_link(empty):
    (empty / "there").mkdir()
    (empty / "there" / "metrics").write_text("earlier")
    (empty / "out").symlink_to("there")
    with pytest.raises(KTError), outputs.restored_on_error(empty / "out", ["metrics"]):
        assert (empty / ".there.before" / "metrics").exists()
        raise KTError
    assert (empty / "there" / "metrics").read_text() == "earlier"
