"""A translator whose kernels attend to each other, to compare with the paper's (Figure 4)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kt.run.bounds import bounded
from kt.run.errors import KTError
from kt.translators.sequence import SequenceConfig, SequenceTranslator

POSITION_STD = 0.02


@dataclass(frozen=True)
class AttentionConfig(SequenceConfig):
    """Sizes of it; `heads` divides `hidden_size`."""

    heads: int = bounded(4, ge=1)

    def __post_init__(self) -> None:
        if self.hidden_size % self.heads:
            raise KTError(f"{self.heads} heads do not divide a hidden size of {self.hidden_size}")


class SelfAttention(nn.Module):
    """Multi-head self-attention (Vaswani et al., 2017): (B, sequence, width) -> same."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.read = nn.Linear(width, 3 * width)
        self.write = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        split = self.read(x).unflatten(2, (3, self.heads, -1))  # (B, sequence, 3, heads, size)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        found = F.scaled_dot_product_attention(query, key, value)
        return self.dropout(self.write(found.transpose(1, 2).flatten(2)))


class Attention(SequenceTranslator, kind="attention"):
    """A transformer's encoder: self-attention mixes the tokens and knows their positions.

    Attributes:
        position: (72, hidden size), learned and added to the tokens: kernels have an order.
    """

    Config = AttentionConfig

    def __init__(self, config: AttentionConfig) -> None:
        super().__init__(config)
        drawn = torch.randn(config.sequence, config.hidden_size)
        self.position = nn.Parameter(POSITION_STD * drawn)

    def embedded(self, tokens: Tensor) -> Tensor:
        return super().embedded(tokens) + self.position

    def token_mixing(self) -> nn.Module:
        config = self.config
        return SelfAttention(config.hidden_size, config.heads, config.dropout)
