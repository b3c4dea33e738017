"""Whether there is room on the disk for what the parameters ask for, before any work."""

import shutil
from pathlib import Path

from kt.run.errors import KTError

MIB = 2**20


def require_disk(folder: Path, needed: float, what: str) -> None:
    """Raise KTError if so many bytes are not free where a folder is, or will be."""
    whole = folder.absolute()
    there = shutil.disk_usage(next(p for p in (whole, *whole.parents) if p.is_dir())).free
    if needed > there:
        raise KTError(
            f"{what}: takes {_size(needed)} on the disk, where {_size(there)} are free: make room"
        )


def _size(amount: float) -> str:
    return f"{amount / MIB:,.0f} MiB"
