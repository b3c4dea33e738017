"""Let a file system of 64 MB fill up before every stage in turn, and go on once there is room.

    python -m tests.full_disk

Each stage of the main job, and a table's cell, must end in one line where the disk is full, and
after room has been made in the bytes of a run that had room from the start. Linux, as root (a
temporary file system is mounted). Each stage is tried with no room at all and with less than its
files take.
"""

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from tests import tiny_project

SIZE = "64m"
CELL = "tables.cells table3/small/0"
LEFT = (0, 4096, 65536)
"""Bytes that are free when a stage begins."""


def main() -> None:
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        options = ["-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
        if subprocess.run(["mount", *options]).returncode:
            sys.exit("needs the right to mount a temporary file system")
        try:
            failures = tried(folder)
        finally:
            subprocess.run(["umount", "--lazy", str(folder)])
    sys.exit(f"{failures} did not end as they should" if failures else 0)


def tried(folder: Path) -> int:
    """How many trials did not end as they should."""
    tiny_project.lay(folder)
    names = yaml.safe_load((folder / "dvc.yaml").read_text())["stages"]
    failures, trials, full = 0, 0, 0
    for stage in [*names, CELL]:
        command = ("-m", *f"stages.{stage}".split())
        before = tiny_project.made(folder)
        succeed(folder, command)
        expected = tiny_project.made(folder)
        for left in LEFT:
            forget(folder, expected.keys() - before.keys())
            ballast = fill(folder, left)
            status, said = tiny_project.run(folder, *command)
            ballast.unlink()
            trials, full = trials + 1, full + bool(status)
            if status and not one_line(said):
                failures += 1
                print(f"{stage} with {left} bytes free said:\n{said}", flush=True)
            succeed(folder, command)
            if different := tiny_project.differing(tiny_project.made(folder), expected):
                failures += 1
                print(f"{stage} with {left} bytes free, then room: other bytes: {different}")
        print(f"{stage}: tried", flush=True)
    print(f"{trials} trials, {full} ended for want of room, {failures} not as they should")
    return failures


def succeed(folder: Path, command: tuple[str, ...]) -> None:
    status, said = tiny_project.run(folder, *command)
    if status:
        sys.exit(f"{' '.join(command)} failed:\n{said}")


def forget(folder: Path, names: set[str]) -> None:
    """Delete what a stage has made, as DVC does before it runs one."""
    for name in names:
        (folder / name).unlink(missing_ok=True)


def fill(folder: Path, left: int) -> Path:
    """A file that leaves so many bytes free."""
    path = folder / ".ballast"
    room = os.statvfs(folder)
    with path.open("wb", buffering=0) as file:
        for at in range(0, max(0, room.f_bavail * room.f_frsize - left), room.f_frsize):
            file.write(bytes(min(room.f_frsize, room.f_bavail * room.f_frsize - left - at)))
    return path


def one_line(said: str) -> bool:
    """Whether a failed stage said one thing, beside its progress bars."""
    lines = [line.split("\r")[-1] for line in said.splitlines()]
    errors = [line for line in lines if line.startswith("error: ")]
    return len(errors) == 1 and "Traceback" not in said and lines[-1] == errors[0]


if __name__ == "__main__":
    main()
