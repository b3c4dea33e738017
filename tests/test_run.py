"""Writing, checkpoints, divergence, sizes and the last guard."""

import contextlib
import errno
import io
import json
import os
import pickle
import re
import subprocess
import sys
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from torch import nn

import kt
from kt import ensemble
from kt.ensemble import Recipe
from kt.images import ImageSet
from kt.pairs import generate
from kt.pairs.generate import Plan
from kt.pairs.store import Pairs, write_store
from kt.rivals import classifier
from kt.run import checkpoint, files, memory
from kt.run.bounds import bounded, require_bounds
from kt.run.errors import KTError, NotFiniteError, one_line
from kt.run.files import check_output, reading, save_bytes, save_tensors
from kt.run.finite import finite_networks, is_finite
from kt.run.guard import guard
from kt.run.strict_json import load_json, save_json
from kt.run.threads import device_named
from kt.translators import load_translator, require_memory, save_translator
from kt.translators.fit import Training, fit
from kt.translators.merge import Merge, MergeConfig
from kt.translators.mixer import Mixer, MixerConfig
from kt.translators.objectives import WeightObjective

ROOT = Path(__file__).resolve().parent.parent

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


# --- checkpoints ----------------------------------------------------------------------------------


def linear(seed):
    torch.manual_seed(seed)
    return nn.Linear(3, 2)


def damage(path, how):
    whole = path.read_bytes()
    if how == "other":
        torch.save({"epoch": 3}, path)
    elif how == "not finite":
        bad = linear(0)
        nn.init.constant_(bad.weight, torch.nan)
        checkpoint.save(path, {"m": bad}, epoch=9)
    else:
        middle = len(whole) // 2
        flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
        path.write_bytes({"cut": whole[:middle], "flip": flipped, "empty": b""}[how])


@pytest.mark.parametrize("how", ["cut", "flip", "empty", "other", "not finite"])
def test_behind_a_damaged_checkpoint_stands_the_one_before(how, tmp_path, caplog):
    path = tmp_path / "c.pt"
    first, second = linear(1), linear(2)
    checkpoint.save(path, {"m": first}, epoch=1)
    if how != "not finite":
        checkpoint.save(path, {"m": second}, epoch=2)
    damage(path, how)
    module = linear(3)
    kept = checkpoint.restore(checkpoint.load(path), {"m": module}, {"epoch": 0})
    assert kept == {"epoch": 1} and torch.equal(module.weight, first.weight)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("notice: ") and "c.damaged" in line and "\n" not in line
    assert (tmp_path / "c.damaged").exists() and not path.exists()
    damage(checkpoint.before(path), "cut")
    assert checkpoint.load(path) is None
    assert checkpoint.restore(None, {"m": module}, {"epoch": 0}) == {"epoch": 0}


@pytest.mark.parametrize("parts", [{"m": nn.Linear(5, 2)}, {"other": linear(0)}])
def test_another_works_checkpoint_changes_nothing(parts, tmp_path, caplog):
    checkpoint.save(tmp_path / "c", parts, epoch=1)
    module, optimizer = linear(3), linear(4)
    before = module.weight.clone()
    state = checkpoint.load(tmp_path / "c")
    kept = checkpoint.restore(state, {"m": module, "optimizer": optimizer}, {"epoch": 0})
    assert kept == {"epoch": 0} and torch.equal(module.weight, before)
    assert "something else" in caplog.text


# --- divergence -----------------------------------------------------------------------------------


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2, bias=False)

    def forward(self, large):
        return {"small": self.layer(large["large"])}


@pytest.mark.parametrize(
    "change", [{"lr": 1e30}, {"lr": 1e300}, {"weight_decay": 1e308}, {"lr": 1e30, "epochs": 1}]
)
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_translators_divergence_is_an_error_and_keeps_what_was_good(change, optimizer, tmp_path):
    torch.manual_seed(0)
    x = torch.randn(8, 3)
    objective = WeightObjective({"large": x}, {"small": torch.randn(8, 2)})
    training = Training(epochs=2, batch_size=4, optimizer=optimizer)

    def evaluate(model):
        return {"score": 0.0}

    fit(Small(), objective, training, evaluate, "score", tmp_path / "c")
    good = (tmp_path / "c").read_bytes()
    (tmp_path / "c").write_bytes(good)
    diverging = replace(training, **{"epochs": 4, **change})
    if diverging.epochs == 1:
        (tmp_path / "c").unlink()
        checkpoint.before(tmp_path / "c").unlink(missing_ok=True)
    with pytest.raises(NotFiniteError, match="lower the learning rate, the noise or the weight"):
        fit(Small(), objective, diverging, evaluate, "score", tmp_path / "c")
    assert diverging.epochs == 1 or (tmp_path / "c").read_bytes() == good


