"""The typed form of `tables/networks/params.yaml`, and where its stages keep their work."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from kt.images import ImageSet
from kt.networks.blocks import skeleton
from kt.real import Schedule, files
from kt.run.errors import KTError
from kt.run.files import problem, require_tensors
from stages.common.base.checks import different, none_of, read_yaml, shown
from stages.common.base.inputs import REMEDY, images_of
from stages.common.base.params import (
    Count,
    Distinct,
    Epochs,
    Name,
    Positive,
    Seed,
    Strict,
    explain,
)
from stages.networks.methods import METHODS
from stages.networks.resnet import ResNet
from stages.networks.training import BATCH

TABLE = Path("tables/networks")

Share = Annotated[float, Field(gt=0, lt=1)]
STORED = ("images", "unlabelled")
"""Names of other files beside those of the networks."""


def _of_a_file(name: str) -> str:
    if name in STORED:
        raise ValueError(f"got {name!r}, the name of another file")
    return name


NetworkName = Annotated[str, Field(pattern=r"^\w+$"), AfterValidator(_of_a_file)]
"""It names files, and stands before a hyphen in a cell's name."""


def _different_percent(values: list[float]) -> list[float]:
    if len({round(100 * value) for value in values}) < len(values):
        raise ValueError(f"got {shown(values)}; each must be another percent")
    return values


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
    epochs: Distinct[Count]
    rates: Distinct[Positive]


class Scale(Strict):
    images: Literal["cifar10", "digits"]
    unlabelled: Annotated[int, Field(ge=20)]
    networks: dict[NetworkName, Network]
    tuning: Tuning

    @model_validator(mode="after")
    def _of_these_images(self) -> "Scale":
        for name, network in self.networks.items():
            if network.is_published != (self.images == "cifar10"):
                needed = "no training.widths" if self.images == "cifar10" else "training.widths"
                raise ValueError(f"networks.{name}: for images of {self.images} it has {needed}")
        return self

    @property
    def colours(self) -> int:
        """Of the images."""
        return 3 if self.images == "cifar10" else 1


class Settings(Strict):
    """All of `tables/networks/params.yaml`."""

    scale: str
    seeds: Distinct[Seed]
    keep: Annotated[list[Share], Field(min_length=1), AfterValidator(_different_percent)]
    networks: Distinct[str]
    methods: Distinct[str]
    tuned: Annotated[list[str], AfterValidator(different)]
    ceilings: Annotated[list[str], AfterValidator(different)]
    scales: Annotated[dict[Name, Scale], Field(min_length=1)]

    @model_validator(mode="after")
    def _known(self) -> "Settings":
        if self.scale not in self.scales:
            raise ValueError(none_of("scale", self.scale, self.scales))
        for key, names, known in (
            ("networks", self.networks, self.active.networks),
            ("methods", self.methods, METHODS),
            ("tuned", self.tuned, self.networks),
            ("ceilings", self.ceilings, self.networks),
        ):
            for name in names:
                if name not in known:
                    raise ValueError(none_of(key, name, known))
        if self.active.unlabelled < BATCH and any(METHODS[name].labels for name in self.methods):
            raise ValueError(
                f"scales.{self.scale}.unlabelled is {self.active.unlabelled}, but a method that "
                f"trains on them takes {BATCH} at a time"
            )
        return self

    @property
    def active(self) -> Scale:
        """The block of the chosen scale."""
        return self.scales[self.scale]

    def among(self, key: str, name: str) -> Network:
        """A network that is to be trained with labels.

        Args:
            key: "tuned" or "ceilings".

        Raises:
            KTError: the name is not among those of the key.
        """
        if name not in getattr(self, key):
            raise KTError(f"{name!r} is not among `{key}` of tables/networks/params.yaml")
        return self.active.networks[name]

    @property
    def data(self) -> Path:
        """Images and networks at the chosen scale."""
        return Path("data/networks") / self.scale

    def trained(self, name: str) -> ResNet:
        """A network as the stage `networks` has stored it, in evaluation mode.

        Raises:
            KTError: the file is missing or damaged, or holds a network of other sizes.
        """
        fresh, path = self.active.networks[name].fresh, self.data / f"{name}.safetensors"
        try:
            network = files.load(fresh, path)
        except KTError as error:
            raise KTError(f"{error}: {REMEDY}") from None
        whole = files.state_of(skeleton(fresh))  # the file of a smaller one fits as well
        require_tensors(path, files.state_of(network), whole, REMEDY)
        return network.eval()

    @property
    def images(self) -> Path:
        """The labelled and the test images."""
        return self.data / "images.safetensors"

    def unlabelled(self, seed: int) -> Path:
        """The unlabelled images of a seed."""
        return self.data / f"unlabelled-{seed}.safetensors"

    def shown(self, seed: int) -> ImageSet:
        """The unlabelled images of a seed.

        Raises:
            KTError: their file is missing or damaged, or holds others than the parameters ask for.
        """
        return self._stored(self.unlabelled(seed), "unlabelled", self.active.unlabelled)

    def stored(self, split: str) -> ImageSet:
        """The images that are "labelled", those held out first, or "test".

        Raises:
            KTError: as `shown`.
        """
        tuning = self.active.tuning
        count = tuning.held_out + tuning.labelled if split == "labelled" else None
        return self._stored(self.images, split, count)

    def _stored(self, path: Path, split: str, count: int | None) -> ImageSet:
        found = images_of(path, split)
        colours = found.images.shape[1] if found.images.dim() == 4 else 1
        if colours != self.active.colours or count not in (None, len(found)):
            shape = " x ".join(map(str, found.images.shape))
            wanted = "" if count is None else f"{count:,} of "
            what = f"holds {split} images {shape}, not {wanted}{self.active.images}"
            raise problem(path, what, REMEDY)
        return found

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
