"""Our translator: it merges the large block's hidden channels, guided by the network's outputs.

A small block's hidden channel k is a mixture of the large block's, with batch norm folded in:
first convolution's row k = sum_j a[j, k] * row j, second convolution's column k = sum_j b[j, k] *
column j. The output stays in the span of the input, whose order of channels does not matter.

The coefficients are found by an unrolled descent, as in learned optimisation (Andrychowicz et al.,
2016): an encoder that reads the weights proposes them; then every layer puts the merged block into
its network, compares the outputs on a few of the translator's own prototype images with those of
the large block, and a small network turns the gradient into the next coefficients. The prototypes
are part of the translator: translating needs no images.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from kt import ensemble, symmetry
from kt.blocks import CONVOLUTIONAL, HIDDEN, IMAGE_SIZE
from kt.data import ImageSet, pixels
from kt.ensemble import Compute, part
from kt.errors import KTError
from kt.threads import one_thread

Weights = dict[str, Tensor]
IMAGES_PER_LAYER = 16
"""Prototypes that one layer looks at; the next looks at the next ones."""
KERNEL = 9
CLUSTERED, CLUSTER_STEPS = 20_000, 15
"""Images that prototypes are made of, at most, and steps of k-means."""
LARGEST_STEP = 0.5
_TIMES = 8


@dataclass(frozen=True)
class MergeConfig:
    """Sizes of a merging translator and its target block.

    Attributes:
        layers: steps of the descent; 0 leaves the encoder's proposal, from the weights alone.
        hidden_size: width of the network that makes the steps; the encoder's is a quarter.
        prototypes: images that the translator keeps.
    """

    layers: int = 16
    hidden_size: int = 128
    prototypes: int = 256
    dropout: float = 0.0
    target: str = "conv"


class Exchangeable(nn.Module):
    """(N, 6, 6, d) -> same: a residual MLP on each entry that also sees its row and column.

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


