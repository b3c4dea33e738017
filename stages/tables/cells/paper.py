"""The paper's translators as changes of parameters."""

from kt.run.errors import KTError
from kt.translators.mixer import SIZES
from stages.common.base.params import Change, Params, merged

EVALUATIONS = 6
"""Of a translator on the way, at least: a schedule of few epochs is evaluated more often."""


def pairs_of(params: Params, share: int, place: str) -> int:
    """How many pairs one in so many of the active scale's are.

    Args:
        place: where the share stands.

    Raises:
        KTError: there are not as many pairs.
    """
    if share > (pairs := params.active.pairs):
        raise KTError(f"{place}: got {share}; accepts up to the {pairs} pairs of {params.scale}")
    return pairs // share


def mixer(params: Params, size: str, epochs: int, change: Change | None = None) -> Change:
    """The change of parameters that trains the paper's translator the paper's way.

    Args:
        size: a key of `SIZES`.
        epochs: of its training, at the active scale.
        change: further parameters to replace.
    """
    config = SIZES[size]
    usual = params.translators["mixer"].schedule[params.scale].evaluate_every
    schedule = {"epochs": epochs, "evaluate_every": min(usual, -(-epochs // EVALUATIONS))}
    paper = {
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
                "schedule": {params.scale: schedule},
            }
        },
    }
    return merged(paper, change or {})
