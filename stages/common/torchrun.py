"""Run a stage in several processes, on one or more machines, with torchrun.

If KT_TORCHRUN holds options of torchrun ("--nproc-per-node 4"), the stage restarts itself under
torchrun. Started by torchrun, it joins the other processes. On a single machine they meet at its
loopback address, whatever its name resolves to.
"""

import argparse
import os
import re
import shlex
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import NoReturn

import torch
from torch import distributed

from kt.run.errors import KTError
from kt.run.threads import processors
from stages.common.base import params, runtime
from stages.common.base.checks import shown

HERE = ("--standalone", "--local-addr", "127.0.0.1")
"""Options of torchrun for processes of one machine."""
MEETING = ("nnodes", "rdzv_endpoint", "rdzv_backend", "master_addr", "node_rank", "local_addr")
"""Those which say where processes of several machines meet."""
AUTOMATIC = ("auto", "cpu", "gpu", "xpu")
"""Words for the number of processes on a machine."""
LOOPBACK = {"linux": "lo", "darwin": "lo0"}
PATIENCE = timedelta(minutes=5)
"""How long processes wait for one another at the start."""


def run(main: Callable[..., None], description: str) -> None:
    """`runtime.run` in every process; all call `main`.

    Each process has a GPU of its own, or its share of the machine's CPU cores.
    """
    if "LOCAL_RANK" not in os.environ:
        if not os.environ.get("KT_TORCHRUN"):
            return runtime.run(main, description)
        runtime.one_line(restart)
    runtime.one_line(join)
    try:
        runtime.run(main, description)
    finally:
        distributed.destroy_process_group()


def restart() -> None:
    """Start this stage anew under torchrun, which ends this process.

    Raises:
        KTError: the parameters or the options are not valid: once, before anything starts.
    """
    params.load()
    spec = sys.modules["__main__"].__spec__
    assert spec is not None  # stages are run by `python -m`
    command = [*options_of(os.environ["KT_TORCHRUN"]), "-m", spec.name, *sys.argv[1:]]
    os.execv(sys.executable, [sys.executable, "-m", "torch.distributed.run", *command])


def options_of(words: str) -> list[str]:
    """Options of torchrun, completed where all processes are of this machine.

    Raises:
        KTError: they are none.
    """
    from torch.distributed.run import config_from_args, get_args_parser  # a second that few need

    def refuse(message: str) -> NoReturn:
        raise KTError(f"KT_TORCHRUN: got {shown(words)}; accepts options of torchrun ({message})")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    try:
        options = shlex.split(words)
        found = parser.parse_args([*options, "-m", "stage"])
        config_from_args(found)  # torchrun's own checks
    except (ValueError, AssertionError, argparse.ArgumentError) as error:
        refuse(str(error).lower())
    except SystemExit:
        refuse("this one shows its help")
    if found.training_script != "stage" or found.training_script_args:
        refuse(f"{shown(found.training_script)} is none")
    count = found.nproc_per_node
    if count not in AUTOMATIC and not (count.isdecimal() and int(count) > 0):
        refuse(f"--nproc-per-node {shown(count)} is no number")
    if any(getattr(found, name) != parser.get_default(name) for name in MEETING):
        return options
    if (loopback := LOOPBACK.get(sys.platform)) is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
    return [*HERE, *options]


def join() -> None:
    """Meet the other processes that torchrun has started.

    Raises:
        KTError: they do not come, or cannot be reached; or torchrun has not started this one.
    """
    local, here = _number("LOCAL_RANK"), _number("LOCAL_WORLD_SIZE", least=1)
    _number("MASTER_PORT")
    if (own := _number("RANK")) >= (all_of_them := _number("WORLD_SIZE", least=1)):
        raise KTError(f"RANK is {own} among {all_of_them} processes, which torchrun counts from 0")
    os.environ.setdefault("KT_WORKERS", str(max(1, processors() // here)))
    backend = "gloo"
    if torch.cuda.is_available():
        os.environ.setdefault("KT_DEVICE", f"cuda:{local}")
        torch.cuda.set_device(local)
        backend = "cpu:gloo,cuda:nccl"
    try:
        store, rank, size = next(distributed.rendezvous("env://", timeout=PATIENCE))
        store.set_timeout(PATIENCE)
        meeting = distributed.PrefixStore("stage", store)
        distributed.init_process_group(backend, store=meeting, rank=rank, world_size=size)
    except (RuntimeError, ValueError) as error:  # of which PyTorch's network errors are kinds
        address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise KTError(
            f"KT_TORCHRUN: the processes did not meet at {address} within "
            f"{PATIENCE.seconds // 60} minutes ({str(error).splitlines()[0]})"
        ) from None


def _number(name: str, least: int = 0) -> int:
    """A number that torchrun tells its processes.

    Raises:
        KTError: it is none, or is not there.
    """
    value = os.environ.get(name)
    if value is not None and re.fullmatch("[0-9]{1,9}", value) and least <= int(value):
        return int(value)
    found = "is not set" if value is None else f"is {shown(value)}, no number from {least} on"
    raise KTError(f"{name} {found}, which torchrun sets: unset LOCAL_RANK to run one process")
