"""Our translator: it merges the large block's hidden channels, guided by the network's outputs.

A small block's hidden channel k is a mixture of the large block's, with batch norm folded in:
first convolution's row k = sum_j a[j, k] * row j, second convolution's column k = sum_j b[j, k] *
column j. Mixtures stay in the span of the input, whose order of channels does not matter; the
second convolution of least squares (`fit`) and steps of the weights themselves (`free`) leave it.

What guides it are the outputs of the network with its large block on the translator's own prototype
images, which are part of the translator: translating needs no images. It begins with the three
channels that explain most there (`choose`), as pruning with images does (He et al., 2017), and with
what an encoder, reading the weights, adds to them. An unrolled descent goes on from there, as in
learned optimisation (Andrychowicz et al., 2016): every layer compares the outputs on a few
prototypes, and a small network decides how far to go along the gradient, freed from the
correlations of what the convolutions read (`whiten`: half of a natural gradient, as in K-FAC,
Martens and Grosse, 2015).
"""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kt.ensemble import Compute, Shown
from kt.images import ImageSet, pixels
from kt.networks import symmetry
from kt.networks.blocks import CHANNELS, CONVOLUTIONAL, HIDDEN, IMAGE_SIZE
from kt.networks.weights import Weights, part
from kt.rivals.pruning import SUBSETS, reading
from kt.run.errors import KTError
from kt.run.threads import one_thread

KERNEL = 9
CLUSTERED, CLUSTER_STEPS, BLENDED = 20_000, 15, 6
"""Images that prototypes are made of, at most; steps of k-means; images that one is a mean of."""
CHOOSING = 8
"""Prototypes on which all ways to keep three channels are tried, at most."""
LARGEST_STEP = 0.5
KERNELS = CHANNELS * KERNEL
FREE_RATE, LEAVING = 0.6, 0.1
"""The first step outside the span begins as their product, relative to the kernels; the others
begin in a linear decay."""
WHITENING = 8
"""Prototypes by which gradients are whitened, at most."""
QUICK = 10.0
"""How much faster than other parameters their logarithm is learned."""


