"""Small networks of many kinds, with random weights and batch norm statistics of their own."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Residual(nn.Module):
    """A residual network like those for CIFAR-10, in small."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(8, 16, 3, padding=1, bias=False)
            self.bn1 = nn.BatchNorm2d(16)
            self.conv2 = nn.Conv2d(16, 8, 3, padding=1, bias=False)
            self.bn2 = nn.BatchNorm2d(8)

        def forward(self, x: Tensor) -> Tensor:
            out = F.relu(self.bn1(self.conv1(x)), inplace=True)
            out = self.bn2(self.conv2(out))
            out += x
            return F.relu(out, inplace=True)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.Sequential(self.Block(), self.Block())
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class Inverted(nn.Module):
    """A block of MobileNetV2: widen, depthwise, narrow."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv2d(3, 12, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU6(inplace=True),
            nn.Conv2d(12, 12, 3, 2, 1, groups=12, bias=False), nn.BatchNorm2d(12), nn.PReLU(12),
            nn.Conv2d(12, 6, 1, bias=False), nn.BatchNorm2d(6),
        )  # fmt: skip
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.adaptive_avg_pool2d(self.block(x), 1).flatten(1))


class Transformer(nn.Module):
    """A layer with attention, and the MLP behind it; gives a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(8, 24), nn.GELU(), nn.Dropout(0.1), nn.Linear(24, 8))

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        x = self.embedding(tokens)
        if mask is not None:
            x = x * mask[..., None]
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return {"hidden": x + self.mlp(self.norm2(x))}


class TwoInputs(nn.Module):
    """Reads two things, gives two; an inner part of it cannot be traced."""

    class Untraceable(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) if x.sum() > 0 else x

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 10), nn.Linear(10, 6)
        self.untraceable = self.Untraceable()

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.first(torch.cat([a, b], 1))
        out = self.second(hidden * torch.sigmoid(hidden))
        return self.untraceable(out), out.mean(1)


def vgg() -> nn.Module:
    """A chain of convolutions, the last of which is flattened for a linear layer."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3, padding="same", padding_mode="reflect"),
        nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 25, 12), nn.BatchNorm1d(12),
        nn.LeakyReLU(), nn.Linear(12, 4),
    )  # fmt: skip


def sound() -> nn.Module:
    """Convolutions along a line."""
    return nn.Sequential(
        nn.Conv1d(2, 10, 5, stride=2, padding=2, bias=False), nn.BatchNorm1d(10), nn.SiLU(),
        nn.Conv1d(10, 6, 3, dilation=2), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(6, 3),
    )  # fmt: skip


Made = tuple[nn.Module, object]


def images(count: int = 4) -> Tensor:
    return torch.randn(count, 3, 12, 12)


NETWORKS: dict[str, Callable[[], Made]] = {
    "residual": lambda: (Residual(), images()),
    "inverted": lambda: (Inverted(), images()),
    "vgg": lambda: (vgg(), images()),
    "sound": lambda: (sound(), torch.randn(4, 2, 30)),
    "transformer": lambda: (Transformer(), torch.randint(11, (4, 7))),
    "two inputs": lambda: (TwoInputs(), (torch.randn(4, 2), torch.randn(4, 3))),
}


def made(name: str) -> Made:
    """A network, in evaluation mode, and an example for it."""
    torch.manual_seed(0)
    network, example = NETWORKS[name]()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 2)
                module.bias.normal_()
    return network.eval(), example
