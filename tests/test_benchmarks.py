"""What the benchmarks count."""

import inspect
import json
import sys

import pytest
import torch

from benchmarks import command, cost, generate, gpu, gpu_parts
from kt.ensemble import cuda_engine, torch_engine
from kt.networks.blocks import Sizes
from tests.conftest import usual_params

IMAGES = {"train": 55_000, "held_back": 5_000, "test": 10_000, "transfer": 7_291}


def test_the_work_of_the_papers_scale_is_what_the_paper_says():
    works = cost.work(usual_params().changed({"scale": "paper"}, "scale"), IMAGES)
    assert works["training networks"]["step 1"] == 300_000 * 10 * 55_000
    assert works["training networks"]["step 2 conv"] == 300_000 * 10 * 55_000
    assert works["table3"]["mixer wide to conv"] == 300 * 300_000
    assert works["table4"]["mixer small, dropout to conv"] == 3 * 1_000 * 300_000
    # Once none, three times masking, three times noise: 50,000 pairs as long as 300,000 would take.
    assert works["table5"]["mixer large to conv"] == 7 * 1_800 * 50_000
    assert works["table6"]["step 2 attention"] == 300_000 * 10 * 55_000
    assert works["table6"]["step 1"] == 0  # the networks are the training networks
    assert works["figure4"] == dict.fromkeys(("mixer", "attention", "convolution"), 100 * 1_024)
    one_evaluation = 100 * 5_000 + 100 * 10_000
    assert works["figure5"]["evaluation"] == 300 / 25 * one_evaluation


def test_times_are_said_in_their_largest_unit():
    assert cost.in_words(1800) == "0.5 hours"
    assert cost.in_words(36 * 3600) == "1.5 days"
    assert cost.in_words(2 * 365.25 * 86400) == "2.0 years"


def test_peak_memory_is_counted_in_kilobytes_on_linux_and_in_bytes_on_macos(monkeypatch):
    resource = pytest.importorskip("resource")
    process = pytest.importorskip("benchmarks.process")
    monkeypatch.setattr(resource, "getrusage", lambda who: type("Usage", (), {"ru_maxrss": 2**30}))
    for platform, expected in (("linux", 1024), ("darwin", 1)):
        monkeypatch.setattr(sys, "platform", platform)
        assert process.peak_memory() == expected  # GiB


@pytest.mark.skipif(cuda_engine.available(), reason="there is a GPU")
def test_without_a_gpu_there_is_nothing_to_measure(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["gpu", "--out", str(tmp_path / "out")])
    gpu.main()
    assert capsys.readouterr().out.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_part_that_fails_keeps_what_it_found():
    part = {
        "outcome": {"seconds": 3.0, "failed": "ended with 1", "last lines": ["KeyError: 'x'"]},
        "rows": [{"what": "a", "ms": 0.25}, {"what": "b", "failed": "a | b\nc"}],
    }
    page = gpu.markdown({"machine": {"card": "none"}, "parts": {"generation": part}})
    assert "| what | ms | failed |" in page
    assert "| a | 0.25 |  |" in page
    assert "| b |  | a / b c |" in page
    assert "KeyError: 'x'" in page


def test_a_steps_work_is_what_the_layers_do():
    former, large, latter = 784 * 54, 2 * 196 * 324, 49 * 72 + 5880
    step_1, step_2 = generate.flop("conv")["step 1"], generate.flop("conv")["step 2"]
    assert step_1 == 2 * 128 * (2 * former + 3 * large + 3 * latter)
    assert step_2 == 2 * 128 * (former + 5 * 196 * 162 + 2 * latter)
    assert generate.flop("attention")["step 2"] - step_2 == 2 * 128 * (
        9 * 196 * 36 + 6 * 196 * 196 * 6 - 5 * 196 * 162
    )
    wide = generate.flop("conv", Sizes(channels=16, hidden=8))["step 1"]
    assert 6 < wide / step_1 < (16 / 6) ** 2


def found(printed):
    """The results among what a part of `benchmarks.gpu` has printed."""
    marked = [line for line in printed.splitlines() if line.startswith(gpu_parts.MARK)]
    return [json.loads(line.removeprefix(gpu_parts.MARK)) for line in marked]


@pytest.mark.parametrize("step", ["step 1", "step 2"])
def test_deviations_are_those_of_rounding(monkeypatch, capsys, step):
    """The reference takes the GPU's place."""
    monkeypatch.setattr(gpu_parts, "GPU", "cpu")
    monkeypatch.setattr(gpu_parts, "cuda_engine", torch_engine)
    monkeypatch.setattr(generate, "BATCH", 16)
    gpu_parts.deviations(step, batches=1, networks=2)
    rows = found(capsys.readouterr().out)
    assert len(rows) == 4
    assert all(0 < row["median"] <= row["largest"] < 1e-2 for row in rows), rows


def test_speed_is_measured_of_every_engine_on_its_device(monkeypatch, capsys):
    called, signature = [], inspect.signature(generate.engine_loop)

    def loop(*args, **options):
        called.append(signature.bind(*args, **options).arguments)
        return 2.0

    monkeypatch.setattr(generate, "engine_loop", loop)
    monkeypatch.setattr(generate, "plain_loop", lambda *args: 8.0)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 2**30)
    gpu_parts.generation()
    rows = found(capsys.readouterr().out)
    assert not [row for row in rows if "failed" in row]
    assert {call["device"] for call in called if call["engine"] is cuda_engine} == {"cuda"}
    assert {row["times the plain loop"] for row in rows} == {1.0, 4.0}


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("generate", "--networks 0", "--networks: got '0'; accepts a whole number from 1 "),
        ("generate", "--steps 2", "--steps: got '2'; accepts a whole number from 3 "),
        ("generate", "--image-size 3", "image_size: got 3"),
        ("generate", "--target none", "--target: invalid choice"),
        ("store", "--pairs x", "--pairs: got 'x'"),
        ("store", "--folder nowhere", "'nowhere' is no folder"),
        ("translate", "--networks 1 --translator nowhere", "nowhere is missing"),
        ("translator", "--loaders -1", "--loaders: got '-1'; accepts a whole number from 0 "),
        ("growth", "--draw --out nowhere", "growth.csv is missing"),
    ],
)
def test_what_is_wrong_with_a_benchmarks_command_line_is_one_line(
    name, arguments, words, monkeypatch, capsys, tmp_path
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name, *arguments.split()])
    module = pytest.importorskip(f"benchmarks.{name}")
    with pytest.raises(SystemExit) as end:
        command.start(module.main)
    errors = capsys.readouterr().err
    assert end.value.code in (1, 2) and words in errors and errors.count("\n") == 1
