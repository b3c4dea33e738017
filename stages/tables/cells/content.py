"""What cells hold, checked as they are read."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field, model_validator

from stages.common.base.inputs import LARGEST
from stages.common.base.metrics import (
    LEFT_OUT,
    Accuracy,
    Best,
    Known,
    Number,
    Percent,
    Summary,
    Whole,
    several,
)

Some = Field(min_length=1)
Error = Annotated[float, Field(ge=0, lt=LARGEST)]
"""Squared, so never negative."""
Accuracies = Annotated[list[Percent], Some]
ROUNDED = 1e-3
"""By how much a mean of accuracies that are kept with four digits may differ, at most."""


def require_summary(told: Summary, accuracies: list[float]) -> None:
    """Refuse a summary that is not that of the accuracies which a cell keeps beside it.

    Raises:
        ValueError: it is another's.
    """
    mean = sum(accuracies) / len(accuracies)
    if told.n != len(accuracies) or abs(told.mean - mean) > ROUNDED:
        raise ValueError(f"the mean of {told.n} is {told.mean}, but of its accuracies {mean:.4f}")


Told = TypeVar("Told", bound="Sequence[Evaluation | Epoch]")


def in_order(told: Told) -> Told:
    """Raise ValueError if what is told of epochs is not in their order."""
    epochs = [one.epoch for one in told]
    if epochs != sorted(set(epochs)):
        raise ValueError("its epochs are out of order")
    return told


class Evaluation(Known):
    """Of a translator, while it is trained."""

    epoch: Whole
    loss: Number
    selection: Percent
    test: Percent


class Trained(Known):
    """Of a translator that was trained for the cell, and measured."""

    translation: Accuracy
    selection: Accuracy
    paper_rule_best_on_test: Best
    training: Accuracy
    accuracies: Accuracies
    networks: Whole
    updates: Whole
    late_fall: Number | None
    evaluations: Annotated[Sequence[Evaluation], Some, AfterValidator(in_order)]

    @model_validator(mode="after")
    def _of_its_accuracies(self) -> "Trained":
        require_summary(self.translation, self.accuracies)
        return self


class ToTarget(Trained):
    """Table 6's: beside other blocks' random initialisation."""

    random_initialisation: Accuracy


class OnTheWay(Evaluation):
    """The same, on training networks too."""

    seen: Percent
    seen_error: Error
    unseen_error: Error = LEFT_OUT


class Mixer(Trained):
    """A point of the mixer's curves."""

    evaluations: Annotated[Sequence[OnTheWay], Some, AfterValidator(in_order)]
    mean_block: Annotated[dict[str, Number], Some]


class Mean(Known):
    """Of small blocks of the same networks."""

    error: Error
    accuracy: Accuracy
    accuracies: Accuracies


class Means(Known):
    """By the number of blocks; and the error of the mean over networks, too."""

    mean_block: Error
    means: Annotated[dict[str, Mean], Some]


class Orders(Known):
    plain: Means
    aligned: Means


class Limits(Known):
    networks: Whole
    variance: Error
    mean_block: Error
    orders: Orders


class Fixed(Known):
    label: str
    translation: Accuracy
    accuracies: Accuracies

    @model_validator(mode="after")
    def _of_its_accuracies(self) -> "Fixed":
        require_summary(self.translation, self.accuracies)
        return self


class ForEpochs(Known):
    random_initialisation: Accuracy
    translation: Accuracy
    retrained: Accuracy
    large: Accuracy
    gain: Summary


class Losses(Known):
    loss: Error
    held_out_loss: Error


class Epoch(Losses):
    epoch: Whole


class Curve(Known):
    """Figure 4's."""

    parameters: Whole
    multiply_adds: Whole
    pairs: Whole
    batch_size: Whole
    updates: Whole
    held_out: Whole
    mean_block: Losses
    history: Annotated[list[Epoch], Some, AfterValidator(in_order)]


class Method(Known):
    """A row of Table 1."""

    label: str
    accuracy: Accuracy
    accuracies: Accuracies
    parameters: Whole
    network_parameters: Whole
    bytes: Whole
    network_bytes: Whole
    multiply_adds: Whole
    images: str
    once: bool
    updates: Whole
    retrains: bool
    any_architecture: bool

    @model_validator(mode="after")
    def _of_its_accuracies(self) -> "Method":
        require_summary(self.accuracy, self.accuracies)
        return self


class OfWidths(Known):
    """A translator, measured at some widths."""

    widths: Annotated[list[str], Some]
    networks: Whole
    updates: Whole
    prototypes: Whole
    measured: Annotated[dict[str, Accuracies], Some]


class Block(Known):
    """Beside which translators are measured at a width."""

    accuracies: Accuracies
    selection: Percent = LEFT_OUT
    images: Whole = LEFT_OUT
    prototypes: Whole = LEFT_OUT
    updates: Whole = LEFT_OUT
    labels: bool = LEFT_OUT


class Chosen(Known):
    """The better re-training of a width."""

    by: Literal["retrained", "adam"]
    rate: Number


class Blocks(Known):
    random_initialisation: Block
    pruned: Block
    untrained: Block
    retrained: Block
    adam: Block
    large: Block
    ceiling: Chosen


class Clocked(Known):
    """What the clock says of a row of Table 1."""

    latency_us: Number
    seconds: Number
    once_seconds: Number


KINDS: dict[str, Any] = {
    "ablation": Trained,
    "curve": Trained,
    "epochs": ForEpochs,
    "figure4": Curve,
    "fixed": several(Fixed),
    "limits": Limits,
    "merge": Trained,
    "mixer_curves": Mixer,
    "table1": several(Method),
    "table3": Trained,
    "table4": Trained,
    "table5": Trained,
    "table6": ToTarget,
    "widths": OfWidths,
    "widths/blocks": Blocks,
}
"""By the beginning of a cell's name; the longest that fits counts."""
SECONDS: dict[str, Any] = {"": several(Number), "table1": several(Clocked)}
"""Of what the clock said, likewise."""


def kind_of(name: str, kinds: dict[str, Any]) -> Any:
    """What a cell of this name holds."""
    words = name.split("/")
    beginnings = ("/".join(words[:count]) for count in range(len(words), -1, -1))
    return next(kinds[beginning] for beginning in beginnings if beginning in kinds)
