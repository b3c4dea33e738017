"""A small block of self-attention."""

from torch import Tensor, nn

from kt.networks.blocks import PAPER, Sizes, small_block


@small_block("attention")
class AttentionBlock(nn.Module):
    """Table 6: self-attention over the positions, added to the input. 4 x 36 parameters."""

    def __init__(self, sizes: Sizes = PAPER) -> None:
        super().__init__()
        channels = sizes.channels
        self.query = nn.Conv2d(channels, channels, 1, bias=False)
        self.key = nn.Conv2d(channels, channels, 1, bias=False)
        self.value = nn.Conv2d(channels, channels, 1, bias=False)
        self.proj = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part(x).flatten(2) for part in (self.query, self.key, self.value))
        attention = (q.transpose(1, 2) @ k * x.shape[1] ** -0.5).softmax(-1)  # (B, HW, HW)
        y = (v @ attention.transpose(1, 2)).unflatten(2, x.shape[2:])
        return self.proj(y) + x
