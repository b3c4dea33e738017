"""The paper's translators that figures look closer at: trained and kept."""

from pathlib import Path

from kt.ensemble import Compute
from kt.translators import Translator
from stages.common import translation
from stages.common.base.inputs import TRANSLATOR
from stages.common.base.params import Params, settings_of
from stages.common.evaluation import translator
from stages.tables.cells import cell, paper
from stages.tables.cells.settings import Kept, Size, epochs_of

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


def training_of(params: Params, size: str) -> tuple[float, int]:
    """Its dropout, and the epochs of its training at the active scale."""
    settings = settings_of("mixers", dict[Size, Kept])
    cell.known(size, settings, "tables/params.yaml: mixers")
    kept = settings[size]
    return kept.dropout, epochs_of(params, f"tables/params.yaml: mixers.{size}", kept.epochs)


def named(params: Params, size: str) -> str:
    """Such a translator in words."""
    dropout, epochs = training_of(params, size)
    return (
        f"the paper's mixer ({size}, dropout {dropout:g}, {epochs} epochs on "
        f"{params.active.pairs:,} pairs)"
    )


def changed(params: Params, size: str) -> Params:
    """The parameters that train it."""
    dropout, epochs = training_of(params, size)
    change = paper.mixer(params, size, epochs, {"train": {"dropout": dropout}})
    return params.changed(change, f"tables/params.yaml: mixers.{size}")


def make(params: Params, compute: Compute, of: str, size: str) -> None:
    translation.train(changed(params, size), compute, folder(params, size))