class Descent(nn.Module):
    """One layer: a step of the coefficients (N, 6, 3, 2) from their gradient and history."""

    def __init__(self, width: int, tokens: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.time = nn.Embedding(max(layers, 1), _TIMES)
        self.embed = nn.Sequential(
            nn.Linear(12 + tokens + _TIMES, width), nn.GELU(), nn.Linear(width, width)
        )
        self.step = nn.Sequential(
            nn.LayerNorm(3 * width), nn.Linear(3 * width, width), nn.GELU(), nn.Linear(width, 2)
        )
        nn.init.normal_(self.step[-1].weight, std=1e-3)
        nn.init.zeros_(self.step[-1].bias)
        self.rate = nn.Parameter(torch.full((2,), 0.05))

    def forward(
        self, tokens: Tensor, x: Tensor, gradient: Tensor, momentum: Tensor, last: Tensor,
        loss: Tensor, layer: int,
    ) -> Tensor:  # fmt: skip
        size = gradient.square().mean((1, 2, 3), True).sqrt() + 1e-6
        gradient, momentum = gradient / size, momentum / size
        about = torch.stack([size.log().flatten(), loss.clamp(1e-3, 10).log()], -1)
        n, j, k, _ = x.shape
        features = [x, gradient, momentum, 10 * last, gradient.tanh()]
        features += [
            about[:, None, None].expand(n, j, k, 2),
            tokens[:, :, None].expand(n, j, k, -1),
        ]
        features += [self.time.weight[layer].expand(n, j, k, -1)]
        h = self.embed(torch.cat(features, -1))
        h = torch.cat([h, h.mean(1, True).expand_as(h), h.mean(2, True).expand_as(h)], -1)
        step = self.step(h) - self.rate * momentum
        return LARGEST_STEP * (step / LARGEST_STEP).tanh()


class Merge(nn.Module):
    """Networks' large blocks to small blocks, {name: (N, ...)}.

    Attributes:
        prototypes: (P, 28, 28) uint8, set by `prepare`.
    """

    def __init__(self, config: MergeConfig) -> None:
        super().__init__()
        if config.target not in CONVOLUTIONAL:
            kinds = " and ".join(CONVOLUTIONAL)
            raise KTError(f"merge translates to {kinds}, not to {config.target!r}: use the mixer")
        self.config = config
        width = max(8, config.hidden_size // 4)
        self.register_buffer(
            "prototypes", torch.zeros(config.prototypes, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.uint8)
        )
        self.register_buffer("mean", torch.zeros(FEATURES))
        self.register_buffer("std", torch.ones(FEATURES))
        self.embed = nn.Linear(FEATURES, width)
        self.encoder = nn.Sequential(
            *(Exchangeable(width, config.dropout) for _ in range(2)), nn.LayerNorm(width)
        )
        self.propose = nn.Linear(width, 2 * HIDDEN)
        self.descent = Descent(config.hidden_size, width, config.layers, config.dropout)

    def prepare(self, networks: Weights, images: ImageSet, generator: torch.Generator) -> None:
        """Before training: the features' scale over `networks`, and prototypes of `images`."""
        features = _features(_channels(networks), 0).flatten(0, 2)
        self.mean.copy_(features.mean(0))
        self.std.copy_(features.std(0) + 1e-3)
        self.prototypes.copy_(prototypes(images, len(self.prototypes), generator))

    def forward(
        self, networks: Weights, compute: Compute = Compute(), turn: int = 0
    ) -> list[Weights]:
        """The blocks after the proposal and after each layer; the last one is the translation.

        Args:
            networks: stacked `former.*`, `large.*` and `latter.*`.
            turn: which of the eight turned versions of the kernels the encoder is shown. They have
                the same coefficients.
        """
        channels = _channels(networks)
        features = (_features(channels, turn) - self.mean) / self.std
        tokens = self.encoder(self.embed(features)).mean(2)  # (N, hidden channel, width)
        x = self.propose(tokens).unflatten(-1, (HIDDEN, 2))  # (N, 6, 3, (a, b))
        blocks = [self._merged(channels, x)]
        momentum = last = torch.zeros_like(x)
        for layer, (images, wanted) in enumerate(self._examples(networks, compute)):
            loss, slopes = ensemble.behaviour(
                self.config.target, images, wanted, networks, _detached(blocks[-1]), compute
            )
            gradient = _to_coefficients(channels, slopes)
            momentum = 0.8 * momentum + 0.2 * gradient
            last = self.descent(tokens, x, gradient, momentum, last.detach(), loss, layer)
            x = x + last
            blocks.append(self._merged(channels, x))
        return blocks

    def translate(self, networks: Weights, compute: Compute = Compute()) -> Weights:
        """The translation of the networks' large blocks: see `forward`."""
        with one_thread():
            return self(networks, compute)[-1]

    def _examples(self, networks: Weights, compute: Compute) -> Iterator[tuple[Tensor, Tensor]]:
        """For every layer some prototypes (16, 1, 28, 28) and the networks' outputs for them."""
        layers = self.config.layers
        if layers == 0:
            return
        kept = self.prototypes[: layers * IMAGES_PER_LAYER]
        shown = ImageSet(kept, torch.zeros(len(kept), dtype=torch.int64, device=kept.device))
        large = part(networks, "large")
        wanted = ensemble.outputs("large", shown, networks, large, compute).softmax(-1)
        for layer in range(layers):
            index = torch.arange(layer * IMAGES_PER_LAYER, (layer + 1) * IMAGES_PER_LAYER)
            index %= len(kept)
            yield pixels(kept[index.to(kept.device)]), wanted[:, index]

    def _merged(self, channels: Weights, x: Tensor) -> Weights:
        a, b = x.unbind(-1)
        block = {"conv1.weight": torch.einsum("njk,njchw->nkchw", a, channels["conv1"])}
        if self.config.target == "conv_bias":
            block["conv1.bias"] = torch.einsum("njk,nj->nk", a, channels["bias1"])
        block["conv2.weight"] = torch.einsum("njk,ncjhw->nckhw", b, channels["conv2"])
        if self.config.target == "conv_bias":
            block["conv2.bias"] = channels["bias2"]
        return block

    def describe(self) -> dict[str, str | int | float]:
        """The configuration, as kept in a translator's file; `kt.translator.load` reads it back."""
        return {"kind": "merge"} | asdict(self.config)


def prototypes(images: ImageSet, count: int, generator: torch.Generator) -> Tensor:
    """Synthetic images that stand for `images`: centres of k-means, with more contrast.

    Every other image is mirrored, as networks see them. (count, 28, 28) uint8.
    """
    chosen = torch.randperm(len(images), generator=generator)[:CLUSTERED]
    points = pixels(images.images[chosen]).flatten(1)
    points[1::2] = points[1::2].view(-1, IMAGE_SIZE, IMAGE_SIZE).flip(-1).flatten(1)
    centres = points[:count].clone()
    centres = torch.cat([centres, torch.rand(count - len(centres), points.shape[1])])
    for _ in range(CLUSTER_STEPS):
        nearest = torch.cdist(points, centres).argmin(1)
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        sizes = torch.bincount(nearest, minlength=count)
        centres = torch.where(sizes[:, None] > 0, sums / sizes.clamp(min=1)[:, None], centres)
    sharpened = ((centres - 0.3) * 2.5).clamp(0, 1)
    return sharpened.mul(255).round().to(torch.uint8).view(count, IMAGE_SIZE, IMAGE_SIZE)


def _detached(block: Weights) -> Weights:
    return {name: tensor.detach() for name, tensor in block.items()}


def _to_coefficients(channels: Weights, slopes: Weights) -> Tensor:
    """A block's gradient as that of its coefficients, (N, 6, 3, 2)."""
    a = torch.einsum("nkchw,njchw->njk", slopes["conv1.weight"], channels["conv1"])
    if "conv1.bias" in slopes:
        a = a + torch.einsum("nk,nj->njk", slopes["conv1.bias"], channels["bias1"])
    b = torch.einsum("nckhw,ncjhw->njk", slopes["conv2.weight"], channels["conv2"])
    return torch.stack([a, b], -1)


def _channels(networks: Weights) -> Weights:
    """What merging and the encoder need of networks.

    Batch norm is folded in, and hidden channels are rescaled so that their batch norm's weight
    was 1: the scale of a hidden channel has no meaning.
    """
    large, former, latter = (part(networks, name) for name in ("large", "former", "latter"))
    gain = large["bn1.weight"].abs().clamp(min=0.03)
    block = symmetry.rescale_hidden(symmetry.fold(large), 1 / gain)
    first, first_bias = symmetry.fold_norm(former["conv.weight"], part(former, "bn"))
    last, _ = symmetry.fold_norm(latter["conv.weight"], part(latter, "bn"))
    last = last.flatten(2)  # (N, 12, 6)
    # How strongly the outputs depend on what the latter block's channels read.
    weight = latter["fc.weight"].unflatten(2, (last.shape[1], -1)).square().sum((1, 3))
    metric = torch.einsum("no,noc,nod->ncd", weight, last, last)
    importance = metric.diagonal(dim1=1, dim2=2)
    metric = metric / importance.mean(1)[:, None, None].clamp(min=1e-6)
    return {
        "conv1": block["conv1.weight"],
        "bias1": block["conv1.bias"],
        "conv2": block["conv2.weight"],
        "bias2": block["conv2.bias"],
        "read": torch.einsum("ncd,ndjhw->ncjhw", metric, block["conv2.weight"]),
        "first": first.squeeze(2),
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


FEATURES = 4 * KERNEL + 3 + 5 + 10
"""Of a pair of a hidden and a residual channel: kernels, their sums, and what is known of each."""


def _features(channels: Weights, turn: int) -> Tensor:
    """The encoder's input (N, hidden channel, residual channel, FEATURES)."""
    to_hidden = channels["conv1"]  # (N, hidden, residual, 3, 3)
    back, read = (channels[name].transpose(1, 2) for name in ("conv2", "read"))
    n, hidden, residual = to_hidden.shape[:3]
    first = channels["first"][:, None].expand(n, hidden, residual, 3, 3)
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
