"""Train one of the further stores of training networks: `tables.stores` in params.yaml."""

from kt.ensemble import Compute
from stages.common.base import runtime
from stages.common.base.generation import make_training_store
from stages.common.base.inputs import PAIRS
from stages.common.base.params import Change, Params


def main(params: Params, compute: Compute, name: str) -> None:
    change = params.table("stores", dict[str, Change])[name]
    make_training_store(params.changed(change, f"tables.stores.{name}"), compute, PAIRS / name)


if __name__ == "__main__":
    runtime.run(main, __doc__, "name")
