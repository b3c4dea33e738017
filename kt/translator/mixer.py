"""The paper's translator: an MLP-Mixer from large-block to small-block weights (Section 4.2)."""

from dataclasses import asdict, dataclass
from math import prod

import torch
from torch import Tensor, nn

from kt.blocks import CHANNELS, block_shapes
from kt.ensemble import Compute, part

Weights = dict[str, Tensor]
KERNEL = 9
"""Channels of the mixer: the 3 x 3 entries of one kernel."""
SEQUENCE = 2 * CHANNELS * CHANNELS
"""Length of its sequence: the kernels of both large convolutions."""


@dataclass(frozen=True)
class MixerConfig:
    """Sizes of a mixer, by default the paper's small one (Table 2), and its target block."""

    layers: int = 8
    hidden_size: int = 128
    sequence_dim: int = 256
    channel_dim: int = 512
    dropout: float = 0.0
    target: str = "conv"


PAPER_SIZES = {
    "small": MixerConfig(),
    "base": MixerConfig(layers=16),
    "large": MixerConfig(layers=24),
    "wide": MixerConfig(layers=2, hidden_size=512, channel_dim=2048),
}
"""Table 2: 1,385,965, 2,741,293, 4,096,621 and 4,316,605 parameters."""


class MLP(nn.Sequential):
    """Linear, GELU, linear, with dropout after each linear: (..., n) -> (..., out)."""

    def __init__(self, n: int, hidden: int, out: int, dropout: float) -> None:
        super().__init__(
            nn.Linear(n, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, out),
            nn.Dropout(dropout),
        )


class MixerLayer(nn.Module):
    """One mixer layer (Tolstikhin et al., 2021): (B, sequence, hidden size) -> same."""

    def __init__(self, config: MixerConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size)
        self.token_mixing = MLP(SEQUENCE, config.sequence_dim, SEQUENCE, config.dropout)
        self.norm2 = nn.LayerNorm(config.hidden_size)
        self.channel_mixing = MLP(
            config.hidden_size, config.channel_dim, config.hidden_size, config.dropout
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.token_mixing(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channel_mixing(self.norm2(x))


class Mixer(nn.Module):
    """Large-block convolutions to the weights of the target block.

    The two (B, 6, 6, 3, 3) kernels become a sequence of 72 with 9 channels; the output sequence of
    36 (conv), 37 (conv with biases), 18 (MLP) or 16 (attention target), with 9 channels, is cut
    into the target's tensors in the order of `kt.blocks.block_shapes`.
    """

    def __init__(self, config: MixerConfig) -> None:
        super().__init__()
        self.config = config
        self.shapes = block_shapes(config.target)
        numbers = sum(prod(shape) for shape in self.shapes.values())
        self.embed = nn.Linear(KERNEL, config.hidden_size)
        self.layers = nn.Sequential(*(MixerLayer(config) for _ in range(config.layers)))
        self.norm = nn.LayerNorm(config.hidden_size)
        self.sequence_head = MLP(SEQUENCE, config.sequence_dim, numbers // KERNEL, config.dropout)
        self.head = nn.Linear(config.hidden_size, KERNEL)

    def forward(self, large: Weights) -> Weights:
        """Translate a batch of large blocks: `conv1.weight` and `conv2.weight` are read.

        Returns:
            The target block's weights, {name: (B, ...)}.
        """
        kernels = [large[name].flatten(1) for name in ("conv1.weight", "conv2.weight")]
        x = torch.cat(kernels, 1).unflatten(1, (SEQUENCE, KERNEL))
        x = self.norm(self.layers(self.embed(x)))
        x = self.sequence_head(x.transpose(1, 2)).transpose(1, 2)
        pieces = self.head(x).flatten(1).split([prod(s) for s in self.shapes.values()], 1)
        return {
            name: piece.unflatten(1, shape)
            for (name, shape), piece in zip(self.shapes.items(), pieces, strict=True)
        }

    def translate(self, networks: Weights, compute: Compute = Compute()) -> Weights:
        """The translation of the networks' large blocks, from their convolutions alone."""
        return self(part(networks, "large"))

    def describe(self) -> dict[str, str | int | float]:
        """The configuration, as kept in a translator's file; `kt.translator.load` reads it back."""
        return {"kind": "mixer"} | asdict(self.config)
