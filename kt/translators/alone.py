"""Small blocks from the weights alone: nothing is learned, stored or shown.

Random strokes stand for a network's images, of the kind that its batch norms' statistics fit best.
The batch norms adapt to them, so that each channel is as spread as in training. On the strokes the
hidden channels are chosen that explain most, the second convolution is fitted by least squares, and
steps bring the outputs, as softened probabilities, closer to those of the large block.
"""

from torch import Tensor

from kt.ensemble import Compute, Probe
from kt.images import pixels
from kt.networks import channels, symmetry
from kt.networks.blocks import CONVOLUTIONAL, PAPER, block_shapes
from kt.networks.weights import Weights, part
from kt.run.errors import KTError
from kt.run.finite import finite_networks
from kt.run.threads import one_thread
from kt.translators.refine import descended, softened
from kt.translators.strokes import fitting, moved

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
        KTError: the kind is not convolutional, there are not as many channels, or the blocks are
            not finite.
    """
    most = networks["large.conv1.weight"].shape[1]
    if not 1 <= hidden <= most:
        raise KTError(f"hidden is {hidden}; accepts 1 to {most}, the networks' channels")
    if kind not in CONVOLUTIONAL:
        raise KTError(f"{' and '.join(CONVOLUTIONAL)} blocks are made so, not {kind!r}")
    written: dict[str, Tensor] = {}
    with one_thread():
        for which, drawn, some, shown in fitting(networks, seed):
            folded = symmetry.fold(part(shown, "large"))
            wide = {name: folded[name] for name in block_shapes(kind)}
            probe = Probe(kind, shown, pixels(drawn.images[:FITTED]), compute)
            probe.watch_teacher(part(shown, "large"))
            reading = channels.reading(part(shown, "latter"))
            kept = probe.choose(wide, hidden, reading).to(wide["conv1.weight"].device)
            block = channels.keep(wide, kept)
            block |= {"conv2.weight": probe.fit_second_convolution(kind, block)}
            if steps:
                block = descended(kind, softened(shown), block, drawn, steps, seed, compute)
            for name, tensor in moved(block, shown, some).items():
                whole = tensor.new_empty(len(which), *tensor.shape[1:])
                written.setdefault(name, whole)[which] = tensor
    return finite_networks(written, "small blocks", "the networks' weights are too large")
