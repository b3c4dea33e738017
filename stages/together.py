"""Run the stages of a grid, such as the cells of a table, all at once on a Ray cluster.

    KT_RAY=auto python -m stages.together tables/table3/dvc.yaml

Stages that DVC finds up to date are skipped. Their dependencies must exist. The cluster's nodes
share this folder and run the stages in it; DVC records them as if it had run them itself.
"""

import contextlib
import io
import os
import runpy
import shlex
import sys
from collections.abc import Iterator
from functools import partial

from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.stage import Stage

from kt.ensemble import Compute
from kt.networks.weights import Weights
from kt.pairs.cluster import Cluster
from kt.run.errors import KTError
from stages.common.base import runtime
from stages.common.base.generation import cluster_of_environment
from stages.common.base.params import Params


def main(params: Params, compute: Compute, grid: str) -> None:
    if (cluster := cluster_of_environment()) is None:
        raise KTError("no cluster: set KT_RAY or give --ray (local: a new one of this machine)")
    try:
        with Repo() as repo:
            with repo.lock:
                stages = [stage for stage in repo.stage.collect(grid) if stage.changed()]
                require_independent(stages)
                for stage in stages:
                    stage.remove_outs()
            if stages:
                run(repo, grid, stages, cluster, compute)
    except DvcException as error:
        raise KTError(str(error)) from None


def run(repo: Repo, grid: str, stages: list[Stage], cluster: Cluster, compute: Compute) -> None:
    """Run the stages on the cluster; record those that finish, even if others fail."""
    commands = [shlex.split(stage.cmd) for stage in stages]
    on = cluster.compute(compute)
    variables = {"KT_RAY": "", "KT_DEVICE": str(on.device), "KT_ENGINE": on.engine}
    variables |= {"KT_WORKERS": str(on.workers), "KT_CHUNK": str(on.chunk)}
    work = partial(run_command, os.getcwd(), commands, variables)
    finished = []
    try:
        with runtime.progress_bar(len(stages), grid, "stage") as bar:
            for index, _ in cluster(work, range(len(stages))):
                finished.append(stages[index])
                bar.update()
    finally:
        whole = len(finished) == len(stages)  # DVC writes its whole lock file for every target
        for target in [grid] if whole else [stage.addressing for stage in finished]:
            repo.commit(target, force=True)


def run_command(folder: str, commands: list[list[str]], variables: dict, index: int) -> Weights:
    """Run `python -m module arguments` in this process: killing it leaves no child behind."""
    _, _, module, *arguments = commands[index]
    try:
        os.chdir(folder)
    except OSError as error:
        raise KTError(
            f"{error}: the nodes of the cluster must share the project's folder"
        ) from None
    os.environ.update(variables)
    sys.path.insert(0, folder)
    sys.argv = [module, *arguments]
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            runpy.run_module(module, run_name="__main__")
    except SystemExit as end:
        if end.code:
            why = said.getvalue().splitlines()[-1:] or [f"exit status {end.code}"]
            raise KTError(f"{' '.join(commands[index])}: {why[0]}") from None
    finally:
        sys.path.remove(folder)
    return {}


def require_independent(stages: list[Stage]) -> None:
    """Raise KTError if one of the stages reads what another one writes."""

    def places(kind: str) -> Iterator[tuple[str, Stage]]:
        return ((entry.fs_path, stage) for stage in stages for entry in getattr(stage, kind))

    for made, maker in places("outs"):
        for needed, stage in places("deps"):
            if os.path.commonpath([made, needed]) in (made, needed):
                raise KTError(
                    f"{stage.addressing} needs {maker.addressing}: name stages that can run at once"
                )


if __name__ == "__main__":
    runtime.run(main, __doc__, "grid")
