"""The stages as a user meets them: interruptions, bad input, and what DVC is told of them."""

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from kt.pairs.store import Pairs
from kt.run.errors import KTError
from kt.run.files import load_tensors
from stages.common import translation
from stages.switch import places
from stages.tables.cells import __main__ as cells
from tests.conftest import usual_params
from tests.test_resume import losses
from tests.tiny_params import SCHEDULE

ROOT = Path(__file__).resolve().parent.parent
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
PIPELINES = sorted([ROOT / "dvc.yaml", *(ROOT / "tables").rglob("dvc.yaml")])
PREPARED = ("images", "generate_train", "generate_val", "augment")


def imported(path: Path, seen: set[Path]) -> set[Path]:
    """The project's files that a file imports, directly or not, itself and packages included."""
    if path in seen or not path.stat().st_size:  # an empty package says nothing
        return seen
    seen.add(path)
    # kt/__init__.py only names, lazily, what is in kt's folders.
    for folder in path.relative_to(ROOT).parents:
        package = ROOT / folder / "__init__.py"
        if package.exists() and package != ROOT / "kt" / "__init__.py":
            imported(package, seen)
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module] + [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            if name.split(".")[0] not in ("kt", "stages"):
                continue
            steps = name.split(".")
            for depth in range(1, len(steps) + 1):  # packages on the way are imported too
                place = ROOT.joinpath(*steps[:depth])
                for file in (place.with_suffix(".py"), place / "__init__.py"):
                    if file.exists() and file != ROOT / "kt" / "__init__.py":
                        imported(file, seen)
    return seen


def modules_of(command: str) -> list[str]:
    """What a stage's command runs: its module, and that of the table whose cell it makes."""
    python, flag, module, *arguments = command.split()
    assert (python, flag) == ("python", "-m")
    if module == "stages.tables.cells":
        made = cells.MODULES[arguments[0].split("/")[0]]
        return [f"{module}.__main__", f"{module}.{made}"]
    return [module]


@pytest.mark.parametrize(
    ("pipeline", "stage"),
    [
        pytest.param(path, stage, id=f"{path.relative_to(ROOT)}:{name}")
        for path in PIPELINES
        for name, stage in yaml.safe_load(path.read_text())["stages"].items()
    ],
)
def test_what_a_stage_imports_is_among_its_few_deps(pipeline, stage):
    keys = [f"${{item.{key}}}" for key in stage.get("matrix", {})]
    keys += ["${key}"] if "foreach" in stage else []
    stage = stage.get("do", stage)
    assert (pipeline.parent / stage.get("wdir", ".")).resolve() == ROOT
    assert all(key in stage["cmd"] for key in keys)
    code = [dep for dep in stage["deps"] if dep.split("/")[0] in ("kt", "stages")]
    assert len(code) <= 8
    used: set[Path] = set()
    for module in modules_of(stage["cmd"]):
        imported(ROOT / f"{module.replace('.', '/')}.py", used)
    deps = [ROOT / dep for dep in code]
    missing = [
        str(file.relative_to(ROOT))
        for file in used
        if not any(file == dep or dep in file.parents for dep in deps)
    ]
    assert not missing
    surplus = [dep for dep in deps if not any(dep in (f, *f.parents) for f in used)]
    assert not surplus


def test_what_changes_often_makes_no_network_stale():
    made = [s for name, s in STAGES.items() if name.startswith(("generate", "images"))]
    often = ("kt/translators", "kt/rivals", "stages/figures", "stages/common/translation.py")
    for stage in made:
        for path in map(Path, often):
            assert not any(Path(dep) in (path, *path.parents) for dep in stage["deps"])


def test_only_the_chosen_kind_of_translator_counts():
    assert [p for p in STAGES["train_translator"]["params"] if p.startswith("translators")] == [
        "translators.${model.kind}.model",
        "translators.${model.kind}.train",
        "translators.${model.kind}.schedule.${scale}",
    ]


def test_stages_of_the_main_pipeline_run_the_module_of_their_name():
    assert all(stage["cmd"] == f"python -m stages.{name}" for name, stage in STAGES.items())


def test_compiled_python_is_no_dependency():
    """Else a folder among the deps would differ from one machine, and one run, to the next."""
    assert "__pycache__/" in (ROOT / ".dvcignore").read_text().splitlines()


def test_the_library_knows_no_dvc_no_yaml_and_does_not_print():
    for path in (ROOT / "kt").rglob("*.py"):
        if path.name == "__main__.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", "") or ""]
                roots = {name.split(".")[0] for name in names}
                assert not roots & {"dvc", "dvclive", "yaml", "ruamel", "stages", "tqdm"}, path
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "print", path


