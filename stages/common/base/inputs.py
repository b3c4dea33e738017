"""Where stages keep what other stages read, and the doors by which they read it.

Each door checks all that it reads: checksums, shapes, types and ranges. What is wrong is one line
that names the file.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from kt.images import ImageSet
from kt.images.files import read_set
from kt.networks.blocks import require_images
from kt.run import files, strict_json
from kt.run.errors import KTError
from stages.common.base.params import Params

IMAGES = Path("data/images")
PAIRS = Path("data/pairs")
AUGMENTED = Path("data/augmented")
RESULTS = Path("results")
TRANSLATOR = RESULTS / "train" / "translator.safetensors"
REMEDY = "run `dvc repro` to make it anew"
SUMMARY = ("mean", "std", "min", "max", "n", "ci95")
"""What `kt.run.statistics.summary` gives."""
LARGEST = 1e100
"""No number that a stage writes is as large."""


def image_set(params: Params, which: str, split: str) -> ImageSet:
    """Images that the `images` stage wrote: "main" or "transfer", "train", "held_back", "test".

    Raises:
        KTError: the file is missing or damaged, or does not hold such images of the set that the
            parameters name, in the size and colours that networks read.
    """
    path, name = IMAGES / f"{which}.safetensors", getattr(params.active.images, which)
    found = read_set(path, split, REMEDY, name)
    try:
        require_images(found.images, params.sizes)
    except KTError as error:
        raise files.problem(path, f"cannot be used ({error})", REMEDY) from None
    return found


def images_of(path: Path, split: str) -> ImageSet:
    """A split of the images that another stage wrote.

    Raises:
        KTError: the file is missing or damaged, or does not hold such images.
    """
    return read_set(path, split, REMEDY)


class Found(dict):
    """What a metrics file says. A key that it lacks is a user's error, which names the file."""

    path: Path

    def __missing__(self, key: str) -> Any:
        raise damaged(self.path, f"it has no {key}")


def read_json(path: Path) -> Found:
    """Read what `outputs.write_json` wrote.

    Raises:
        KTError: the file is missing, no strict JSON, or a summary in it is not whole.
    """

    found = _named(path, strict_json.load_json(path, REMEDY))
    if not isinstance(found, Found):
        raise damaged(path, "no JSON that a stage wrote")
    return found


def _named(path: Path, content: Any) -> Any:
    """The same with mappings that know their file."""
    if isinstance(content, list):
        return [_named(path, value) for value in content]
    if not isinstance(content, dict):
        return content
    made = Found({key: _named(path, value) for key, value in content.items()})
    made.path = path
    if "mean" in made and "ci95" in made and not _is_summary(made):
        raise damaged(path, "a summary is not made of possible numbers")
    return made


def _is_summary(found: dict) -> bool:
    """Whether the numbers of `kt.run.statistics.summary` that are there can be one's."""
    values = [found[name] for name in SUMMARY if name in found]
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in values):
        return False
    if not all(abs(value) < LARGEST for value in values):  # nor is a NaN
        return False
    ordered = found.get("min", found["mean"]) <= found["mean"] <= found.get("max", found["mean"])
    return ordered and min(found["ci95"], found.get("std", 0)) >= 0 and found.get("n", 1) >= 1


def read_table(
    path: Path,
    *columns: str,
    words: Sequence[str] = (),
    kind: type | None = None,
    percent: bool = False,
) -> pd.DataFrame:
    """Read a table of plot data, CSV or, named .tsv, with tabs.

    Args:
        columns: of numbers that a stage may write, which there must be.
        words: of anything, which there must be.
        kind: of all columns; None: as each looks.
        percent: the numbers are percent, from 0 to 100, but for widths of intervals (`_ci95`).

    Raises:
        KTError: the file is missing, empty or no such table.
    """
    separator = "\t" if path.suffix == ".tsv" else ","
    with files.reading(path, REMEDY):
        table = pd.read_csv(path, sep=separator, keep_default_na=False, dtype=kind)
        if not path.read_bytes().endswith(b"\n"):
            raise ValueError("its end is missing")
    if lacking := [name for name in (*columns, *words) if name not in table]:
        raise damaged(path, f"it has no column {lacking[0]}")
    if table.empty:
        raise damaged(path, "it has no rows")
    for name in columns:
        if table[name].dtype.kind not in "if" or not (table[name].abs() < LARGEST).all():
            raise damaged(path, f"{name} is not made of possible numbers")
        if name.endswith("_ci95"):
            if (table[name] < 0).any():
                raise damaged(path, f"{name} is not made of possible numbers")
        elif percent and not table[name].between(0, 100).all():
            raise damaged(path, f"{name} is not percent, from 0 to 100")
    return table


def damaged(path: Path, how: str) -> KTError:
    """The error of a stage's product that is not what the stage makes."""
    return files.damaged(path, how, REMEDY)
