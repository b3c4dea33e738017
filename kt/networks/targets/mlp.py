"""A small block without convolutions."""

from torch import Tensor, nn
from torch.nn import functional as F

from kt.networks.blocks import PAPER, Sizes, small_block


@small_block("mlp")
class MLPBlock(nn.Module):
    """Table 6: a two-layer MLP at each position, 6 -> 12 -> 6, add, ReLU. 84 + 78 parameters."""

    def __init__(self, sizes: Sizes = PAPER) -> None:
        super().__init__()
        self.fc1 = nn.Linear(sizes.channels, 2 * sizes.channels)
        self.fc2 = nn.Linear(2 * sizes.channels, sizes.channels)

    def forward(self, x: Tensor) -> Tensor:
        # As 1x1 convolutions: linear layers would give a view whose channels come last in memory.
        y = F.conv2d(x, self.fc1.weight[:, :, None, None], self.fc1.bias)
        y = F.conv2d(F.relu(y), self.fc2.weight[:, :, None, None], self.fc2.bias)
        return F.relu(y + x)
