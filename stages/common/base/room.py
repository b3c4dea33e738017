"""Whether there is room for what the parameters ask for, before any work."""

import shutil
from pathlib import Path

import psutil
import torch

from kt.run.errors import KTError

MIB = 2**20


def require_memory(needed: float, what: str, device: torch.device | None = None) -> None:
    """Raise KTError if so many bytes of memory are not there, on a GPU if one is given."""
    if device is not None and device.type == "cuda":
        there, where = torch.cuda.mem_get_info(device)[0], str(device)
    else:
        there, where = psutil.virtual_memory().available, "here"
    if needed > there:
        raise KTError(f"{what}: takes {_size(needed)} of memory, and {where} are {_size(there)}")


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
