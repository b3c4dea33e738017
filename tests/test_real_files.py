"""Weights in and out of files, the command line, ONNX."""

import argparse
import importlib.util
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torch.testing import assert_close

import kt
from kt.__main__ import main
from kt.images.pictures import picture
from kt.real import Schedule, files
from kt.real.command import made_by, run
from kt.real.graph import call
from kt.run.arguments import whole
from kt.run.errors import KTError
from tests.real_networks import NETWORKS, Residual, made
from tests.test_real import few

ROOT = Path(__file__).resolve().parent.parent


def smaller_of(name):
    network, example = made(name)
    return (
        network,
        example,
        kt.compress(network, example, 0.7, few(example), schedule=Schedule(2)),
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_a_smaller_network_comes_back_from_its_file(name, tmp_path):
    _, example, smaller = smaller_of(name)
    files.save(smaller, tmp_path / "small.safetensors")
    again = kt.load(lambda: NETWORKS[name]()[0], tmp_path / "small.safetensors").eval()
    assert_close(call(again, example), call(smaller, example), atol=0, rtol=0)
    torch.save(
        {"state_dict": {f"module.{k}": v for k, v in smaller.state_dict().items()}},
        tmp_path / "s.pt",
    )
    again = kt.load(lambda: NETWORKS[name]()[0], tmp_path / "s.pt").eval()
    assert_close(call(again, example), call(smaller, example), atol=0, rtol=0)


def test_prefixes_of_wrappers_are_stripped_and_half_stays_half(tmp_path):
    network, example = made("residual")
    half = {f"module._orig_mod.{k}": v for k, v in network.half().state_dict().items()}
    save_file(half, tmp_path / "half.safetensors")
    again = kt.load(Residual, tmp_path / "half.safetensors")
    assert again.head.weight.dtype == torch.float16
    smaller = kt.compress(again, example.half(), 0.7, few(example), schedule=Schedule(2))
    assert {p.dtype for p in smaller.parameters()} == {torch.float16}


def test_other_weights_are_refused_in_one_line(tmp_path):
    network, _ = made("residual")
    weights = network.state_dict()
    path = tmp_path / "w.safetensors"
    for change, message in (
        ({"extra.weight": torch.ones(2)}, "no extra.weight"),
        ({"head.weight": torch.ones(5)}, "head.weight is"),
    ):
        save_file(weights | change, path)
        with pytest.raises(KTError, match=message):
            kt.load(Residual, path)
    save_file({k: v for k, v in weights.items() if k != "head.weight"}, path)
    with pytest.raises(KTError, match=r"lack head\.weight"):
        kt.load(Residual, path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(KTError, match="no safetensors file"):
        kt.load(Residual, path)
    torch.save(network, tmp_path / "whole.pt")  # holds code, which is not run
    words = r"no torch\.save of weights alone \(Unsupported global"  # not how to run its code
    with pytest.raises(KTError, match=words):
        kt.load(Residual, tmp_path / "whole.pt")
    with pytest.raises(KTError, match="missing"):
        kt.load(Residual, tmp_path / "none.pt")


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("head", (3, 8), r"head\.weight has 3 outputs, not 5, and no layer reads so few"),
        ("head", (5, 7), r"head\.weight reads 7 inputs, not 8, and no layer gives so few"),
        ("head", (5, 0), r"is \(5, 0\), but the network has \(5, 8\)"),
        (
            "blocks.0.conv2",
            (8, 20, 3, 3),
            r"is \(8, 20, 3, 3\), but the network has \(8, 16, 3, 3\)",
        ),
    ],
)
def test_widths_that_no_smaller_network_has_are_refused(name, shape, words, tmp_path):
    weights = Residual().state_dict()
    weights[f"{name}.weight"] = torch.randn(shape)
    if f"{name}.bias" in weights:
        weights[f"{name}.bias"] = torch.randn(shape[0])
    save_file(weights, tmp_path / "other.safetensors")
    with pytest.raises(KTError, match=rf"other\.safetensors does not fit .*: .*{words}"):
        kt.load(Residual, tmp_path / "other.safetensors")


