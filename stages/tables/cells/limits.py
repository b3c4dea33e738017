"""Small blocks trained again and again for the same networks, and the means of some of them."""

from collections.abc import Iterator

from kt.ensemble import Compute
from kt.networks.weights import Weights, part, take
from kt.pairs.store import Pairs
from kt.run.statistics import summary
from kt.translators import limits
from stages.common.base.generation import make_store, plan
from stages.common.base.inputs import PAIRS, image_set
from stages.common.base.params import Params, settings_of
from stages.common.evaluation import Subjects
from stages.tables.cells import cell
from stages.tables.cells.settings import Limits, draws_of

TABLE = "limits"
ORDERS = {"plain": False, "aligned": True}
"""Of hidden channels: as they are, or nearest to the prediction."""


def make(params: Params, compute: Compute, of: str, initial: str) -> None:
    settings = settings_of(of, Limits)
    cell.known(initial, settings.initial, f"tables/{of}/params.yaml: initial")
    subjects = Subjects.of_store("test", image_set(params, "main", "test"), params)
    count = min(settings.networks, len(subjects))
    subjects = Subjects(
        take(subjects.networks, slice(0, count)), subjects.images, params.target, params.sizes
    )
    draws, held_out = draws_of(params)
    drawn = drawn_blocks(params, compute, subjects.networks, draws, initial)
    learned = {name: tensor[held_out:] for name, tensor in drawn.items()}
    judges = {name: tensor[:held_out] for name, tensor in drawn.items()}
    found: dict = {"networks": count, "variance": limits.variance(drawn), "orders": {}}
    found["mean_block"] = limits.error(of_all(drawn), drawn)
    for order, align in ORDERS.items():
        means = {}
        for some in averaged(draws - held_out):
            mean = limits.mean({name: t[:some] for name, t in learned.items()}, align)
            accuracy = subjects.with_small(mean, compute)
            means[str(some)] = {
                "error": limits.error(mean, judges, align),
                "accuracy": summary(accuracy),
                "accuracies": cell.listed(accuracy),
            }
        own = {"mean_block": limits.error(of_all(learned), judges, align), "means": means}
        found["orders"][order] = own
    cell.write(params, f"{of}/{initial}", found)


def drawn_blocks(
    params: Params, compute: Compute, networks: Weights, draws: int, initial: str
) -> Weights:
    """Small blocks {name: (draws, N, ...)} of some networks, from weights and images drawn anew."""
    count, store = len(networks["latter.fc.bias"]), f"{TABLE}/{initial}"
    change = {
        "generate": {"small_init": initial, "checkpoints": []},
        "scales": {params.scale: {"networks": {"per_stream": count}}},  # a draw is a part
    }
    changed = params.changed(change, f"tables/{TABLE}/params.yaml: {initial}")
    every = {n: t.repeat(draws, *[1] * (t.dim() - 1)) for n, t in networks.items()}
    again = plan(changed, store, draws * count)
    make_store(again, compute, image_set(params, "main", "train"), networks=every)
    small = part(Pairs(PAIRS / store).read("small"), "small")
    return {name: t.unflatten(0, (draws, count)) for name, t in small.items()}


def of_all(blocks: Weights) -> Weights:
    """One mean block for all networks, {name: (draws, N, ...)} to {name: (N, ...)}."""
    return {name: t.mean(0, True).expand_as(t) for name, t in limits.mean(blocks).items()}


def averaged(most: int) -> Iterator[int]:
    """Of how many blocks the means are: 1, 2, 4 and so on, and all."""
    some = 1
    while some < most:
        yield some
        some *= 2
    yield most
