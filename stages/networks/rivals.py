"""What others do to a residual network's blocks without training: channels dropped, merged, mended.

Every rival narrows the two 3x3 convolutions of a block, with a batch norm behind each.
"""

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from kt.real import choose, surgery
from kt.real.blocks import Block
from kt.real.graph import Graph, Walk
from kt.real.moments import gather
from kt.real.steps import TEMPERATURE, divergence

Narrow = Callable[[nn.Module, Block, int, torch.Generator], None]


def randomly(network: nn.Module, block: Block, width: int, draw: torch.Generator) -> None:
    """Keep channels drawn at random."""
    kept = torch.randperm(block.channels, generator=draw)[:width]
    surgery.shrink(network, block, sorted(kept.tolist()))


def by_norm(network: nn.Module, block: Block, width: int, draw: torch.Generator) -> None:
    """Keep the channels whose first weights are the largest.

    Li et al., 2017, "Pruning Filters for Efficient ConvNets": by the sum of absolute values. Scaled
    by their batch norm they tell much less here.
    """
    surgery.shrink(network, block, largest(network, block, width))


def largest(network: nn.Module, block: Block, width: int) -> list[int]:
    """The channels of the largest first weights, in increasing order."""
    sizes = network.get_submodule(block.into).weight.detach().abs().flatten(1).sum(1)
    return sorted(sizes.topk(width).indices.tolist())


def folded(network: nn.Module, block: Block, width: int, draw: torch.Generator) -> None:
    """Merge channels that are alike: k-means over their weights, means in, sums out.

    Wang et al., 2025, "Forget the Data and Fine-Tuning! Just Fold the Network to Compress". Its
    statistics are mended by `kt.real.drawing.recalibrate`.
    """
    into, norm = (network.get_submodule(name) for name in (block.into, block.between[0]))
    out = network.get_submodule(block.out)
    points = into.weight.detach().flatten(1)
    group = _clusters(points, width, draw)
    members = nn.functional.one_hot(group, width).to(points).T  # (width, channels)
    means = members / members.sum(1, keepdim=True)
    columns = torch.einsum("kc,ochw->okhw", members, out.weight.detach())
    rows = torch.einsum("kc,cihw->kihw", means, into.weight.detach())
    vectors = {key: means @ getattr(norm, key).detach() for key in ("weight", "bias")}
    vectors |= {key: means @ getattr(norm, key) for key in ("running_mean", "running_var")}
    surgery.shrink(network, block, list(range(width)))
    with torch.no_grad():
        into.weight.copy_(rows)
        out.weight.copy_(columns)
        for key, vector in vectors.items():
            getattr(norm, key).copy_(vector)


def _clusters(points: Tensor, count: int, draw: torch.Generator) -> Tensor:
    """Lloyd's k-means, none of the clusters empty: of each point its cluster."""
    start = torch.randperm(len(points), generator=draw)[:count]
    centres = points[start]
    for _ in range(50):
        distance = torch.cdist(points, centres)
        group = distance.argmin(1)
        for empty in set(range(count)) - set(group.tolist()):
            shared = torch.bincount(group, minlength=count)[group] > 1
            own = distance.gather(1, group[:, None])[:, 0]
            group[own.where(shared, own.new_tensor(-1.0)).argmax()] = empty
        members = nn.functional.one_hot(group, count).to(points).T
        centres = members @ points / members.sum(1, keepdim=True)
    return group


def fitted(
    original: nn.Module,
    graph: Graph,
    blocks: Iterable[Block],
    widths: Mapping[str, int],
    images: Tensor,
    draw: torch.Generator,
    pointwise: bool,
) -> nn.Module:
    """Channels of the largest norm, and the second convolution fitted to what it gave before.

    Args:
        pointwise: fit only how a dropped channel's value follows from the kept channels' at the
            same place, a 1x1 map that the convolution takes up (as GRAIL, 2026); or the whole 3x3
            map.
    """
    smaller = copy.deepcopy(original)
    before, now = (
        [Walk(graph, network, batch) for batch in images.split(100)]
        for network in (original, smaller)
    )
    for block in blocks:
        kept = largest(smaller, block, widths[block.into])
        found = gather(block, graph, original, before, now, 64, draw)
        if pointwise:
            out = smaller.get_submodule(block.out)
            centre = found.each // 2
            places = torch.arange(block.channels) * found.each + centre
            hidden = found.inputs[places][:, places]
            hidden = hidden + choose.RIDGE * hidden.diagonal().mean() * torch.eye(len(hidden))
            spread = torch.linalg.solve(hidden[kept][:, kept], hidden[kept]).to(out.weight)
            weight = torch.einsum("kc,ochw->okhw", spread, out.weight.detach())
            bias = torch.zeros(len(weight)) if out.bias is None else out.bias.detach()
            surgery.shrink(smaller, block, kept)
            surgery.replace(smaller, block, weight.flatten(1), bias)
        else:
            surgery.shrink(smaller, block, kept)
            surgery.replace(smaller, block, *choose.fit(found, kept))
    return smaller


def adam(
    smaller: nn.Module,
    original: nn.Module,
    batches: Iterator[Tensor],
    steps: int,
    blocks: int,
    length: float = 1.0,
) -> None:
    """Steps of Adam on all parameters towards the original's answers, in place.

    As `kt.real.steps.descend` but for the direction: each tensor's rate is a share of its root mean
    square, 0.15 over the number of blocks and at most 0.02, which was the best of several.

    Args:
        length: the longest step, relative to that.
    """
    longest = length * min(0.02, 0.15 / blocks)
    parameters = [p for p in smaller.requires_grad_(True).parameters()]
    optimizer = torch.optim.Adam(
        [
            {"params": [p], "lr": longest * p.detach().square().mean().sqrt().item()}
            for p in parameters
        ]
    )
    falling = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: (
            min(1.0, (step + 1) / min(20, 1 + steps // 4))
            * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        ),
    )
    for _ in range(steps):
        batch = next(batches)
        with torch.no_grad():
            expected = original(batch)
        loss = divergence(smaller(batch), expected, TEMPERATURE)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        falling.step()
    smaller.requires_grad_(False)
