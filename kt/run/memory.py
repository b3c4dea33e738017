"""The memory there is, to refuse what cannot fit before the work begins."""

import os
from pathlib import Path

from kt.run.errors import KTError

MEMORY, AVAILABLE = Path("/proc/meminfo"), "MemAvailable:"
"""Where Linux says how much memory is free, or is once it lets go of files' copies."""
LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def free() -> float:
    """Bytes of memory that this process may still take; infinite where nothing tells.

    Of a control group the limit counts: what it uses by now holds files that it can let go.
    """
    found = [_of_machine()]
    for path in LIMITS:
        try:
            text = path.read_text().strip()
            found.append(float("inf") if text == "max" else float(text))
        except (OSError, ValueError):
            continue
    return min(found)


def require(needed: float, what: str, remedy: str) -> None:
    """Refuse work that needs more memory than is free.

    Args:
        needed: bytes.
        what: needs them, the error's subject.

    Raises:
        KTError: it does not fit.
    """
    if needed > (there := free()):
        raise KTError(
            f"{what} needs {needed / 2**30:.3g} GiB of memory, but {there / 2**30:.3g} are free: "
            f"{remedy}"
        )


def _of_machine() -> float:
    try:
        lines = MEMORY.read_text().splitlines()
        return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith(AVAILABLE))
    except (OSError, StopIteration):  # no Linux: all that there is
        pass
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, OSError, ValueError):  # Windows
        return float("inf")
