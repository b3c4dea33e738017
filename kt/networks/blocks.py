"""The paper's networks as plain modules: the reference that every engine is tested against.

A network is former -> block -> latter (paper, Figures 2 and 3). The block is the large one that
the network was trained with, or one of the small ones that may take its place. With the paper's
`Sizes`, images are (B, 1, 28, 28) in [0, 1]; the block maps (B, 6, 14, 14) to the same shape; the
output is (B, 10) logits. Initialisation is PyTorch's default everywhere.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import isqrt
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kt.run import memory
from kt.run.bounds import bounded, require_bounds
from kt.run.errors import KTError
from kt.run.finite import is_finite
from kt.run.given import require_kind

CLASSES = 10
WIDEST, LARGEST, SMALLEST = 1024, 4096, 8
"""Channels, at most, and sides of images. In smaller ones batch norm has one position."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of a network that is made; of one that is there, its weights tell them.

    Attributes:
        channels: of the residual path, and hidden ones of the large block.
        hidden: hidden channels of a convolutional small block.
        kernel: side of the former's and the blocks' kernels, odd.
        image_channels: 1 or 3.
        image_size: side of the images.

    Raises:
        KTError: one of them is no such number.
    """

    channels: int = bounded(6, ge=1, le=WIDEST)
    hidden: int = bounded(3, ge=1, le=WIDEST)
    kernel: int = bounded(3, ge=1, le=15)
    image_channels: int = bounded(1, ge=1, le=3)
    image_size: int = bounded(28, ge=SMALLEST, le=LARGEST)

    def __post_init__(self) -> None:
        require_bounds(self)
        if not self.kernel % 2:
            raise KTError(f"kernel: got {self.kernel}; accepts an odd number")
        if self.image_channels == 2:
            raise KTError("image_channels: got 2; accepts 1 or 3")

    @property
    def map_size(self) -> int:
        """Side of the block's maps, behind the max-pool."""
        return (self.image_size + 1) // 2

    @property
    def read_size(self) -> int:
        """Side of what the latter block's stride-2 convolution reads."""
        return (self.map_size + 1) // 2

    def require_memory(self) -> None:
        """Refuse networks whose largest layers do not fit into memory.

        Raises:
            KTError: they do not.
        """
        read = 2 * self.channels * self.read_size**2
        numbers = CLASSES * read + (self.kernel * self.channels) ** 2
        memory.require(4.0 * numbers, "a network of this size", "make it smaller")

    def convolution(self, into: int, out: int, bias: bool = False) -> nn.Conv2d:
        return nn.Conv2d(into, out, self.kernel, padding=self.kernel // 2, bias=bias)


PAPER = Sizes()


class Former(nn.Module):
    """Conv 3x3, BN, ReLU, max-pool: (B, 1, 28, 28) -> (B, 6, 14, 14). 54 + 12 parameters."""

    def __init__(self, sizes: Sizes = PAPER) -> None:
        super().__init__()
        self.conv = sizes.convolution(sizes.image_channels, sizes.channels)
        self.bn = nn.BatchNorm2d(sizes.channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.relu(self.bn(self.conv(x))), 3, stride=2, padding=1)


class LargeBlock(nn.Module):
    """ResNet's basic block, (B, 6, 14, 14) -> same. 324 + 12 + 324 + 12 parameters."""

    def __init__(self, sizes: Sizes = PAPER) -> None:
        super().__init__()
        self.conv1 = sizes.convolution(sizes.channels, sizes.channels)
        self.bn1 = nn.BatchNorm2d(sizes.channels)
        self.conv2 = sizes.convolution(sizes.channels, sizes.channels)
        self.bn2 = nn.BatchNorm2d(sizes.channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.before_relu(x))

    def before_relu(self, x: Tensor) -> Tensor:
        """What the last ReLU is applied to."""
        return self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + x


class SmallBlock(nn.Module):
    """The paper's small block: conv 6 -> 3, ReLU, conv 3 -> 6, add, ReLU. 162 + 162 parameters.

    With `bias`, as folding batch norm gives them, 3 + 6 more.
    """

    def __init__(self, sizes: Sizes = PAPER, bias: bool = False) -> None:
        super().__init__()
        self.conv1 = sizes.convolution(sizes.channels, sizes.hidden, bias)
        self.conv2 = sizes.convolution(sizes.hidden, sizes.channels, bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv2(F.relu(self.conv1(x))) + x)


class Latter(nn.Module):
    """Conv 1x1 stride 2, BN, ReLU, linear: (B, 6, 14, 14) -> (B, 10); 72 + 24 + 5,890 weights."""

    def __init__(self, sizes: Sizes = PAPER) -> None:
        super().__init__()
        width = 2 * sizes.channels
        self.conv = nn.Conv2d(sizes.channels, width, 1, stride=2, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.fc = nn.Linear(width * sizes.read_size**2, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.bn(self.conv(x))).flatten(1))


BLOCKS: dict[str, Callable[..., nn.Module]] = {
    "large": LargeBlock,
    "conv": SmallBlock,
    "conv_bias": partial(SmallBlock, bias=True),
}
"""All kinds of blocks by name, made from `Sizes`; `kt.networks.targets` adds others."""
CONVOLUTIONAL = ("conv", "conv_bias")
TARGETS: list[str] = [*CONVOLUTIONAL]
"""The kinds of small blocks."""
Make = TypeVar("Make", bound=Callable[..., nn.Module])


def small_block(name: str) -> Callable[[Make], Make]:
    """Make a module of `Sizes` known as a kind of small block: (B, 6, 14, 14) -> same."""

    def register(make: Make) -> Make:
        BLOCKS[name] = make
        TARGETS.append(name)
        return make

    return register


class Network(nn.Module):
    """former -> block -> latter, with the block of the given kind (a key of `BLOCKS`).

    Raises:
        KTError: there is no such kind, or no memory for such sizes.
    """

    def __init__(self, kind: str = "large", sizes: Sizes = PAPER) -> None:
        super().__init__()
        if not isinstance(kind, str) or kind not in BLOCKS:
            raise KTError(f"there is no block {kind!r}: choose among {', '.join(BLOCKS)}")
        require_kind("sizes", sizes, Sizes, "kt.networks.blocks.Sizes")
        sizes.require_memory()
        self.kind, self.sizes = kind, sizes
        self.former = Former(sizes)
        self.block = BLOCKS[kind](sizes)
        self.latter = Latter(sizes)

    def forward(self, x: Tensor) -> Tensor:
        return self.latter(self.block(self.former(x)))


def weights(module: nn.Module) -> dict[str, Tensor]:
    """A module's parameters and running statistics by name, detached.

    `num_batches_tracked` is left out: with a fixed momentum nothing depends on it.
    """
    return {
        name: tensor.detach()
        for name, tensor in module.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


def require_possible(network: Mapping[str, Tensor], what: str) -> None:
    """Refuse weights of a network that no training ends in.

    Args:
        what: they are, the error's subject.

    Raises:
        KTError: a weight is not finite, or a variance that batch norm stores is negative.
    """
    for name, tensor in network.items():
        if not is_finite(tensor):
            raise KTError(f"{what} holds numbers that are not finite ({name})")
        if name.endswith("running_var") and (tensor < 0).any():
            raise KTError(f"{what} holds a negative variance ({name}), which no training makes")


def initial_weights(
    part: Callable[[], nn.Module] | str, seeds: Sequence[int], sizes: Sizes = PAPER
) -> dict[str, Tensor]:
    """PyTorch's default initialisation of one part per seed, stacked: {name: (N, ...)}.

    `part` makes a module, or is a key of `BLOCKS`, of `sizes`. The global random state is left as
    it was.
    """
    make = partial(BLOCKS[part], sizes) if isinstance(part, str) else part
    drawn = []
    with torch.random.fork_rng(devices=[]):
        for seed in seeds:
            torch.manual_seed(seed)
            drawn.append(weights(make()))
    return {name: torch.stack([d[name] for d in drawn]) for name in drawn[0]}


def block_shapes(kind: str, sizes: Sizes = PAPER) -> dict[str, tuple[int, ...]]:
    """Shapes of the block's tensors, in the order in which they are flattened."""
    block = skeleton(partial(BLOCKS[kind], sizes))
    return {name: tuple(tensor.shape) for name, tensor in weights(block).items()}


def sizes_of(
    networks: Mapping[str, Any],
    image_size: int | None = None,
    block: Mapping[str, Any] | None = None,
) -> Sizes:
    """The sizes of networks that are there.

    Args:
        networks: stacked `former.*`, tensors (N, ...); and `latter.*` where no image size is given.
        image_size: of the images that they are shown, which their weights do not tell exactly;
            None: the largest that they can be shown.
        block: stacked weights of their small block; without any, or if it is not convolutional,
            `hidden` is half of the channels.

    Raises:
        KTError: their latter blocks are not for images of this size.
    """
    channels, image_channels, kernel, _ = networks["former.conv.weight"].shape[1:]
    hidden = (channels + 1) // 2
    told = image_size is not None
    if image_size is None:
        image_size = 4 * isqrt(networks["latter.fc.weight"].shape[2] // (2 * channels))
    if block is not None and "conv1.weight" in block:
        hidden = block["conv1.weight"].shape[1]
    sizes = Sizes(channels, hidden, kernel, image_channels, image_size)
    last = networks.get("latter.fc.weight")
    if last is not None and last.shape[2] != 2 * channels * sizes.read_size**2:
        if told:
            most = 4 * isqrt(last.shape[2] // (2 * channels))
            what = f"but the networks read sides of {most - 3} to {most}"
            raise KTError(f"images are of {image_size} x {image_size} pixels, {what}")
        what = f"latter.fc.weight reads {last.shape[2]} numbers"
        raise KTError(f"{what}, which are no square maps of {2 * channels} channels")
    return sizes


def require_images(images: Tensor, sizes: Sizes) -> None:
    """Refuse images, (N, H, W) or (N, colours, H, W), that networks of these sizes do not read.

    Raises:
        KTError: they have other colours or another size.
    """
    found = (1 if images.dim() == 3 else images.shape[1], images.shape[-1])
    if found != (wanted := (sizes.image_channels, sizes.image_size)):
        ours, theirs = (f"{colours} x {side} x {side}" for colours, side in (found, wanted))
        raise KTError(f"images are {ours}, but the networks read {theirs}")


def skeleton(make: Callable[[], nn.Module]) -> nn.Module:
    """A module without values, which lends its code and its names; it draws no random numbers."""
    with torch.device("meta"):
        return make()


def parameter_count(module: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in module.parameters())
