"""The base of translators that read kernels as a sequence: tokens in, small blocks out.

The paper's translator is an MLP-Mixer (Section 4.2). The paper compares it with attention and
convolutions (Figure 4), which have the same tokens, heads and layers, but mix the tokens in another
way.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor, nn

from kt.ensemble import Compute
from kt.networks import symmetry
from kt.networks.blocks import CONVOLUTIONAL, PAPER, Sizes, block_shapes
from kt.networks.weights import Weights, concatenated, network_count, part, take
from kt.pairs.augment import Side
from kt.run.bounds import bounded
from kt.run.errors import KTError
from kt.run.threads import spread
from kt.translators import losses
from kt.translators.base import MOST_LAYERS, MOST_WIDE, Learning, Material, Translator
from kt.translators.losses import LossWeights
from kt.translators.objectives import BehaviourObjective, Samples, WeightObjective

STATISTICS = 4096
"""Blocks in memory at a time while their statistics are taken."""
PIECE = 16
"""Blocks that a CPU's thread translates at a time: their activations stay in its cache."""


@dataclass(frozen=True)
class SequenceConfig:
    """Sizes of a translator, by default the paper's small one (Table 2), and its target block.

    Attributes:
        sequence_dim: width of MLPs along the sequence: of the head, and of a mixer's layers.
        channel_dim: width of MLPs along the channels.
        fold: read the large block with batch norm folded in: each kernel comes scaled, with its
            output channel's bias as a tenth channel. The paper's mixer does not see batch norm.
        sizes: of the networks: such a translator belongs to one size.
    """

    layers: int = bounded(8, ge=1, le=MOST_LAYERS)
    hidden_size: int = bounded(128, ge=1, le=MOST_WIDE)
    sequence_dim: int = bounded(256, ge=1, le=MOST_WIDE)
    channel_dim: int = bounded(512, ge=1, le=MOST_WIDE)
    dropout: float = 0.0
    target: str = "conv"
    fold: bool = False
    sizes: Sizes = PAPER

    @property
    def sequence(self) -> int:
        """Length of the sequence: the kernels of both large convolutions."""
        return 2 * self.sizes.channels**2

    @property
    def kernel(self) -> int:
        """Channels of the sequence: the 3 x 3 entries of one kernel."""
        return self.sizes.kernel**2


@dataclass(frozen=True)
class SequenceLoss(LossWeights):
    """A weighted sum, and how the error of the weights is measured.

    Attributes:
        align: in the order of hidden channels nearest to the prediction (`losses.aligned`).
        standardise: each entry's error over its standard deviation.
        difference: predict small - initial weights, which all small blocks have in common.
    """

    align: bool = False
    standardise: bool = False
    difference: bool = False


@dataclass(frozen=True)
class SequenceLearning(Learning):
    """How a translator of this family is trained; the defaults are the paper's.

    Attributes:
        masking, noise, side: augmentation drawn afresh for every batch (Section 3.2).
        symmetry: channels in an order drawn afresh for every batch.
        loss: what it learns.
    """

    masking: float = bounded(0.0, ge=0, lt=1)
    noise: float = bounded(0.0, ge=0)
    side: Side = "large"
    symmetry: bool = False
    loss: SequenceLoss = field(default_factory=SequenceLoss)


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


