"""Messages, writing, stores, sizes and settings."""

import errno
import os
import pickle
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from torch import nn

from kt.pairs.store import Pairs, write_store
from kt.run import files, memory
from kt.run.bounds import bounded, require_bounds
from kt.run.errors import KTError, NotFiniteError, one_line
from kt.run.files import check_output, reading, save_bytes, save_tensors
from kt.run.finite import is_finite
from kt.run.strict_json import save_json
from kt.run.threads import device_named
from kt.translators import load_translator, require_memory, save_translator
from kt.translators.merge import Merge, MergeConfig
from kt.translators.mixer import Mixer, MixerConfig

# --- messages -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a\n b\t c ", "a b c"),
        ("\x1b[2J\0 \udcff é", r"\x1b[2J\x00 \udcff é"),
        ("a/" * 4000 + "end", "a/" * 49 + "..." + "/a" * 47 + "/end"),
        ("word " * 1000, ("word " * 100)[:498] + "..." + ("word " * 100)[1:-1]),
        ("", ""),
    ],
)
def test_a_message_is_one_line_of_what_can_be_shown(text, line):
    assert one_line(text) == one_line(one_line(text)) == line
    again = pickle.loads(pickle.dumps(NotFiniteError(text)))
    assert str(KTError(text)) == str(again) == line and type(again) is NotFiniteError


def test_a_name_with_line_breaks_or_spaces_around_is_quoted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a\n", " a"):
        with pytest.raises(KTError, match=rf"^{re.escape(repr(name))} is missing$"):
            files.read_bytes(Path(name))


# --- writing --------------------------------------------------------------------------------------


