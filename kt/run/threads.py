"""The CPUs there are, and how PyTorch's operations run: in how many threads, what precision."""

import contextlib
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import TypeVar

import torch

from kt.run.errors import KTError

Item = TypeVar("Item")
Result = TypeVar("Result")
MEMBERSHIP, CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
"""Where Linux says which control groups a process is in, and what these are granted."""


def processors() -> int:
    """How many CPUs this process can keep busy.

    Those that it may run on, or fewer where its container is granted less of their time, rounded
    up.
    """
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    else:  # macOS and Windows; the first is new in Python 3.13
        allowed = getattr(os, "process_cpu_count", os.cpu_count)() or 1
    return max(1, math.ceil(min(allowed, _granted())))


def device_named(name: str) -> torch.device:
    """The device of this name: "cpu", "cuda" or "cuda:1".

    Raises:
        KTError: there is none here.
    """
    if not re.fullmatch("(cpu|cuda)(:[0-9]+)?", name):
        raise KTError(f"{name!r} cannot be used here: accepts cpu, cuda, cuda:1, ...")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise KTError(f"{name!r} cannot be used here ({reason})") from None
    return device


def _granted() -> float:
    """CPUs that the process's control groups are granted, its own and those around it."""
    try:
        groups = MEMBERSHIP.read_text().splitlines()
    except OSError:
        return math.inf
    granted = math.inf
    for group in groups:
        _, controllers, path = group.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = CGROUPS / "cpu" if controllers else CGROUPS  # version 1, version 2
        own = root / path.lstrip("/")
        around = (folder for folder in (own, *own.parents) if folder.is_relative_to(root))
        granted = min(granted, *map(_quota, around))
    return granted


def _quota(group: Path) -> float:
    """CPUs that one control group is granted."""
    try:
        if (file := group / "cpu.max").exists():
            quota, period = file.read_text().split()
        else:
            quota, period = (
                (group / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period")
            )
        return math.inf if quota in ("max", "-1") else int(quota) / int(period)
    except (OSError, ValueError):  # none, or of a kind that is not known here
        return math.inf


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Run each of PyTorch's operations in one CPU thread.

    Operations on small tensors gain nothing from more, and lose a great deal where the cores have
    other work: every operation then waits for the slowest thread.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def full_precision(full: bool = True) -> Iterator[None]:
    """Within it convolutions on a GPU read float32.

    By default, and unless `full`, cuDNN rounds what they read to TF32's 10 bits. Gradients of tiny
    networks are then off by percent (`python -m benchmarks.gpu` measures it), and engines no longer
    agree.
    """
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = not full
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def spread(
    pool: Executor, work: Callable[[Item], Result], items: Iterable[Item]
) -> Iterator[Result]:
    """`map` over the threads of a pool, in order, each item's operations in a single thread."""

    def alone(item: Item) -> Result:
        torch.set_num_threads(1)  # of the pool's thread
        return work(item)

    with one_thread():
        yield from pool.map(alone, items)
