"""Training pairs for the paper's Figure 4: those of generate_train, or more of the same kind."""

from pydantic import model_validator

from kt.ensemble import Compute
from kt.pairs.store import Pairs, write_store
from stages.common.base import runtime
from stages.common.base.generation import make_training_store
from stages.common.base.inputs import PAIRS
from stages.common.base.params import Count, Params, Strict
from stages.tables.scales import at_scale

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

    @classmethod
    def of(cls, params: Params) -> "Compared":
        """The parameters, checked for the active scale.

        Raises:
            KTError: they lack something that it needs.
        """
        chosen = params.table(TABLE, cls)
        chosen.pairs_at(params)
        chosen.batch_size_at(params)
        return chosen

    def pairs_at(self, params: Params) -> int:
        """Number of pairs at the active scale."""
        return at_scale(params, f"{TABLE}.pairs", self.pairs)

    def batch_size_at(self, params: Params) -> int:
        """That of the active scale."""
        return at_scale(params, f"{TABLE}.batch_size", self.batch_size)


def main(params: Params, compute: Compute) -> None:
    count, made = Compared.of(params).pairs_at(params), Pairs(PAIRS / "train")
    if params.generate.small_blocks and count <= params.active.networks.train:
        write_store(STORE, [made.read(first=count)], count, made.about)
        return
    change = {
        "generate": {"small_blocks": True, "checkpoints": []},
        "active": {"networks": {"train": count}, "train": {"pairs": count}},
    }
    make_training_store(params.changed(change, f"tables.{TABLE}"), compute, STORE)


if __name__ == "__main__":
    runtime.run(main, __doc__)
