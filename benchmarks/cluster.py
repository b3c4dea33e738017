"""Generation on Ray: its cost, the gain of two workers, and whether kills change a byte.

python -m benchmarks.cluster overhead   plain generation, and the same on a Ray cluster
python -m benchmarks.cluster kills      workers, nodes and drivers killed at random moments
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from benchmarks.command import Parser, count, some, start
from benchmarks.generate import training_images
from benchmarks.nodes import Nodes
from benchmarks.process import alone, seconds
from kt.ensemble import Compute, Recipe
from kt.pairs import generate
from kt.pairs.cluster import Cluster
from kt.pairs.generate import Plan
from kt.pairs.store import Pairs, write_store
from kt.run.threads import processors

KILLED = ("worker", "node", "driver")
PER_STREAM = 2
"""Networks of a part where things are killed: many small parts."""


def planned(networks: int, epochs: int, per_stream: int) -> Plan:
    return Plan("train", networks, per_stream, "conv", Recipe(epochs, 128, 0.1), seed=1)


def store(plan: Plan, count: int, folder: Path, address: str | None, workers: int = 1) -> str:
    """Generate a store, going on from what lies beside it; returns its checksum."""
    torch.set_num_threads(1)
    images, _ = training_images(count)
    cluster = None if address is None else Cluster(address)
    compute = Compute(workers=workers)
    compute = compute if cluster is None else cluster.compute(compute)
    scratch = folder.with_name(f"{folder.name}-parts")
    run = generate.run(plan, images, scratch, compute, executor=cluster)
    write_store(folder, run, plan.stored, {})
    return Pairs(folder).checksum


def timed(plan: Plan, count: int, folder: Path, address: str | None, workers: int) -> float:
    """Seconds of a store, after a small one that starts workers and loads libraries."""
    cores = processors()
    if address is None and workers < cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:workers])
    warm = planned(8 * cores, 1, 1)
    store(warm, 128, folder.with_name(f"{folder.name}-warm"), address, workers)
    return seconds(lambda: store(plan, count, folder, address, workers))


def overhead(options: argparse.Namespace) -> None:
    """Time three ways to generate, each in a fresh process, best of a few turns."""
    cores = processors()
    plan = planned(options.networks, options.epochs, options.per_stream)
    started = time.perf_counter()
    nodes = Nodes(1, cores)
    print(f"cluster started in {time.perf_counter() - started:.1f} s")
    ways = {
        "one worker on one core": (None, 1),
        f"plain, {cores} workers": (None, cores),
        f"Ray, {cores} workers": (nodes.address, cores),
    }
    taken: dict[str, list[float]] = {way: [] for way in ways}
    try:
        for turn in range(options.turns):
            for way, (address, workers) in ways.items():
                with tempfile.TemporaryDirectory() as folder:
                    out = Path(folder) / "store"
                    run, _ = alone(timed, plan, options.images, out, address, workers)
                taken[way].append(run)
                print(f"turn {turn + 1}: {way}: {run:.1f} s", flush=True)
    finally:
        nodes.stop()
    one, plain, ray = (min(runs) for runs in taken.values())
    print(f"{options.networks} networks, {options.epochs} epochs of {options.images} images a step")
    print(f"Ray over plain: {100 * (ray / plain - 1):+.1f} %")
    print(f"{cores} workers to one: plain {one / plain:.2f}, Ray {one / ray:.2f} times")


def drive(options: argparse.Namespace) -> None:
    """Generate a store on a cluster: the process of `kills` that may be killed."""
    plan = planned(options.networks, options.epochs, PER_STREAM)
    store(plan, options.images, options.out, options.address)


def kills(options: argparse.Namespace) -> None:
    """Kill something in every run; the result must have the bytes of an undisturbed run."""
    random.seed(options.seed)
    plan = planned(options.networks, options.epochs, PER_STREAM)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        expected = store(plan, options.images, Path(folder) / "here", None)
        whole = time.perf_counter() - started
        nodes = Nodes(2, 1)
        right = 0
        try:
            for turn in range(options.runs):
                kind, out = KILLED[turn % len(KILLED)], Path(folder) / str(turn)
                moment = random.uniform(0, whole / 2)
                again = killed_once(nodes, kind, moment, options, out)
                same = Pairs(out).checksum == expected
                right += same
                outcome = "the same bytes" if same else "OTHER BYTES"
                print(
                    f"run {turn + 1}: {kind} killed after {moment:.1f} s, {again}: {outcome}",
                    flush=True,
                )
        finally:
            nodes.stop()
    print(f"{right} of {options.runs} runs ended in the bytes of a run left alone")
    if right < options.runs:
        sys.exit(1)


def killed_once(
    nodes: Nodes, kind: str, moment: float, options: argparse.Namespace, out: Path
) -> str:
    """Run a driver, kill a worker, a node or the driver itself, and see the run to its end."""
    command = [sys.executable, "-m", "benchmarks.cluster", "drive", nodes.address, str(out)]
    command += ["--networks", str(options.networks), "--epochs", str(options.epochs)]
    command += ["--images", str(options.images)]
    quiet = subprocess.DEVNULL  # Ray tells of every kill
    start = partial(subprocess.Popen, command, stdout=quiet, stderr=quiet)
    driver = start()
    nodes.wait_for_work()
    time.sleep(moment)
    words = "the cluster went on"
    if kind == "worker":
        nodes.lose_a_worker()
    elif kind == "node":
        nodes.lose_one()
        nodes.add_one()
    else:
        driver.kill()
        driver.wait()
        done = len(list(out.with_name(f"{out.name}-parts").glob("*.safetensors")))
        words = f"started again with {done} parts done"
        driver = start()
    if driver.wait() != 0:
        sys.exit(f"the driver ended with {driver.returncode}")
    return words


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, does: Callable, networks: int, images: int) -> argparse.ArgumentParser:
        own = commands.add_parser(name, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        own.add_argument("--networks", type=count, default=networks, help="that are generated")
        own.add_argument("--epochs", type=count, default=1, help="of each step")
        own.add_argument("--images", type=count, default=images, help="of an epoch")
        own.set_defaults(does=does)
        return own

    timing = command("overhead", overhead, 256, 20000)
    timing.add_argument("--per-stream", type=count, default=32, help="networks of a part")
    timing.add_argument("--turns", type=count, default=2, help="the best counts")
    killing = command("kills", kills, 64, 4000)
    killing.add_argument("--runs", type=count, default=20, help="with a kill in each")
    killing.add_argument("--seed", type=some, default=1, help="of the moments of the kills")
    driving = command("drive", drive, 64, 4000)
    driving.add_argument("address", help="of the cluster")
    driving.add_argument("out", type=Path, help="folder of the store")
    options = parser.parse_args()
    options.does(options)


if __name__ == "__main__":
    start(main)
