"""The typed form of `params.yaml`, checked once and strictly before any work."""

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from kt.images import LOADERS
from kt.networks.blocks import LARGEST, SMALLEST, TARGETS, WIDEST, Sizes
from kt.run.errors import KTError
from stages.common.base.checks import different, explain, none_of, one_of, read_yaml, shown

MOST, HIGHEST = 10**9, 1e6
"""The largest whole number, and the largest other one, that any parameter may be. Far beyond use:
they keep a slip of the pen from overflowing."""
Whole = Annotated[int, Field(ge=0, le=MOST)]
Count = Annotated[int, Field(ge=1, le=MOST)]
Epochs = Annotated[int, Field(ge=1, le=10**6)]
Layers = Annotated[int, Field(ge=0, le=1000)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0, le=HIGHEST)]
NotNegative = Annotated[float, Field(ge=0, le=HIGHEST)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=r"^[\w-]+$")]
"""Of a scale: it names folders, too."""
Entry = TypeVar("Entry")
Distinct = Annotated[list[Entry], Field(min_length=1), AfterValidator(different)]
"""One or more, none of them twice."""


def _known_set(name: str) -> str:
    if name not in LOADERS:
        raise ValueError(f"got {shown(name)}; accepts {', '.join(LOADERS)}")
    return name


def _band(values: list[float]) -> list[float]:
    if values[0] > values[1]:
        raise ValueError(f"got {shown(values)}; the lower end comes first")
    return values


Band = Annotated[list[Finite], Field(min_length=2, max_length=2), AfterValidator(_band)]
ImageSetName = Annotated[str, AfterValidator(_known_set)]
Side = Literal["large", "small", "both"]
TABLES = Path("tables")
BY_SCALE = ("scales", "schedule")
"""Sections with one entry a scale."""


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Model(Strict):
    """The translator: its kind, a key of `translators`, and what every kind has."""

    kind: str
    layers: Layers
    hidden_size: Count


def _increasing(values: list[int]) -> list[int]:
    if values != sorted(set(values)):
        raise ValueError(f"got {shown(values)}; each must be greater than the one before")
    return values


class Network(Strict):
    """Sizes of the networks: see `kt.networks.blocks.Sizes`."""

    channels: Annotated[int, Field(ge=1, le=WIDEST)]
    hidden: Count
    kernel: Annotated[int, one_of(1, 3, 5, 7)]
    image_channels: Annotated[int, one_of(1, 3)]
    image_size: Annotated[int, Field(ge=SMALLEST, le=LARGEST)]

    @model_validator(mode="after")
    def _narrower(self) -> "Network":
        if self.hidden > self.channels:
            raise ValueError(f"hidden is {self.hidden}, more than channels, {self.channels}")
        return self


class Generate(Strict):
    momentum: Fraction
    flip: bool
    small_init: Literal["fresh", "shared"]
    small_blocks: bool
    checkpoints: Annotated[list[Count], AfterValidator(_increasing)]


class Augment(Strict):
    copies: Whole
    masking: Fraction
    noise: NotNegative
    side: Side
    measure: Distinct[Fraction]


class Schedule(Strict):
    epochs: Epochs
    batch_size: Count
    evaluate_every: Count


class Kind(Strict):
    """One kind of translator. Its class checks `model` and `train`: `stages.common.kinds`."""

    model: dict[str, Any] = {}
    train: dict[str, Any] = {}
    schedule: dict[str, Schedule]


class Train(Strict):
    optimizer: Literal["adam", "sgd"]
    momentum: Fraction
    schedule: Literal["cosine", "linear", "constant"]
    weight_decay: NotNegative
    clip_norm: NotNegative
    dropout: Fraction
    precision: Literal["float32", "bfloat16"]


def _with_names_of_their_own(values: list[float]) -> list[float]:
    if len(set(map(fraction_name, values))) < len(values):
        raise ValueError(f"got {shown(values)}; each must be another in its first six digits")
    return values


