"""What the main job's metrics files hold, checked as they are read."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from stages.common.base.checks import explain
from stages.common.base.inputs import RESULTS, Found, damaged, read_json

LEFT_OUT: Any = None
"""Where there are no small blocks to replace by."""


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


class Best(Summary):
    epoch: int


class Seed(Known):
    translation: float
    epoch: int


class Training(Known):
    translation: Summary
    selection: Summary
    epoch: int
    loss: float
    late_fall: float | None = None
    paper_rule_best_on_test: Best
    seeds: Annotated[dict[str, Seed], Field(min_length=1)]
    over_seeds: Summary


class Baselines(Known):
    random_initialisation: Summary
    random_replacement: Summary = LEFT_OUT
    greedy_replacement: Summary = LEFT_OUT
    identity: Summary
    retrained: Summary
    large: Summary


class Compared(Known):
    random_initialisation: Summary
    translation: Summary
    large: Summary
    gain: Summary


class Transfer(Baselines, Compared):
    of: str = Field(alias="from")
    to: str


KINDS: dict[str, Any] = {
    "train": Training,
    "baselines": Baselines,
    "transfer": Transfer,
    "partial": Annotated[dict[str, Compared], Field(min_length=1)],
}
"""By the folder of results/."""


def read(name: str) -> Found:
    """The metrics of one of the folders.

    Raises:
        KTError: the file is missing or damaged, or does not hold what is read of it.
    """
    path = RESULTS / name / "metrics.json"
    found = read_json(path)
    try:
        TypeAdapter(KINDS[name]).validate_python(found, strict=True)
    except ValidationError as error:
        raise damaged(path, explain(error, KINDS[name])) from None
    return found
