"""The base class of all kinds of translators, and the registry of kinds.

A kind is a subclass of `Translator` in a module of this package. Two dataclasses, whose fields may
have bounds, list its settings: `Config` those of the model, `Learning` those of its training.
Parameters and files name a kind by its name.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from kt.ensemble import Compute
from kt.images import ImageSet
from kt.networks.blocks import PAPER, TARGETS
from kt.networks.weights import Weights, part
from kt.run.bounds import bounded
from kt.run.errors import KTError
from kt.translators.objectives import Objective, Samples, WeightObjective

KINDS: dict[str, type["Translator"]] = {}
"""All kinds of translators by name."""
MOST_LAYERS, MOST_WIDE = 1000, 65_536
"""Bounds on the number of layers and on widths, far above what is of use."""


@dataclass(frozen=True)
class Learning:
    """Settings of the training that all kinds have.

    Attributes:
        lr: the highest learning rate.
        warmup_epochs: over which it grows linearly.
    """

    lr: float = bounded(0.001, gt=0)
    warmup_epochs: int = bounded(0, ge=0)


class Material(Protocol):
    """What a translator can learn from. What it does not ask for need not exist.

    Attributes:
        networks: `former.*`, `large.*` and `latter.*` of the training networks.
        large, small: their blocks, or augmented copies of these.
        images: that networks were trained on.
        flip: whether networks see half of the images mirrored.
        initial: the weights (1, ...) that all small blocks were trained from.
        precision: "float32", or "bfloat16" for forward passes.
        augmented: whether `large` and `small` are augmented copies.
        seed: of what is drawn before the training.
    """

    compute: Compute
    flip: bool
    precision: str
    augmented: bool
    seed: int

    @property
    def networks(self) -> Samples: ...

    @property
    def large(self) -> Samples: ...

    @property
    def small(self) -> Samples: ...

    @property
    def images(self) -> ImageSet: ...

    @property
    def initial(self) -> Weights: ...


class Translator(nn.Module):
    """A module from large blocks to small blocks.

    The least that a kind defines is `Config` and `forward`, from large blocks {name: (B, ...)} to
    small ones: it is then trained on pairs, by the paper's loss (Equation 1).

    Attributes:
        kind: its name.
        Config: a dataclass. Fields named `layers`, `hidden_size`, `dropout`, `target` and `sizes`
            are filled with the parameters of these names, which all kinds share.
        Learning: a dataclass, a subclass of `Learning`.
        targets: kinds of blocks that it translates to.
        learns_from_small_blocks: whether its training asks for `Material.small`.
        any_hidden: whether `translate` can be asked for any number of `hidden` channels.
        config: what it was made from.
    """

    kind: ClassVar[str]
    Config: ClassVar[type]
    Learning: ClassVar[type[Learning]] = Learning
    targets: ClassVar[Sequence[str]] = TARGETS
    learns_from_small_blocks: ClassVar[bool] = True
    any_hidden: ClassVar[bool] = False

    def __init_subclass__(cls, kind: str | None = None) -> None:
        super().__init_subclass__()
        if kind is not None:
            cls.kind = kind
            KINDS[kind] = cls

    def __init__(self, config: Any) -> None:
        super().__init__()
        if config.target not in self.targets:
            accepted = " and ".join(self.targets)
            raise KTError(f"{self.kind} translates to {accepted} blocks, not to {config.target!r}")
        self.config = config

    def translate(self, networks: Weights, compute: Compute = Compute()) -> Weights:
        """Small blocks for stacked networks `former.*`, `large.*` and `latter.*`."""
        return self(part(networks, "large"))

    def _require(self, **theirs: int) -> None:
        """Refuse networks of other sizes than the translator's, by the names in `Sizes`.

        Raises:
            KTError: they are.
        """
        for name, size in theirs.items():
            if size != (own := getattr(self.config.sizes, name)):
                what = name.replace("_", " ")
                raise KTError(f"this {self.kind} is for networks with {what} {own}, not {size}")

    def objective(self, learning: Any, material: Material) -> Objective:
        """The objective of its training. Statistics of the training set are computed here, too.

        Args:
            learning: one of its `Learning`.
        """
        return WeightObjective(material.large, material.small, workers=material.compute.workers)

    def own_images(self) -> Tensor | None:
        """Images uint8 that it looks at when it translates, as an image set has them; or None."""
        return None

    def describe(self) -> dict[str, Any]:
        """The configuration, as kept in a translator's file: without the paper's sizes."""
        about = {"kind": self.kind} | asdict(self.config)
        if getattr(self.config, "sizes", None) == PAPER:
            del about["sizes"]
        return about


def kind_named(kind: str) -> type[Translator]:
    """The class of a kind.

    Raises:
        KTError: there is none of this name.
    """
    if kind not in KINDS:
        raise KTError(f"there is no translator {kind!r}: known are {', '.join(KINDS)}")
    return KINDS[kind]