class Partial(Strict):
    fractions: Annotated[
        list[Annotated[float, Field(gt=0, le=1)]],
        Field(min_length=1),
        AfterValidator(_with_names_of_their_own),
    ]


def fraction_name(fraction: float) -> str:
    """Of the folder with networks trained on a fraction of the images."""
    return f"partial/{fraction:g}"


class Images(Strict):
    main: ImageSetName
    transfer: ImageSetName
    held_back: Count


class Networks(Strict):
    train: Count
    selection: Count
    test: Annotated[int, Field(ge=2, le=MOST)]
    partial: Annotated[int, Field(ge=2, le=MOST)]
    per_stream: Count


class ScaleRecipe(Strict):
    epochs: Epochs
    batch_size: Annotated[int, Field(ge=2, le=MOST)]
    lr: Positive


class Scale(Strict):
    images: Images
    networks: Networks
    recipe: ScaleRecipe
    repeats: Annotated[int, Field(ge=1, le=1000)]
    pairs: Count
    expected: dict[str, Band]


Change = dict[str, Any]
"""Nested parameters to replace. Under `scales` and under a `schedule` scales other than the active
one are left alone."""
Stores = dict[Name, Change]
"""Of a table: parameters to replace, by the folders that the networks come into."""


class Params(Strict):
    """All of `params.yaml`."""

    scale: str
    seed: Seed
    target: Literal[tuple(TARGETS)]  # type: ignore[valid-type]
    network: Network
    model: Model
    generate: Generate
    augment: Augment
    train: Train
    translators: Annotated[dict[str, Kind], Field(min_length=1)]
    partial: Partial
    scales: Annotated[dict[Name, Scale], Field(min_length=1)]
    _unchanged: "Params | None" = PrivateAttr(None)

    @model_validator(mode="after")
    def _known_scale(self) -> "Params":
        if self.scale not in self.scales:
            raise ValueError(
                f"scale is {shown(self.scale)}, which is none of {', '.join(self.scales)}"
            )
        return self

    @model_validator(mode="after")
    def _known_kind(self) -> "Params":
        kind = self.model.kind
        if kind not in self.translators:
            raise ValueError(none_of("model.kind", kind, self.translators, " translators:"))
        if self.scale not in self.translators[kind].schedule:
            raise ValueError(f"translators.{kind}.schedule.{self.scale}: missing")
        return self

    @model_validator(mode="after")
    def _enough_epochs_and_pairs(self) -> "Params":
        checkpoints, epochs = self.generate.checkpoints, self.active.recipe.epochs
        if checkpoints and checkpoints[-1] >= epochs:
            raise ValueError(
                f"generate.checkpoints is {shown(checkpoints)}, but scales.{self.scale}.recipe."
                f"epochs {epochs}: a checkpoint comes before the last epoch"
            )
        pairs, networks = self.active.pairs, self.active.networks.train
        if pairs > networks * (1 + len(checkpoints)):
            raise ValueError(
                f"scales.{self.scale}.pairs is {pairs}, but networks.train only {networks}, "
                f"each with {len(checkpoints)} generate.checkpoints"
            )
        return self

    def changed(self, change: Change, key: str) -> "Params":
        """These parameters with some replaced, checked like a file's.

        Args:
            change: nested, {"model": {"layers": 8}}.
            key: where the change comes from, to name it in an error.

        Raises:
            KTError: the changed parameters are not valid, or `change` lacks the active scale.
        """
        raw = merged(self.model_dump(), self._at_scale(change, key))
        try:
            made = Params.model_validate(raw)
        except ValidationError as error:
            raise KTError(f"{key}: {explain(error, Params)}") from None
        made._unchanged = self.unchanged
        return made

    @property
    def unchanged(self) -> "Params":
        """Those of the file: what stages have made, they made with these."""
        return self._unchanged or self

    def _at_scale(self, change: Change, key: str) -> Change:
        """A change without what it says of other scales."""
        kept = {}
        for name, value in change.items():
            if name in BY_SCALE and isinstance(value, dict):
                value = {self.scale: at_scale(self, f"{key}.{name}", value)}
            elif isinstance(value, dict):
                value = self._at_scale(value, f"{key}.{name}")
            kept[name] = value
        return kept

    @property
    def sizes(self) -> Sizes:
        """Of the networks."""
        return Sizes(**self.network.model_dump())

    @property
    def translator(self) -> Kind:
        """The section of the chosen kind of translator."""
        return self.translators[self.model.kind]

    @property
    def schedule(self) -> Schedule:
        """The training schedule of the chosen kind of translator at the chosen scale."""
        return self.translator.schedule[self.scale]

    @property
    def updates(self) -> int:
        """Of the translator, in its training."""
        return self.schedule.epochs * -(-self.active.pairs // self.schedule.batch_size)

    @property
    def active(self) -> Scale:
        """The block of the chosen scale."""
        return self.scales[self.scale]


def at_scale(params: Params, name: str, values: dict[str, Any]) -> Any:
    """What a parameter that differs from scale to scale is at the active one.

    Raises:
        KTError: it has none there.
    """
    if params.scale not in values:
        others = f"; there are some for {', '.join(values)}" if values else ""
        raise KTError(f"{name}: none for scale {params.scale!r}{others}")
    return values[params.scale]


def settings_file(name: str) -> Path:
    """Where the settings of a table are: in its folder, or beside those of tables without one.

    So a change of one table's settings makes no other stage run again.
    """
    own = TABLES / name / "params.yaml"
    return own if name and own.exists() else TABLES / "params.yaml"


def settings_of(name: str, schema: Any) -> Any:
    """The settings of one table, as its own stages define and check them.

    Args:
        schema: a type that pydantic can check: a `Strict` model, or a list of `Count`.

    Raises:
        KTError: there are none, or they are not valid.
    """
    path = settings_file(name)
    place = (name,) if path.parent == TABLES else ()
    raw = read_yaml(path)
    if place and name not in raw:
        raise KTError(f"{path}: {name}: missing")
    try:
        return TypeAdapter(schema).validate_python(raw[name] if place else raw, strict=True)
    except ValidationError as error:
        raise KTError(f"{path}: {explain(error, schema, place)}") from None


def load(path: Path = Path("params.yaml")) -> Params:
    """Read and check the parameters.

    Raises:
        KTError: names the first wrong key, what it got and what it accepts.
    """
    try:
        return Params.model_validate(read_yaml(path))
    except ValidationError as error:
        raise KTError(f"{path}: {explain(error, Params)}") from None


def merged(base: Change, change: Change) -> Change:
    """`base` with the leaves of `change` in their places."""
    nested = {
        key: merged(base[key], value)
        for key, value in change.items()
        if isinstance(value, dict) and isinstance(base.get(key), dict)
    }
    return base | change | nested


def extended(settings: dict[str, dict], name: str) -> dict:
    """One of several settings: its own leaves over those of the one that it `extends`."""
    own = dict(settings[name])
    if (base := own.pop("extends", None)) is None:
        return own
    return merged(extended(settings, base), own)


def store_key(table: str, store: str) -> str:
    """Where the changed parameters of a table's networks stand."""
    return f"tables/{table}/params.yaml: stores.{store}"


def stores(name: str) -> dict[str, Change]:
    """The changed parameters under which a table's further training networks are made.

    Raises:
        KTError: there is no such table, or its parameters are no mappings.
    """
    path = TABLES / name / "params.yaml"
    known = sorted(folder.parent.name for folder in TABLES.glob("*/params.yaml"))
    if name not in known and TABLES.is_dir():
        raise KTError(f"{name!r} is no table: these are: {', '.join(known)}")
    try:
        return TypeAdapter(Stores).validate_python(read_yaml(path).get("stores", {}))
    except ValidationError as error:
        raise KTError(f"{path}: {explain(error, Stores, ('stores',))}") from None
