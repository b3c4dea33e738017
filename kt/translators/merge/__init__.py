"""Our translator: it merges the large block's hidden channels, guided by the network's outputs.

A small block's hidden channel k is a mixture of the large block's, with batch norm folded in:
first convolution's row k = sum_j a[j, k] * row j, second convolution's column k = sum_j b[j, k] *
column j. Mixtures stay in the span of the large block's channels and do not depend on their order;
the second convolution of least squares (`fit`) and steps of the weights themselves (`free`) leave
it.

It is guided by the outputs of the network with its large block on prototype images, which the
translator stores: translating needs no other images. It begins with the three channels that explain
most there (`choose`), as pruning with images does (He et al., 2017), and adds to them what an
encoder reads from the weights. An unrolled descent goes on from there, as in learned optimisation
(Andrychowicz et al., 2016): every layer compares the outputs on a few prototypes, and a small
network decides how far to go along the gradient, freed from the correlations of what the
convolutions read (`whiten`: half of a natural gradient, as in K-FAC, Martens and Grosse, 2015).
Where the descent goes astray, the block that came nearest is taken.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kt.ensemble import Compute, Probe
from kt.images import ImageSet, pixels
from kt.networks.blocks import CONVOLUTIONAL, PAPER, Sizes, sizes_of
from kt.networks.weights import Weights, part, take
from kt.run import seeds
from kt.run.bounds import bounded
from kt.run.errors import KTError
from kt.run.threads import one_thread
from kt.translators.base import MOST_LAYERS, MOST_WIDE, Learning, Material, Translator
from kt.translators.merge.descent import Descent
from kt.translators.merge.encoder import (
    Exchangeable,
    channels_of,
    features_for,
    features_of,
    strengths,
    strongest,
)
from kt.translators.merge.prototypes import make_prototypes
from kt.translators.objectives import BehaviourObjective

CHOOSING = 8
"""Prototypes on which all ways to keep three channels are tried, at most."""
LEAVING = 0.1
"""The largest step outside the span, relative to the kernels."""
WHITENING = 8
"""Prototypes by which gradients are whitened, at most."""
ASTRAY = 3.0
"""A descent that ends so many times as far from what is wanted as it began has gone astray."""
PREPARED = 1024
"""Networks that set the scale of the encoder's inputs, at most."""
Watched = tuple[Probe, Tensor]
"""Networks that look at the prototypes of the descent, and what they say of them with their large
blocks, (N, P, 10)."""


@dataclass(frozen=True)
class MergeConfig:
    """Sizes of a merging translator and its target block.

    Attributes:
        layers: steps of the descent; 0 leaves the encoder's proposal, from the weights alone.
        hidden_size: width of the network that makes the steps; the encoder's is a quarter.
        prototypes: images that the translator keeps.
        images_per_layer: those of them that one layer looks at; the next looks at the next ones.
        free: steps also leave the span of the large block's channels.
        choose: the descent begins with the three hidden channels that do best on the prototypes;
            False: with those of the largest kernels.
        fit: it begins with the second convolution of least squares.
        whiten: steps outside the span follow gradients that are whitened: see `Probe.whitening`.
        sizes: of images and kernels; and how many hidden channels small blocks have where nothing
            else is asked for. The learned weights belong to no number of channels.
    """

    layers: int = bounded(8, ge=0, le=MOST_LAYERS)
    hidden_size: int = bounded(32, ge=1, le=MOST_WIDE)
    prototypes: int = bounded(256, ge=1, le=1_000_000)
    images_per_layer: int = bounded(6, ge=1, le=1_000_000)
    dropout: float = 0.0
    target: str = "conv"
    free: bool = True
    choose: bool = True
    fit: bool = True
    whiten: bool = True
    sizes: Sizes = PAPER


@dataclass(frozen=True)
class MergeLearning(Learning):
    """How a merging translator is trained."""

    lr: float = bounded(0.0005, gt=0)
    warmup_epochs: int = bounded(3, ge=0)


