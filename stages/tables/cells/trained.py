"""Cells that train a translator under changed parameters and measure it."""

from collections.abc import Callable

from kt.ensemble import Compute
from kt.run.statistics import summary
from kt.translators import baselines
from stages.common.base.inputs import image_set
from stages.common.base.params import Change, Params, merged, settings_file, settings_of
from stages.common.evaluation import Subjects
from stages.tables.cells import cell, paper
from stages.tables.cells.settings import (
    Ablation,
    Augmentation,
    Curve,
    Grid,
    Merge,
    Targets,
    epochs_of,
    grid_of,
    swept_at,
)

Learning = tuple[Change, str] | None
"""What a cell changes, and the store that it learns from; None for a cell that the scale does not
have, but DVC, whose lists know no scales, does."""


def make(params: Params, compute: Compute, of: str, *keys: str) -> None:
    """Train a cell's translator, measure it and write what was found."""
    name = "/".join((of, *keys))
    words = (of, *keys) if of in GRIDS else keys
    cell.require_words(name, LEARNING[of], params, *words)
    if (learning := LEARNING[of](params, *words)) is None:
        return cell.write(params, name, {})
    change, store = learning
    changed = params.changed(change, f"{settings_file(of)}: {name}")
    content, seconds = cell.measured(changed, compute, store)
    if of == "table6":  # beside other blocks' random initialisation
        test = Subjects.of_store("test", image_set(params, "main", "test"), changed)
        fresh = baselines.random_initialisation(
            changed.target, len(test), params.seed, params.sizes
        )
        content["random_initialisation"] = summary(test.with_small(fresh, compute))
    cell.write(params, name, content, {"training": seconds})


def ablation(params: Params, row: str) -> Learning:
    settings = settings_of("ablation", Ablation)
    cell.known(row, settings.rows, "tables/ablation/params.yaml")
    return settings.change(row), settings.rows[row].store


def curve(params: Params, networks: str) -> Learning:
    """Every point makes as many steps as the main translator, and is evaluated as often."""
    settings, schedule = settings_of("curve", Curve), params.schedule
    cell.known(networks, settings.networks, "tables/curve/params.yaml: networks")
    count = int(networks)
    steps = schedule.epochs * -(-params.active.pairs // schedule.batch_size)
    epochs = max(1, round(steps / -(-count // schedule.batch_size)))
    every = max(1, round(schedule.evaluate_every * epochs / schedule.epochs))
    learning = schedule.model_copy(update={"epochs": epochs, "evaluate_every": every})
    change = {
        "translators": {params.model.kind: {"schedule": {params.scale: learning.model_dump()}}},
        "scales": {params.scale: {"pairs": count}},
    }
    return merged(settings.stores["networks"], change), "curve/networks"


def merge(params: Params) -> Learning:
    return {"model": {"kind": "merge"} | settings_of("merge", Merge).model_dump()}, "train"


def grid(params: Params, of: str, size: str, dropout: str) -> Learning:
    settings, place = settings_of(of, Grid), f"tables/{of}/params.yaml"
    cell.known(size, settings.sizes, f"{place}: sizes")
    cell.known(dropout, settings.dropout, f"{place}: dropout")
    epochs = epochs_of(params, place, settings.epochs)
    if f"{size}/{dropout}" not in grid_of(params, of).names():
        return None
    return paper.mixer(params, size, epochs, {"train": {"dropout": float(dropout)}}), "train"


def augmentation(params: Params, kind: str, strength: str = "") -> Learning:
    settings, name = settings_of("table5", Augmentation), "/".join(filter(None, (kind, strength)))
    cell.known(name, settings.names(), "tables/table5/params.yaml")
    swept = swept_at(params, settings)
    if name not in swept.names():
        return None
    whole = epochs_of(params, "tables/table3/params.yaml", settings_of("table3", Grid).epochs)
    drawn = {} if kind == "none" else {kind: float(strength)}
    pairs = paper.pairs_of(params, settings.share, "tables/table5/params.yaml: share")
    change = {
        "translators": {"mixer": {"train": drawn}},
        "scales": {params.scale: {"pairs": pairs}},
    }
    return paper.mixer(params, swept.size, settings.share * whole, change), "train"


def target(params: Params, kind: str) -> Learning:
    settings = settings_of("table6", Targets)
    cell.known(kind, settings.stores, "tables/table6/params.yaml: stores")
    epochs = epochs_of(params, "tables/table6/params.yaml", settings.epochs)
    return paper.mixer(params, settings.size, epochs, settings.stores[kind]), f"table6/{kind}"


GRIDS = ("table3", "table4")
LEARNING: dict[str, Callable[..., Learning]] = {
    "ablation": ablation,
    "curve": curve,
    "merge": merge,
    "table3": grid,
    "table4": grid,
    "table5": augmentation,
    "table6": target,
}
