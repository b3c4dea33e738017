"""Refinement: some hundred steps bring a small block closer to the large block's behaviour.

It starts from a translation or any other small block, with unlabelled images or on random strokes
(`kt.translators.strokes`), to which the networks' batch norms adapt meanwhile.
"""

import torch
from torch import Tensor

from kt import ensemble
from kt.ensemble import Compute, Probe
from kt.images import ImageSet, pixels
from kt.networks.blocks import CONVOLUTIONAL
from kt.networks.weights import Weights, part, take
from kt.run import memory, seeds
from kt.run.errors import KTError
from kt.run.finite import finite_networks
from kt.run.optimizer import minimise
from kt.run.threads import one_thread
from kt.translators import losses
from kt.translators.strokes import fitting, moved

BATCH = 32
"""Images in a step."""
COPIES = 2
"""Of all steps' images, a byte a pixel, that are in memory at once."""
RATE = 0.01
"""Adam's learning rate in the first step; it falls linearly to zero."""
MOST_STEPS = 100_000
"""Their images are in memory at once."""
TEMPERATURE = 4.0
"""Softens the classes' probabilities on strokes, as in distillation (Hinton et al., 2015)."""
DIVERGED, HUGE = "refined blocks", "the networks' weights are too large"


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
            refined = descended(kind, networks, block, images, steps, seed, compute)
            return finite_networks(refined, DIVERGED, HUGE)
        refined = {name: torch.empty_like(tensor) for name, tensor in block.items()}
        for which, drawn, some, shown in fitting(networks, seed):
            start = moved(take(block, which), some, shown)
            end = descended(kind, softened(shown), start, drawn, steps, seed, compute)
            for name, t in moved(end, shown, some).items():
                refined[name][which] = t
        return finite_networks(refined, DIVERGED, HUGE)


def softened(networks: Weights) -> Weights:
    """Networks whose scores are divided by `TEMPERATURE`, as their last layer gives them."""
    scores = ("latter.fc.weight", "latter.fc.bias")
    return {**networks, **{name: networks[name] / TEMPERATURE for name in scores}}


def descended(
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
    shown = COPIES * steps * BATCH * images.images[:1].numel()
    memory.require(shown, f"refining in {steps:,} steps", "take fewer")
    batches = torch.randint(len(images), (steps, BATCH), generator=draw)
    drawn = images.subset(batches.flatten())
    wanted = ensemble.outputs("large", drawn, networks, part(networks, "large"), compute)

    def loss(learned: Weights, batch: tuple[Tensor, Tensor]) -> Tensor:
        shown, logits = batch
        probe = Probe(kind, networks, pixels(shown), compute)
        return losses.divergence(kind, learned, probe, logits.softmax(-1)).sum()

    pieces = zip(drawn.images.split(BATCH), wanted.split(BATCH, 1), strict=True)
    return minimise(block, loss, pieces, steps, RATE)
