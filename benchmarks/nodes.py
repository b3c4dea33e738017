"""A Ray cluster of several nodes on one machine, for killing its workers and nodes."""

import contextlib
import os
import random
import signal
import time

import psutil


class Nodes:
    """A head that computes nothing, and nodes with some CPUs each: processes of their own."""

    def __init__(self, count: int = 2, cpus: int = 1) -> None:
        from ray.cluster_utils import Cluster

        self.cpus = cpus
        head = {"num_cpus": 0, "include_dashboard": False}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.nodes = []
        for _ in range(count):
            self.add_one()

    @property
    def address(self) -> str:
        return self.cluster.address

    def workers(self) -> list[int]:
        """Processes of these nodes that are computing a part."""
        found = []
        for node in self.nodes:
            with contextlib.suppress(psutil.NoSuchProcess):  # it has ended
                raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
                found += [child for child in raylet.children() if _computes(child)]
        return [process.pid for process in found]

    def wait_for_work(self, seconds: float = 180) -> list[int]:
        """The workers, when there are some.

        Raises:
            TimeoutError: nothing is at work.
        """
        deadline = time.monotonic() + seconds
        while not (at_work := self.workers()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"no node has been at work for {seconds:g} s")
            time.sleep(0.01)
        return at_work

    def lose_a_worker(self) -> None:
        os.kill(random.choice(self.wait_for_work()), signal.SIGKILL)

    def lose_one(self) -> None:
        self.cluster.remove_node(self.nodes.pop(), allow_graceful=False)

    def add_one(self) -> None:
        self.nodes.append(self.cluster.add_node(num_cpus=self.cpus))

    def stop(self) -> None:
        self.cluster.shutdown()


def _computes(process: psutil.Process) -> bool:
    try:
        return process.cmdline()[:1] == ["ray::_compute"]
    except psutil.Error:  # it has ended
        return False