def test_all_stages_give_every_number_and_figure(prepared):
    prepared.succeed(*(stage for stage in STAGES if stage not in PREPARED))
    results = prepared.folder / "results"
    for name, key in (("train", "translation"), ("baselines", "greedy_replacement")):
        metrics = json.loads((results / name / "metrics.json").read_text())
        assert set(metrics[key]) == {"mean", "std", "min", "max", "n", "ci95"}
        assert metrics[key]["n"] == 3 and 0 <= metrics[key]["mean"] <= 100
    assert "gain" in json.loads((results / "transfer" / "metrics.json").read_text())
    assert "50_percent" in json.loads((results / "partial" / "metrics.json").read_text())
    headline = json.loads((results / "metrics.json").read_text())
    assert len(headline) <= 10 and headline["processor"] and headline["engine"]
    assert all(type(value) in (float, str) for value in headline.values())  # flat
    prepared.succeed("check")
    prepared.params["scales"]["tiny"]["expected"] = {"translation": [200.0, 300.0]}
    prepared.write_params()
    status, errors = prepared.run("check")
    assert status == 1 and "outside 200 to 300" in errors and errors.count("\n") == 1
    report = (results / "report.md").read_text()
    for figure in (results / "figures").iterdir():
        assert f"figures/{figure.name}" in report
    assert not list((prepared.folder / ".kt").iterdir())  # finished work leaves nothing behind


@pytest.mark.parametrize("make", [Path.touch, lambda path: path.symlink_to("nowhere")])
def test_places_that_are_taken_are_told_before_anything_is_moved(make, tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "dvc.lock").touch()
    (tmp_path / "other" / "dvc.lock").mkdir(parents=True)
    make(tmp_path / "taken")
    for to, words in (("other", "it is a folder"), ("taken", "a part of the path is a file")):
        with pytest.raises(KTError, match=rf"{to}/dvc\.lock could not be written .*{words}"):
            places([tmp_path / "root" / "dvc.lock"], tmp_path / "root", tmp_path / to)


def test_every_scale_keeps_its_own_locks_and_results(project):
    scales = project.params["scales"]
    scales["other"] = scales["tiny"]
    for section in project.params["translators"].values():
        section["schedule"]["other"] = section["schedule"]["tiny"]
    project.write_params()
    (project.folder / "results").mkdir()
    kept = {"dvc.lock": "a", "tables/dvc.lock": "b", "results/metrics.json": "c"}
    kept["results/train.safetensors"] = kept["tables/factor_transfer/dvc.lock"] = "stays"
    for name, content in kept.items():
        (project.folder / name).write_text(content)
    del project.params["translators"]["merge"]["schedule"]["other"]
    project.write_params()
    status, errors = project.run("switch", "other")
    assert status == 1 and "translators.merge.schedule.other: missing" in errors
    project.params["translators"]["merge"]["schedule"]["other"] = dict(SCHEDULE)
    project.write_params()
    project.succeed("switch other")
    assert "scale: other" in (project.folder / "params.yaml").read_text()
    assert not (project.folder / "dvc.lock").exists()
    assert (project.folder / "locks/tiny/results/metrics.json").read_text() == "c"
    (project.folder / "dvc.lock").write_text("d")
    project.succeed("switch tiny")
    for name, content in kept.items():
        assert (project.folder / name).read_text() == content
    assert (project.folder / "locks/other/dvc.lock").read_text() == "d"
    status, errors = project.run("switch", "tiny")
    assert status == 1 and "at scale tiny already" in errors
    away = (project.folder / "locks/other").rename(project.folder / "locks/away")
    (project.folder / "locks/other").write_text("")
    status, errors = project.run("switch", "other")
    assert status == 1 and "locks/other is no folder: move it away" in errors
    (project.folder / "locks/other").unlink()
    away.rename(project.folder / "locks/other")
    path = project.folder / "params.yaml"
    plain = path.read_text()
    for line in ("scale:   tiny", "scale: 'tiny'", '"scale": "tiny"'):
        path.write_text(plain.replace("scale: tiny", line))
        project.succeed("switch other")
        project.succeed("switch tiny")
        assert path.read_text() == plain
    path.write_text(plain.replace("scale: tiny", "scale: !!str tiny"))
    status, errors = project.run("switch", "other")
    assert status == 1 and "no line that begins with" in errors
    assert (project.folder / "dvc.lock").read_text() == "a"  # nothing has moved
    for name in ("nope", "", "..", "/"):
        status, errors = project.run("tables.redraw", name)
        assert status == 1 and f"there are no tables of {name!r}" in errors


