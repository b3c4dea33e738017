"""A project at a tiny scale that DVC runs, for trials that take minutes: kills and full disks."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

from tests.tiny_params import shrink_project

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("kt", "stages", "tables", "dvc.yaml", ".dvcignore", ".gitignore", ".dvc/config")
KEPT = ("data", "results", "tables/cells", "tables/results", "tables/translators")
TIMED = ("samples_per_second", "timestamp")
"""Columns of what the clock said."""
CELLS = "tables/table3/dvc.yaml"
LONGER = {"epochs": 12, "batch_size": 4, "evaluate_every": 3}


def lay(folder: Path) -> None:
    """Lay a project that has made nothing yet into an empty folder.

    Its work takes some seconds, so that kills also hit the middle of it.
    """
    listed = subprocess.check_output(["git", "ls-files", *PARTS], cwd=ROOT, text=True)
    for name in listed.splitlines():
        if name.endswith("dvc.lock") or "/results/" in name or name.startswith("tables/cells/"):
            continue
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    shrink_project(ROOT, folder)
    path = folder / "params.yaml"
    params = yaml.safe_load(path.read_text())
    tiny = params["scales"]["tiny"]
    tiny["networks"] |= {"train": 32, "test": 4}
    tiny["recipe"]["epochs"], tiny["pairs"] = 3, 32
    for kind in params["translators"].values():
        kind["schedule"]["tiny"] = LONGER
    path.write_text(yaml.safe_dump(params))
    git = ["git", "-c", "user.name=tests", "-c", "user.email=tests@localhost"]
    for command in ("init --quiet", "add .", "commit --quiet --message tiny"):
        subprocess.run([*git, *command.split()], cwd=folder, check=True)


def start(folder: Path, *command: str) -> subprocess.Popen:
    """A Python command in the project, in a process group of its own, nothing compiled kept."""
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, "KT_DEVICE": "cpu", "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def run(folder: Path, *command: str) -> tuple[int, str]:
    """Exit status and all that a command says."""
    process = start(folder, *command)
    said, _ = process.communicate()
    return process.returncode, said


def made(folder: Path) -> dict[str, bytes]:
    """What stages have made, file by file, without what the clock said."""
    return {str(path.relative_to(folder)): content(path) for path in sorted(files(folder))}


def files(folder: Path) -> Iterator[Path]:
    for part in KEPT:
        for path in (folder / part).rglob("*"):
            if path.is_file() and path.name != ".gitignore" and "times" not in path.parts:
                yield path


def content(path: Path) -> bytes:
    if path.suffix != ".tsv":
        return path.read_bytes()
    head, *rows = (line.split("\t") for line in path.read_text().splitlines())
    shown = [i for i, name in enumerate(head) if name not in TIMED]
    return "\n".join("\t".join(row[i] for i in shown) for row in [head, *rows]).encode()


def differing(found: dict[str, bytes], expected: dict[str, bytes]) -> list[str]:
    """The files that are missing, surplus or different."""
    names = found.keys() | expected.keys()
    return sorted(name for name in names if found.get(name) != expected.get(name))


def begin_anew(folder: Path) -> None:
    """Delete all that was made, DVC's cache and records included."""
    for name in (*KEPT, ".kt", ".dvc/cache", ".dvc/tmp"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for lock in [folder / "dvc.lock", *(folder / "tables").rglob("dvc.lock")]:
        lock.unlink(missing_ok=True)