def shown():
    torch.manual_seed(0)
    images = torch.randint(256, (32, 28, 28)).to(torch.uint8)
    return ImageSet(images, torch.arange(32) % 10)


@pytest.mark.parametrize("engine", ["torch", "auto"])
def test_networks_that_diverge_are_an_error_and_no_part_is_kept(engine, tmp_path):
    recipe = Recipe(epochs=2, batch_size=8, lr=1e30)
    plan = Plan("train", 4, 2, "conv", recipe, seed=1)
    with pytest.raises(NotFiniteError, match=r"networks diverged: [12] of 2 are not finite: lower"):
        list(generate.run(plan, shown(), tmp_path, ensemble.Compute(engine=engine)))
    assert not list(tmp_path.iterdir())
    with pytest.raises(NotFiniteError, match="1 of 1"):
        kt.train_network(shown(), 1, recipe)


def test_a_dead_network_is_no_divergence():
    dead = {"w": torch.zeros(3, 4), "v": torch.ones(3, 2)}
    assert finite_networks(dead) is dead
    dead["v"][1, 0] = torch.inf
    with pytest.raises(NotFiniteError, match="1 of 3"):
        finite_networks(dead)


def test_a_classifiers_divergence_is_an_error(tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
    data = ImageSet(torch.zeros(4, 3, 32, 32).to(torch.uint8), torch.arange(4))
    training = classifier.Training(3, 4, 1e30, 0.0, 0.9, 0.0, "float32", 0)

    def losses(images, labels):
        return {"loss": model(images).square().mean()}

    with pytest.raises(NotFiniteError, match="diverged in epoch"):
        classifier.train(model, losses, data, training, tmp_path / "c")


def test_a_store_of_weights_that_are_not_finite_is_not_written(tmp_path):
    parts = [{"large.w": torch.ones(2, 3)}, {"large.w": torch.full((1, 3), torch.inf)}]
    with pytest.raises(NotFiniteError, match=r"pairs.*large\.w"):
        write_store(tmp_path / "pairs", parts, 3, {})
    assert not list(tmp_path.iterdir())


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
    monkeypatch.setattr(memory, "total", lambda: 2.0**34)
    require_memory(Merge, MergeConfig())
    for kind, config, words in (
        (Mixer, MixerConfig(layers=1000, hidden_size=65_536), "GiB of memory, but there are 16"),
        (Mixer, MixerConfig(hidden_size=10**9), "hidden_size: got 1000000000; accepts <= 65536"),
        (Merge, MergeConfig(prototypes=10**12), "prototypes: got 10*; accepts <="),
        (Merge, MergeConfig(layers=10**9), "layers: got"),
    ):
        with pytest.raises(KTError, match=words):
            require_memory(kind, config)
    assert memory.total() > 0


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


# --- the last guard -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (KTError("a\nb"), 1, "error: a b\n"),
        (KeyboardInterrupt(), 1, "interrupted: kept\n"),
        (OSError(errno.ENOSPC, "No space left"), 1, "No space left: kept\n"),
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
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "No space" in done.stderr


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


def test_json_is_strict(tmp_path):
    path = tmp_path / "a.json"
    save_json(path, {"a": [1, 2.5, "x"]})
    assert load_json(path) == json.loads(path.read_text()) == {"a": [1, 2.5, "x"]}
    for content in (b"", b"[NaN]", b"\xff", b"[" * 100_000, b"9" * 5000, b'{"a": Infinity}'):
        path.write_bytes(content)
        with pytest.raises(KTError, match=r"a\.json is damaged .*: again$"):
            load_json(path, "again")
