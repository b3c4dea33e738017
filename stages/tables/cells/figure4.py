"""A curve of Figure 4: one kind of translator, trained the paper's way on few pairs."""

import dataclasses

import torch

from kt.ensemble import Compute
from kt.networks.blocks import initial_weights, parameter_count
from kt.networks.cost import multiply_adds
from kt.networks.weights import Weights, part
from kt.run import seeds
from kt.run.errors import KTError
from kt.translators import losses, require_memory, translate
from kt.translators.base import Translator, kind_named
from kt.translators.fit import Record, Training, fit
from kt.translators.objectives import WeightObjective
from stages.common import translation
from stages.common.base import runtime
from stages.common.base.inputs import PAIRS
from stages.common.base.params import Params, at_scale, settings_of
from stages.common.base.stores import pairs
from stages.tables.cells import cell
from stages.tables.cells.settings import OfOneCost

KINDS = ("mixer", "attention", "convolution")
TABLE = "figure4"
STORE = f"{TABLE}/pairs"
TOLERANCE = 0.05
"""How much more the costliest translator may take than the cheapest."""


def make(params: Params, compute: Compute, of: str, kind: str) -> None:
    chosen = settings_of(of, OfOneCost)
    cell.known(kind, KINDS, of)
    model, products = matched(params)[kind]
    model.to(compute.device)
    batch_size = at_scale(params, "tables/figure4/params.yaml: batch_size", chosen.batch_size)
    training = Training(chosen.epochs, batch_size, evaluate_every=1, seed=params.seed)
    store, others = (
        pairs(params, PAIRS / split, "large", "small", target=params.target)
        for split in (STORE, "selection")
    )
    learned, held_out = store.read("large", "small"), others.read("large", "small")
    small = part(held_out, "small")

    def evaluate(model: Translator) -> Record:
        predicted = translate(model, held_out, compute)
        return {"held_out_loss": losses.weight_mse(predicted, small).item()}

    objective = WeightObjective(
        part(learned, "large"), part(learned, "small"), workers=compute.workers
    )
    key = [kind, dataclasses.asdict(model.config), dataclasses.asdict(training)]
    with (
        runtime.scratch(
            of, translation.TRAINS_TRANSLATORS, *key, store.checksum, others.checksum
        ) as kept,
        runtime.progress_bar(training.epochs, kind, "epoch") as bar,
    ):
        checkpoint = kept / "checkpoint.pt"
        # No epoch is chosen: only the curve matters.
        fitted = fit(
            model, objective, training, evaluate, "epoch", checkpoint, lambda _: bar.update()
        )
    shown = ("epoch", "loss", "held_out_loss")
    seconds = sum(len(store) / record["samples_per_second"] for record in fitted.history)
    content = {
        "parameters": parameter_count(model),
        "multiply_adds": products,
        "pairs": len(store),
        "batch_size": batch_size,
        "updates": len(fitted.history) * -(-len(store) // batch_size),
        "late_fall": fitted.late_fall,
        "held_out": len(others),
        "mean_block": of_mean_block(part(learned, "small"), small),
        "history": [{name: record[name] for name in shown} for record in fitted.history],
    }
    cell.write(params, f"{of}/{kind}", content, {"training": round(seconds, 2)})


def matched(params: Params) -> dict[str, tuple[Translator, int]]:
    """The untrained translators, and the multiply-adds of one translation by each.

    Raises:
        KTError: some translators cost more than 5 % more than others.
    """
    sizes, large = (
        settings_of(TABLE, OfOneCost).compared,
        initial_weights("large", [0], params.sizes),
    )
    found = {}
    for kind in KINDS:
        make = kind_named(kind)
        torch.manual_seed(seeds.derive(params.seed, TABLE, kind, "initial weights"))
        about = getattr(sizes, kind).model_dump()
        config = make.Config(**about, target=params.target, sizes=params.sizes)
        require_memory(make, config)
        model = make(config)
        found[kind] = model, multiply_adds(model, large)
    costs = {kind: products for kind, (_, products) in found.items()}
    if max(costs.values()) > (1 + TOLERANCE) * min(costs.values()):
        listed = ", ".join(f"{kind} {products:,}" for kind, products in costs.items())
        raise KTError(
            f"tables/{TABLE}/params.yaml: compared: multiply-adds are {listed}; accepts at most "
            f"{TOLERANCE:.0%} between them"
        )
    return found


def of_mean_block(learned: Weights, held_out: Weights) -> dict[str, float]:
    """The losses of a translator that always answers with the mean of the small blocks (N, ...)."""
    return {
        name: losses.weight_mse(
            {key: learned[key].mean(0).expand_as(rows) for key, rows in blocks.items()}, blocks
        ).item()
        for name, blocks in (("loss", learned), ("held_out_loss", held_out))
    }
