"""The typed form of `params.yaml`, checked once and strictly before any work."""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from kt.images import IMAGE_SETS
from kt.networks.blocks import TARGETS
from kt.run.errors import KTError

Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def _known_set(name: str) -> str:
    if name not in IMAGE_SETS:
        raise ValueError(f"got {name!r}; accepts {', '.join(IMAGE_SETS)}")
    return name


ImageSetName = Annotated[str, AfterValidator(_known_set)]
Side = Literal["large", "small", "both"]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Model(Strict):
    kind: str
    layers: Annotated[int, Field(ge=0)]
    hidden_size: Count


def _increasing(values: list[int]) -> list[int]:
    if values != sorted(set(values)):
        raise ValueError(f"got {values}; each must be greater than the one before")
    return values


class Generate(Strict):
    momentum: Fraction
    flip: bool
    small_init: Literal["fresh", "shared"]
    small_blocks: bool
    checkpoints: Annotated[list[Count], AfterValidator(_increasing)]


class Augment(Strict):
    copies: Annotated[int, Field(ge=0)]
    masking: Fraction
    noise: NotNegative
    side: Side
    measure: Annotated[list[Fraction], Field(min_length=1)]


class Train(Strict):
    optimizer: Literal["adam", "sgd"]
    momentum: Fraction
    schedule: Literal["cosine", "linear", "constant"]
    weight_decay: NotNegative
    clip_norm: NotNegative
    dropout: Fraction
    precision: Literal["float32", "bfloat16"]


class Partial(Strict):
    fractions: Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1)]


class Images(Strict):
    main: ImageSetName
    transfer: ImageSetName
    held_back: Count


class Networks(Strict):
    train: Count
    selection: Count
    test: Annotated[int, Field(ge=2)]
    partial: Annotated[int, Field(ge=2)]
    per_stream: Count


class ScaleRecipe(Strict):
    epochs: Count
    batch_size: Annotated[int, Field(ge=2)]
    lr: Positive


class Schedule(Strict):
    epochs: Count
    batch_size: Count
    evaluate_every: Count


class Kind(Strict):
    """One kind of translator. Its class checks `model` and `train`: `stages.common.kinds`."""

    model: dict[str, Any] = {}
    train: dict[str, Any] = {}
    schedule: dict[str, Schedule]


class ScaleTrain(Strict):
    pairs: Count


class Scale(Strict):
    images: Images
    networks: Networks
    recipe: ScaleRecipe
    train: ScaleTrain


Change = dict[str, Any]
"""Nested parameters to replace; `active` stands for the block of the chosen scale."""


