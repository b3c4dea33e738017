"""Generation on a Ray cluster: the bytes of the local run, whoever dies meanwhile."""

import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks.nodes import Nodes
from kt.ensemble import Compute, Recipe
from kt.pairs import generate
from kt.pairs.cluster import AHEAD, Cluster
from kt.pairs.generate import Plan
from kt.run.errors import KTError
from stages.common.base.generation import cluster_of_environment
from tests.conftest import ROOT
from tests.test_generate import assert_same

pytest.importorskip("ray", reason="needs Ray: pip install -e .[ray]")

PLAN = Plan("train", 16, 2, "conv", Recipe(epochs=40, batch_size=32, lr=0.05), 7)


@pytest.fixture(scope="module")
def nodes():
    import ray

    nodes = Nodes()
    yield nodes
    ray.shutdown()
    nodes.stop()


def joined(parts: list) -> dict[str, torch.Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def on_cluster(nodes: Nodes, images, folder: Path, after: dict) -> dict[str, torch.Tensor]:
    """What comes from the cluster.

    Args:
        after: what happens when so many parts have come.
    """
    cluster, come = Cluster(nodes.address), []

    def progress(count: int, done_before: bool) -> None:
        come.append(count)
        after.get(len(come), lambda: None)()

    compute = cluster.compute(Compute())
    run = generate.run(PLAN, images, folder, compute, progress=progress, executor=cluster)
    result = joined(list(run))
    assert sum(come) == PLAN.images(images)
    return result


def test_workers_and_a_node_die_and_another_comes(nodes, images, tmp_path):
    events = {1: nodes.lose_a_worker, 2: nodes.lose_one, 3: nodes.add_one, 5: nodes.lose_a_worker}
    found = on_cluster(nodes, images, tmp_path / "cluster", events)
    here = joined(list(generate.run(PLAN, images, tmp_path / "here", Compute())))
    assert_same(found, here)


def test_a_stage_joins_the_cluster_and_writes_the_same_bytes(nodes, prepared):
    expected = prepared.files("data/pairs")
    code, errors = prepared.run("generate_val", "--ray", nodes.address)
    assert code == 0, errors
    assert "networks/s" in errors
    assert prepared.files("data/pairs") == expected


def _leave_a_trace(folder: Path, index: int) -> dict[str, torch.Tensor]:
    (folder / str(index)).touch()
    return {"index": torch.tensor([index])}


def test_nodes_do_not_run_far_ahead_of_who_takes_the_parts(nodes, tmp_path):
    cluster = Cluster(nodes.address)
    parts = cluster(partial(_leave_a_trace, tmp_path), range(50))
    seen = {next(parts)[0]}
    time.sleep(3)
    assert len(list(tmp_path.iterdir())) <= 1 + AHEAD * len(nodes.nodes)
    seen |= {index for index, part in parts if part["index"].item() == index}
    assert seen == set(range(50))


def _sleep(ballast: torch.Tensor, seconds: float, index: int) -> dict[str, torch.Tensor]:
    time.sleep(seconds)
    return {"index": torch.tensor([index])}


def drive(address: str, seconds: str) -> None:
    """Give tasks half of the memory of a node, which keeps 70 % of it for arguments."""
    ballast = torch.zeros(80 * 2**20, dtype=torch.uint8)
    assert len(list(Cluster(address)(partial(_sleep, ballast, float(seconds)), range(4)))) == 4


def test_killed_drivers_leave_the_memory_of_nodes_to_others(nodes):
    def driver(seconds: float) -> subprocess.Popen:
        code = "import sys; from tests import test_cluster; test_cluster.drive(*sys.argv[1:])"
        command = [sys.executable, "-c", code, nodes.address, str(seconds)]
        return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)

    killed = driver(600)
    try:
        nodes.wait_for_work()
    finally:
        killed.kill()
        killed.wait()
    while nodes.workers():
        time.sleep(0.05)
    last = driver(0)
    try:
        assert last.wait(180) == 0
    finally:
        last.kill()


def _fail(index: int) -> dict[str, torch.Tensor]:
    raise KTError(f"part {index} cannot be")


def test_mistakes_are_one_line(nodes, monkeypatch):
    with pytest.raises(KTError, match=r"^part 3 cannot be$"):
        list(Cluster(nodes.address)(_fail, [3]))
    monkeypatch.setenv("KT_RAY", "auto")
    assert cluster_of_environment() == Cluster("auto", 1, 0)
    for name, value in (("KT_RAY_CPUS", "0"), ("KT_RAY_CPUS", "half"), ("KT_RAY_GPUS", "-1")):
        with monkeypatch.context() as context:
            context.setenv(name, value)
            with pytest.raises(KTError, match=f"{name}.*got '{value}'; accepts a number >= "):
                cluster_of_environment()


def _dvc(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def test_cells_run_on_the_cluster_as_if_dvc_had_run_them(nodes, prepared):
    grid, folder = "tables/table3/dvc.yaml:cell", prepared.folder
    for path in ("dvc.yaml", "tables/dvc.yaml", "tables/table3/dvc.yaml"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, folder / path)
    _dvc(folder, "init", "--no-scm", "--quiet")
    code, errors = prepared.run("together", grid, "--ray", nodes.address)
    assert code == 0, errors
    assert "didn't change" in _dvc(folder, "repro", "--single-item", grid)

    cell = folder / "tables/cells/tiny/table3/small/0.1.json"
    on_cluster = cell.read_bytes()
    prepared.succeed("tables.cells table3/small/0.1")
    assert cell.read_bytes() == on_cluster

    (folder / "data/images/main.safetensors").unlink()  # every cell needs it
    code, errors = prepared.run("together", grid, "--ray", nodes.address)
    assert "Unhandled" not in errors
    assert code == 1 and errors.strip().splitlines()[-1].startswith("error: "), errors
    code, errors = prepared.run("together", "tables/dvc.yaml", "--ray", nodes.address)
    assert code == 1 and "name stages that can run at once" in errors


def test_without_a_cluster_it_says_so(project):
    code, errors = project.run("images")
    assert code == 0, errors
    code, errors = project.run("generate_train", "--ray", "127.0.0.1:1")
    assert code == 1 and errors.strip().splitlines()[-1].startswith("error: no Ray cluster at")
