"""Measure the default translator on networks trained for another number of epochs."""

from kt.ensemble import Compute
from kt.run.statistics import summary
from stages.common.base.generation import make_store, plan
from stages.common.base.inputs import TRANSLATOR, image_set
from stages.common.base.params import Params, settings_of
from stages.common.evaluation import Subjects, translator
from stages.tables.cells import cell
from stages.tables.cells.settings import Epochs


def make(params: Params, compute: Compute, of: str, epochs: str) -> None:
    cell.known(epochs, settings_of("epochs", Epochs).epochs, "tables/epochs/params.yaml: epochs")
    changed = params.changed(
        {"scales": {params.scale: {"recipe": {"epochs": int(epochs)}}}}, f"tables/epochs: {epochs}"
    )
    split, model = f"epochs/{epochs}", translator(TRANSLATOR, params, compute.device)
    images = image_set(params, "main", "test")
    networks = plan(changed, split, params.active.networks.selection)
    make_store(networks, compute, image_set(params, "main", "train"))
    subjects = Subjects.of_store(split, images, params, "small")
    accuracies = subjects.compared(model, params.seed, compute)
    result = {name: summary(values) for name, values in accuracies.items()}
    cell.write(params, f"epochs/{epochs}", result)
