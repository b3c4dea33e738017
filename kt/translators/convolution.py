"""A translator of convolutions over the kernels, to compare with the paper's (Figure 4)."""

from torch import Tensor, nn

from kt.translators.sequence import SequenceTranslator

WINDOW = 3


class SequenceConvolution(nn.Module):
    """A full convolution with each token's two neighbours: (B, sequence, width) -> same."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width, width, WINDOW, padding=WINDOW // 2)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.conv(x.transpose(1, 2)).transpose(1, 2))


class Convolution(SequenceTranslator, kind="convolution"):
    """Convolutions mix the tokens: after n layers each has seen n neighbours on either side.

    Kernels further apart first meet in the sequence head.
    """

    def token_mixing(self) -> nn.Module:
        return SequenceConvolution(self.config.hidden_size, self.config.dropout)
