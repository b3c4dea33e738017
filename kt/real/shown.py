"""Blocks made smaller by what the network does on examples, then steps on its answers."""

import copy
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kt.real import choose, steps, surgery
from kt.real.graph import Example, Walk, call
from kt.real.images import are_images, split, stream, take
from kt.real.moments import gather
from kt.real.subject import Subject
from kt.real.widths import measured_at
from kt.run.errors import KTError

HARM = 128
"""Examples on which the harm of narrowing each block alone is measured."""
HARM_MOMENTS = 400
"""Examples from which the blocks that are judged so are made."""
BATCH = 100
"""Examples read at once."""


@torch.no_grad()
def harms(subject: Subject, examples: Example) -> dict[str, dict[int, float]]:
    """What narrowing each block alone does to the answers, at some widths."""
    original, graph, blocks = subject.original, subject.graph, subject.blocks
    walks = [
        Walk(graph, original, batch) for batch in split(take(examples, slice(HARM_MOMENTS)), HARM)
    ]
    (end,) = (node for node in graph.nodes if node.op == "output")

    def answers(walk: Walk) -> Any:
        return walk.read({end: lambda value: value})[end]

    expected = answers(walks[0].branch())
    found: dict[str, dict[int, float]] = {}
    for at, block in enumerate(blocks):
        moments = gather(block, graph, original, walks, walks, subject.positions, subject.draw)
        found[block.into] = {}
        wanted = measured_at(block.channels)
        for width, kept in choose.eliminate(moments, wanted).items():
            trial = copy.deepcopy(original)
            surgery.shrink(trial, block, kept)
            surgery.replace(trial, block, *choose.fit(moments, kept))
            harm = steps.divergence(answers(walks[0].branch(trial)), expected)
            found[block.into][width] = harm.item()
        subject.told("measure harm", at + 1, len(blocks))
    return found


@torch.no_grad()
def translate(subject: Subject, examples: Example, widths: Mapping[str, int]) -> nn.Module:
    """A copy of a network with smaller blocks, made one after the other.

    Each block is fitted on what the blocks before it give by now. So is one that keeps its width,
    once a block before it does not.
    """
    original, blocks = subject.original, subject.blocks
    smaller = copy.deepcopy(original)
    changed = False
    before, now = (
        [Walk(subject.graph, network, batch) for batch in split(examples, BATCH)]
        for network in (original, smaller)
    )
    for at, block in enumerate(blocks):
        width = widths[block.into]
        changed |= width < block.channels
        if changed:
            moments = gather(
                block, subject.graph, original, before, now, subject.positions, subject.draw
            )
            kept = choose.eliminate(moments, [width])[width]
            surgery.shrink(smaller, block, kept)
            surgery.replace(smaller, block, *choose.fit(moments, kept))
        subject.told("translate", at + 1, len(blocks))
    return smaller


def descended(
    subject: Subject, smaller: nn.Module, seen: Example, unseen: Example,
    schedule: steps.Schedule, vary: bool,
) -> tuple[nn.Module, tuple[float, float], int]:  # fmt: skip
    """A smaller network that has taken its steps, or the given one if they bring nothing.

    Args:
        seen: examples to learn from. unseen: by which the steps are judged.

    Returns:
        It, agreement with the original before and after on the unseen, and the steps taken.
    """
    original = subject.original
    before = agreement(smaller, original, unseen)
    if not schedule.steps or all(b.width_in(smaller) == b.channels for b in subject.blocks):
        return smaller, (before, before), 0
    moved = copy.deepcopy(smaller)
    batches = stream(seen, schedule.batch, subject.draw, vary)
    if vary and are_images(seen) and not _reads_channels_last(original, seen[: schedule.batch]):
        batches = (batch.contiguous() for batch in batches)
    steps.descend(
        moved,
        original,
        subject.graph,
        batches,
        schedule,
        len(subject.blocks),
        subject.draw,
        partial(subject.told, "steps"),
    )
    # Agreement on a few examples is coarse, and mixtures teach answers less certain than the
    # original's: so either may improve.
    after = agreement(moved, original, unseen)
    if error(moved, original, unseen) < error(smaller, original, unseen) or after > before:
        return moved, (before, after), schedule.steps
    return smaller, (before, before), 0


@torch.no_grad()
def _reads_channels_last(network: nn.Module, images: Tensor) -> bool:
    """Whether a network reads images as `stream` varies them, channels last in memory.

    One that flattens its maps by `view` does not.
    """
    try:
        call(network, images.contiguous(memory_format=torch.channels_last))
    except KTError:
        return False
    return True


@torch.no_grad()
def error(smaller: nn.Module, original: nn.Module, examples: Example) -> float:
    """How far the answers of one are from the other's: what the steps make smaller."""
    answers = (call(network, examples) for network in (smaller, original))
    return steps.divergence(*answers, steps.TEMPERATURE).item()


@torch.no_grad()
def agreement(smaller: nn.Module, original: nn.Module, examples: Example) -> float:
    """Equal answers, or variance explained, in percent; of the first floating-point answer."""
    ours, theirs = steps.paired(call(smaller, examples), call(original, examples))[0]
    if steps.are_scores(theirs):
        return 100 * (ours.argmax(1) == theirs.argmax(1)).double().mean().item()
    return 100 - 100 * steps.divergence(ours, theirs).item()
