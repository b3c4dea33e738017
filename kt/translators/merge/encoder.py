"""What `merge` reads of a network: its hidden channels, and features of each for the encoder."""

import torch
from torch import Tensor, nn

from kt.networks import symmetry
from kt.networks.blocks import Sizes
from kt.networks.channels import reading
from kt.networks.weights import Weights, part


def features_for(sizes: Sizes) -> int:
    """Of a pair of a hidden and a residual channel: kernels, their sums, and what is known of each.

    The number of channels does not matter.
    """
    return (3 + sizes.image_channels) * sizes.kernel**2 + 3 + 5 + 10


class Exchangeable(nn.Module):
    """(N, C, C, d) -> same: a residual MLP on each entry that also sees its row and column.

    Indifferent to the order of rows and of columns (Hartford et al., 2018).
    """

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(6 * width, 2 * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(2 * width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        pooled = [
            y.mean(1, True),
            y.mean(2, True),
            y.mean((1, 2), True),
            y.amax(1, True),
            y.amax(2, True),
        ]
        return x + self.mlp(torch.cat([y, *(p.expand_as(y) for p in pooled)], -1))


def channels_of(networks: Weights) -> Weights:
    """What merging and the encoder need of networks.

    Batch norm is folded in, and hidden channels are rescaled so that their batch norm's weight
    was 1: the scale of a hidden channel has no meaning.
    """
    large, former, latter = (part(networks, name) for name in ("large", "former", "latter"))
    gain = large["bn1.weight"].abs().clamp(min=0.03)
    block = symmetry.rescale_hidden(symmetry.fold(large), 1 / gain)
    first, first_bias = symmetry.fold_norm(former["conv.weight"], part(former, "bn"))
    metric = reading(latter)
    importance = metric.diagonal(dim1=1, dim2=2)
    metric = metric / importance.mean(1)[:, None, None].clamp(min=1e-6)
    return {
        "conv1": block["conv1.weight"],
        "bias1": block["conv1.bias"],
        "conv2": block["conv2.weight"],
        "bias2": block["conv2.bias"],
        "metric": metric,
        "read": torch.einsum("ncd,ndjhw->ncjhw", metric, block["conv2.weight"]),
        "first": first,
        "hidden": torch.stack(
            [
                block["conv1.bias"],
                large["bn1.bias"] / gain,
                gain.log(),
                block["conv1.weight"].flatten(2).norm(dim=2),
                block["conv2.weight"].transpose(1, 2).flatten(2).norm(dim=2),
            ],
            -1,
        ),
        "residual": torch.stack(
            [
                block["conv2.bias"],
                large["bn2.bias"],
                large["bn2.weight"],
                large["bn2.running_mean"],
                large["bn2.running_var"].clamp(min=1e-6).log(),
                first_bias,
                former["bn.bias"],
                former["bn.weight"],
                importance.clamp(min=1e-6).log(),
                first.flatten(2).norm(dim=2),
            ],
            -1,
        ),
    }


def features_of(channels: Weights, turn: int) -> Tensor:
    """The encoder's input (N, hidden channel, residual channel, `features_for`)."""
    to_hidden = channels["conv1"]  # (N, hidden, residual, 3, 3)
    back, read = (channels[name].transpose(1, 2) for name in ("conv2", "read"))
    n, hidden, residual = to_hidden.shape[:3]
    first = channels["first"][:, None].expand(n, hidden, *channels["first"].shape[1:])
    kernels = [to_hidden, back, read]
    return torch.cat(
        [
            *(symmetry.turn(k, turn).flatten(3) for k in [*kernels, first]),
            torch.stack([k.sum((3, 4)) for k in kernels], -1),
            channels["hidden"][:, :, None].expand(n, hidden, residual, -1),
            channels["residual"][:, None].expand(n, hidden, residual, -1),
        ],
        -1,
    )


def strongest(channels: Weights, hidden: int) -> Tensor:
    """The hidden channels (N, hidden) with the largest kernels on both sides, strongest first."""
    return strengths(channels).topk(hidden, 1).indices


def strengths(channels: Weights) -> Tensor:
    """Of the hidden channels, (N, 6): they do not depend on the channels' scales."""
    into, out = channels["hidden"][..., -2:].unbind(-1)
    return into * out