def test_a_flipped_bit_in_a_smaller_network_is_noticed(tmp_path):
    _, _, smaller = smaller_of("residual")
    path = tmp_path / "small.safetensors"
    files.save(smaller, path)
    whole = path.read_bytes()
    files.save(smaller, path)
    assert path.read_bytes() == whole
    for place in range(8, len(whole), 501):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(KTError, match=r"small\.safetensors"):
            kt.load(Residual, path)


def raising(error):
    def factory():
        raise error

    return factory


class Odd(Residual):
    def state_dict(self, *given, **named):
        return {"a": 3}


class Failing(Residual):
    def state_dict(self, *given, **named):
        raise RuntimeError("no\nstate")


class Unloadable(Residual):
    def load_state_dict(self, *given, **named):
        raise RuntimeError("no loading")


def without_weights():
    with torch.device("meta"):
        return Residual()


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        (raising(RuntimeError("no\nway")), r"the factory fails \(RuntimeError: no\)"),
        (raising(SystemExit(0)), r"the factory fails \(SystemExit: 0\)"),
        (raising(OSError(28, "full")), "the factory fails .OSError"),
        (lambda needed: Residual(), "the factory fails .TypeError: .* 'needed'"),
        (3, "the factory fails .TypeError: 'int' object is not callable"),
        (lambda: None, "the factory gives no torch.nn.Module but a NoneType"),
        (lambda: Residual, "no torch.nn.Module but a type"),
        (lambda: (Residual(), 1), "no torch.nn.Module but a tuple"),
        (without_weights, "a network without weights, on the device meta"),
        (Odd, "the network's state_dict holds a, which is no tensor"),
        (Failing, r"the network's state_dict fails .RuntimeError: no\)"),
        (Unloadable, "does not take the weights .RuntimeError: no loading"),
        (lambda: nn.Module.__new__(nn.Module), "the network's state_dict fails"),
    ],
)
def test_a_factory_that_gives_no_network_is_refused_in_one_line(factory, words, tmp_path):
    save_file(Residual().state_dict(), tmp_path / "w")
    with pytest.raises(KTError, match=words) as caught:
        kt.load(factory, tmp_path / "w")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [torch.int32, torch.bool, torch.float8_e4m3fn, torch.complex64])
def test_weights_of_other_types_are_refused(kind, tmp_path):
    torch.save({k: v.to(kind) for k, v in Residual().state_dict().items()}, tmp_path / "w")
    with pytest.raises(KTError, match=rf"holds .* as {kind}"):
        kt.load(Residual, tmp_path / "w")


def test_complex_numbers_stay_complex_and_whole_ones_whole(tmp_path):
    def factory():
        network = Residual()
        network.register_buffer("phase", torch.ones(3, dtype=torch.complex64))
        network.register_buffer("index", torch.arange(3))
        return network

    state = factory().half().state_dict() | {"phase": torch.full((3,), 1 + 2j)}
    torch.save(state, tmp_path / "w")
    again = kt.load(factory, tmp_path / "w")
    assert again.phase.equal(state["phase"]) and again.head.weight.dtype == torch.float16
    torch.save(state | {"index": torch.tensor([0.5, 1, 2])}, tmp_path / "w")
    with pytest.raises(KTError, match=r"holds index as torch.float32, not torch.int64"):
        kt.load(factory, tmp_path / "w")


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -1.0, 0.5])
def test_a_count_of_batches_that_is_none_is_refused(value, tmp_path):
    count = {"blocks.0.bn1.num_batches_tracked": torch.tensor(value)}
    torch.save(Residual().state_dict() | count, tmp_path / "w")
    with pytest.raises(KTError, match=r"holds blocks\.0.bn1.num_batches_tracked.*, which is"):
        kt.load(Residual, tmp_path / "w")


