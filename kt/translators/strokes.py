"""Random strokes that stand for a network's own images, chosen by what its batch norms stored.

DeepInversion (Yin et al., 2020) makes images by the same measure.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from kt.images import ImageSet, fitted, pixels
from kt.networks import symmetry
from kt.networks.blocks import PAPER, Network, Sizes, sizes_of, skeleton
from kt.networks.weights import Weights, part, prefixed, take
from kt.run import memory, seeds
from kt.run.finite import solving

STROKES: tuple[tuple[float, float], ...] = tuple(product((3.0, 4.0, 6.0), (0.5, 0.7, 1.2, 1.8)))
"""Kinds of strokes, (scale, width) in pixels: see `strokes`."""
DRAWN, COMPARED = 4096, 64
"""Strokes of the chosen kind, and of each kind to choose among the kinds."""
ADAPTED = 256
"""Strokes that batch norms adapt to."""
FIELDS = 6
"""Numbers for each pixel that are in memory at once while strokes are drawn."""
AT_ONCE = 16
"""Networks whose statistics are computed in one go."""


def fitting(networks: Weights, seed: int) -> Iterator[tuple[Tensor, ImageSet, Weights, Weights]]:
    """Strokes for each network: for each kind that some need, one after the other.

    Returns:
        Which networks these are, (N,) bool; strokes; these networks; and the same, adapted.

    Raises:
        KTError: there is no memory for strokes of their images' size.
    """
    side = sizes_of(networks).image_size
    what = f"drawing {DRAWN:,} images of {side} x {side} pixels"
    memory.require(4.0 * FIELDS * DRAWN * side**2, what, "give networks for smaller ones")
    chosen = fitting_strokes(networks, seed)
    for number in chosen.unique().tolist():
        scale, width = STROKES[number]
        draw = seeds.generator(seed, "strokes", number)
        drawn = strokes(DRAWN, scale, width, draw, sizes_of(networks))
        some = take(networks, chosen == number)
        yield chosen == number, drawn, some, adapted(some, drawn.subset(slice(ADAPTED)))


def strokes(
    count: int, scale: float, width: float, generator: torch.Generator, sizes: Sizes = PAPER
) -> ImageSet:
    """White lines on black: level lines of smooth random fields. The labels are zeros.

    Args:
        scale: of the Gaussian that smooths the fields, in pixels: how far a line goes on as it is.
        width: half the lines' width in pixels.
        sizes: of the networks that are to be shown them.
    """
    reach = int(3 * scale)
    size = sizes.image_size + 2 * reach
    bell = torch.exp(-(torch.arange(-reach, reach + 1.0) ** 2) / (2 * scale**2))
    field = torch.randn(count, 1, size, size, generator=generator)
    field = F.conv2d(F.conv2d(field, bell.view(1, 1, -1, 1)), bell.view(1, 1, 1, -1))
    field = field / field.std((2, 3), keepdim=True)
    level = torch.randn(count, 1, 1, 1, generator=generator) / 2
    down, right = torch.gradient(field, dim=(2, 3))
    distance = (field - level).abs() / (down.square() + right.square()).sqrt().clamp(min=0.02)
    drawn = (width + 0.5 - distance).clamp(0, 1).mul(255).round().to(torch.uint8)
    shown = ImageSet(drawn.squeeze(1), torch.zeros(count, dtype=torch.int64))
    return fitted(shown, sizes.image_channels, sizes.image_size)


def fitting_strokes(networks: Weights, seed: int) -> Tensor:
    """For each network the kind of strokes, an index of `STROKES`, that fits it best: (N,)."""
    fits, sizes = [], sizes_of(networks)
    for number, kind in enumerate(STROKES):
        drawn = strokes(COMPARED, *kind, seeds.generator(seed, "strokes", number), sizes)
        fits.append(misfit(networks, drawn))
    return torch.stack(fits).argmin(0)


def misfit(networks: Weights, images: ImageSet) -> Tensor:
    """How far the inputs of networks' batch norms are from the statistics stored there, (N,).

    The mean over channels of the squared difference of means, in standard deviations, and of the
    squared logarithm of the standard deviations' ratio; summed over the four batch norms.
    """

    def apart(norm: nn.BatchNorm2d, inputs: Tensor) -> Tensor:
        assert norm.running_mean is not None and norm.running_var is not None
        variance = norm.running_var + norm.eps
        mean, var = inputs.mean((0, 2, 3)), inputs.var((0, 2, 3)) + norm.eps
        shift = (mean - norm.running_mean).square() / variance
        return (shift + (var / variance).log().square() / 4).mean()

    return torch.stack(list(_at_norms(networks, images, apart).values())).sum(0)


def adapted(networks: Weights, images: ImageSet) -> Weights:
    """Networks whose batch norms take their statistics from some images: all else is as it was.

    So what each passes on has the mean and deviation in every channel that it had in training (Li
    et al., 2017, "Revisiting Batch Normalization for Practical Domain Adaptation").

    Returns:
        `former.*`, `large.*` and `latter.*`.
    """

    def statistics(norm: nn.BatchNorm2d, inputs: Tensor) -> Tensor:
        norm.running_mean = norm.running_var = None  # it goes by what it reads
        return torch.stack([inputs.mean((0, 2, 3)), inputs.var((0, 2, 3))])

    found = dict(networks)
    for name, seen in _at_norms(networks, images, statistics).items():
        found[f"{name}.running_mean"], found[f"{name}.running_var"] = seen.unbind(1)
    return found


def moved(block: Weights, before: Weights, after: Weights) -> Weights:
    """Small blocks of networks for the same networks with other batch norm statistics.

    What leads to a hidden channel is a mixture of what leads to the large block's, and a rest. Each
    of these is as large, and as far from 0, as the batch norm behind it says. Moved there and back
    a block is as it was.

    Args:
        block: of a convolutional kind. before, after: `former.*`, `large.*` and `latter.*`.
    """
    rows, biases, variances = [], [], []
    for networks in (before, after):
        folded = symmetry.fold(part(networks, "large"))
        rows.append(folded["conv1.weight"].flatten(2).double())
        biases.append(folded["conv1.bias"].double())
        variances.append(networks["large.bn1.running_var"].double() + symmetry.EPSILON)
    into = block["conv1.weight"].flatten(2).double()
    with solving("the networks' large blocks"):
        shares = into @ torch.linalg.pinv(rows[0])  # (N, hidden, channels)
    rest = into - shares @ rows[0]
    weighed = shares.square() + torch.finfo(shares.dtype).tiny
    ratio = (variances[0] / variances[1]).log()[:, :, None] / 2
    size = (weighed @ ratio / weighed.sum(2, True)).exp()
    found = dict(block)
    whole = (shares @ rows[1] + size * rest).view_as(block["conv1.weight"])
    found["conv1.weight"] = whole.to(block["conv1.weight"])
    if "conv1.bias" in block:
        more = (shares @ (biases[1] - biases[0])[:, :, None])[:, :, 0]
        found["conv1.bias"] = block["conv1.bias"] + more.to(block["conv1.bias"])
    return found


@torch.no_grad()
def _at_norms(
    networks: Weights, images: ImageSet, watch: Callable[[nn.BatchNorm2d, Tensor], Tensor]
) -> dict[str, Tensor]:
    """What is seen at each batch norm's input, by its name: (N, ...)."""
    sizes = sizes_of(networks)
    plain = skeleton(lambda: Network(sizes=sizes)).eval()
    found: dict[str, Tensor] = {}

    def look(name: str, norm: nn.BatchNorm2d, inputs: tuple[Tensor]) -> None:
        found[name] = watch(norm, inputs[0])

    for name, module in plain.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_pre_hook(partial(look, name.replace("block.", "large.")))
    x = pixels(images.images)

    def single(weights: Weights) -> dict[str, Tensor]:
        found.clear()
        functional_call(plain, weights, (x,))
        return dict(found)

    stacked = {name: t for name, t in networks.items() if name.startswith(("former.", "latter."))}
    stacked |= prefixed("block", part(networks, "large"))
    return torch.vmap(single, chunk_size=AT_ONCE)(stacked)
