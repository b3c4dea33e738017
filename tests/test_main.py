"""The command line, as a user types it."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

import kt
from kt.__main__ import main
from kt.networks.blocks import Network, parameter_count, weights
from kt.networks.cost import multiply_adds
from kt.run.errors import KTError
from kt.translators import (
    compress,
    own_images,
    save_translator,
)
from kt.translators.merge import Merge, MergeConfig
from kt.translators.mixer import Mixer, MixerConfig

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def network():
    torch.manual_seed(0)
    made = Network()
    made(torch.rand(8, 1, 28, 28))  # statistics of its own
    return made.eval()


@pytest.fixture(params=["mixer", "merge"])
def model(request):
    torch.manual_seed(1)
    if request.param == "mixer":
        return Mixer(MixerConfig(layers=1, hidden_size=8, target="conv"))
    return Merge(MergeConfig(layers=2, hidden_size=8, prototypes=32, target="conv"))


def run(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "kt", *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "HOME": str(folder), "CXX": ""},
        capture_output=True,
        text=True,
    )


def test_python_without_docstrings_does_as_well(tmp_path):
    code = "import sys; sys.argv = ['kt', '--help']; from kt.__main__ import main; main()"
    command = [sys.executable, "-OO", "-c", code]
    done = subprocess.run(command, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0 and "translate" in done.stdout, done.stderr


def test_a_network_is_compressed_and_what_surrounds_the_block_stays(network, model, tmp_path):
    save_file(network.state_dict(), tmp_path / "network.safetensors")
    save_translator(tmp_path / "t.safetensors", model)
    arguments = ["network.safetensors", "-o", "small.safetensors", "--translator", "t.safetensors"]
    done = run(tmp_path, "translate", *arguments, "--images", "digits")
    assert done.returncode == 0, done.stderr
    assert "6,724" in done.stdout and "6,376" in done.stdout and "accuracy" in done.stdout
    written = load_file(tmp_path / "small.safetensors")
    small = Network("conv")
    small.load_state_dict(written, strict=False)
    for name, tensor in network.state_dict().items():
        if not name.startswith("block.") and "num_batches" not in name:
            assert torch.equal(written[name], tensor), name
    x = torch.rand(3, 1, 28, 28)
    again = compress(model.eval(), network)  # in another process: other rounding
    assert_close(small.eval()(x), again(x), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("shown", [[], ["--refine-images", "digits"]])
def test_a_translated_block_is_refined(shown, model, network, tmp_path):
    save_file(network.state_dict(), tmp_path / "network.safetensors")
    save_translator(tmp_path / "t.safetensors", model)
    arguments = ["network.safetensors", "-o", "small.safetensors", "--translator", "t.safetensors"]
    done = run(tmp_path, "translate", *arguments, "--images", "digits", "--refine", "2", *shown)
    assert done.returncode == 0, done.stderr
    rows = {line.split()[0]: line for line in done.stdout.splitlines()[1:] if line}
    assert rows["refined"].split()[1:3] == rows["after"].split()[1:3] and "%" in rows["refined"]
    assert rows["refined"].endswith(" s") and not rows["after"].endswith(" s")
    written = load_file(tmp_path / "small.safetensors")
    start = compress(model.eval(), network)
    for name, tensor in weights(start).items():
        assert torch.equal(written[name], tensor) != name.startswith("block."), name


def test_a_network_is_translated_from_its_weights_alone(network, tmp_path):
    save_file(network.state_dict(), tmp_path / "network.safetensors")
    arguments = ["translate", "network.safetensors", "-o", "small.safetensors", "--weights-alone"]
    done = run(tmp_path, *arguments, "--hidden", "2")
    assert done.returncode == 0, done.stderr
    written = load_file(tmp_path / "small.safetensors")
    expected = kt.translate(network.eval(), hidden=2, weights_alone=True)
    for name, tensor in weights(expected).items():
        # In another process steps differ by rounding, which steps of Adam make larger.
        assert (written[name] - tensor).norm() <= 0.05 * tensor.norm(), name
    for more in (["--translator", "t.safetensors"], ["--refine", "3"]):
        done = run(tmp_path, *arguments, *more)
        assert done.returncode == 2 and "--weights-alone" in done.stderr


def test_a_translator_lends_its_own_images_for_refining(model):
    lent = own_images(model)
    if isinstance(model, Mixer):
        assert lent is None
    else:
        assert torch.equal(lent.images, model.prototypes) and len(lent) == 32


def test_what_cannot_be_refined_is_refused_in_one_line(network, tmp_path):
    save_file(network.state_dict(), tmp_path / "network.safetensors")
    save_translator(tmp_path / "t.safetensors", Mixer(MixerConfig(1, 8, target="mlp")))
    arguments = ["network.safetensors", "-o", "small.safetensors", "--translator", "t.safetensors"]
    done = run(tmp_path, "translate", *arguments, "--refine", "2")
    assert done.returncode == 1 and "not 'mlp'" in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "small.safetensors").exists()
    done = run(tmp_path, "translate", *arguments, "--refine-images", "digits")
    assert done.returncode == 2 and "needs --refine" in done.stderr
    done = run(tmp_path, "translate", *arguments, "--refine", "0")
    assert done.returncode == 2 and "accepts a whole number from 1" in done.stderr


def test_what_cannot_be_translated_is_refused_in_one_line(network, tmp_path):
    save_translator(tmp_path / "t.safetensors", Mixer(MixerConfig(layers=1, hidden_size=8)))
    arguments = ["network.safetensors", "-o", "small.safetensors", "--translator", "t.safetensors"]
    done = run(tmp_path, "translate", *arguments)
    assert done.returncode == 1 and "network.safetensors is missing" in done.stderr
    save_file(Network("conv").state_dict(), tmp_path / "network.safetensors")
    done = run(tmp_path, "translate", *arguments)
    assert done.returncode == 1 and "kt.Network('large') is what" in done.stderr
    assert done.stderr.count("\n") == 1
    broken = network.state_dict()
    broken["former.conv.weight"] = broken["former.conv.weight"] * torch.nan
    save_file(broken, tmp_path / "network.safetensors")
    with pytest.raises(KTError, match="not finite"):
        kt.load_network(tmp_path / "network.safetensors")
    with pytest.raises(KTError, match="'conv' block"):
        compress(Mixer(MixerConfig(layers=1, hidden_size=8)), Network("conv"))


def test_counts_are_those_of_the_shapes():
    around, image = 784 * 54 + 49 * 72 + 5880, torch.zeros(1, 1, 28, 28)
    assert multiply_adds(Network(), image) == around + 2 * 196 * 324
    assert multiply_adds(Network("conv"), image) == around + 2 * 196 * 162
    assert parameter_count(Network()) == 66 + 672 + 5986


def test_a_network_is_trained_and_translated_by_what_comes_with_the_package(
    tmp_path, monkeypatch, capsys
):
    large, small = tmp_path / "network.safetensors", tmp_path / "small.safetensors"
    for arguments in (["train", "-o", large], ["translate", large, "-o", small]):
        monkeypatch.setattr(sys, "argv", ["kt", *map(str, [*arguments, "--images", "digits"])])
        main()
    printed = [float(percent) for percent in re.findall(r"([\d.]+) %", capsys.readouterr().out)]
    trained, before, after = printed
    _, test = kt.load_images("digits")
    compressed = Network("conv")
    compressed.load_state_dict(load_file(small), strict=False)
    measured = kt.accuracy(kt.load_network(large), test), kt.accuracy(compressed.eval(), test)
    assert trained == before and measured == pytest.approx((before, after), abs=0.01)
    assert before > 85 and after > 65


def test_public_names_are_those_that_type_checkers_see():
    stub = ast.parse((ROOT / "kt" / "__init__.pyi").read_text())
    imports = {a.asname: f"{n.module}.{a.name}" for n in stub.body for a in n.names}
    assert sorted(imports) == kt.__all__
    for name, home in imports.items():
        module, _, attribute = home.rpartition(".")
        assert getattr(kt, name) is getattr(importlib.import_module(module), attribute)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        kt.nothing  # noqa: B018
    with pytest.raises(KTError, match="no image set 'flowers'"):
        kt.load_images("flowers")
