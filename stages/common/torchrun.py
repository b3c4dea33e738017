"""Run a stage in several processes, on one or more machines, with torchrun.

If KT_TORCHRUN holds options of torchrun ("--nproc-per-node 4"), the stage restarts itself under
torchrun. Started by torchrun, it joins the other processes.
"""

import os
import shlex
import sys
from collections.abc import Callable

import torch
from torch import distributed

from kt.run.threads import processors
from stages.common.base import params, runtime


def run(main: Callable[..., None], description: str) -> None:
    """`runtime.run` in every process; all call `main`.

    Each process has a GPU of its own, or its share of the machine's CPU cores.
    """
    options = os.environ.get("KT_TORCHRUN")
    if "LOCAL_RANK" not in os.environ:
        if not options:
            return runtime.run(main, description)
        runtime.one_line(params.load)  # report errors once, before anything starts
        command = [sys.executable, "-m", "torch.distributed.run", *shlex.split(options)]
        spec = sys.modules["__main__"].__spec__
        assert spec is not None  # stages are run by `python -m`
        stage = spec.name
        os.execv(sys.executable, [*command, "-m", stage, *sys.argv[1:]])
    local, here = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    os.environ.setdefault("KT_WORKERS", str(max(1, processors() // here)))
    backend = "gloo"
    if torch.cuda.is_available():
        os.environ.setdefault("KT_DEVICE", f"cuda:{local}")
        torch.cuda.set_device(local)
        backend = "cpu:gloo,cuda:nccl"
    distributed.init_process_group(backend)
    try:
        runtime.run(main, description)
    finally:
        distributed.destroy_process_group()
