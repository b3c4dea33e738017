"""The paper's translators as changes of parameters: what the cells of its tables share."""

from typing import Literal

from kt.ensemble import Compute
from kt.translators.mixer import PAPER_SIZES
from stages.common.base.params import Change, Params
from stages.tables import cell

Size = Literal[tuple(PAPER_SIZES)]
"""A size of the translator (Table 2)."""


EVALUATIONS = 6
"""Of a translator on the way, at least: a schedule of few epochs is evaluated more often."""


def mixer(
    params: Params,
    size: str,
    epochs: int,
    pairs: int | None = None,
    augmentation: dict[str, float] | None = None,
    **train: object,
) -> Change:
    """The change of parameters that trains the paper's translator the paper's way.

    Args:
        size: a key of `PAPER_SIZES`.
        epochs: of its training, at the active scale.
        pairs: how many it learns from; None: as many as the scale says.
        augmentation: masking or noise, drawn afresh for every batch.
        train: further parameters under `train`.
    """
    config = PAPER_SIZES[size]
    schedule = params.translators["mixer"].schedule[params.scale]
    every = min(schedule.evaluate_every, -(-epochs // EVALUATIONS))
    return {
        "model": {
            "kind": "mixer",
            "layers": config.layers,
            "hidden_size": config.hidden_size,
        },
        "translators": {
            "mixer": {
                "model": {
                    "sequence_dim": config.sequence_dim,
                    "channel_dim": config.channel_dim,
                },
                "train": augmentation or {},
                "schedule": {"active": {"epochs": epochs, "evaluate_every": every}},
            }
        },
        "train": train,
        "active": {"train": {} if pairs is None else {"pairs": pairs}},
    }


def measure(
    params: Params, compute: Compute, table: str, change: Change, store: str = "train"
) -> dict:
    """What `cell.measured` says under changed parameters.

    Args:
        table: of the parameters, which the change comes from.
    """
    return cell.measured(params.changed(change, f"tables.{table}"), compute, store)
