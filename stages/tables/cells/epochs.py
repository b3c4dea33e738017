"""Measure the default translator on networks trained for another number of epochs."""

from kt.ensemble import Compute
from kt.run.statistics import summary
from kt.translators import load_translator
from stages.common.base.generation import make_store, plan
from stages.common.base.inputs import TRANSLATOR, image_set
from stages.common.base.params import Params
from stages.common.evaluation import Subjects
from stages.tables.cells import cell


def make(params: Params, compute: Compute, of: str, epochs: str) -> None:
    changed = params.changed(
        {"scales": {params.scale: {"recipe": {"epochs": int(epochs)}}}}, f"tables/epochs: {epochs}"
    )
    split = f"epochs/{epochs}"
    networks = plan(changed, split, params.active.networks.selection)
    make_store(networks, compute, image_set("main", "train"))
    subjects = Subjects.of_store(split, image_set("main", "test"), params.target)
    model = load_translator(TRANSLATOR, compute.device)
    accuracies = subjects.compared(model, params.seed, compute)
    result = {name: summary(values) for name, values in accuracies.items()}
    cell.write(params, f"epochs/{epochs}", result)