def test_training_networks_without_small_blocks_go_through_to_the_report(prepared):
    validation = prepared.files("data/pairs/selection", "data/pairs/test")
    prepared.params["generate"]["small_blocks"] = False
    prepared.write_params()
    prepared.succeed("generate_train", "generate_val", "augment")
    assert prepared.files("data/pairs/selection", "data/pairs/test") == validation
    prepared.succeed(*(stage for stage in STAGES if stage not in PREPARED))
    results = prepared.folder / "results"
    metrics = json.loads((results / "baselines" / "metrics.json").read_text())
    assert list(metrics) == [
        "random_initialisation", "identity", "retrained", "adam", "large", "ceiling"
    ]  # fmt: skip
    assert "replacement need trained small blocks" in (results / "report.md").read_text()


def test_checkpoints_are_pairs_behind_the_trained_networks(prepared):
    tiny = prepared.params["scales"]["tiny"]
    tiny["recipe"]["epochs"], tiny["pairs"] = 3, 20
    prepared.params["generate"]["checkpoints"] = [1, 2]
    prepared.write_params()
    prepared.succeed("generate_train", "generate_val", "augment")
    prepared.succeed("train_translator", "evaluate_baselines")
    assert len(Pairs(prepared.folder / "data/pairs/train")) == 24


def test_only_the_training_networks_depend_on_checkpoints_and_small_blocks():
    on = {
        stage: [p for p in s["params"] if p.startswith("generate")] for stage, s in STAGES.items()
    }
    assert on["generate_train"] == ["generate"]
    for stage in ("generate_val", "generate_transfer", "generate_partial"):
        assert not {"generate", "generate.checkpoints", "generate.small_blocks"} & set(on[stage])


def test_workers_and_chunk_size_change_no_byte(prepared):
    first = prepared.files("data/pairs", "data/augmented")
    prepared.succeed("generate_train", "generate_val", "augment", KT_WORKERS="3", KT_CHUNK="1")
    assert prepared.files("data/pairs", "data/augmented") == first


@pytest.mark.parametrize(
    ("kind", "target"),
    [("mixer", "mlp"), ("merge", "conv_bias"), ("attention", "conv"), ("convolution", "conv")],
)
def test_other_targets_run_through(prepared, kind, target):
    prepared.params["model"]["kind"] = kind
    prepared.params["target"] = target
    prepared.write_params()
    prepared.succeed("generate_train", "generate_val", "augment", "train_translator")
    prepared.succeed("evaluate_baselines")


def test_a_mixer_learns_from_all_parts_of_the_loss_together(prepared):
    prepared.params["model"]["kind"] = "mixer"
    mixer = prepared.params["translators"]["mixer"]
    train, mixer["model"]["fold"] = mixer["train"], True
    prepared.params["generate"]["small_init"] = "shared"
    every = {"behaviour": 0.5, "cross_entropy": 0.1, "features": 0.1, "ramp_epochs": 2}
    every |= {"align": True, "standardise": True, "difference": True}
    train |= {"symmetry": True, "loss": train["loss"] | every}
    prepared.write_params()
    prepared.succeed("generate_train", "generate_val", "augment", "train_translator")
    first = prepared.files("results/train")
    prepared.succeed("train_translator", KT_WORKERS="3", KT_CHUNK="1")
    again = prepared.files("results/train")
    assert losses(again) == losses(first)
    name = "results/train/translator.safetensors"
    assert again[name] == first[name]
    initial = load_tensors(prepared.folder / name)["initial"]
    assert initial.shape == (324,) and initial.any()


