"""Train the networks that a table's translators learn from: ablation/shared, say.

They are generate_train's networks under changed parameters, `stores` in the table's params.yaml.
Where they differ in their small blocks only, no large block is trained again.
"""

from kt.ensemble import Compute
from kt.run.errors import KTError
from stages.common.base import runtime
from stages.common.base.generation import make_training_store
from stages.common.base.inputs import PAIRS
from stages.common.base.params import Params, store_key, stores
from stages.common.base.stores import pairs


def main(params: Params, compute: Compute, name: str) -> None:
    table, _, store = name.partition("/")
    changes = stores(table)
    if store not in changes:
        raise KTError(f"{name!r} is no store: {table} has {', '.join(changes) or 'none'}")
    changed = params.changed(changes[store], store_key(table, store))
    plain = not (params.generate.checkpoints or changed.generate.checkpoints)
    count, made = changed.active.networks.train, params.active.networks.train
    known = None
    same = (changed.active.recipe, changed.sizes) == (params.active.recipe, params.sizes)
    if plain and count <= made and same:
        parts = ("former", "large", "latter")
        known = pairs(params, PAIRS / "train", *parts, count=count).read(*parts, first=count)
    make_training_store(changed, compute, PAIRS / name, known)


if __name__ == "__main__":
    runtime.run(main, __doc__, "table/store")