@pytest.mark.parametrize("text", ["0", "-1", "9" * 30, "1.5", "x", ""])
def test_numbers_that_cannot_be_are_refused_with_what_can(text):
    with pytest.raises(argparse.ArgumentTypeError, match=r"accepts a whole number from 1 to 1000$"):
        whole(1, 1000)(text)
    assert whole(1, 1000)("1000") == 1000


def test_weights_without_values_are_refused(tmp_path):
    torch.save({k: v.to("meta") for k, v in Residual().state_dict().items()}, tmp_path / "w")
    with pytest.raises(KTError, match="which is no plain tensor"):
        kt.load(Residual, tmp_path / "w")


@pytest.mark.parametrize(
    "text", ["def f(:", "raise RuntimeError('at\\nimport')", "raise SystemExit(0)", "a = 1\0"]
)
def test_a_module_that_cannot_be_imported_is_refused_in_one_line(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "of_a_user.py").write_text(text)
    for name in ("of_a_user:f", "..x:f", "x" * 5000):
        with pytest.raises(KTError, match="is no module:function") as caught:
            made_by(name)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_a_module_that_moves_away_leaves_the_names_of_files_as_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "that_moves.py").write_text("import os\nos.chdir('/')\nf = 1")
    assert made_by("that_moves:f") == 1 and Path.cwd() == tmp_path