class Merge(Translator, kind="merge"):
    """Networks' large blocks to small blocks, {name: (N, ...)}.

    Attributes:
        prototypes: (P, 28, 28) uint8, or in colour (P, 3, H, W), set by `prepare`.
    """

    Config, Learning = MergeConfig, MergeLearning
    targets = CONVOLUTIONAL
    learns_from_small_blocks = False
    any_hidden = True
    prototypes: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, config: MergeConfig) -> None:
        super().__init__(config)
        width = max(8, config.hidden_size // 4)
        size, features = config.sizes.image_size, features_for(config.sizes)
        colours = () if config.sizes.image_channels == 1 else (config.sizes.image_channels,)
        shape = (config.prototypes, *colours, size, size)
        self.register_buffer("prototypes", torch.zeros(shape, dtype=torch.uint8))
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))
        self.embed = nn.Linear(features, width)
        self.encoder = nn.Sequential(
            *(Exchangeable(width, config.dropout) for _ in range(2)), nn.LayerNorm(width)
        )
        first, last = nn.Linear(2 * width, width), nn.Linear(width, 2)
        self.propose = nn.Sequential(first, nn.GELU(), last)
        nn.init.normal_(last.weight, std=0.02)
        self.descent = Descent(config.hidden_size, width, config.layers)

    def prepare(
        self,
        networks: Weights | Sequence[Weights],
        images: ImageSet,
        generator: torch.Generator,
        mirrored: bool = True,
    ) -> None:
        """Before training: the features' scale over `networks`, and prototypes of `images`.

        Args:
            networks: stacked `former.*`, `large.*` and `latter.*`; several such, one for each
                number of channels.
            mirrored: whether networks see half of the images mirrored.
        """
        each = [networks] if isinstance(networks, dict) else networks
        features = torch.cat([features_of(channels_of(one), 0).flatten(0, 2) for one in each])
        self.mean.copy_(features.mean(0))
        self.std.copy_(features.std(0) + 1e-3)
        self.prototypes.copy_(make_prototypes(images, len(self.prototypes), generator, mirrored))

    def objective(self, learning: MergeLearning, material: Material) -> BehaviourObjective:
        """To make networks behave as before; `prepare` first."""
        first = take(material.networks, slice(0, PREPARED))
        draw = seeds.generator(material.seed, "translator", "prototypes")
        self.prepare(first, material.images, draw, material.flip)
        compute = material.compute
        return BehaviourObjective(
            material.networks,
            material.images.to(compute.device),
            self.config.target,
            compute,
            flip=material.flip,
        )

    def own_images(self) -> Tensor | None:
        """The prototypes; None without layers: then they served its training alone."""
        return self.prototypes if self.config.layers else None

    def forward(
        self,
        networks: Weights,
        compute: Compute = Compute(),
        turn: int = 0,
        hidden: int | None = None,
        watched: Watched | None = None,
    ) -> list[Weights]:
        """The blocks after the proposal and after each layer; the last one is the translation.

        Args:
            networks: stacked `former.*`, `large.*` and `latter.*`.
            turn: which of the eight turned versions of the kernels the encoder is shown. They have
                the same coefficients.
            hidden: channels of the small blocks; None: as the configuration says.
            watched: what `_watch` gives, if that is there already.
        """
        hidden = self.config.sizes.hidden if hidden is None else hidden
        channels = channels_of(networks)
        kernels = self._kernels(channels)
        features = (features_of(channels, turn) - self.mean) / self.std
        tokens = self.encoder(self.embed(features)).mean(2)  # (N, hidden channel, width)
        if self.config.layers == 0:
            x = self._proposal(tokens, strongest(channels, hidden))
            return [self._block(_mixed(x, kernels), channels)]
        probe, wanted = watched or self._watch(networks, compute)
        if self.config.choose:
            kept = self._best(channels, hidden, probe)
        else:
            kept = strongest(channels, hidden)
        x = self._proposal(tokens, kept)
        outside = self._fitted(_mixed(x, kernels), channels, probe) if self.config.fit else 0.0
        return self._descended(x, outside, kernels, tokens, channels, probe, wanted)

    def _fitted(self, small: Tensor, channels: Weights, probe: Probe) -> Tensor:
        """What least squares adds to (N, 2, 3, numbers): other second convolutions."""
        block = _detached(self._block(small, channels))
        nearest = probe.fit_second_convolution(self.config.target, block).to(small.device)
        fitted = self._slope(block | {"conv2.weight": nearest})
        return F.pad((fitted - small.detach())[:, 1:], (0, 0, 0, 0, 1, 0))

    def _descended(
        self, x: Tensor, outside: Tensor | float, kernels: Tensor, tokens: Tensor,
        channels: Weights, probe: Probe, wanted: Tensor,
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
            white = probe.whitening(self.config.target, _detached(blocks[-1]), few)
        entropy = torch.special.entr(wanted).sum(-1)
        tokens = self.descent.token(tokens)
        scale = LEAVING * kernels.square().mean((2, 3), True).sqrt()
        momentum = last = torch.zeros_like(x)
        slope: Tensor | float = 0.0
        for layer in range(self.config.layers):
            first = layer % self._rounds * self._at_once
            chosen = slice(first, first + self._at_once)
            loss, slopes = probe.behaviour(
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

    def translate(
        self, networks: Weights, compute: Compute = Compute(), hidden: int | None = None
    ) -> Weights:
        """The translation of the networks' large blocks: see `forward`.

        Raises:
            KTError: the networks have other kernels or images than the translator, or not as many
                channels as their small blocks are to have hidden ones.
        """
        own, theirs = self.config.sizes, sizes_of(networks)
        self._require(kernel=theirs.kernel, image_channels=theirs.image_channels)
        if theirs.read_size != own.read_size:
            self._require(image_size=theirs.image_size)
        hidden = own.hidden if hidden is None else hidden
        if not 1 <= hidden <= theirs.channels:
            raise KTError(
                f"hidden is {hidden}; accepts 1 to {theirs.channels}, the networks' channels"
            )
        with one_thread():
            watched = self._watch(networks, compute) if self.config.layers else None
            blocks = self(networks, compute, hidden=hidden, watched=watched)
            return self._kept(blocks, *watched) if watched else blocks[-1]

    def _watch(self, networks: Weights, compute: Compute) -> Watched:
        images = self.prototypes[: self._rounds * self._at_once]
        probe = Probe(self.config.target, networks, pixels(images), compute)
        wanted = probe.watch_teacher(part(networks, "large")).softmax(-1)
        return probe, wanted.to(self.mean.device)

    @torch.no_grad()
    def _kept(self, blocks: list[Weights], probe: Probe, wanted: Tensor) -> Weights:
        """The last block, or, where the descent went astray, the one nearest to what is wanted.

        At widths that were not learned some networks' steps are too long. The distance is the
        Kullback-Leibler divergence of the networks' outputs on the prototypes of the descent.
        """

        def distance(block: Weights) -> Tensor:
            outputs = probe.outputs(self.config.target, block).log_softmax(-1).to(wanted.device)
            found = F.kl_div(outputs, wanted, reduction="none").sum(-1).mean(-1)
            return found.nan_to_num(torch.inf)

        last = blocks[-1]
        astray = distance(last) > ASTRAY * distance(blocks[0])
        if not astray.any():
            return last
        nearest = torch.stack([distance(block) for block in blocks]).argmin(0)
        kept = torch.where(astray, nearest, len(blocks) - 1)
        every = torch.arange(len(kept), device=kept.device)
        return {name: torch.stack([b[name] for b in blocks])[kept, every] for name in last}

    def _proposal(self, tokens: Tensor, kept: Tensor) -> Tensor:
        """Coefficients (N, 2, 6, 3) that keep the channels (N, 3), and what the encoder adds."""
        keeping = F.one_hot(kept, tokens.shape[1]).float()  # (N, 3, 6)
        stay = (keeping @ tokens)[:, None].expand(-1, tokens.shape[1], -1, -1)
        each = tokens[:, :, None].expand_as(stay)
        added = self.propose(torch.cat([each, stay], -1))  # (N, 6, 3, 2)
        return keeping.transpose(1, 2)[:, None] + added.permute(0, 3, 1, 2)

    @torch.no_grad()
    def _best(self, channels: Weights, hidden: int, probe: Probe) -> Tensor:
        """The hidden channels (N, hidden) that explain most on the prototypes, strongest first.

        With the second convolution of least squares: see `Probe.choose`.
        """
        few = slice(min(CHOOSING, self._rounds * self._at_once))
        wide = {"conv1.weight": channels["conv1"]}
        if self.config.target == "conv_bias":
            wide |= {"conv1.bias": channels["bias1"], "conv2.bias": channels["bias2"]}
        kept = probe.choose(wide, hidden, channels["metric"], few).to(channels["conv1"].device)
        strongest_first = strengths(channels).gather(1, kept).argsort(1, descending=True)
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
        shape = channels["conv1"].shape[2:]
        into, out = (w[..., : shape.numel()].unflatten(-1, shape) for w in small.unbind(1))
        if self.config.target == "conv":
            return {"conv1.weight": into, "conv2.weight": out.transpose(1, 2)}
        return {
            "conv1.weight": into,
            "conv1.bias": small[:, 0, :, -1],
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


def _detached(block: Weights) -> Weights:
    return {name: tensor.detach() for name, tensor in block.items()}


def _batched(a: Tensor, b: Tensor) -> Tensor:
    """a @ b for (N, 2, ...): one product of many small matrices."""
    return torch.bmm(a.flatten(0, 1), b.flatten(0, 1)).unflatten(0, a.shape[:2])


def _mixed(x: Tensor, kernels: Tensor) -> Tensor:
    """Coefficients (N, 2, 6, 3) and kernels (N, 2, 6, numbers) -> (N, 2, 3, numbers)."""
    return _batched(x.transpose(-1, -2), kernels)
