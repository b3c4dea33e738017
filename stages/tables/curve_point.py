"""Train and measure the default translator on a number of networks: a point of the curve.

Every point makes as many steps, so that all cost the same.
"""

from kt.ensemble import Compute
from stages import runtime
from stages.params import Params
from stages.tables import cell

EVALUATIONS = 10
STORE = "many"


def main(params: Params, compute: Compute, networks: str) -> None:
    count = int(networks)
    schedule = params.schedule
    default = params.active.train.pairs
    steps = schedule.epochs * -(-default // schedule.batch_size)
    epochs = max(1, round(steps / -(-count // schedule.batch_size)))
    changed = schedule.model_copy(
        update={"epochs": epochs, "evaluate_every": max(1, epochs // EVALUATIONS)}
    )
    active = {"train": {"pairs": count, params.model.kind: changed.model_dump()}}
    change = params.tables.stores[STORE] | {"active": active | {"networks": {"train": count}}}
    point = cell.measured(params.changed(change, f"networks {count}"), compute, STORE)
    cell.write(params, f"curve/{count}", point)


if __name__ == "__main__":
    runtime.run(main, __doc__, "networks")
