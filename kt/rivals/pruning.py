"""Pruning: the large block keeps some of its hidden channels, batch norm folded in.

Which ones is decided by the norms of their weights (as Li et al., 2017, do with filters), or by
trying all choices on unlabelled images (twenty, of three among six; of very many, by backward
elimination). The second convolution can then be fitted anew by least
squares, so that the kept channels stand in for the others (He et al., 2017, and Luo et al., 2017).
The small block `conv` has no biases: those of the folded batch norm are dropped.
"""

import torch

from kt.ensemble import Compute, Probe
from kt.images import ImageSet, pixels
from kt.networks import channels, symmetry
from kt.networks.blocks import CONVOLUTIONAL, PAPER, block_shapes
from kt.networks.channels import reading
from kt.networks.weights import Weights, part
from kt.run.errors import KTError

IMAGES = 512
"""Unlabelled images that are enough to choose among prunings and to refit."""


def folded(kind: str, large: Weights) -> Weights:
    """Stacked large blocks (N, ...) with batch norm folded in, and biases if `kind` has them.

    Raises:
        KTError: there is no pruning to this kind of block.
    """
    if kind not in CONVOLUTIONAL:
        raise KTError(f"pruning leaves {' or '.join(CONVOLUTIONAL)}, not {kind!r}")
    block = symmetry.fold(large)
    return {name: block[name] for name in block_shapes(kind)}


def by_norm(kind: str, large: Weights, hidden: int = PAPER.hidden) -> Weights:
    """The `hidden` channels with the largest product of what goes in and what comes out.

    The product does not depend on how a hidden channel is scaled.
    """
    wide = folded(kind, large)
    into = wide["conv1.weight"].flatten(2).norm(dim=2)
    out = wide["conv2.weight"].transpose(1, 2).flatten(2).norm(dim=2)
    return channels.keep(wide, (into * out).topk(hidden).indices.sort().values)


def best_subset(
    kind: str,
    networks: Weights,
    images: ImageSet,
    compute: Compute = Compute(),
    refitted: bool = False,
    hidden: int = PAPER.hidden,
) -> Weights:
    """Of all subsets of `hidden` channels the one whose network's outputs diverge least.

    With `refitted` second convolutions, or where there are too many subsets to try them, the one
    that leaves the least squared error, as the latter block reads it (`Probe.choose`).

    Args:
        networks: stacked `former.*`, `large.*` and `latter.*`.
        images: unlabelled: the labels are not used.
        refitted: fit every subset's second convolution anew, before they are compared.
    """
    large = part(networks, "large")
    wide = folded(kind, large)
    probe = Probe(kind, networks, pixels(images.images), compute)
    answers = probe.watch_teacher(large)
    count = wide["conv1.weight"].shape[1]
    if refitted or not channels.are_few(count, hidden):
        block = channels.keep(wide, probe.choose(wide, hidden, reading(part(networks, "latter"))))
        if not refitted:
            return block
        return block | {"conv2.weight": probe.fit_second_convolution(kind, block)}
    ways = channels.subsets(count, hidden)
    wanted, losses = answers.softmax(-1), []
    for subset in ways:
        answers = probe.outputs(kind, channels.keep(wide, subset)).log_softmax(-1)
        losses.append(-(wanted * answers).sum(-1).mean(-1))  # divergence and a constant
    return channels.keep(wide, ways[torch.stack(losses).argmin(0)])
