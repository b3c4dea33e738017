"""A point of the mixer's curves: a row of the ablation on a share of the pairs."""

from collections.abc import Callable

from kt.ensemble import Compute
from kt.networks.weights import Weights, network_count, part, take
from kt.translators import Translator, losses, translate
from stages.common import kinds
from stages.common.base.inputs import PAIRS, image_set
from stages.common.base.params import Change, Params, merged, settings_of
from stages.common.base.stores import pairs
from stages.common.evaluation import Subjects
from stages.tables.cells import cell, paper
from stages.tables.cells.settings import Ablation, MixerCurves

TABLE = "mixer_curves"


def make(params: Params, compute: Compute, of: str, row: str, share: str) -> None:
    settings, ablation = settings_of(of, MixerCurves), settings_of("ablation", Ablation)
    cell.known(row, settings.rows, f"tables/{of}/params.yaml: rows")
    cell.known(share, settings.shares, f"tables/{of}/params.yaml: shares")
    cell.known(row, ablation.mixers, "tables/ablation/params.yaml: mixers")
    own, store = ablation.change(row), ablation.mixers[row].store
    change = merged(own, schedule(params, settings.size, int(share)))
    changed = params.changed(change, f"tables/{of}/params.yaml: {of}/{row}/{share}")
    also, mean_block = errors(params, changed, compute, store)
    content, seconds = cell.measured(changed, compute, store, also)
    content["mean_block"] = mean_block
    cell.write(params, f"{of}/{row}/{share}", content, {"training": seconds})


def schedule(params: Params, size: str, share: int) -> Change:
    """As many updates for every share; behaviour, if at all, comes in over their first half."""
    usual = params.translators["mixer"].schedule[params.scale]
    epochs = share * usual.epochs
    pairs = paper.pairs_of(params, share, f"tables/{TABLE}/params.yaml: shares")
    own = {
        "schedule": {params.scale: {"evaluate_every": share * usual.evaluate_every}},
        "train": {"loss": {"ramp_epochs": epochs // 2}},
    }
    return paper.mixer(
        params,
        size,
        epochs,
        {"translators": {"mixer": own}, "scales": {params.scale: {"pairs": pairs}}},
    )


def errors(
    params: Params, changed: Params, compute: Compute, name: str
) -> tuple[Callable[[Translator], dict], dict[str, float]]:
    """What measures a translator on pairs that it learns from and on others, if the store has any.

    These are the store's pairs beyond those that the scale learns from. The error is the paper's
    loss; where the row aligns targets, in the order of hidden channels nearest to the prediction.

    Returns:
        A function that gives `seen` (mean accuracy), `seen_error` and `unseen_error`; and the
        errors of always answering with the mean of the small blocks.
    """
    parts = ("former", "large", "latter", "small")
    learned, first = changed.active.pairs, params.active.pairs
    store = pairs(params, PAIRS / name, *parts, target=params.target, count=first)
    rows, align = store.mapped(*parts), kinds.learning(changed).loss.align
    ends = {"seen": (0, min(learned, cell.MEASURED)), "unseen": (first, first + cell.MEASURED)}
    some = {who: take(rows, slice(*at)) for who, at in ends.items()}
    some = {who: networks for who, networks in some.items() if network_count(networks)}
    test = image_set(params, "main", "test")
    seen = Subjects(some["seen"], test, params.target, params.sizes)
    mean = {n: t.mean(0) for n, t in part(take(rows, slice(0, learned)), "small").items()}

    def error(predicted: Weights, networks: Weights) -> float:
        small = part(networks, "small")
        wanted = losses.aligned(small, predicted) if align else small
        return round(losses.weight_mse(predicted, wanted).item(), 8)

    def also(model: Translator) -> dict:
        small = {who: translate(model, networks, compute) for who, networks in some.items()}
        found = {f"{who}_error": error(small[who], networks) for who, networks in some.items()}
        return found | {"seen": round(seen.with_small(small["seen"], compute).mean().item(), 4)}

    def of_mean(networks: Weights) -> float:
        count = network_count(networks)
        return error({n: t.expand(count, *t.shape) for n, t in mean.items()}, networks)

    return also, {f"{who}_error": of_mean(networks) for who, networks in some.items()}