def test_command_line(tmp_path):
    network, example = made("residual")
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    (tmp_path / "images").mkdir()
    draw = torch.Generator().manual_seed(0)
    for at in range(30):
        pixels = torch.randint(0, 256, (12, 12, 3), generator=draw, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(tmp_path / "images" / f"{at}.png")
    arguments = [
        *("tests.real_networks:Residual", "w.safetensors", "-o", "out/small.safetensors"),
        *("--input", "1,3,12,12", "--keep", "0.6", "--steps", "3", "--report", "out/report.md"),
        *("--images", "images"),
    ]
    onnx = importlib.util.find_spec("onnxscript") and importlib.util.find_spec("onnxruntime")
    if onnx:
        arguments += ["--onnx", "out/small.onnx"]
    done = subprocess.run(
        [sys.executable, "-m", "kt", "compress", *arguments],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "27 images (unlabelled)" in done.stdout or "30 images (unlabelled)" in done.stdout
    assert (tmp_path / "out" / "report.md").read_text() == done.stdout
    if onnx:
        assert (tmp_path / "out" / "small.onnx").exists() and "ONNX Runtime" in done.stdout
    small = kt.load(Residual, tmp_path / "out" / "small.safetensors")
    assert small.blocks[0].conv1.out_channels < 16
    assert load_file(tmp_path / "out" / "small.safetensors").keys() >= network.state_dict().keys()
    assert small.eval()(example).shape == (4, 5)


def test_command_line_from_the_weights_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    network, _ = made("residual")
    save_file(network.state_dict(), "w.safetensors")
    given = ["compress", "tests.real_networks:Residual", "w.safetensors", "-o", "small.safetensors"]
    given += ["--input", "1,3,12,12", "--keep", "0.6", "--weights-alone"]
    monkeypatch.setattr(sys, "argv", ["kt", *given])
    main()
    assert "From the weights alone" in capsys.readouterr().out
    assert kt.load(Residual, tmp_path / "small.safetensors").blocks[0].conv1.out_channels < 16
    for more in (["--steps", "3"], ["--images", "."]):
        monkeypatch.setattr(sys, "argv", ["kt", *given, "--force", *more])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 1
        assert "--weights-alone accepts neither" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["sound", "two inputs"])
def test_onnx_answers_alike(name, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    if name == "two inputs":
        name = "inverted"
    _, example, smaller = smaller_of(name)
    assert files.export_onnx(smaller, example, tmp_path / "small.onnx") < 1e-4


@pytest.mark.parametrize(
    ("report", "words"),
    [
        ("sub/../out", "different files"),
        ("out/report", "different files, none in another"),
        ("a\0b", "without NUL"),
    ],
)
def test_outputs_that_are_one_file_or_none_are_refused(report, words, tmp_path):
    (tmp_path / "sub").mkdir()
    options = Namespace(
        output=tmp_path / "out",
        report=tmp_path / report,
        onnx=None,
        images=None,
        weights=tmp_path / "in",
        force=False,
    )
    with pytest.raises(KTError, match=words):
        run(options)


def test_a_folder_of_images_with_too_long_a_name_is_refused():
    _, example = made("residual")
    with pytest.raises(KTError, match="is no folder"):
        kt.compress(made("residual")[0], example, 0.7, "x" * 300)


def damaged(folder, how):
    """Put something that is no picture into a folder of pictures."""
    path, whole = folder / "7.png", (folder / "0.png").read_bytes()
    if how == "a folder":
        path.mkdir()
    elif how == "no regular file":
        os.mkfifo(path)
    elif how == "symbolic links":
        path.symlink_to(path.name)
    else:
        wide = whole[:16] + (60_000).to_bytes(4, "big") * 2 + whole[24:]
        path.write_bytes({"truncated": whole[: len(whole) // 2], "damaged": wide}[how])


@pytest.mark.parametrize(
    "how", ["truncated", "damaged", "a folder", "no regular file", "symbolic links"]
)
def test_a_picture_that_cannot_be_read_is_named(how, tmp_path):
    draw = torch.Generator().manual_seed(0)
    for at in range(4):
        pixels = torch.randint(0, 256, (16, 16, 3), generator=draw, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(tmp_path / f"{at}.png")
    damaged(tmp_path, how)
    network, example = made("residual")
    with pytest.raises(KTError, match=rf"7\.png .*{how}.*: take it out of the folder") as caught:
        kt.compress(network, example, 0.7, tmp_path)
    assert "\n" not in str(caught.value)


def test_the_factorys_own_file_is_not_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    code = "from tests.real_networks import Residual\ndef make():\n    return Residual()\n"
    (tmp_path / "made_here.py").write_text(code)
    options = Namespace(
        output=Path("made_here.py"),
        report=None,
        onnx=None,
        images=None,
        weights=Path("in"),
        force=False,
        factory="made_here:make",
        mean=(0, 0, 0),
        deviation=(1, 1, 1),
        weights_alone=False,
    )
    with pytest.raises(KTError, match=r"made_here\.py is a file that is read"):
        run(options)
    assert (tmp_path / "made_here.py").read_text() == code


def test_pictures_of_16_bits_are_not_cut_off(tmp_path):
    grey = torch.linspace(0, 65_535, 16).round().view(4, 4).int()
    Image.fromarray(grey.numpy().astype("uint16")).save(tmp_path / "a.png")
    expected = (grey / 257).byte()
    assert_close(picture(tmp_path / "a.png"), expected.expand(3, 4, 4), rtol=0, atol=1)
    Image.new("F", (4, 4), 0.5).save(tmp_path / "b.tiff")
    with pytest.raises(ValueError, match="its pixels are real numbers"):
        picture(tmp_path / "b.tiff")


@pytest.mark.parametrize("normalise", [((1e38, 0, 0), (0.2, 1, 1)), ((0, 0, 0), (1, 1, 1e-320))])
def test_a_normalisation_to_no_numbers_is_named(normalise, tmp_path):
    Image.new("RGB", (16, 16), (9, 9, 9)).save(tmp_path / "a.png")
    network, example = made("residual")
    with pytest.raises(KTError, match=r"^normalise: these means and deviations"):
        kt.compress(network, example, 0.7, tmp_path, normalise=normalise)
