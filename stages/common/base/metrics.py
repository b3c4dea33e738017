"""What JSON files of stages hold, checked as they are read; those of the main job by name."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from stages.common.base.checks import explain
from stages.common.base.inputs import LARGEST, RESULTS, Found, damaged, read_json

Number = Annotated[float, Field(gt=-LARGEST, lt=LARGEST)]
Percent = Annotated[float, Field(ge=0, le=100)]
Whole = Annotated[int, Field(ge=0, le=10**18)]
LEFT_OUT: Any = None
"""Where there are no small blocks to replace by."""


def several(kind: Any) -> Any:
    """One or more of a kind, by name."""
    return Annotated[dict[str, kind], Field(min_length=1)]


class Known(BaseModel):
    """What is read of a section; there may be more."""

    model_config = ConfigDict(strict=True)


class Summary(Known):
    """What `kt.run.statistics.summary` gives."""

    mean: float
    std: float
    min: float
    max: float
    n: int
    ci95: float


class Accuracy(Summary):
    """In percent."""

    mean: Percent
    min: Percent
    max: Percent


class Best(Accuracy):
    epoch: int


class Seed(Known):
    translation: float
    epoch: int


class Training(Known):
    translation: Accuracy
    selection: Accuracy
    epoch: int
    loss: float
    late_fall: float | None = None
    paper_rule_best_on_test: Best
    seeds: Annotated[dict[str, Seed], Field(min_length=1)]
    over_seeds: Accuracy


class Ceiling(Accuracy):
    """The better re-training: `stages.common.ceiling.Choice`, and its summary on test networks."""

    by: Literal["retrained", "adam"]
    rate: float


class Blocks(Known):
    random_initialisation: Accuracy
    random_replacement: Accuracy = LEFT_OUT
    greedy_replacement: Accuracy = LEFT_OUT
    identity: Accuracy
    retrained: Accuracy
    large: Accuracy


class Baselines(Blocks):
    adam: Accuracy
    ceiling: Ceiling


class Compared(Known):
    random_initialisation: Accuracy
    translation: Accuracy
    large: Accuracy
    gain: Summary


class Transfer(Blocks, Compared):
    of: str = Field(alias="from")
    to: str


KINDS: dict[str, Any] = {
    "train": Training,
    "baselines": Baselines,
    "transfer": Transfer,
    "partial": several(Compared),
}
"""By the folder of results/."""


def read(name: str) -> Found:
    """The metrics of one of the folders.

    Raises:
        KTError: the file is missing or damaged, or does not hold what is read of it.
    """
    return checked(RESULTS / name / "metrics.json", KINDS[name])


def checked(path: Path, kind: Any) -> Found:
    """What a stage wrote to a JSON file.

    Args:
        kind: a type that pydantic can check; the file may say more.

    Raises:
        KTError: the file is missing or damaged, or does not hold what is read of it.
    """
    found = read_json(path)
    try:
        TypeAdapter(kind).validate_python(found, strict=True)
    except ValidationError as error:
        raise damaged(path, explain(error, kind)) from None
    return found
