"""The memory there is, to refuse what cannot fit before the work begins."""

import os
from pathlib import Path

from kt.run.errors import KTError

LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def total() -> float:
    """Bytes of memory that this process may use at most; infinite where nothing tells."""
    found = [_of_machine()]
    for path in LIMITS:
        try:
            text = path.read_text().strip()
            found.append(float("inf") if text == "max" else float(text))
        except (OSError, ValueError):
            continue
    return min(found)


def require(needed: float, what: str, remedy: str) -> None:
    """Refuse work that needs more memory than there is at all.

    Args:
        needed: bytes.
        what: needs them, the error's subject.

    Raises:
        KTError: it does not fit.
    """
    if needed > (there := total()):
        raise KTError(
            f"{what} needs {needed / 2**30:.3g} GiB of memory, but there are "
            f"{there / 2**30:.3g}: {remedy}"
        )


def _of_machine() -> float:
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, OSError, ValueError):  # Windows
        return float("inf")