def test_translators_of_further_seeds_are_reported_and_leave_the_first_as_it_is(prepared):
    prepared.succeed("train_translator")
    both = prepared.files("results/train")
    prepared.params["scales"]["tiny"]["repeats"] = 1
    prepared.write_params()
    prepared.succeed("train_translator")
    alone = prepared.files("results/train")
    for name in ("translator.safetensors", "accuracies.csv"):
        assert both[f"results/train/{name}"] == alone[f"results/train/{name}"]
    assert losses(both) == losses(alone)
    several, one = (json.loads(files["results/train/metrics.json"]) for files in (both, alone))
    seeds, over = several.pop("seeds"), several.pop("over_seeds")
    assert one.pop("seeds") == {"1": seeds["1"]}
    assert one.pop("over_seeds")["n"] == 1
    assert several == one
    assert seeds["1"]["translation"] == one["translation"]["mean"]
    assert over["n"] == len(seeds) == 2
    means = [seed["translation"] for seed in seeds.values()]
    assert over["mean"] == pytest.approx(sum(means) / 2, abs=1e-3)


@pytest.mark.parametrize("kind", ["merge", "mixer"])
def test_another_seed_makes_another_translator_trained_in_another_order(kind):
    chosen = usual_params().changed({"model": {"kind": kind}}, "kind")
    plain, same, other = (
        torch.cat([p.flatten() for p in translation.make_model(chosen, seed).parameters()])
        for seed in (chosen.seed, chosen.seed, chosen.seed + 1)
    )
    assert torch.equal(plain, same) and not torch.equal(plain, other)
    assert translation.training_of(chosen, 5).seed == 5


@pytest.mark.parametrize(
    ("stage", "change", "message"),
    [
        ("images", {"typo": 1}, "error: params.yaml: typo: unknown key"),
        ("images", {"scale": "big"}, "error: params.yaml: scale is 'big'"),
        ("generate_train", {}, "error: data/images/main.safetensors is missing"),
        ("train_translator", {}, "error: data/images/main.safetensors is missing"),
        ("train_translator", {"target": "mlp"}, "error: params.yaml: target is 'mlp', to which"),
        ("evaluate_baselines", {}, "error: data/images/main.safetensors is missing"),
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


def test_stages_run_where_the_system_has_neither_fcntl_nor_affinities(prepared):
    whole = prepared.files("data/pairs/train")
    shutil.rmtree(prepared.folder / "data/pairs/train")
    code = (
        "import os, runpy, sys; sys.modules['fcntl'] = None; del os.sched_getaffinity;"
        "sys.argv = ['stage']; runpy.run_module('stages.generate_train', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=prepared.folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert prepared.files("data/pairs/train") == whole


def test_without_a_compiler_one_line_says_so_and_torch_takes_over(prepared):
    nothing = {"CXX": "", "PATH": "", "XDG_CACHE_HOME": str(prepared.folder / "cache")}
    status, errors = prepared.run("evaluate_baselines", **nothing)
    assert status == 0, errors
    notice = errors.splitlines()[0]
    assert notice.startswith("notice: the cpu engine is not available: no C++")
    assert "instead of two minutes" in notice  # what it costs
    for install in ("apt install g++", "dnf install gcc-c++", "xcode-select --install"):
        assert install in notice
    fewer = dict(re.findall(r"-S ([\w.]+)=(\d+)", notice))
    whole = usual_params()
    change = {"scales": {"quick": {"networks": {"train": 32}, "pairs": 32}}}
    assert fewer == {"scales.quick.networks.train": "32", "scales.quick.pairs": "32"}
    assert whole.changed(change, "notice").active.networks.train == 32  # is valid
    status, errors = prepared.run("evaluate_baselines", "--engine", "cpu", **nothing)
    assert status == 1 and "no C++ compiler" in errors and "Traceback" not in errors
