"""The paper's networks as plain modules: the reference that every engine is tested against.

A network is former -> block -> latter (paper, Figures 2 and 3). The block is the large one that
the network was trained with, or one of the small ones that may take its place. Images are
(B, 1, 28, 28) in [0, 1]; the block maps (B, 6, 14, 14) to the same shape; the output is
(B, 10) logits. Initialisation is PyTorch's default everywhere.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kt.run.errors import KTError
from kt.run.finite import is_finite

CHANNELS = 6
HIDDEN = 3
CLASSES = 10
IMAGE_SIZE = 28


class Former(nn.Module):
    """Conv 3x3, BN, ReLU, max-pool: (B, 1, 28, 28) -> (B, 6, 14, 14). 54 + 12 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, CHANNELS, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.relu(self.bn(self.conv(x))), 3, stride=2, padding=1)


class LargeBlock(nn.Module):
    """ResNet's basic block, (B, 6, 14, 14) -> same. 324 + 12 + 324 + 12 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(CHANNELS)
        self.conv2 = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.before_relu(x))

    def before_relu(self, x: Tensor) -> Tensor:
        """What the last ReLU is applied to."""
        return self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + x


class SmallBlock(nn.Module):
    """The paper's small block: conv 6 -> 3, ReLU, conv 3 -> 6, add, ReLU. 162 + 162 parameters.

    With `bias`, as folding batch norm gives them, 3 + 6 more.
    """

    def __init__(self, bias: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(CHANNELS, HIDDEN, 3, padding=1, bias=bias)
        self.conv2 = nn.Conv2d(HIDDEN, CHANNELS, 3, padding=1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv2(F.relu(self.conv1(x))) + x)


class Latter(nn.Module):
    """Conv 1x1 stride 2, BN, ReLU, linear: (B, 6, 14, 14) -> (B, 10); 72 + 24 + 5,890 weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(CHANNELS, 2 * CHANNELS, 1, stride=2, bias=False)
        self.bn = nn.BatchNorm2d(2 * CHANNELS)
        self.fc = nn.Linear(2 * CHANNELS * 7 * 7, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.bn(self.conv(x))).flatten(1))


BLOCKS: dict[str, Callable[[], nn.Module]] = {
    "large": LargeBlock,
    "conv": SmallBlock,
    "conv_bias": partial(SmallBlock, bias=True),
}
"""All kinds of blocks by name; `kt.networks.targets` adds others."""
CONVOLUTIONAL = ("conv", "conv_bias")
TARGETS: list[str] = [*CONVOLUTIONAL]
"""The kinds of small blocks."""
Make = TypeVar("Make", bound=Callable[[], nn.Module])


def small_block(name: str) -> Callable[[Make], Make]:
    """Make a module known as a kind of small block: (B, 6, 14, 14) -> same."""

    def register(make: Make) -> Make:
        BLOCKS[name] = make
        TARGETS.append(name)
        return make

    return register


class Network(nn.Module):
    """former -> block -> latter, with the block of the given kind (a key of `BLOCKS`)."""

    def __init__(self, kind: str = "large") -> None:
        super().__init__()
        self.kind = kind
        self.former = Former()
        self.block = BLOCKS[kind]()
        self.latter = Latter()

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


def initial_weights(part: Callable[[], nn.Module] | str, seeds: Sequence[int]) -> dict[str, Tensor]:
    """PyTorch's default initialisation of one part per seed, stacked: {name: (N, ...)}.

    `part` makes a module, or is a key of `BLOCKS`. The global random state is left as it was.
    """
    make = BLOCKS[part] if isinstance(part, str) else part
    drawn = []
    with torch.random.fork_rng(devices=[]):
        for seed in seeds:
            torch.manual_seed(seed)
            drawn.append(weights(make()))
    return {name: torch.stack([d[name] for d in drawn]) for name in drawn[0]}


def block_shapes(kind: str) -> dict[str, tuple[int, ...]]:
    """Shapes of the block's tensors, in the order in which they are flattened."""
    return {name: tuple(tensor.shape) for name, tensor in weights(skeleton(BLOCKS[kind])).items()}


def skeleton(make: Callable[[], nn.Module]) -> nn.Module:
    """A module without values, which lends its code and its names; it draws no random numbers."""
    with torch.device("meta"):
        return make()


def parameter_count(module: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in module.parameters())
