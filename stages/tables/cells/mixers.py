"""The paper's translators that figures look closer at: trained and kept."""

from pathlib import Path

from kt.ensemble import Compute
from kt.translators import Translator
from stages.common import translation
from stages.common.base.inputs import TRANSLATOR
from stages.common.base.params import Params, settings_of
from stages.common.evaluation import translator
from stages.tables.cells import cell, paper
from stages.tables.cells.settings import Instead, Kept, Size, epochs_of

TRANSLATORS = Path("tables/translators")


def folder(params: Params, size: str) -> Path:
    """Where the translator and its accuracies are kept."""
    return TRANSLATORS / params.scale / size


def load(params: Params, size: str, compute: Compute) -> Translator:
    """The translator that `make` trained.

    Raises:
        KTError: it is missing or damaged.
    """
    path = folder(params, size) / TRANSLATOR.name
    return translator(path, changed(params, size), compute.device)


def at_scale(params: Params, size: str) -> Instead:
    """Its size, dropout and epochs at the active scale, where another may take its place."""
    settings = settings_of("mixers", dict[Size, Kept])
    cell.known(size, settings, "tables/params.yaml: mixers")
    kept = settings[size]
    if (other := kept.instead.get(params.scale)) is not None:
        return other
    epochs = epochs_of(params, f"tables/params.yaml: mixers.{size}", kept.epochs)
    return Instead(size=size, dropout=kept.dropout, epochs=epochs)


def named(params: Params, size: str) -> str:
    """Such a translator in words."""
    chosen = at_scale(params, size)
    return (
        f"the paper's mixer ({chosen.size}, dropout {chosen.dropout:g}, {chosen.epochs} epochs on "
        f"{params.active.pairs:,} pairs)"
    )


def changed(params: Params, size: str) -> Params:
    """The parameters that train it."""
    chosen = at_scale(params, size)
    own = {"train": {"dropout": chosen.dropout}}
    change = paper.mixer(params, chosen.size, chosen.epochs, own)
    return params.changed(change, f"tables/params.yaml: mixers.{size}")


def make(params: Params, compute: Compute, of: str, size: str) -> None:
    translation.train(changed(params, size), compute, folder(params, size))