class Params(Strict):
    """All of `params.yaml`."""

    scale: str
    seed: Annotated[int, Field(ge=0)]
    target: Literal[tuple(TARGETS)]
    model: Model
    generate: Generate
    augment: Augment
    train: Train
    translators: dict[str, Kind]
    partial: Partial
    tables: dict[str, Any]
    scales: dict[str, Scale]

    @model_validator(mode="after")
    def _known_scale(self) -> "Params":
        if self.scale not in self.scales:
            raise ValueError(f"scale is {self.scale!r}, which is none of {', '.join(self.scales)}")
        return self

    @model_validator(mode="after")
    def _known_kind(self) -> "Params":
        kind = self.model.kind
        if kind not in self.translators:
            known = ", ".join(self.translators)
            raise ValueError(f"model.kind is {kind!r}, which is none of translators: {known}")
        if self.scale not in self.translators[kind].schedule:
            raise ValueError(f"translators.{kind}.schedule.{self.scale}: missing")
        return self

    @model_validator(mode="after")
    def _enough_epochs_and_pairs(self) -> "Params":
        checkpoints, epochs = self.generate.checkpoints, self.active.recipe.epochs
        if checkpoints and checkpoints[-1] >= epochs:
            raise ValueError(
                f"generate.checkpoints is {checkpoints}, but scales.{self.scale}.recipe.epochs "
                f"{epochs}: a checkpoint comes before the last epoch"
            )
        pairs, networks = self.active.train.pairs, self.active.networks.train
        if pairs > networks * (1 + len(checkpoints)):
            raise ValueError(
                f"scales.{self.scale}.train.pairs is {pairs}, but networks.train only {networks}, "
                f"each with {len(checkpoints)} generate.checkpoints"
            )
        return self

    def table(self, name: str, schema: Any) -> Any:
        """The settings of one table, `tables.<name>`, as its own stages define and check them.

        So a new table, or a change of another's settings, makes no stage run again.

        Args:
            schema: a type that pydantic can check: a `Strict` model, or a list of `Count`.

        Raises:
            KTError: there are none, or they are not valid.
        """
        if name not in self.tables:
            raise KTError(f"params.yaml: tables.{name}: missing")
        try:
            return TypeAdapter(schema).validate_python(self.tables[name], strict=True)
        except ValidationError as error:
            raise KTError(f"params.yaml: {explain(error, schema, ('tables', name))}") from None

    def changed(self, change: Change, key: str) -> "Params":
        """These parameters with some replaced, checked like a file's.

        Args:
            change: nested, {"model": {"layers": 8}}; "active" stands for the chosen scale: its
                block, and below `translators` its schedule.
            key: where the change comes from, to name it in an error.

        Raises:
            KTError: the changed parameters are not valid.
        """
        change = dict(change)
        change["scales"] = {self.scale: change.pop("active", {})}
        merged = _merged(self.model_dump(), _renamed(change, "active", self.scale))
        try:
            return Params.model_validate(merged)
        except ValidationError as error:
            raise KTError(f"params.yaml: {key}: {explain(error, Params)}") from None

    @property
    def schedule(self) -> Schedule:
        """The training schedule of the chosen kind of translator at the chosen scale."""
        return self.translators[self.model.kind].schedule[self.scale]

    @property
    def active(self) -> Scale:
        """The block of the chosen scale."""
        return self.scales[self.scale]


def load(path: Path = Path("params.yaml")) -> Params:
    """Read and check the parameters.

    Raises:
        KTError: names the first wrong key, what it got and what it accepts.
    """
    try:
        raw = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise KTError(f"{path} is missing: run from the repository's root") from None
    except yaml.YAMLError as error:
        place = getattr(error, "problem_mark", None)
        line = f", line {place.line + 1}" if place else ""
        reason = getattr(error, "problem", error)
        raise KTError(f"{path}{line}: not valid YAML ({reason})") from None
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        raise KTError(f"{path}: {explain(error, Params)}") from None


def _merged(base: dict, change: dict) -> dict:
    """`base` with the leaves of `change` in their places."""
    nested = {
        key: _merged(base[key], value)
        for key, value in change.items()
        if isinstance(value, dict) and isinstance(base.get(key), dict)
    }
    return base | change | nested


def _renamed(nested: dict, key: str, name: str) -> dict:
    """`nested` with another name for a key, at every depth."""
    return {
        name if k == key else k: _renamed(v, key, name) if isinstance(v, dict) else v
        for k, v in nested.items()
    }


def explain(failure: ValidationError, schema: Any, place: tuple[str, ...] = ()) -> str:
    """One line for the first of pydantic's errors in what lies at `place` of the parameters."""
    error = failure.errors()[0]
    key = ".".join(str(step) for step in (*place, *error["loc"]))
    if error["type"] == "extra_forbidden":
        accepted = sorted(_section(schema, error["loc"][:-1]).model_fields)
        close = difflib.get_close_matches(str(error["loc"][-1]), accepted, 1)
        hint = f"did you mean {close[0]}?" if close else f"known here: {', '.join(accepted)}"
        return f"{key}: unknown key; {hint}"
    if error["type"] == "missing":
        return f"{key}: missing"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error":
        return f"{key}: {message}" if key else message
    if error["type"] == "float_type" and isinstance(error["input"], str):
        message += " (YAML reads 1e-4 as text: write 0.0001)"
    return f"{key}: got {error['input']!r}; {message[0].lower()}{message[1:]}"


def _section(schema: Any, location: tuple) -> type[BaseModel]:
    """The model of a nested section; in a mapping of sections the key says nothing of the type."""
    for step in location:
        of_mapping = get_args(schema)[1:]
        schema = of_mapping[0] if of_mapping else schema.model_fields[step].annotation
    return schema
