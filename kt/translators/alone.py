"""Small blocks from the weights alone: nothing is learned, stored or shown.

Random strokes stand for a network's images, of the kind that its batch norms' statistics fit best.
The batch norms adapt to them, so that each channel is as spread as in training. On the strokes the
hidden channels are chosen that explain most, the second convolution is fitted by least squares, and
steps bring the outputs closer to those of the large block.
"""

from torch import Tensor

from kt.ensemble import Compute, Probe
from kt.images import pixels
from kt.networks import channels, symmetry
from kt.networks.blocks import CONVOLUTIONAL, PAPER, block_shapes
from kt.networks.weights import Weights, part, take
from kt.run.errors import KTError
from kt.run.finite import finite_networks
from kt.run.threads import one_thread
from kt.translators.refine import descended
from kt.translators.strokes import adapted, fitting

FITTED = 256
"""Strokes by which channels are chosen and least squares fits."""
STEPS = 200


def from_weights(
    kind: str,
    networks: Weights,
    seed: int,
    compute: Compute = Compute(),
    hidden: int = PAPER.hidden,
    steps: int = STEPS,
) -> Weights:
    """Small blocks of networks (N, ...), a convolutional kind.

    Args:
        networks: stacked `former.*`, `large.*` and `latter.*`.
        seed: of the strokes.
        hidden: channels of the small blocks.
        steps: on the strokes, at the end.

    Raises:
        KTError: the kind is not convolutional, or the blocks are not finite.
    """
    if kind not in CONVOLUTIONAL:
        raise KTError(f"{' and '.join(CONVOLUTIONAL)} blocks are made so, not {kind!r}")
    written: dict[str, Tensor] = {}
    with one_thread():
        for which, drawn in fitting(networks, seed):
            some = take(networks, which)
            few = drawn.subset(slice(FITTED))
            shown = adapted(some, few)
            wide = _folded(kind, shown)
            probe = Probe(kind, shown, pixels(few.images), compute)
            probe.watch_teacher(part(shown, "large"))
            reading = channels.reading(part(shown, "latter"))
            kept = probe.choose(wide, hidden, reading).to(wide["conv1.weight"].device)
            block = channels.keep(wide, kept)
            block |= {"conv2.weight": probe.fit_second_convolution(kind, block)}
            if steps:
                block = descended(kind, shown, block, drawn, steps, seed, compute)
            for name, tensor in _returned(block, kept, some, shown, kind).items():
                whole = tensor.new_empty(len(which), *tensor.shape[1:])
                written.setdefault(name, whole)[which] = tensor
    return finite_networks(written, "small blocks", "the networks' weights are too large")


def _folded(kind: str, networks: Weights) -> Weights:
    """Large blocks without batch norm, and with biases if the kind has them."""
    block = symmetry.fold(part(networks, "large"))
    return {name: block[name] for name in block_shapes(kind)}


def _returned(
    block: Weights, kept: Tensor, networks: Weights, shown: Weights, kind: str
) -> Weights:
    """Blocks as the networks' own images need them.

    What leads to a hidden channel is larger or smaller, and farther from 0, on these than on
    strokes; by how much, the two batch norms' statistics say.
    """
    before, after = (
        part(w, "large.bn1")["running_var"] + symmetry.EPSILON for w in (shown, networks)
    )
    size = (before / after).sqrt().gather(1, kept)
    found = dict(block)
    found["conv1.weight"] = block["conv1.weight"] * size[:, :, None, None, None]
    if "conv1.bias" in block:
        own, other = (_folded(kind, w)["conv1.bias"] for w in (networks, shown))
        found["conv1.bias"] = block["conv1.bias"] + (own - other).gather(1, kept)
    return found
