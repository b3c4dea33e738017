"""The typed form of `tables/factor_transfer/params.yaml`, and where its stages keep their work."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from kt.networks.blocks import skeleton
from kt.networks.residual import NETWORKS, channels
from kt.rivals.classifier import Training
from kt.rivals.factor_transfer import factor_channels
from kt.run.errors import KTError
from stages.common.base.checks import none_of, one_of, read_yaml
from stages.common.base.params import (
    Distinct,
    Epochs,
    Fraction,
    Name,
    NotNegative,
    Positive,
    Seed,
    Strict,
    explain,
)

TABLE = Path("tables/factor_transfer")
DATA = Path("data/factor_transfer")
IMAGES = DATA / "cifar10.safetensors"
SOURCE = "source"
"""Key under which the file says what its images are."""

Norm = Annotated[int, one_of(1, 2)]


class Logits(Strict):
    temperature: Positive
    share: Annotated[float, Field(ge=0, le=1)]


class Factor(Strict):
    beta: NotNegative
    p: Norm


class Method(Strict):
    label: str
    logits: Logits | None = None
    factor: Factor | None = None


class Paraphrase(Strict):
    rate: Annotated[float, Field(gt=0, le=1)]
    p: Norm


class Common(Strict):
    batch_size: Annotated[int, Field(ge=2)]
    momentum: Fraction
    weight_decay: NotNegative
    warmup: Annotated[float, Field(gt=0, lt=1)]
    precision: Literal["float32", "bfloat16"]


class Schedule(Strict):
    epochs: Epochs
    lr: Positive


class Trained(Schedule):
    network: Literal[tuple(NETWORKS)]  # type: ignore[valid-type]


class Scale(Strict):
    teacher: Trained
    paraphraser: Schedule
    student: Trained


class Settings(Strict):
    """All of `tables/factor_transfer/params.yaml`."""

    scale: str
    seed: Seed
    seeds: Distinct[Seed]
    methods: Distinct[str]
    settings: dict[Name, Method]
    paraphraser: Paraphrase
    training: Common
    scales: Annotated[dict[Name, Scale], Field(min_length=1)]

    @model_validator(mode="after")
    def _known(self) -> "Settings":
        if self.scale not in self.scales:
            raise ValueError(none_of("scale", self.scale, self.scales))
        for name in self.methods:
            if name not in self.settings:
                raise ValueError(
                    f"methods: {name!r} is none of the settings: {', '.join(self.settings)}"
                )
        return self

    @model_validator(mode="after")
    def _paraphrases(self) -> "Settings":
        teacher = skeleton(NETWORKS[self.active.teacher.network])
        try:
            factor_channels(channels(teacher), self.paraphraser.rate)
        except KTError as error:
            raise ValueError(f"paraphraser.{error}") from None
        return self

    @property
    def active(self) -> Scale:
        """The block of the chosen scale."""
        return self.scales[self.scale]

    @property
    def folder(self) -> Path:
        """Of what is trained at the chosen scale."""
        return DATA / self.scale

    def training_of(self, schedule: Schedule, seed: int) -> Training:
        """How a network with this schedule is trained."""
        common = self.training.model_dump()
        return Training(**common, epochs=schedule.epochs, lr=schedule.lr, seed=seed)


def load(path: Path = TABLE / "params.yaml") -> Settings:
    """Read and check the parameters.

    Raises:
        KTError: names the first wrong key, what it got and what it accepts.
    """
    try:
        return Settings.model_validate(read_yaml(path))
    except ValidationError as error:
        raise KTError(f"{path}: {explain(error, Settings)}") from None
