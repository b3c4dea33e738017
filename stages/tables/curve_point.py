"""Train and measure the default translator on a number of networks: a point of the curve.

Every point makes the same number of steps, so that all cost the same.
"""

from kt.ensemble import Compute
from stages.common.base import runtime
from stages.common.base.params import Params
from stages.tables import cell
from stages.tables.curve_store import STORE, with_networks

EVALUATIONS = 10


def main(params: Params, compute: Compute, networks: str) -> None:
    count = int(networks)
    schedule = params.schedule
    default = params.active.train.pairs
    steps = schedule.epochs * -(-default // schedule.batch_size)
    epochs = max(1, round(steps / -(-count // schedule.batch_size)))
    schedule = schedule.model_copy(
        update={"epochs": epochs, "evaluate_every": max(1, epochs // EVALUATIONS)}
    )
    changed = with_networks(params, count, schedule.model_dump())
    point = cell.measured(changed, compute, STORE)
    cell.write(params, f"curve/{count}", point)


if __name__ == "__main__":
    runtime.run(main, __doc__, "networks")
