"""Parts of a plan computed on the nodes of a Ray cluster; Ray is an optional requirement."""

import logging
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

import kt
from kt.ensemble import Compute, cpu_engine
from kt.networks.blocks import PAPER, Sizes
from kt.networks.weights import Weights
from kt.run.errors import KTError

AHEAD = 2
"""Tasks submitted for each one that can run: nodes never wait, and nothing piles up."""
GPU_CHUNK = 256
SECONDS_TO_ANSWER = 10


@dataclass(frozen=True)
class Cluster:
    """Computes parts for `kt.pairs.generate.run` as Ray tasks; a lost task is computed again.

    Attributes:
        address: of the cluster's head, "host:port"; "auto" for the one started on this machine;
            "local" for a new one, of this machine alone, that ends with this process.
        cpus: CPU threads of a task.
        gpus: GPUs that a task takes, 0.25 for four tasks on each; 0: it runs on CPUs.
    """

    address: str
    cpus: int = 1
    gpus: float = 0.0

    def compute(self, here: Compute, sizes: Sizes = PAPER) -> Compute:
        """How a task computes networks of these sizes, given how this machine would.

        All nodes must take the same engine as this machine, because engines round differently.
        """
        if self.gpus:
            return replace(here, device=torch.device("cuda"), workers=self.cpus, chunk=GPU_CHUNK)
        here = replace(here, device=torch.device("cpu"), workers=self.cpus)
        engine = "cpu" if here.engine_for("large", sizes) is cpu_engine else "torch"
        return replace(here, engine=engine)

    def __call__(
        self, work: Callable[[int], Weights], indices: Sequence[int]
    ) -> Iterator[tuple[int, Weights]]:
        """Compute `work(index)` for all indices; yields (index, part) as they come.

        Nodes may join and leave meanwhile. Their number limits how many parts are being computed or
        lie in the cluster's memory; this process holds one. If the caller stops early, running
        tasks are not cancelled: Ray 2.60 aborts a process that cancels a task just as it ends.

        Raises:
            KTError: Ray is not installed, the cluster cannot be reached or is lost, or the work
                raised one.
        """
        ray = self._connected()
        # In a list: if the driver is killed, nodes never free an object that was itself an
        # argument, and in the end no task fits into their memory (Ray 2.60).
        shared = [ray.put(work)]
        compute = ray.remote(
            num_cpus=self.cpus, num_gpus=self.gpus, max_retries=-1, scheduling_strategy="SPREAD"
        )(_compute)
        left = list(reversed(indices))
        pending: dict[Any, int] = {}
        try:
            while left or pending:
                while left and len(pending) < AHEAD * self._slots(ray):
                    index = left.pop()
                    pending[compute.remote(shared, index)] = index
                (done, *_), _ = ray.wait(list(pending))
                part = ray.get(done)
                yield pending.pop(done), part
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, KTError):
                raise KTError(str(error.cause)) from None
            raise
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[0]
            raise KTError(f"the Ray cluster {self.address} is lost ({reason}): run again") from None

    def _slots(self, ray: ModuleType) -> int:
        """How many tasks can run at once; at least one, because nodes may still be joining."""
        there = ray.cluster_resources()
        slots = there.get("CPU", 0) // self.cpus
        if self.gpus:
            slots = min(slots, there.get("GPU", 0) // self.gpus)
        return max(1, int(slots))

    def _connected(self) -> ModuleType:
        """Ray, connected; all nodes use this process's `kt`, even if they have another one."""
        try:
            import ray
        except ImportError:
            raise KTError("Ray is missing: pip install -e .[ray]") from None
        if not ray.is_initialized():
            # Report only the first failing task.
            os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
            try:
                _reach(self.address)  # Ray itself would try for minutes
                ray.init(
                    self.address,
                    runtime_env={"py_modules": [str(Path(kt.__file__).parent)]},
                    logging_level=logging.WARNING,
                )
            except (OSError, ValueError, RuntimeError) as error:
                reason = str(error).strip().splitlines()[0]
                raise KTError(f"no Ray cluster at {self.address!r} ({reason})") from None
        return ray


def _compute(shared: list, index: int) -> Weights:
    import ray

    return ray.get(shared[0])(index)


def _reach(address: str) -> None:
    """Raise OSError if nothing listens at "host:port", ValueError if that is no address."""
    if address in ("auto", "local"):
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    socket.create_connection((host, int(port)), SECONDS_TO_ANSWER).close()
