"""Train the paper's translator in one size, for the figures that look closer at it."""

from pathlib import Path

from kt.ensemble import Compute
from kt.translators import Translator, load_translator
from stages.common import translation
from stages.common.base import runtime
from stages.common.base.inputs import TRANSLATOR
from stages.common.base.params import Count, Fraction, Params, Strict
from stages.tables import output, paper
from stages.tables.scales import at_scale

TABLE = "translators"
TRANSLATORS = Path("tables/translators")


class Settings(Strict):
    """Of one size, `tables.translators.<size>`; epochs by scale."""

    dropout: Fraction
    epochs: dict[str, Count]


def folder(params: Params, size: str) -> Path:
    """Where the translator and its accuracies are kept."""
    return TRANSLATORS / params.scale / size


def load(params: Params, size: str, compute: Compute) -> Translator:
    """The translator that `main` trained.

    Raises:
        KTError: it is missing or damaged.
    """
    return load_translator(folder(params, size) / TRANSLATOR.name, compute.device)


def named(params: Params, size: str) -> str:
    """Such a translator in words."""
    settings = params.table(TABLE, dict[paper.Size, Settings])[size]
    epochs = at_scale(params, f"{TABLE}.{size}.epochs", settings.epochs)
    return (
        f"the paper's mixer ({size}, dropout {settings.dropout:g}, {epochs} epochs on "
        f"{params.active.train.pairs:,} pairs)"
    )


def trained_with(params: Params, size: str) -> str:
    """How many updates it and the main job's translator were trained with, in words."""
    mixer = output.updates(changed(params, size))
    return output.trained_with({"the mixer": mixer, params.model.kind: output.updates(params)})


def changed(params: Params, size: str) -> Params:
    """The parameters that train it."""
    settings = params.table(TABLE, dict[paper.Size, Settings])[size]
    epochs = at_scale(params, f"{TABLE}.{size}.epochs", settings.epochs)
    change = paper.mixer(params, size, epochs, dropout=settings.dropout)
    return params.changed(change, f"tables.{TABLE}.{size}")


def main(params: Params, compute: Compute, size: str) -> None:
    translation.train(changed(params, size), compute, folder(params, size))


if __name__ == "__main__":
    runtime.run(main, __doc__, "size")