class SequenceMLP(MLP):
    """The same along the sequence: (B, n, channels) -> (B, out, channels)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class Layer(nn.Module):
    """Tokens mixed, then each one's channels, both pre-norm and residual.

    (B, sequence, hidden size) -> same.
    """

    def __init__(self, config: SequenceConfig, token_mixing: nn.Module) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size)
        self.token_mixing = token_mixing
        self.norm2 = nn.LayerNorm(config.hidden_size)
        self.channel_mixing = MLP(
            config.hidden_size, config.channel_dim, config.hidden_size, config.dropout
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.token_mixing(self.norm1(x))
        return x + self.channel_mixing(self.norm2(x))


class SequenceTranslator(Translator):
    """Large blocks to the weights of the target block, or to their difference from initial weights.

    The two (B, 6, 6, 3, 3) kernels become a sequence of 72 with 9 channels; the output sequence of
    36 (conv), 37 (conv with biases), 18 (MLP) or 16 (attention target), with 9 channels, is cut
    into the target's tensors in the order of `kt.networks.blocks.block_shapes`.

    Attributes:
        initial: (numbers,), the weights that all small blocks were trained from, flattened in the
            same order; `start_from` sets them. Translation adds them; 0 unless set.
    """

    Config, Learning = SequenceConfig, SequenceLearning
    initial: Tensor

    def __init__(self, config: SequenceConfig) -> None:
        super().__init__(config)
        self.shapes = block_shapes(config.target, config.sizes)
        numbers = sum(prod(shape) for shape in self.shapes.values())
        self.register_buffer("initial", torch.zeros(numbers))
        self.embed = nn.Linear(config.kernel + config.fold, config.hidden_size)
        layers = (Layer(config, self.token_mixing()) for _ in range(config.layers))
        self.layers = nn.Sequential(*layers)
        self.norm = nn.LayerNorm(config.hidden_size)
        tokens = -(-numbers // config.kernel)
        # No dropout in the heads, as in the authors' scripts.
        self.sequence_head = SequenceMLP(config.sequence, config.sequence_dim, tokens, 0.0)
        self.head = nn.Linear(config.hidden_size, config.kernel)

    def token_mixing(self) -> nn.Module:
        """A new module that mixes a layer's tokens, (B, 72, hidden size) -> same."""
        raise NotImplementedError

    def forward(self, large: Weights) -> Weights:
        """Translate a batch of large blocks; with `fold`, batch norm is read beside convolutions.

        Returns:
            The target block's weights less the initial ones, {name: (B, ...)}.
        """
        x = self.norm(self.layers(self.embedded(self._tokens(large))))
        flat = self.head(self.sequence_head(x)).flatten(1)
        return self._block(flat[:, : self.initial.numel()])

    def embedded(self, tokens: Tensor) -> Tensor:
        """What the layers are given, (B, 72, hidden size)."""
        return self.embed(tokens)

    def translate(self, networks: Weights, compute: Compute = Compute()) -> Weights:
        """The translation of the networks' large blocks: the output and the initial weights."""
        large, initial = part(networks, "large"), self.initial_block()
        channels, _, kernel, _ = large["conv1.weight"].shape[1:]
        self._require(channels=channels, kernel=kernel)
        on_cpu = self.initial.device.type == "cpu"
        output = self._in_pieces(large, compute.workers) if on_cpu else self(large)
        return {name: t + initial[name] for name, t in output.items()}

    def _in_pieces(self, large: Weights, workers: int) -> Weights:
        """The output for large blocks, without gradients, by several threads of a CPU."""

        @torch.no_grad()
        def work(at: int) -> Weights:
            return self({name: tensor[at : at + PIECE] for name, tensor in large.items()})

        with ThreadPoolExecutor(workers) as pool:
            pieces = list(spread(pool, work, range(0, len(large["conv1.weight"]), PIECE)))
        return concatenated(pieces)

    def objective(self, learning: SequenceLearning, material: Material) -> WeightObjective:
        """Small blocks' weights (Equation 1), and what the loss adds to them."""
        loss, compute, small = learning.loss, material.compute, material.small
        if (learning.symmetry or loss.align) and self.config.target not in CONVOLUTIONAL:
            raise KTError(
                "symmetry and loss.align know the hidden channels of "
                f"{' and '.join(CONVOLUTIONAL)} blocks, not of {self.config.target!r}"
            )
        if loss.looks and material.augmented:
            raise KTError(
                "what networks do with augmented copies is unknown: loss.behaviour, cross_entropy "
                "and features need augment.copies 0"
            )
        if loss.difference:  # the same function; aligned targets are balanced
            initial = material.initial
            self.start_from(symmetry.balance(initial) if loss.align else initial)
        function = None
        if loss.looks:
            images, flip = material.images.to(compute.device), material.flip
            target = self.config.target
            function = BehaviourObjective(material.networks, images, target, compute, flip=flip)
        known = take(self.initial_block(), device=compute.device)
        return WeightObjective(
            material.large,
            small,
            masking=learning.masking,
            noise=learning.noise,
            side=learning.side,
            precision=material.precision,
            workers=compute.workers,
            align=loss.align,
            deviation=losses.deviation(_blocks(small), loss.align) if loss.standardise else None,
            initial=known if loss.difference else None,
            reorder=learning.symmetry,
            shares=loss,
            function=function,
        )

    def start_from(self, initial: Weights) -> None:
        """Before training: the weights (1, ...) from which all small blocks were trained."""
        self.initial.copy_(torch.cat([initial[name].flatten() for name in self.shapes]))

    def initial_block(self) -> Weights:
        """The initial weights as a stack of one block, {name: (1, ...)}."""
        return self._block(self.initial[None])

    def _tokens(self, large: Weights) -> Tensor:
        """The sequence of kernels, (B, 72, 9), or with biases (B, 72, 10)."""
        read = symmetry.fold(large) if self.config.fold else large
        kernels = [read[f"conv{i}.weight"].flatten(3).flatten(1, 2) for i in (1, 2)]
        if not self.config.fold:
            return torch.cat(kernels, 1)
        biases = [
            read[f"conv{i}.bias"].repeat_interleave(self.config.sizes.channels, 1) for i in (1, 2)
        ]
        return torch.cat([torch.cat(kernels, 1), torch.cat(biases, 1)[:, :, None]], 2)

    def _block(self, flat: Tensor) -> Weights:
        """(B, numbers) cut into the target's tensors, {name: (B, ...)}."""
        pieces = flat.split([prod(shape) for shape in self.shapes.values()], 1)
        return {
            name: piece.unflatten(1, shape)
            for (name, shape), piece in zip(self.shapes.items(), pieces, strict=True)
        }


def _blocks(samples: Samples) -> Iterator[Weights]:
    """All blocks, in pieces."""
    for at in range(0, network_count(samples), STATISTICS):
        yield take(samples, slice(at, at + STATISTICS))
