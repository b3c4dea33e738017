"""Time and peak memory of a piece of work, in a process of its own if need be."""

import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any


def peak_memory() -> float:
    """The process's high-water mark so far, in GiB."""
    unit = 1 if sys.platform == "darwin" else 2**10  # bytes on macOS, kilobytes on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def seconds(work: Callable[[], object]) -> float:
    """Wall time of `work`."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def alone(work: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """What `work` returns in a fresh process, and the peak memory of that process in GiB."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_measured, work, arguments).result()


def _measured(work: Callable[..., Any], arguments: tuple) -> tuple[Any, float]:
    return work(*arguments), peak_memory()
