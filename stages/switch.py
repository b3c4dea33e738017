"""Switch the project to another scale and to the results that are kept of it: mnist, say.

    python -m stages.switch mnist && dvc repro -P

DVC keeps one lock file beside each dvc.yaml. So that no scale's results are without one, those of
the scales that are not in use lie in locks/<scale>/, each with the files of results/. This puts
away what is in use, brings back what there is of the other scale, and names it in params.yaml.
`dvc checkout` then brings its data from DVC's cache, if they are there.
"""

import os
import re
import shutil
from pathlib import Path

from kt.ensemble import Compute
from kt.run.errors import KTError
from kt.run.files import check_output, writing
from stages.common.base import outputs, runtime
from stages.common.base.params import Params

ROOT = Path()
PUT_AWAY = Path("locks")
ELSEWHERE = ("factor_transfer",)
"""Folders of tables that have a scale of their own."""
LINE = re.compile(r"""^(["']?)scale\1[ \t]*:[ \t]+(["']?)[\w-]+\2""", re.MULTILINE)
"""Of `params.yaml`, the one that names the scale."""


def main(params: Params, compute: Compute, scale: str) -> None:
    if scale not in params.scales:
        raise KTError(f"{scale!r} is no scale; accepts {', '.join(params.scales)}")
    if scale == params.scale:
        raise KTError(f"the project is at scale {scale} already")
    params.changed({"scale": scale}, "params.yaml")  # else no stage would work there
    path = Path("params.yaml")
    text, found = LINE.subn(f"scale: {scale}", path.read_text())
    if found != 1:
        raise KTError(f"{path}: no line that begins with `scale:`")
    kept = PUT_AWAY / scale
    for folder in (PUT_AWAY, kept):
        if os.path.lexists(folder) and not folder.is_dir():
            raise KTError(f"{folder} is no folder: move it away")
    moves = places(in_use(ROOT), ROOT, PUT_AWAY / params.scale)
    moves |= places([path for path in kept.rglob("*") if path.is_file()], kept, ROOT)
    move(moves)
    outputs.write_text(path, text)


def in_use(root: Path) -> list[Path]:
    """The lock files and the results of the scale in use."""
    locks = [root / "dvc.lock", *(root / "tables").glob("**/dvc.lock")]
    results = [path for path in (root / "results").rglob("*") if path.name != ".gitignore"]
    return [
        path
        for path in (*locks, *results)
        if path.is_file() and path.parent.name not in ELSEWHERE and path.suffix != ".safetensors"
    ]


def places(files: list[Path], root: Path, to: Path) -> dict[Path, Path]:
    """Where files of one root go below another.

    Raises:
        KTError: a file cannot be written there.
    """
    found = {path: to / path.relative_to(root) for path in files}
    for place in found.values():
        check_output(place)
    return found


def move(places: dict[Path, Path]) -> None:
    """Move files in this order, with their folders."""
    for path, place in places.items():
        with writing(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(path, place)


if __name__ == "__main__":
    runtime.run(main, __doc__, "scale")
