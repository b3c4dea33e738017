"""Kill `dvc repro` at random moments and go on: it must end in the same bytes.

    python -m tests.kills --runs 20

The main job and a table's cells are each killed so many times (SIGKILL, with all processes that
they have started), at a tiny scale in a temporary folder. Whenever a run gets through, its files
are compared with those of a run that nobody killed, but for what the clock said, and all begins
anew.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from tests import tiny_project

EMPTY_LOCKS = ("rwlock",)
"""Files of DVC in .dvc/tmp that a kill may leave empty, after which it refuses until they go."""
REPRO = ("-m", "dvc", "repro", "--quiet")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20, help="kills of each of the two [20]")
    parser.add_argument("--seed", type=int, default=0, help="of the moments [0]")
    options = parser.parse_args()
    draw = random.Random(options.seed)
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        tiny_project.lay(folder)
        seconds = timed(folder, *REPRO)
        failures = killed(folder, (), options.runs, seconds, draw)
        through(folder, *REPRO)
        seconds = timed(folder, *REPRO, tiny_project.CELLS)
        failures += killed(folder, (tiny_project.CELLS,), options.runs, seconds, draw)
    sys.exit(f"{failures} ended in other bytes" if failures else 0)


def timed(folder: Path, *command: str) -> float:
    started = time.monotonic()
    through(folder, *command)
    return time.monotonic() - started


def through(folder: Path, *command: str) -> None:
    status, said = tiny_project.run(folder, *command)
    if status:
        sys.exit(f"{' '.join(command)} failed:\n{said}")


def killed(
    folder: Path, target: tuple[str, ...], kills: int, seconds: float, draw: random.Random
) -> int:
    """How many of the runs that were killed, and went on, ended in other bytes."""
    expected, done, failures, ends, emptied = tiny_project.made(folder), 0, 0, 0, 0
    before = None if not target else tiny_project.made(folder)
    fresh(folder, target)
    while done < kills or ends == 0:
        process = tiny_project.start(folder, *REPRO, *target)
        wait = draw.uniform(0, seconds) if done < kills else None
        try:
            said, _ = process.communicate(timeout=wait)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            done += 1
            emptied += unlocked(folder)
            continue
        if process.returncode:
            print(f"a run after a kill failed:\n{said}")
            failures += 1
        ends += 1
        if different := tiny_project.differing(tiny_project.made(folder), expected):
            failures += 1
            print(f"other bytes: {', '.join(different)}")
        if done < kills:
            fresh(folder, target)
    what = " ".join(("dvc repro", *target))
    print(
        f"{what}: {done} kills within {seconds:.0f} s, {ends} runs got through, {failures} ended "
        f"otherwise; DVC's own lock file was left empty {emptied} times",
        flush=True,
    )
    assert before is None or before == expected
    return failures


def fresh(folder: Path, target: tuple[str, ...]) -> None:
    """Forget the cells alone, or everything."""
    if not target:
        tiny_project.begin_anew(folder)
        return
    for path in (folder / "tables" / "cells").rglob("*.json"):
        path.unlink()
    (folder / target[0]).with_name("dvc.lock").unlink(missing_ok=True)


def unlocked(folder: Path) -> int:
    """Remove DVC's lock files that the kill has left empty; how many these were."""
    empty = [folder / ".dvc" / "tmp" / name for name in EMPTY_LOCKS]
    empty = [path for path in empty if path.exists() and not path.stat().st_size]
    for path in empty:
        path.unlink()
    return len(empty)


if __name__ == "__main__":
    main()
