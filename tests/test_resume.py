"""Work that is killed, shared, damaged or short of room goes on to the same bytes."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from kt.ensemble import Compute, Recipe
from kt.images import ImageSet
from kt.networks.weights import Weights
from kt.pairs import generate
from kt.pairs.generate import Plan


def test_generation_that_is_killed_resumes_to_identical_bytes(prepared):
    whole = prepared.files("data/pairs/train")
    shutil.rmtree(prepared.folder / "data/pairs/train")
    for parts_seen in (1, 3):
        process = prepared.start("generate_train", KT_WORKERS="1")
        wait_for(lambda count=parts_seen: len(parts(prepared)) >= count, process)
        process.kill()
        process.communicate()
        assert len(parts(prepared)) >= parts_seen
    damaged = min(parts(prepared))
    damaged.write_bytes(damaged.read_bytes()[:100])  # a damaged part is computed again
    prepared.succeed("generate_train")
    assert prepared.files("data/pairs/train") == whole


def parts(project) -> list[Path]:
    found = (project.folder / ".kt").glob("generate-*/*.safetensors")
    return [path for path in found if not path.name.startswith(".")]


def wait_for(condition, process, seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


def train_long(project) -> None:
    """Time to kill the translator's training: many epochs, and a checkpoint after every one."""
    source = project.folder / "kt" / "translators" / "fit.py"
    code = source.read_text()
    source.write_text(code.replace("CHECKPOINT_SECONDS = 20", "CHECKPOINT_SECONDS = 0"))
    schedule = project.params["translators"]["merge"]["schedule"]["tiny"]
    schedule |= {"epochs": 30, "evaluate_every": 5}
    project.write_params()


def checkpoints(project, number="*") -> list[Path]:
    return list(project.folder.glob(f".kt/translator-*/checkpoint-{number}.pt"))


@pytest.mark.parametrize("number", [1, 2])  # of the two translators that are trained in turn
def test_a_killed_translator_resumes_to_the_same_result(number, prepared):
    train_long(prepared)
    prepared.succeed("train_translator")
    whole = prepared.files("results/train")
    process = prepared.start("train_translator")
    wait_for(lambda: checkpoints(prepared, number), process)
    process.kill()
    process.communicate()
    assert checkpoints(prepared, number)
    prepared.succeed("train_translator")
    again = prepared.files("results/train")
    for name in whole:
        if not name.endswith(".tsv"):
            assert again[name] == whole[name], name
    assert losses(again) == losses(whole)


def test_a_second_process_on_the_same_work_is_sent_away(prepared):
    process = prepared.start("generate_train")
    wait_for(lambda: list(prepared.folder.glob(".kt/generate-*.lock")), process)
    process.kill()
    process.communicate()
    (lock,) = prepared.folder.glob(".kt/generate-*.lock")
    with FileLock(lock):
        status, errors = prepared.run("generate_train")
    assert status == 1 and "another process is doing this work" in errors
    assert "Traceback" not in errors


def test_a_damaged_store_is_refused_in_one_line(prepared):
    shard = prepared.folder / "data" / "pairs" / "train" / "00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    status, errors = prepared.run("augment")
    assert status == 1 and "00000.safetensors is damaged" in errors
    assert errors.strip().count("\n") == 0


def test_a_full_disk_ends_in_one_line_and_loses_nothing(prepared):
    pytest.importorskip("resource")
    limit = (  # a file-size limit stands in for the full disk: the system refuses the write
        "import resource, runpy, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY));"
        "sys.argv = ['stage'];"
        "runpy.run_module('stages.generate_train', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", limit], cwd=prepared.folder, capture_output=True, text=True
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "could not be written" in done.stderr.strip().splitlines()[-1]
    assert not list(prepared.folder.rglob("*.partial"))
    prepared.succeed("generate_train")


def losses(files) -> list[list[str]]:
    """Step and loss of every epoch; DVCLive's rows begin with a time stamp."""
    lines = files["results/train/plots/metrics/loss.tsv"].decode().splitlines()
    return [line.split("\t")[-2:] for line in lines]


def in_parts(folder: Path) -> list[Weights]:
    """Four networks, made in two parts that stay in a folder."""
    pixels = torch.arange(16 * 28 * 28).remainder(251).byte().view(16, 28, 28)
    data = ImageSet(pixels, torch.arange(16) % 10)
    plan = Plan("train", 4, 2, None, Recipe(1, 8, 0.05), 1)
    return list(generate.run(plan, data, folder, Compute()))


@pytest.mark.parametrize("how", ["swapped", "a folder", "a link to itself", "empty"])
def test_a_part_that_is_another_or_none_is_set_aside_and_made_again(how, tmp_path, caplog):
    whole = in_parts(tmp_path)
    one, other = sorted(tmp_path.glob("*.safetensors"))
    if how == "swapped":
        one.rename(tmp_path / "x")
        other.rename(one)
        (tmp_path / "x").rename(other)
    else:
        one.unlink()
    if how == "a folder":
        one.mkdir()
    elif how == "a link to itself":
        one.symlink_to(one.name)
    elif how == "empty":
        one.touch()
    for made, expected in zip(in_parts(tmp_path), whole, strict=True):
        assert all(torch.equal(made[name], tensor) for name, tensor in expected.items())
    assert caplog.text.count("it is set aside as train-00000") == (2 if how == "swapped" else 1)
    assert os.path.lexists(one.with_suffix(".damaged"))
