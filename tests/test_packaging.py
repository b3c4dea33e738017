"""What an installed package holds, and that the lists of packages agree."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from hashlib import md5
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def packages(lines):
    """Requirements without comments and spaces."""
    return {bare for line in lines if (bare := line.split("#")[0].replace(" ", "").strip())}


def test_requirements_txt_is_the_library_the_pipeline_and_the_tests():
    extras = PROJECT["optional-dependencies"]
    listed = packages((ROOT / "requirements.txt").read_text().splitlines())
    assert listed == packages(PROJECT["dependencies"] + extras["pipeline"] + extras["dev"])


def test_the_translator_that_comes_with_the_package_is_the_one_of_the_default_run():
    stage = yaml.safe_load((ROOT / "dvc.lock").read_text())["stages"]["train_translator"]
    named = {out["path"]: out["md5"] for out in stage["outs"]}
    shipped = (ROOT / "kt" / "pretrained" / "merge.safetensors").read_bytes()
    hint = "cp results/train/translator.safetensors kt/pretrained/merge.safetensors"
    assert md5(shipped).hexdigest() == named["results/train/translator.safetensors"], hint


def test_a_wheel_holds_the_library_its_sources_and_the_translator(tmp_path):
    source = tmp_path / "source"  # building leaves files beside what it builds
    shutil.copytree(ROOT / "kt", source / "kt", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    files = {str(path.relative_to(source)) for path in source.rglob("kt/**/*") if path.is_file()}
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    done = subprocess.run([*build, "-w", tmp_path, source], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("kt/")}
    assert held == files
