"""A row of Table 6: translation to another kind of small block, beside random ones."""

from kt.ensemble import Compute
from kt.run.statistics import summary
from kt.translators import baselines
from stages.common.base import runtime
from stages.common.base.inputs import image_set
from stages.common.base.params import Params
from stages.common.evaluation import Subjects
from stages.tables import cell, paper
from stages.tables.target_store import STORES, TABLE, change


def main(params: Params, compute: Compute, target: str) -> None:
    test = Subjects.of_store("test", image_set("main", "test"), target)
    fresh = baselines.random_initialisation(target, len(test), params.seed)
    result = {"random_initialisation": summary(test.with_small(fresh, compute))}
    store = f"{STORES}/{target}"
    result |= paper.measure(params, compute, TABLE, change(params, target), store)
    cell.write(params, f"{TABLE}/{target}", result)


if __name__ == "__main__":
    runtime.run(main, __doc__, "target")