def test_no_device_is_replaced(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    for name, words in (("fifo", "regular"), ("link", "regular"), ("loop", "symbolic links")):
        with pytest.raises(KTError, match=words):
            save_bytes(tmp_path / name, b"content")
    assert (tmp_path / "fifo").is_fifo() and (tmp_path / "link").is_symlink()
    assert (tmp_path / "loop").is_symlink()


def test_nothing_in_a_folder_that_is_read_is_replaced(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"picture")
    with pytest.raises(KTError, match="in a folder that is read: choose another name, or add"):
        check_output(tmp_path / "images" / "a.png", [tmp_path / "images"])
    check_output(tmp_path / "images" / "b.png", [tmp_path / "images"])
    check_output(tmp_path / "images" / "a.png", [tmp_path / "images"], force=True)


def test_room_is_checked_before_the_work(tmp_path):
    check_output(tmp_path / "new" / "folder" / "file")
    assert not list(tmp_path.iterdir())
    with pytest.raises(KTError, match=r"No space left on device.*: make room"):
        check_output(tmp_path / "file", needed=2**62)


@pytest.mark.parametrize(
    ("number", "remedy"), [(errno.EACCES, "allow it"), (errno.ENOSPC, "make room")]
)
def test_the_remedy_is_that_of_the_reason(number, remedy, tmp_path, monkeypatch):
    def refuse(*given):
        raise OSError(number, os.strerror(number))

    save_bytes(tmp_path / "file", b"before")
    monkeypatch.setattr(Path, "write_bytes", refuse)
    for use in (lambda p: save_bytes(p, b"after"), check_output):
        with pytest.raises(KTError, match=f"{os.strerror(number)}.*: {remedy}"):
            use(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"before"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_written(value, tmp_path):
    with pytest.raises(NotFiniteError, match=r"means\.1 is not finite"):
        save_json(tmp_path / "a", {"name": "x", "means": [1.0, value]})
    for kind in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
        with pytest.raises(NotFiniteError, match="w is not finite"):
            save_tensors(tmp_path / "a", {"w": torch.tensor([0, value], dtype=kind)})
    assert not list(tmp_path.iterdir())
    assert is_finite(torch.empty(0)) and is_finite(torch.tensor([3e38, -3e38]))


# --- stores ---------------------------------------------------------------------------------------


def test_parts_and_counts_that_are_not_there_are_refused(tmp_path):
    write_store(tmp_path / "pairs", [{"large.w": torch.ones(4, 3)}], 4, {})
    pairs = Pairs(tmp_path / "pairs", "make it again")
    with pytest.raises(KTError, match="holds no 'former' blocks; it has large: make it again"):
        pairs.read("former", "large")
    assert list(pairs.read("large", "small", optional=["small"])) == ["large.w"]
    pairs.require(4)
    with pytest.raises(KTError, match="holds 4 networks, but 8 are needed: make it again"):
        pairs.require(8)


# --- sizes and settings ---------------------------------------------------------------------------


def test_translators_that_do_not_fit_into_memory_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "free", lambda: 2.0**34)
    require_memory(Merge, MergeConfig())
    for kind, config, words in (
        (Mixer, MixerConfig(layers=1000, hidden_size=65_536), "GiB of memory, but 16 are free"),
        (Mixer, MixerConfig(hidden_size=10**9), "hidden_size: got 1000000000; accepts <= 65536"),
        (Merge, MergeConfig(prototypes=10**12), "prototypes: got 10*; accepts <="),
        (Merge, MergeConfig(layers=10**9), "layers: got"),
    ):
        with pytest.raises(KTError, match=words):
            require_memory(kind, config)
    assert memory.free() > 0


def test_memory_counts_that_is_free_not_all_there_is(tmp_path, monkeypatch):
    (tmp_path / "meminfo").write_text("MemTotal: 8388608 kB\nMemAvailable:    3072 kB\n")
    monkeypatch.setattr(memory, "MEMORY", tmp_path / "meminfo")
    memory.require(3 * 2**20, "this", "less")
    with pytest.raises(KTError, match=r"0\.00586 GiB of memory, but 0\.00293 are free: less"):
        memory.require(6 * 2**20, "this", "less")


@pytest.mark.parametrize(
    "about",
    ["null", "[]", "{}", "", '{"kind": "mixer"', '{"kind": "mixer", "layers": 1e9}',
     '{"kind": "mixer", "hidden_size": 1000000000}', '{"kind": "nothing"}',
     '{"kind": "merge", "layers": 2, "unknown": 1}', '{"kind": "merge", "prototypes": 100000}',
     '{"kind": "attention", "heads": 0}', '{"kind": "merge", "target": "mlp"}'],
)  # fmt: skip
def test_a_translators_file_with_another_description_is_refused(about, tmp_path):
    path = tmp_path / "t"
    save_translator(path, Merge(MergeConfig(layers=1, hidden_size=8, prototypes=4)))
    save_tensors(path, files.load_tensors(path), {"translator": about})
    with pytest.raises(KTError, match=r"the remedy$") as caught:
        load_translator(path, remedy="the remedy")
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_translator_of_not_finite_weights_is_refused(tmp_path, monkeypatch):
    model = Mixer(MixerConfig(layers=1, hidden_size=8))
    nn.init.constant_(model.head.bias, torch.nan)
    with pytest.raises(NotFiniteError, match=r"head\.bias"):
        save_translator(tmp_path / "t", model)
    monkeypatch.setattr(files, "is_finite", lambda tensor: True)
    save_translator(tmp_path / "t", model)
    monkeypatch.undo()
    with pytest.raises(KTError, match=r"head\.bias is not finite"):
        load_translator(tmp_path / "t")


@dataclass(frozen=True)
class Some:
    count: int = bounded(3, ge=1, le=5)
    rate: float = bounded(0.5, gt=0)
    name: str = "a"
    flag: bool = False


@pytest.mark.parametrize(
    ("field", "value"),
    [("count", 0), ("count", 6), ("count", 1.5), ("count", True), ("rate", 0), ("rate", "x"),
     ("rate", float("nan")), ("rate", float("inf")), ("name", 3), ("flag", 1)],
)  # fmt: skip
def test_fields_out_of_bounds_are_named(field, value):
    require_bounds(Some())
    with pytest.raises(KTError, match=f"^{field}: got .*; accepts "):
        require_bounds(Some(**{field: value}))


@pytest.mark.parametrize("name", ["meta", "nonsense", "cuda:99", "", "cpu:x", "mps"])
def test_a_device_that_is_not_here_is_refused(name):
    assert device_named("cpu") == torch.device("cpu")
    with pytest.raises(KTError, match="cannot be used here") as caught:
        device_named(name)
    assert "\n" not in str(caught.value)
    assert name == "cuda:99" or "accepts cpu, cuda, cuda:1" in str(caught.value)


def test_too_many_open_files_are_no_damage(tmp_path):
    path = tmp_path / "file"
    path.touch()
    for error in (
        OSError(errno.EMFILE, "Too many open files"),
        SafetensorError("Error opening file: Too many open files (os error 24)"),
        RuntimeError("unable to open file <file> in read-only mode: Too many open files (24)"),
    ):
        with pytest.raises(KTError, match=r"file cannot be read .Too many"), reading(path):
            raise error


def test_too_little_memory_is_no_damage(tmp_path):
    path = tmp_path / "file"
    path.touch()
    for error in (
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        SafetensorError("Cannot allocate memory (os error 12)"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ):
        with pytest.raises(MemoryError, match="file cannot be read"), reading(path, "remedy"):
            raise error
