"""Training pairs for the paper's Figure 4, like generate_train's but in its own number."""

from pydantic import model_validator

from kt.ensemble import Compute
from kt.errors import KTError
from stages import runtime
from stages.generation import make_training_store
from stages.inputs import PAIRS
from stages.params import Count, Params, Strict

TABLE = "figure4"
STORE = PAIRS / TABLE


class Sizes(Strict):
    """Of a translator."""

    layers: Count
    hidden_size: Count
    sequence_dim: Count
    channel_dim: Count


class AttentionSizes(Sizes):
    """Of one with attention."""

    heads: Count

    @model_validator(mode="after")
    def _heads_of_one_size(self) -> "AttentionSizes":
        if self.hidden_size % self.heads:
            raise ValueError(f"heads is {self.heads}, which does not divide {self.hidden_size}")
        return self


class Translators(Strict):
    """Those that are compared."""

    mixer: Sizes
    attention: AttentionSizes
    convolution: Sizes


class Compared(Strict):
    """`tables.figure4` of the parameters; pairs and batch size by scale."""

    translators: Translators
    epochs: Count
    pairs: dict[str, Count]
    batch_size: dict[str, Count]

    @model_validator(mode="after")
    def _same_scales(self) -> "Compared":
        if self.pairs.keys() != self.batch_size.keys():
            raise ValueError(f"pairs are for {', '.join(self.pairs)}, batch_size for others")
        return self


def compared(params: Params) -> Compared:
    """The figure's settings.

    Raises:
        KTError: they are not valid, or there are none for the active scale.
    """
    chosen = params.table(TABLE, Compared)
    if params.scale not in chosen.pairs:
        raise KTError(
            f"params.yaml: tables.{TABLE}.pairs: none for scale {params.scale!r}; there are some "
            f"for {', '.join(chosen.pairs)}"
        )
    return chosen


def main(params: Params, compute: Compute) -> None:
    count = compared(params).pairs[params.scale]
    change = {
        "generate": {"small_blocks": True, "checkpoints": []},
        "active": {"networks": {"train": count}, "train": {"pairs": count}},
    }
    make_training_store(params.changed(change, f"tables.{TABLE}"), compute, STORE)


if __name__ == "__main__":
    runtime.run(main, __doc__)
