"""Train one of the further stores of training networks: `tables.stores` in params.yaml."""

from kt.ensemble import Compute
from stages import runtime
from stages.generation import make_training_store
from stages.inputs import PAIRS
from stages.params import Params


def main(params: Params, compute: Compute, name: str) -> None:
    changed = params.changed(params.tables.stores[name], f"tables.stores.{name}")
    make_training_store(changed, compute, PAIRS / name)


if __name__ == "__main__":
    runtime.run(main, __doc__, "name")
