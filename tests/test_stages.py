"""The stages as a user meets them: interruptions, bad input, and what DVC is told of them."""

import ast
import fcntl
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def imported(path: Path, seen: set[Path]) -> set[Path]:
    """The project's files that a file imports, directly or not, itself included."""
    if path in seen:
        return seen
    seen.add(path)
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module] + [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            if name.split(".")[0] not in ("kt", "stages"):
                continue
            place = ROOT / name.replace(".", "/")
            for file in (place.with_suffix(".py"), place / "__init__.py"):
                if file.exists():
                    imported(file, seen)
    return seen


@pytest.mark.parametrize("stage", STAGES)
def test_what_a_stage_imports_is_among_its_deps(stage):
    deps = [ROOT / dep for dep in STAGES[stage]["deps"]]
    used = imported(ROOT / "stages" / f"{stage}.py", set())
    missing = [
        str(file.relative_to(ROOT))
        for file in used
        if file.name != "__init__.py" or file.parent.name == "kt"
        if not any(file == dep or dep in file.parents for dep in deps)
    ]
    assert not missing
    surplus = [
        dep
        for dep in STAGES[stage]["deps"]
        if dep.endswith(".py")
        and ROOT / dep not in used
        and dep != "kt/__init__.py"
    ]
    assert not surplus
    assert STAGES[stage]["cmd"] == f"python -m stages.{stage}"


def test_the_library_knows_no_dvc_no_yaml_and_does_not_print():
    for path in (ROOT / "kt").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", "") or ""]
                roots = {name.split(".")[0] for name in names}
                assert not roots & {"dvc", "dvclive", "yaml", "stages", "tqdm"}, path
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "print", path


def test_all_stages_in_order_give_every_number_and_figure(project):
    project.succeed(*STAGES)
    results = project.folder / "results"
    for name, key in (("train", "translation"), ("baselines", "greedy_replacement")):
        metrics = json.loads((results / name / "metrics.json").read_text())
        assert set(metrics[key]) == {"mean", "std", "min", "max", "n", "ci95"}
        assert metrics[key]["n"] == 3 and 0 <= metrics[key]["mean"] <= 100
    assert "gain" in json.loads((results / "transfer" / "metrics.json").read_text())
    assert "50_percent" in json.loads((results / "partial" / "metrics.json").read_text())
    report = (results / "report.md").read_text()
    for figure in (results / "figures").iterdir():
        assert f"figures/{figure.name}" in report
    assert not list((project.folder / ".kt").iterdir())  # finished work leaves nothing behind

    # The same parameters give the same bytes, whatever the workers and the chunk size.
    first = project.files("data/pairs", "data/augmented")
    for stage in ("generate_train", "generate_val", "augment"):
        assert project.run(stage, "--workers", "3", "--chunk", "1")[0] == 0
    assert project.files("data/pairs", "data/augmented") == first


@pytest.mark.parametrize("target", ["mlp", "attention"])
def test_other_targets_run_through(project, target):
    project.params["target"] = target
    project.write_params()
    project.succeed("images", "generate_train", "generate_val", "augment", "train_translator")
    project.succeed("evaluate_baselines")


def test_generation_that_is_killed_resumes_to_identical_bytes(project):
    project.succeed("images", "generate_train")
    whole = project.files("data/pairs/train")
    for path in (project.folder / "data/pairs/train").iterdir():
        path.unlink()
    for parts_seen in (1, 3):
        process = project.start("generate_train")
        wait_for(lambda count=parts_seen: len(parts(project)) >= count, process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert len(parts(project)) >= parts_seen
    before = {path: path.stat().st_mtime_ns for path in parts(project)}
    damaged = min(before)
    damaged.write_bytes(damaged.read_bytes()[:100])  # a damaged part is computed again
    project.succeed("generate_train")
    assert project.files("data/pairs/train") == whole


def parts(project) -> list[Path]:
    return [
        p for p in (project.folder / ".kt").glob("generate-*/*.safetensors") if p.name[0] != "."
    ]


def wait_for(condition, process, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_killed_translator_resumes_to_the_same_result(project):
    project.params["scales"]["tiny"]["train"]["epochs"] = 40
    project.write_params()
    project.succeed("images", "generate_train", "generate_val", "augment", "train_translator")
    whole = project.files("results/train")
    source = project.folder / "kt" / "fit.py"
    source.write_text(
        source.read_text().replace("CHECKPOINT_SECONDS = 20", "CHECKPOINT_SECONDS = 0")
    )
    process = project.start("train_translator")
    wait_for(lambda: list(project.folder.glob(".kt/translator-*/checkpoint.pt")), process)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    project.succeed("train_translator")
    again = project.files("results/train")
    for name in whole:
        if "samples_per_second" not in name and not name.endswith(".tsv"):
            assert again[name] == whole[name], name
    assert losses(again) == losses(whole)


def losses(files) -> list[str]:
    """Step and loss of every epoch; DVCLive's rows begin with a time stamp."""
    lines = files["results/train/plots/metrics/loss.tsv"].decode().splitlines()
    return [line.split("\t")[-2:] for line in lines]


@pytest.mark.parametrize(
    ("stage", "change", "message"),
    [
        ("images", {"typo": 1}, "error: params.yaml: typo: unknown key"),
        ("images", {"scale": "big"}, "error: params.yaml: scale is 'big'"),
        ("generate_train", {}, "error: data/images/main.safetensors is missing"),
        ("train_translator", {}, "error: data/augmented is missing"),
        ("evaluate_baselines", {}, "error: data/pairs/test is missing"),
    ],
)
def test_a_users_mistake_ends_in_one_line(project, stage, change, message):
    project.params |= change
    project.write_params()
    status, errors = project.run(stage)
    assert status == 1
    assert errors.strip().startswith(message) and errors.strip().count("\n") == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--workers", "0"), "--workers (KT_WORKERS): got '0'"),
        (("--chunk", "many"), "--chunk (KT_CHUNK): got 'many'"),
        (("--device", "abacus"), "--device (KT_DEVICE): 'abacus' cannot be used here"),
    ],
)
def test_bad_flags_end_in_one_line(project, flags, message):
    status, errors = project.run("images", *flags)
    assert status == 1 and message in errors and errors.strip().count("\n") == 0


def test_too_many_held_back_images_are_refused(project):
    project.params["scales"]["tiny"]["images"]["held_back"] = 1437
    project.write_params()
    status, errors = project.run("images")
    assert status == 1 and "held_back: got 1437; accepts less than the 1437" in errors


def test_a_second_process_on_the_same_work_is_sent_away(project):
    project.succeed("images")
    process = project.start("generate_train")
    wait_for(lambda: list(project.folder.glob(".kt/generate-*/lock")), process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (lock,) = project.folder.glob(".kt/generate-*/lock")
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        status, errors = project.run("generate_train")
    assert status == 1 and "another process is at this very work" in errors
    assert "Traceback" not in errors


def test_a_damaged_store_is_refused_in_one_line(project):
    project.succeed("images", "generate_train", "generate_val")
    shard = project.folder / "data" / "pairs" / "train" / "00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    status, errors = project.run("augment")
    assert status == 1 and "00000.safetensors is damaged" in errors
    assert errors.strip().count("\n") == 0


def test_a_full_disk_ends_in_one_line_and_loses_nothing(project):
    project.succeed("images")
    limit = (  # a file-size limit stands in for the full disk: the system refuses the write
        "import resource, runpy, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, -1)); sys.argv = ['stage'];"
        "runpy.run_module('stages.generate_train', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", limit], cwd=project.folder, capture_output=True, text=True
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "could not be written" in done.stderr.strip().splitlines()[-1]
    assert not list(project.folder.rglob("*.partial"))
    project.succeed("generate_train")
