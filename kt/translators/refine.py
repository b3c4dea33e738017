"""Refinement: some hundred steps bring a small block closer to the large block's behaviour.

It starts from a translation or any other small block, with unlabelled images or without any.
Without images it draws random strokes of several kinds and takes, for each network, the kind
whose statistics at the inputs of batch norm are nearest to those stored in the network.
DeepInversion (Yin et al., 2020) makes images by the same measure.
"""

from itertools import product

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from kt import ensemble
from kt.ensemble import Compute, Probe
from kt.images import ImageSet, pixels
from kt.networks.blocks import CONVOLUTIONAL, IMAGE_SIZE, Network, skeleton
from kt.networks.weights import Weights, part, prefixed, take
from kt.run import seeds
from kt.run.errors import KTError
from kt.run.finite import finite_networks
from kt.run.optimizer import minimise
from kt.run.threads import one_thread
from kt.translators import losses

BATCH = 32
"""Images in a step."""
RATE = 0.01
"""Adam's learning rate in the first step; it falls linearly to zero."""
STROKES: tuple[tuple[float, float], ...] = tuple(product((3.0, 4.0, 6.0), (0.5, 0.7, 1.2, 1.8)))
"""Kinds of strokes, (scale, width) in pixels: see `strokes`."""
DRAWN, COMPARED = 4096, 64
"""Strokes to refine with, and strokes of each kind to choose among the kinds."""

DIVERGED, HUGE = "refined blocks", "the networks' weights are too large"

AT_ONCE = 16
"""Networks whose statistics are computed in one go."""


def refine(
    kind: str,
    networks: Weights,
    block: Weights,
    images: ImageSet | None,
    steps: int,
    seed: int,
    compute: Compute = Compute(),
) -> Weights:
    """Blocks whose networks' outputs diverge less from those of the large blocks.

    Args:
        kind: of the blocks, a convolutional one.
        networks: stacked `former.*`, `large.*` and `latter.*` (N, ...).
        block: where to start, stacked (N, ...).
        images: unlabelled (the labels are not used); None: random strokes.
        steps: each on 32 images, the same for all networks.

    Returns:
        The refined blocks. A network's does not depend on the networks beside it.

    Raises:
        KTError: blocks of this kind are not refined, or refined blocks are not finite.
    """
    if kind not in CONVOLUTIONAL:
        raise KTError(f"{' and '.join(CONVOLUTIONAL)} blocks can be refined, not {kind!r}")
    with one_thread():
        if images is not None:
            refined = _descended(kind, networks, block, images, steps, seed, compute)
            return finite_networks(refined, DIVERGED, HUGE)
        chosen = fitting_strokes(networks, seed)
        refined = {name: torch.empty_like(tensor) for name, tensor in block.items()}
        for number in chosen.unique().tolist():
            which = chosen == number
            scale, width = STROKES[number]
            drawn = strokes(DRAWN, scale, width, seeds.generator(seed, "strokes", number))
            some, start = take(networks, which), take(block, which)
            for name, t in _descended(kind, some, start, drawn, steps, seed, compute).items():
                refined[name][which] = t
        return finite_networks(refined, DIVERGED, HUGE)


def _descended(
    kind: str,
    networks: Weights,
    block: Weights,
    images: ImageSet,
    steps: int,
    seed: int,
    compute: Compute,
) -> Weights:
    """Steps of Adam on the divergence from the large network's outputs."""
    draw = seeds.generator(seed, "refinement")
    batches = torch.randint(len(images), (steps, BATCH), generator=draw)
    drawn = images.subset(batches.flatten())
    wanted = ensemble.outputs("large", drawn, networks, part(networks, "large"), compute)

    def loss(learned: Weights, batch: tuple[Tensor, Tensor]) -> Tensor:
        shown, logits = batch
        probe = Probe(kind, networks, pixels(shown), compute)
        return losses.divergence(kind, learned, probe, logits.softmax(-1)).sum()

    pieces = zip(drawn.images.split(BATCH), wanted.split(BATCH, 1), strict=True)
    return minimise(block, loss, pieces, steps, RATE)


def strokes(count: int, scale: float, width: float, generator: torch.Generator) -> ImageSet:
    """White lines on black: level lines of smooth random fields. The labels are zeros.

    Args:
        scale: of the Gaussian that smooths the fields, in pixels: how far a line goes on as it is.
        width: half the lines' width in pixels.
    """
    reach = int(3 * scale)
    size = IMAGE_SIZE + 2 * reach
    bell = torch.exp(-(torch.arange(-reach, reach + 1.0) ** 2) / (2 * scale**2))
    field = torch.randn(count, 1, size, size, generator=generator)
    field = F.conv2d(F.conv2d(field, bell.view(1, 1, -1, 1)), bell.view(1, 1, 1, -1))
    field = field / field.std((2, 3), keepdim=True)
    level = torch.randn(count, 1, 1, 1, generator=generator) / 2
    down, right = torch.gradient(field, dim=(2, 3))
    distance = (field - level).abs() / (down.square() + right.square()).sqrt().clamp(min=0.02)
    drawn = (width + 0.5 - distance).clamp(0, 1).mul(255).round().to(torch.uint8)
    return ImageSet(drawn.squeeze(1), torch.zeros(count, dtype=torch.int64))


def fitting_strokes(networks: Weights, seed: int) -> Tensor:
    """For each network the kind of strokes, an index of `STROKES`, that fits it best: (N,)."""
    fits = []
    for number, kind in enumerate(STROKES):
        drawn = strokes(COMPARED, *kind, seeds.generator(seed, "strokes", number))
        fits.append(misfit(networks, drawn))
    return torch.stack(fits).argmin(0)


@torch.no_grad()
def misfit(networks: Weights, images: ImageSet) -> Tensor:
    """How far the inputs of networks' batch norms are from the statistics stored there, (N,).

    The mean over channels of the squared difference of means, in standard deviations, and of the
    squared logarithm of the standard deviations' ratio; summed over the four batch norms.
    """
    found: list[Tensor] = []

    def compare(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None and norm.running_var is not None
        variance = norm.running_var + norm.eps
        mean, var = inputs[0].mean((0, 2, 3)), inputs[0].var((0, 2, 3)) + norm.eps
        shift = (mean - norm.running_mean).square() / variance
        found.append((shift + (var / variance).log().square() / 4).mean())

    plain = skeleton(Network).eval()
    for module in plain.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_pre_hook(compare)
    x = pixels(images.images)

    def single(weights: Weights) -> Tensor:
        found.clear()
        functional_call(plain, weights, (x,))
        return torch.stack(found).sum()

    stacked = {name: t for name, t in networks.items() if name.startswith(("former.", "latter."))}
    stacked |= prefixed("block", part(networks, "large"))
    return torch.vmap(single, chunk_size=AT_ONCE)(stacked)
