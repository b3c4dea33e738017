"""The typed form of `tables/networks/params.yaml`, and where its stages keep their work."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from kt.real import Schedule, files
from kt.run.errors import KTError
from stages.common.base.checks import none_of, read_yaml
from stages.common.base.inputs import REMEDY
from stages.common.base.params import (
    Count,
    Epochs,
    Name,
    Positive,
    Seed,
    Strict,
    different,
    explain,
)
from stages.networks.methods import METHODS
from stages.networks.resnet import ResNet

TABLE = Path("tables/networks")

Share = Annotated[float, Field(gt=0, lt=1)]


class Steps(Strict):
    steps: Count
    batch: Count

    @property
    def schedule(self) -> Schedule:
        return Schedule(self.steps, self.batch)


class Training(Strict):
    """Of a network that is trained here, with labels: without widths from the published weights."""

    widths: Annotated[list[Count], Field(min_length=3, max_length=3)] | None = None
    epochs: Epochs
    lr: Positive


def _of_three_groups(depth: int) -> int:
    if depth % 6 != 2:
        raise ValueError(f"got {depth}; must be 6 n + 2")
    return depth


class Network(Strict):
    depth: Annotated[int, Field(ge=8, le=1202), AfterValidator(_of_three_groups)]
    steps: Steps
    training: Training | None = None

    def fresh(self) -> ResNet:
        """The network with random weights: of the published kind, or of digits' own."""
        if self.is_published:
            return ResNet(self.depth)
        return ResNet(self.depth, tuple(self.training.widths), colours=1)

    @property
    def is_published(self) -> bool:
        """Whether it begins with the published weights."""
        return self.training is None or self.training.widths is None


class Tuning(Strict):
    """Training smaller networks with labels."""

    keep: Share
    labelled: Annotated[int, Field(ge=64)]
    held_out: Count
    epochs: Annotated[list[Count], Field(min_length=1), AfterValidator(different)]
    rates: Annotated[list[Positive], Field(min_length=1), AfterValidator(different)]


class Scale(Strict):
    images: Literal["cifar10", "digits"]
    unlabelled: Annotated[int, Field(ge=20)]
    networks: dict[str, Network]
    tuning: Tuning


class Settings(Strict):
    """All of `tables/networks/params.yaml`."""

    scale: str
    seeds: Annotated[list[Seed], Field(min_length=1), AfterValidator(different)]
    keep: Annotated[list[Share], Field(min_length=1), AfterValidator(different)]
    networks: Annotated[list[str], Field(min_length=1), AfterValidator(different)]
    methods: Annotated[list[str], Field(min_length=1), AfterValidator(different)]
    tuned: Annotated[list[str], AfterValidator(different)]
    scales: dict[Name, Scale]

    @model_validator(mode="after")
    def _known(self) -> "Settings":
        if self.scale not in self.scales:
            raise ValueError(none_of("scale", self.scale, self.scales))
        for key, names, known in (
            ("networks", self.networks, self.active.networks),
            ("methods", self.methods, METHODS),
            ("tuned", self.tuned, self.networks),
        ):
            for name in names:
                if name not in known:
                    raise ValueError(none_of(key, name, known))
        return self

    @property
    def active(self) -> Scale:
        """The block of the chosen scale."""
        return self.scales[self.scale]

    def to_be_tuned(self, name: str) -> Network:
        """A network that is trained with labels.

        Raises:
            KTError: the name is not among `tuned`.
        """
        if name not in self.tuned:
            raise KTError(f"{name!r} is not among `tuned` of tables/networks/params.yaml")
        return self.active.networks[name]

    @property
    def data(self) -> Path:
        """Images and networks at the chosen scale."""
        return Path("data/networks") / self.scale

    def trained(self, name: str) -> ResNet:
        """A network as the stage `networks` has stored it, in evaluation mode.

        Raises:
            KTError: the file is missing or damaged.
        """
        fresh, path = self.active.networks[name].fresh, self.data / f"{name}.safetensors"
        try:
            network = files.load(fresh, path)
        except KTError as error:
            raise KTError(f"{error}: {REMEDY}") from None
        return network.eval()

    def unlabelled(self, seed: int) -> Path:
        """The unlabelled images of a seed."""
        return self.data / f"unlabelled-{seed}.safetensors"

    def cell(self, network: str, method: str, seed: int) -> Path:
        """The measurements of a method on a network."""
        return Path("tables/cells/networks") / self.scale / f"{network}-{method}-{seed}.json"

    def tuned_cell(self, network: str) -> Path:
        """Training with labels from three starts."""
        return Path("tables/cells/networks_tuned") / self.scale / f"{network}.json"

    def ceiling_cell(self, name: str) -> Path:
        """Training with labels until nothing more is gained."""
        return Path("tables/cells/networks_ceiling") / self.scale / f"{name}.json"


def load(path: Path = TABLE / "params.yaml") -> Settings:
    """Read and check the parameters.

    Raises:
        KTError: naming the first offending key, what it got and what it accepts.
    """
    try:
        return Settings.model_validate(read_yaml(path))
    except ValidationError as error:
        raise KTError(f"{path}: {explain(error, Settings)}") from None
