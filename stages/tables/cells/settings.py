"""The typed form of the tables' parameters: tables/*/params.yaml."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import Field, WrapValidator, model_validator

from kt.networks.blocks import CONVOLUTIONAL, TARGETS
from kt.run.errors import KTError
from kt.translators.base import MOST_LAYERS, MOST_WIDE
from kt.translators.mixer import SIZES
from stages.common.base.checks import none_of
from stages.common.base.params import (
    MOST,
    Change,
    Count,
    Distinct,
    Fraction,
    Name,
    NotNegative,
    Params,
    Stores,
    Strict,
    at_scale,
    extended,
    settings_of,
)

if TYPE_CHECKING:
    Size = str
else:
    Size = Literal[tuple(SIZES)]
"""A size of the paper's translator (its Table 2), or a third of its small one."""


def _as_written(value: Any, check: Callable[[Any], float]) -> int | float:
    """A value that is accepted, as it is."""
    check(value)
    return value


Rate = Annotated[Fraction, WrapValidator(_as_written)]
"""Of dropout. An integer stays one: DVC names a cell as the parameters write it, 0 or 0.0."""
ByScale = Annotated[dict[str, Count], Field(min_length=1)]
AUGMENTATIONS = ("masking", "noise")


Wide = Annotated[int, Field(ge=1, le=MOST_WIDE)]
Table = TypeVar("Table", "Grid", "Augmentation")
Few = Distinct[Count]
"""Numbers that name rows or files."""


class Row(Strict):
    """Of the ablation: the parameters that it changes, and those of a row that it extends."""

    label: str
    store: str
    extends: str | None = None
    change: Change


class Ablation(Strict):
    """Rows that add to each other, and rows that each change one thing."""

    refine_steps: Count
    stores: Stores
    mixers: dict[Name, Row]
    merges: dict[Name, Row]

    @model_validator(mode="after")
    def _each_once(self) -> "Ablation":
        if twice := self.mixers.keys() & self.merges.keys():
            raise ValueError(f"{min(twice)} is a row of mixers and of merges: rename one")
        return self

    @model_validator(mode="after")
    def _ends(self) -> "Ablation":
        """Whatever a row extends is there, and extends no row that extends it."""
        for name, row in self.rows.items():
            seen = {name}
            while (base := row.extends) is not None:
                if base not in self.rows or base in seen:
                    why = "there is no such row" if base not in self.rows else "in a circle"
                    raise ValueError(f"{name} extends {base}: {why}")
                seen.add(base)
                row = self.rows[base]
        return self

    @model_validator(mode="after")
    def _stored(self) -> "Ablation":
        known = ["train", *(f"ablation/{name}" for name in self.stores)]
        for name, row in self.rows.items():
            if row.store not in known:
                raise ValueError(none_of(f"store of {name}", row.store, known))
        return self

    @property
    def rows(self) -> dict[str, Row]:
        return self.mixers | self.merges

    def change(self, row: str) -> Change:
        """What a row changes in all."""
        plain = {
            name: {"extends": row.extends, "change": row.change} for name, row in self.rows.items()
        }
        return extended(plain, row)["change"]


class Curve(Strict):
    networks: Few
    stores: Stores


class MixerCurves(Strict):
    """Curves of the paper's translator by pairs and updates.

    Attributes:
        shares: of the pairs, one in so many is learned from, so many times as long; 1: all.
        rows: of the ablation's mixers, a curve each; the first is what others are compared with.
    """

    size: Size
    shares: Few
    rows: Distinct[str]

    @model_validator(mode="after")
    def _all_pairs(self) -> "MixerCurves":
        if 1 not in self.shares:
            raise ValueError(f"shares is {self.shares}: 1, all pairs, must be among them")
        return self


class Limits(Strict):
    """Small blocks trained again and again for the same networks.

    Attributes:
        draws: of a block, by scale; a quarter of them judges the means of the others.
        initial: the weights that the blocks start from.
    """

    networks: Annotated[int, Field(ge=2)]
    draws: Annotated[dict[str, Annotated[int, Field(ge=4, le=MOST)]], Field(min_length=1)]
    initial: Distinct[Literal["fresh", "shared"]]


class Epochs(Strict):
    epochs: Few


class Merge(Strict):
    """Our translator's row in the paper's tables."""

    layers: Count
    hidden_size: Count


class Instead(Strict):
    """Another translator of the paper in one's place."""

    size: Size
    dropout: Fraction
    epochs: Count


class Kept(Strict):
    """A translator of the paper that figures look at; epochs, or what takes its place, by scale."""

    dropout: Fraction
    epochs: ByScale
    instead: dict[Name, Instead] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_a_scale(self) -> "Kept":
        if both := sorted(self.epochs.keys() & self.instead.keys()):
            raise ValueError(f"{both[0]} is among epochs and instead: leave one")
        return self


class Compared(Strict):
    """Figure 6: cells of Table 3."""

    sizes: Distinct[Size]
    dropout: Rate


class Table1(Strict):
    """Networks to compress, and steps of the methods that distil."""

    networks: Annotated[int, Field(ge=2)]
    steps: Count


class Cells(Strict):
    """Of Tables 3 and 4."""

    sizes: Distinct[Size]
    dropout: Distinct[Rate]

    def names(self) -> list[str]:
        """As DVC writes them."""
        return [f"{size}/{dropout}" for size in self.sizes for dropout in self.dropout]


