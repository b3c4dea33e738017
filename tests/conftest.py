"""Small networks, images and projects that the tests share."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

# Tests run in several processes: a second thread of one would only wait for the others.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
import yaml

from kt import ensemble
from kt.ensemble import Recipe
from kt.images import ImageSet
from kt.translators import strokes
from stages.common.base.params import Params
from tests.tiny_params import shrink, shrink_project, usual

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def images() -> ImageSet:
    """70 random images: with batches of 32 the last batch of a pass is smaller."""
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (70, 28, 28), generator=draw, dtype=torch.uint8)
    return ImageSet(pixels, torch.randint(0, 10, (70,), generator=draw))


def trained_networks(images: ImageSet, count: int) -> dict[str, torch.Tensor]:
    """Networks hardly trained, stacked: `former.*`, `large.*` and `latter.*`."""
    trained = ensemble.train_networks(images, range(count), 1, Recipe(2, 16, 0.05))
    return {name.replace("block.", "large."): tensor for name, tensor in trained.items()}


def usual_params() -> Params:
    """The parameters of the default run, whatever a user has chosen in params.yaml."""
    return Params.model_validate(usual(ROOT))


@pytest.fixture
def data_root() -> Path:
    """The folder with MNIST and USPS, where there is one."""
    if (folder := os.environ.get("KT_DATA_ROOT")) is None:
        pytest.skip("needs MNIST and USPS: set KT_DATA_ROOT to the folder that holds them")
    return Path(folder)


ALL_IN_ONE = """
import runpy, sys
stages = sys.argv[1:]
for stage, *sys.argv[1:] in map(str.split, stages):
    runpy.run_module(f"stages.{stage}", run_name="__main__")
"""


class Project:
    """A folder with the stages' code and a tiny `params.yaml`, in which stages can be run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.params = shrink(usual(ROOT))

    def fill(self) -> "Project":
        """Lay the code and the parameters into an empty folder."""
        for name in ("kt", "stages"):
            shutil.copytree(ROOT / name, self.folder / name)
        shrink_project(ROOT, self.folder)
        return self

    def write_params(self) -> None:
        (self.folder / "params.yaml").write_text(yaml.safe_dump(self.params))

    def change_table(self, name: str, **settings: object) -> None:
        """Replace some settings in tables/<name>/params.yaml."""
        path = self.folder / "tables" / name / "params.yaml"
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | settings))

    def start(self, stage: str, *flags: str, **environment: str) -> subprocess.Popen:
        return self._start("-m", f"stages.{stage}", *flags, **environment)

    def _start(self, *arguments: str, **environment: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=self.folder,
            env={**os.environ, "KT_DEVICE": "cpu", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, stage: str, *flags: str, **environment: str) -> tuple[int, str]:
        """Exit status and standard error of a stage."""
        process = self.start(stage, *flags, **environment)
        _, errors = process.communicate()
        return process.returncode, errors

    def succeed(self, *stages: str, **environment: str) -> None:
        """Run stages, each with its cell if it has any, in one process: it imports torch once."""
        process = self._start("-c", ALL_IN_ONE, *stages, **environment)
        _, errors = process.communicate()
        assert process.returncode == 0, errors

    def files(self, *folders: str) -> dict[str, bytes]:
        """Contents of all files below some folders."""
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for folder in folders
            for path in sorted((self.folder / folder).rglob("*"))
            if path.is_file()
        }


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project in which nothing has been run."""
    return Project(tmp_path).fill()


@pytest.fixture(scope="session")
def _prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    Project(folder).fill().succeed("images", "generate_train", "generate_val", "augment")
    return folder


@pytest.fixture
def prepared(_prepared: Path, tmp_path: Path) -> Project:
    """A project whose images, pairs and augmented pairs are there: a copy, free to be changed."""
    shutil.copytree(_prepared, tmp_path, dirs_exist_ok=True)
    return Project(tmp_path)


@pytest.fixture
def few_strokes(monkeypatch):
    """Fewer random strokes, of fewer kinds, than the library draws."""
    monkeypatch.setattr(strokes, "DRAWN", 64)
    monkeypatch.setattr(strokes, "COMPARED", 8)
    monkeypatch.setattr(strokes, "STROKES", ((3.0, 0.5), (4.0, 1.8)))
