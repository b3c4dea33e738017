"""The typed form of `params.yaml`, checked once and strictly before any work."""

import difflib
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from kt.blocks import CONVOLUTIONAL, TARGETS
from kt.errors import KTError

Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
ImageSetName = Literal["digits", "glyphs", "mnist", "usps"]
Side = Literal["large", "small", "both"]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Model(Strict):
    kind: Literal["merge", "mixer"]
    layers: Annotated[int, Field(ge=0)]
    hidden_size: Count
    sequence_dim: Count
    channel_dim: Count
    prototypes: Count


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
    lr: Positive
    momentum: Fraction
    schedule: Literal["cosine", "linear", "constant"]
    warmup_epochs: Annotated[int, Field(ge=0)]
    weight_decay: NotNegative
    clip_norm: NotNegative
    dropout: Fraction
    precision: Literal["float32", "bfloat16"]
    masking: Fraction
    noise: NotNegative
    side: Side


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


class ScaleTrain(Strict):
    pairs: Count
    merge: Schedule
    mixer: Schedule


class Scale(Strict):
    images: Images
    networks: Networks
    recipe: ScaleRecipe
    train: ScaleTrain


class Params(Strict):
    """All of `params.yaml`."""

    scale: str
    seed: Annotated[int, Field(ge=0)]
    target: Literal[TARGETS]
    model: Model
    generate: Generate
    augment: Augment
    train: Train
    partial: Partial
    scales: dict[str, Scale]

    @model_validator(mode="after")
    def _known_scale(self) -> "Params":
        if self.scale not in self.scales:
            raise ValueError(f"scale is {self.scale!r}, which is none of {', '.join(self.scales)}")
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

    @model_validator(mode="after")
    def _model_can(self) -> "Params":
        if self.model.kind == "merge" and self.target not in CONVOLUTIONAL:
            raise ValueError(
                f"target is {self.target!r}, to which model.kind merge does not translate: it "
                f"accepts {', '.join(CONVOLUTIONAL)}; model.kind mixer accepts every target"
            )
        if self.model.kind == "mixer" and self.model.layers == 0:
            raise ValueError("model.layers is 0, but a mixer has at least 1")
        if self.model.kind == "mixer" and not self.generate.small_blocks:
            raise ValueError(
                "generate.small_blocks is false, but model.kind mixer learns from small blocks; "
                "model.kind merge does not"
            )
        return self

    @property
    def schedule(self) -> Schedule:
        """The training schedule of the chosen kind of translator at the chosen scale."""
        return getattr(self.active.train, self.model.kind)

    @property
    def active(self) -> Scale:
        """The block of the chosen scale."""
        return self.scales[self.scale]


def load(path: Path = Path("params.yaml")) -> Params:
    """Read and check the parameters.

    Raises:
        KTError: naming the first offending key, what it got and what it accepts.
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
        raise KTError(f"{path}: {_explain(error.errors()[0])}") from None


def _explain(error: dict) -> str:
    """One line for one of pydantic's errors."""
    key = ".".join(str(step) for step in error["loc"])
    if error["type"] == "extra_forbidden":
        accepted = sorted(_section(error["loc"][:-1]).model_fields)
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


def _section(location: tuple) -> type[BaseModel]:
    """The model of a nested section of the parameters."""
    model: type[BaseModel] = Params
    for step in location:
        if model is Params and step == "scales":
            continue
        model = model.model_fields[step].annotation if step in model.model_fields else Scale
    return model
