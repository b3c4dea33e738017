"""Images made from a network itself, where none are given."""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from kt.real.blocks import NORMS
from kt.real.graph import Example, Graph, tensors
from kt.real.images import are_images
from kt.real.steps import Progress, are_scores
from kt.run.errors import KTError

COUNT = 256
"""Images made."""
TOGETHER = 128
"""So many at once: their statistics are matched."""
ROUNDS = 60
RATE = 0.1
SMOOTHNESS = 0.01
LABELS = 0.1
"""What total variation and given labels count beside the mean mismatch of the batch norms."""


def make(
    model: nn.Module,
    graph: Graph,
    example: Example,
    draw: torch.Generator,
    progress: Progress,
) -> Example:
    """Examples of which the network's batch norms would have seen what they have seen.

    From smooth noise, by descent on the images: at each batch norm the mean and deviation of every
    channel over a batch are to be those that the layer keeps (Yin et al., 2020, after Haroush et
    al., 2020), each image is to be of a class drawn for it, and neighbouring pixels are to be
    alike. A network without batch norm gets smooth noise; one that does not read images, noise.

    Raises:
        KTError: the network reads something other than floating-point numbers.
    """
    own = tensors(example)
    if not all(tensor.is_floating_point() for tensor in own):
        raise KTError("images: needed, since the network reads other than floating-point numbers")
    if not are_images(example):
        return _noise(example, draw)
    norms = {}
    for node in graph.nodes:
        layer = model.get_submodule(node.target) if node.op == "call_module" else None
        if type(layer) in NORMS and layer.running_mean is not None:
            norms[node.args[0]] = layer
    batches = []
    starts = smooth(own[0], draw)
    if not norms:
        return starts
    for start in starts.split(TOGETHER):
        batches.append(_matched(model, graph, norms, start, draw, progress))
    return torch.cat(batches)


def smooth(example: Tensor, draw: torch.Generator) -> Tensor:
    """Noise images of an example's size, in which neighbouring pixels are alike."""
    noise = torch.randn(COUNT, *example.shape[1:], generator=draw)
    return 2 * F.avg_pool2d(noise, 3, 1, 1).to(example)


def _matched(
    model: nn.Module,
    graph: Graph,
    norms: Mapping[fx.Node, nn.Module],
    start: Tensor,
    draw: torch.Generator,
    progress: Progress,
) -> Tensor:
    """Images changed until what the batch norms read is as it should be."""
    (end,) = (node for node in graph.nodes if node.op == "output")
    wanted = {node: partial(_mismatch, norm) for node, norm in norms.items()} | {end: tensors}
    made = start.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([made], RATE)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, ROUNDS, RATE / 100)
    labels = None
    for step in range(ROUNDS):
        with torch.enable_grad():
            seen = graph.read(model, made, wanted)
            answer = seen.pop(end)[0]
            loss = torch.stack(list(seen.values())).mean()
            if are_scores(answer):
                if labels is None:
                    labels = torch.randint(answer.shape[1], (len(made),), generator=draw)
                loss = loss + LABELS * F.cross_entropy(answer, labels.to(made.device))
            rough = made.diff(dim=2).square().mean() + made.diff(dim=3).square().mean()
            (made.grad,) = torch.autograd.grad(loss + SMOOTHNESS * rough, [made])
        optimizer.step()
        falling.step()
        progress(step + 1, ROUNDS)
    return made.detach()


def _mismatch(norm: nn.Module, value: Tensor) -> Tensor:
    over = [0, *range(2, value.ndim)]
    spread = (norm.running_var + norm.eps).sqrt()
    mean, deviation = value.mean(over), (value.var(over) + norm.eps).sqrt()
    return (
        ((mean - norm.running_mean) / spread).square() + (deviation / spread - 1).square()
    ).mean()


def _noise(example: Example, draw: torch.Generator) -> Example:
    if isinstance(example, Tensor):
        return torch.randn(COUNT, *example.shape[1:], generator=draw).to(example)
    if isinstance(example, dict):
        return {name: _noise(value, draw) for name, value in example.items()}
    return tuple(_noise(value, draw) for value in example)