@dataclass(frozen=True)
class MergeConfig:
    """Sizes of a merging translator and its target block.

    Attributes:
        layers: steps of the descent; 0 leaves the encoder's proposal, from the weights alone.
        hidden_size: width of the network that makes the steps; the encoder's is a quarter.
        prototypes: images that the translator keeps.
        images_per_layer: those of them that one layer looks at; the next looks at the next ones.
        fold: merge channels with batch norm folded in; False: the bare convolutions'.
        free: steps also leave the span of the large block's channels.
        choose: the descent begins with the three hidden channels that do best on the prototypes;
            False: with those of the largest kernels.
        fit: it begins with the second convolution of least squares.
        whiten: steps outside the span follow gradients that are whitened: see `Shown.whitening`.
    """

    layers: int = 8
    hidden_size: int = 32
    prototypes: int = 256
    images_per_layer: int = 6
    dropout: float = 0.0
    target: str = "conv"
    fold: bool = True
    free: bool = True
    choose: bool = True
    fit: bool = True
    whiten: bool = True


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
    """The layers: steps of the coefficients (N, 2, 6, 3), and of kernels outside their span."""

    def __init__(self, width: int, tokens: int, layers: int) -> None:
        super().__init__()
        self.entry = nn.Linear(10, width)
        self.token = nn.Linear(tokens, width, bias=False)
        self.about = nn.Linear(2, width, bias=False)
        self.time = nn.Parameter(torch.randn(max(layers, 1), width) * 0.3)
        self.hidden = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.alone, self.columns, self.rows = (
            nn.Linear(width, width, bias=bias) for bias in (True, False, False)
        )
        self.step = nn.Linear(width, 2)
        nn.init.normal_(self.step.weight, std=1e-3)
        nn.init.zeros_(self.step.bias)
        self.rate = nn.Parameter(torch.zeros(2))
        self.gain = nn.Linear(width, 2)
        nn.init.zeros_(self.gain.weight)
        nn.init.zeros_(self.gain.bias)
        decay = 1 - torch.arange(max(layers, 1)) / max(layers, 1)
        self.free_rate = nn.Parameter((FREE_RATE * decay).log()[:, None].repeat(1, 2) / QUICK)

    def forward(
        self, tokens: Tensor, x: Tensor, gradient: Tensor, momentum: Tensor, last: Tensor,
        loss: Tensor, layer: int,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """The step, and how far to go outside the span, (N, 2, 1, 3).

        Args:
            tokens: `self.token` of the hidden channels, (N, 6, width).
        """
        size = gradient.square().mean((1, 2, 3), True).sqrt() + 1e-6
        gradient, momentum = gradient / size, momentum / size
        entries = torch.cat([x, gradient, momentum, 10 * last, gradient.tanh()], 1)
        about = torch.stack([size.log().flatten(), loss.clamp(1e-3, 10).log()], -1)
        network = self.about(about) + self.time[layer]
        h = self.entry(entries.permute(0, 2, 3, 1)) + (tokens + network[:, None])[:, :, None]
        h = self.norm(self.hidden(F.relu(h)))
        columns = h.mean(1)
        pooled = self.columns(columns)[:, None] + self.rows(h.mean(2))[:, :, None]
        step = self.step(F.relu(self.alone(h) + pooled)).permute(0, 3, 1, 2)
        step = step - self.rate[:, None, None] * momentum
        gain = (self.gain(columns) + QUICK * self.free_rate[layer]).exp().transpose(1, 2)
        return LARGEST_STEP * (step / LARGEST_STEP).tanh(), gain[:, :, None]


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
        self.propose = nn.Sequential(nn.Linear(2 * width, width), nn.GELU(), nn.Linear(width, 2))
        nn.init.normal_(self.propose[-1].weight, std=0.02)
        self.descent = Descent(config.hidden_size, width, config.layers)

    def prepare(
        self,
        networks: Weights,
        images: ImageSet,
        generator: torch.Generator,
        mirrored: bool = True,
    ) -> None:
        """Before training: the features' scale over `networks`, and prototypes of `images`.

        Args:
            mirrored: whether networks see half of the images mirrored.
        """
        features = _features(_channels(networks, self.config.fold), 0).flatten(0, 2)
        self.mean.copy_(features.mean(0))
        self.std.copy_(features.std(0) + 1e-3)
        self.prototypes.copy_(prototypes(images, len(self.prototypes), generator, mirrored))

    def forward(
        self, networks: Weights, compute: Compute = Compute(), turn: int = 0
    ) -> list[Weights]:
        """The blocks after the proposal and after each layer; the last one is the translation.

        Args:
            networks: stacked `former.*`, `large.*` and `latter.*`.
            turn: which of the eight turned versions of the kernels the encoder is shown. They have
                the same coefficients.
        """
        channels = _channels(networks, self.config.fold)
        kernels = self._kernels(channels)
        features = (_features(channels, turn) - self.mean) / self.std
        tokens = self.encoder(self.embed(features)).mean(2)  # (N, hidden channel, width)
        if self.config.layers == 0:
            x = self._proposal(tokens, _strongest(channels))
            return [self._block(_mixed(x, kernels), channels)]
        images = self.prototypes[: self._rounds * self._at_once]
        shown = Shown(self.config.target, networks, pixels(images), compute)
        wanted = shown.follow(part(networks, "large")).softmax(-1).to(kernels.device)
        kept = self._best(channels, shown) if self.config.choose else _strongest(channels)
        x = self._proposal(tokens, kept)
        outside = self._fitted(_mixed(x, kernels), channels, shown) if self.config.fit else 0.0
        return self._descended(x, outside, kernels, tokens, channels, shown, wanted)

    def _fitted(self, small: Tensor, channels: Weights, shown: Shown) -> Tensor:
        """What least squares adds to (N, 2, 3, numbers): other second convolutions."""
        block = _detached(self._block(small, channels))
        nearest = shown.nearest(self.config.target, block).to(small.device)
        fitted = self._slope(block | {"conv2.weight": nearest})
        return F.pad((fitted - small.detach())[:, 1:], (0, 0, 0, 0, 1, 0))

    def _descended(
        self, x: Tensor, outside: Tensor | float, kernels: Tensor, tokens: Tensor,
        channels: Weights, shown: Shown, wanted: Tensor,
    ) -> list[Weights]:  # fmt: skip
        """The blocks at the beginning of the descent and after each layer.

        Args:
            x: coefficients to begin with, (N, 2, 6, 3).
            outside: what is added to their mixtures, (N, 2, 3, numbers).
            wanted: what the networks with their large blocks say of the prototypes, (N, P, 10).
        """
        blocks = [self._block(_mixed(x, kernels) + outside, channels)]
        few = slice(min(WHITENING, self._rounds * self._at_once))
        white = {}
        if self.config.whiten:
            white = shown.whitening(self.config.target, _detached(blocks[-1]), few)
        entropy = torch.special.entr(wanted).sum(-1)
        tokens = self.descent.token(tokens)
        scale = LEAVING * kernels.square().mean((2, 3), True).sqrt()
        momentum = last = torch.zeros_like(x)
        slope: Tensor | float = 0.0
        for layer in range(self.config.layers):
            first = layer % self._rounds * self._at_once
            chosen = slice(first, first + self._at_once)
            loss, slopes = shown.behaviour(
                self.config.target, _detached(blocks[-1]), wanted[:, chosen], chosen
            )
            steepest = self._slope(slopes).to(x.device)
            gradient = _batched(kernels, steepest.transpose(-1, -2))
            momentum = 0.8 * momentum + 0.2 * gradient
            loss = loss.to(x.device) - entropy[:, chosen].mean(-1)
            last, gain = self.descent(tokens, x, gradient, momentum, last.detach(), loss, layer)
            x = x + last
            if self.config.free:
                for name, whitening in white.items():
                    flat = slopes[name].flatten(2)
                    slopes[name] = torch.bmm(flat, whitening).view_as(slopes[name])
                slope = 0.8 * slope + 0.2 * self._slope(slopes).to(x.device)
                size = slope.square().mean((2, 3), True).sqrt() + 1e-8
                outside = outside - scale * gain.transpose(-1, -2) * slope / size
            blocks.append(self._block(_mixed(x, kernels) + outside, channels))
        return blocks

    def translate(self, networks: Weights, compute: Compute = Compute()) -> Weights:
        """The translation of the networks' large blocks: see `forward`."""
        with one_thread():
            return self(networks, compute)[-1]

    def _proposal(self, tokens: Tensor, kept: Tensor) -> Tensor:
        """Coefficients (N, 2, 6, 3) that keep the channels (N, 3), and what the encoder adds."""
        keeping = F.one_hot(kept, tokens.shape[1]).float()  # (N, 3, 6)
        stay = (keeping @ tokens)[:, None].expand(-1, tokens.shape[1], -1, -1)
        each = tokens[:, :, None].expand_as(stay)
        added = self.propose(torch.cat([each, stay], -1))  # (N, 6, 3, 2)
        return keeping.transpose(1, 2)[:, None] + added.permute(0, 3, 1, 2)

    @torch.no_grad()
    def _best(self, channels: Weights, shown: Shown) -> Tensor:
        """The three hidden channels (N, 3) that explain most on the prototypes, strongest first.

        All twenty ways are tried, each with the second convolution of least squares.
        """
        few = slice(min(CHOOSING, self._rounds * self._at_once))
        wide = {"conv1.weight": channels["conv1"]}
        if self.config.target == "conv_bias":
            wide |= {"conv1.bias": channels["bias1"], "conv2.bias": channels["bias2"]}
        explained = shown.choices(wide, SUBSETS, channels["metric"], few)
        kept = SUBSETS[explained.argmax(1).cpu()].to(explained.device)
        strongest_first = _strengths(channels).gather(1, kept).argsort(1, descending=True)
        return kept.gather(1, strongest_first)

    @property
    def _at_once(self) -> int:
        return min(self.config.images_per_layer, self.config.prototypes)

    @property
    def _rounds(self) -> int:
        """Layers after which the prototypes come again."""
        return min(self.config.prototypes // self._at_once, self.config.layers)

    def _kernels(self, channels: Weights) -> Tensor:
        """What is mixed, (N, 2, 6, numbers): of each hidden channel, what leads to it and from it.

        With biases among the target's parameters, the channel's own is the last of the numbers.
        """
        into, out = channels["conv1"].flatten(2), channels["conv2"].transpose(1, 2).flatten(2)
        if self.config.target == "conv_bias":
            into = torch.cat([into, channels["bias1"][:, :, None]], -1)
            out = F.pad(out, (0, 1))
        return torch.stack([into, out], 1)

    def _block(self, small: Tensor, channels: Weights) -> Weights:
        """The small block of (N, 2, 3, numbers)."""
        into, out = (w[..., :KERNELS].unflatten(-1, (CHANNELS, 3, 3)) for w in small.unbind(1))
        if self.config.target == "conv":
            return {"conv1.weight": into, "conv2.weight": out.transpose(1, 2)}
        return {
            "conv1.weight": into,
            "conv1.bias": small[:, 0, :, KERNELS],
            "conv2.weight": out.transpose(1, 2),
            "conv2.bias": channels["bias2"],
        }

    def _slope(self, slopes: Weights) -> Tensor:
        """A block's gradient as that of `_block`'s argument."""
        into = slopes["conv1.weight"].flatten(2)
        out = slopes["conv2.weight"].transpose(1, 2).flatten(2)
        if self.config.target == "conv_bias":
            into = torch.cat([into, slopes["conv1.bias"][:, :, None]], -1)
            out = F.pad(out, (0, 1))
        return torch.stack([into, out], 1)

    def describe(self) -> dict[str, str | int | float]:
        """The configuration, as kept in a translator's file."""
        return {"kind": "merge"} | asdict(self.config)


def prototypes(
    images: ImageSet, count: int, generator: torch.Generator, mirrored: bool = True
) -> Tensor:
    """Synthetic images that stand for `images`: means of the few nearest to centres of k-means.

    With more contrast; every other image is mirrored if networks see that.

    Returns:
        (count, 28, 28) uint8.
    """
    chosen = torch.randperm(len(images), generator=generator)[:CLUSTERED]
    points = pixels(images.images[chosen]).flatten(1)
    if mirrored:
        points[1::2] = points[1::2].view(-1, IMAGE_SIZE, IMAGE_SIZE).flip(-1).flatten(1)
    centres = points[:count].clone()
    centres = torch.cat([centres, torch.rand(count - len(centres), points.shape[1])])
    for _ in range(CLUSTER_STEPS):
        nearest = torch.cdist(points, centres).argmin(1)
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        sizes = torch.bincount(nearest, minlength=count)
        centres = torch.where(sizes[:, None] > 0, sums / sizes.clamp(min=1)[:, None], centres)
    nearest = torch.cdist(centres, points).topk(min(BLENDED, len(points)), largest=False).indices
    centres = points[nearest].mean(1)
    sharpened = ((centres - 0.3) * 2.5).clamp(0, 1)
    return sharpened.mul(255).round().to(torch.uint8).view(count, IMAGE_SIZE, IMAGE_SIZE)


def _detached(block: Weights) -> Weights:
    return {name: tensor.detach() for name, tensor in block.items()}


def _strongest(channels: Weights) -> Tensor:
    """The hidden channels (N, 3) with the largest kernels on both sides, strongest first."""
    return _strengths(channels).topk(HIDDEN, 1).indices


def _strengths(channels: Weights) -> Tensor:
    """Of the hidden channels, (N, 6): they do not depend on the channels' scales."""
    into, out = channels["hidden"][..., -2:].unbind(-1)
    return into * out


def _batched(a: Tensor, b: Tensor) -> Tensor:
    """a @ b for (N, 2, ...): one product of many small matrices."""
    return torch.bmm(a.flatten(0, 1), b.flatten(0, 1)).unflatten(0, a.shape[:2])


def _mixed(x: Tensor, kernels: Tensor) -> Tensor:
    """Coefficients (N, 2, 6, 3) and kernels (N, 2, 6, numbers) -> (N, 2, 3, numbers)."""
    return _batched(x.transpose(-1, -2), kernels)


def _channels(networks: Weights, fold: bool) -> Weights:
    """What merging and the encoder need of networks.

    Batch norm is folded in, and hidden channels are rescaled so that their batch norm's weight
    was 1: the scale of a hidden channel has no meaning. Without `fold` convolutions stay as they
    are, and biases are zero.
    """
    large, former, latter = (part(networks, name) for name in ("large", "former", "latter"))
    gain = large["bn1.weight"].abs().clamp(min=0.03)
    if fold:
        block = symmetry.rescale_hidden(symmetry.fold(large), 1 / gain)
    else:
        biases = {f"conv{i}.bias": torch.zeros_like(large[f"bn{i}.bias"]) for i in (1, 2)}
        block = {f"conv{i}.weight": large[f"conv{i}.weight"] for i in (1, 2)} | biases
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