class Grid(Cells):
    """Tables 3 and 4: all cells, which DVC makes at every scale; those of a scale, and epochs."""

    epochs: ByScale
    grids: dict[Name, Cells]

    @model_validator(mode="after")
    def _within(self) -> "Grid":
        return require_within(self, {scale: grid.names() for scale, grid in self.grids.items()})


class Swept(Strict):
    """Of Table 5: m and n, drawn afresh for every batch (Section 3.2)."""

    masking: Distinct[Fraction]
    noise: Distinct[NotNegative]

    def by_kind(self) -> dict[str, list[str]]:
        """The names of the cells by kind of augmentation, as DVC writes them."""
        swept = {kind: [f"{kind}/{s}" for s in getattr(self, kind)] for kind in AUGMENTATIONS}
        return {"none": ["none"]} | swept

    def names(self) -> list[str]:
        return [name for swept in self.by_kind().values() for name in swept]


class SweptAtScale(Swept):
    size: Size


class Augmentation(Swept):
    """Table 5; each strength is a cell: all of them, and those of a scale.

    Attributes:
        share: one `share`-th of Table 3's pairs is learned from, `share` times as long, so that as
            many samples are seen.
    """

    share: Count
    grids: dict[Name, SweptAtScale]

    @model_validator(mode="after")
    def _within(self) -> "Augmentation":
        return require_within(self, {scale: grid.names() for scale, grid in self.grids.items()})


class Targets(Strict):
    """Table 6; epochs by scale, and a store for each target."""

    size: Size
    targets: Distinct[Literal[tuple(t for t in TARGETS if t not in CONVOLUTIONAL)]]  # type: ignore[valid-type]
    epochs: ByScale
    stores: Stores


class Sizes(Strict):
    layers: Annotated[int, Field(ge=1, le=MOST_LAYERS)]
    hidden_size: Wide
    sequence_dim: Wide
    channel_dim: Wide


class AttentionSizes(Sizes):
    heads: Wide

    @model_validator(mode="after")
    def _heads_of_one_size(self) -> "AttentionSizes":
        if self.hidden_size % self.heads:
            raise ValueError(f"heads is {self.heads}, which does not divide {self.hidden_size}")
        return self


class Translators(Strict):
    mixer: Sizes
    attention: AttentionSizes
    convolution: Sizes


Width = Annotated[str, Field(pattern=r"^[1-9]\d?_to_[1-9]\d?$")]
"""Channels, and hidden ones of the small block: 6_to_3. It names files, too."""


class Widths(Strict):
    """Translators at widths that they have learned, and at others.

    Attributes:
        measured: where all are measured.
        learned: the widths that each learns, by name.
        test, selection, networks: how many networks of each number of channels are measured,
            choose, and are learned from.
    """

    measured: Distinct[Width]
    learned: dict[Name, Distinct[Width]]
    test: Annotated[int, Field(ge=2, le=MOST)]
    selection: Count
    networks: Count
    stores: Stores

    @model_validator(mode="after")
    def _of_every_width_as_many(self) -> "Widths":
        for name, widths in self.learned.items():
            for count in (self.networks, self.selection):
                if count % len(widths):
                    raise ValueError(
                        f"{count} networks or selection networks are not divided evenly among the "
                        f"{len(widths)} widths of learned.{name}"
                    )
        return self

    def store(self, width: str) -> str:
        """The name of the store whose networks have this width's channels."""
        return f"channels_{width.partition('_')[0]}"


class OfOneCost(Strict):
    """Figure 4; batch size by scale."""

    compared: Translators
    epochs: Count
    batch_size: ByScale
    stores: Stores


def epochs_of(params: Params, name: str, values: ByScale) -> int:
    """Of a table's translators at the active scale."""
    return at_scale(params, f"{name}: epochs", values)


def require_within(table: Table, grids: dict[str, list[str]]) -> Table:
    """Raise ValueError if a scale's grid has a cell that is none of the table's."""
    known = set(table.names())
    for scale, names in grids.items():
        if unknown := [name for name in names if name not in known]:
            raise ValueError(f"grids.{scale} has the cell {unknown[0]}, which the table has not")
    return table


def draws_of(params: Params) -> tuple[int, int]:
    """How many small blocks are trained for a network at the active scale; and how many judge."""
    drawn = at_scale(
        params, "tables/limits/params.yaml: draws", settings_of("limits", Limits).draws
    )
    return drawn, drawn // 4


def grid_of(params: Params, name: str) -> Cells:
    """The cells of Table 3 or 4 at the active scale."""
    return at_scale(params, f"tables/{name}/params.yaml: grids", settings_of(name, Grid).grids)


def swept_at(params: Params, settings: Augmentation) -> SweptAtScale:
    """The cells of Table 5 at the active scale."""
    return at_scale(params, "tables/table5/params.yaml: grids", settings.grids)


def cell_of_table3(params: Params, size: str, dropout: float) -> str:
    """The name of a cell, for a table that shows one of another.

    Raises:
        KTError: there is no such cell.
    """
    grid = grid_of(params, "table3")
    for rate in grid.dropout:
        if size in grid.sizes and rate == dropout:
            return f"table3/{size}/{rate}"
    raise KTError(
        f"tables/table3/params.yaml: {size} with dropout {dropout:g} is not there, but another "
        "table shows it"
    )
