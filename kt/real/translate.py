"""Make a trained network smaller without labels and without training it again."""

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import nn

from kt.real import alone, cost, drawing, shown, steps, widths
from kt.real.blocks import Block, find
from kt.real.files import state_of
from kt.real.graph import Example, Graph, as_floats, call, size, tensors, users_code
from kt.real.images import collect, split, take
from kt.real.request import require_nothing_shown, require_possible
from kt.real.subject import Progress, Subject
from kt.run.errors import KTError
from kt.run.finite import is_finite
from kt.run.given import require_kind
from kt.run.surroundings import usual_settings

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HELD_OUT = 10
"""One in so many images is kept aside to measure agreement."""
SAME = 1e-3
"""How far a network's answers to the same example may be apart, relative to their size."""
ADAPTED = 250
"""Examples over which batch norms take statistics at once."""


@dataclass(frozen=True)
class Report:
    """What was done to a network.

    Attributes:
        blocks: hidden channels before and after, by the name of the block's first map.
        left: layers that were left as they are, with the reason.
        parameters, multiply_adds: of the whole network, before and after.
        latency: milliseconds for the example, before and after, as measured here.
        agreement: on held-out examples, before the steps and at the end: the share, in percent, of
            equal answers (class scores), or of explained variance (other answers). None from the
            weights alone.
        images: examples used, held-out ones included.
        made: whether they were drawn, since none were given. Agreement is then that of the network
            whose batch norms have adapted to them.
        steps: taken on the answers.
        seconds: that all of this took, latency aside.
    """

    blocks: dict[str, tuple[int, int]]
    left: dict[str, str]
    parameters: tuple[int, int]
    multiply_adds: tuple[int, int]
    latency: tuple[float, float]
    agreement: tuple[float, float] | None
    images: int
    made: bool
    steps: int
    seconds: float


@usual_settings(device=False)
def compress(
    model: nn.Module,
    example: Example,
    keep: float | Mapping[str, int] = 0.5,
    images: Any = None,
    *,
    weights_alone: bool = False,
    of: Literal["multiply-adds", "parameters"] = "multiply-adds",
    ratios: Literal["harm", "even"] = "harm",
    round_to: int = 1,
    schedule: steps.Schedule | None = None,
    vary: bool = True,
    positions: int = 64,
    normalise: tuple[Sequence[float], Sequence[float]] = IMAGENET,
    seed: int = 0,
    progress: Progress | None = None,
) -> nn.Module:
    """A smaller copy of a trained network that answers alike.

    The hidden channels between two maps (convolutions or linear layers) are translated into fewer:
    backward elimination chooses them, least squares fits how the second map reads them, and steps
    on the answers follow. What lies on a residual stream keeps its width. The first layers of a
    block, up to the second map, only lose channels until the steps; the second gets a bias if it
    has none.

    Args:
        model: it can be traced by `torch.fx`; its answers are tensors, in any nesting. It is not
            changed.
        example: one input or a batch of them: a tensor, a tuple of inputs, or a mapping by name.
        keep: the share of the whole network's cost, above 0 and up to 1; or the width of each block
            to be translated, by the name of its first map.
        images: unlabelled examples: in the example's form, or an iterable of batches, or a folder.
            A thousand do. Without any they are drawn (`kt.real.drawing`), and the network's batch
            norms adapt to them while its blocks are translated.
        weights_alone: translate each block from its own weights (`kt.real.alone`), in seconds
            for networks of CIFAR's size. No image is given or drawn and no steps are taken, so
            `vary` and `normalise` do not matter; it answers less alike.
        of: the cost that `keep` is a share of: that of the whole network, what is left included.
        ratios: widths where they do the least harm, or the same share for all blocks.
        round_to: widths are multiples of it.
        schedule: the steps on the answers; `Schedule(0)` is none.
        vary: shift, mirror and mix images for the steps.
        positions: in each image, at most, from which least squares learns.
        normalise: means and deviations for a folder's images, pixels in [0, 1].
        seed: of all that is drawn.
        progress: called with what is done now, how much of it, and of how much.

    Returns:
        A network of the same class, ordinary layers, with the same modes, types and device as the
        given one; a `Report` is its attribute `kt_report`.

    Raises:
        KTError: the network cannot be traced, has nothing to translate, carries hooks, or the
            request cannot be met.
    """
    begun = time.perf_counter()
    require_possible(
        model,
        example,
        keep,
        of,
        ratios,
        counts={"round_to": round_to, "positions": positions},
        flags={"weights_alone": weights_alone, "vary": vary},
        normalise=normalise,
        seed=seed,
        progress=progress,
    )
    require_kind("schedule", schedule, steps.Schedule | None, "a Schedule: Schedule(0) is no steps")
    if weights_alone:
        require_nothing_shown(images, schedule)
    before = state_of(model)
    told = progress or (lambda what, done, total: None)
    original = _prepared(model)
    example = as_floats(example)
    graph = Graph(original, example)
    answer = _first_answer(original, example)
    blocks, left = _found(original, graph, example)
    if not blocks:
        raise KTError(f"nothing to translate: {_summary(left)}")
    draw = torch.Generator().manual_seed(int(seed))
    costs = cost.shares(original, graph, example, of)
    budget = 0.0 if isinstance(keep, Mapping) else float(keep) * sum(costs.values())
    if of == "parameters":
        budget -= cost.new_biases(original, blocks)

    def chosen(harms: Callable[[], Mapping[str, Mapping[int, float]]]) -> dict[str, int]:
        """The width of each block."""
        if isinstance(keep, Mapping):
            return widths.given(blocks, keep)
        if keep == 1:
            return {block.into: block.channels for block in blocks}
        if ratios == "even":
            return widths.evenly(blocks, costs, budget, round_to)
        return widths.by_harm(blocks, harms(), costs, budget, round_to)

    subject = Subject(original, graph, blocks, positions, draw, told)
    made = images is None and not weights_alone
    agreement, used, taken = None, 0, 0
    if weights_alone:
        smaller = alone.translate(subject, example, chosen(lambda: alone.harms(subject, example)))
    else:
        if made:
            examples = drawing.make(example, draw, partial(told, "draw images"))
            drawing.adapt(original, split(examples, ADAPTED))
        else:
            with users_code("images cannot be read"):
                examples = as_floats(collect(images, example, *normalise))
        used = size(examples)
        held = max(1, used // HELD_OUT)
        seen, unseen = take(examples, slice(held, None)), take(examples, slice(held))
        smaller = shown.translate(subject, seen, chosen(lambda: shown.harms(subject, seen)))
        smaller, agreement, taken = shown.descended(
            subject, smaller, seen, unseen, schedule or steps.Schedule(), vary
        )
        if made:
            drawing.restore(smaller)
    steps.paired(call(smaller, example), answer)
    seconds = time.perf_counter() - begun
    report = Report(
        {block.into: (block.channels, block.width_in(smaller)) for block in blocks},
        left,
        (cost.parameters(original), cost.parameters(smaller)),
        (cost.multiply_adds(original, example), cost.multiply_adds(smaller, example)),
        (cost.latency(original, example), cost.latency(smaller, example)),
        agreement,
        used,
        made,
        taken,
        seconds,
    )
    finished = _finished(smaller, model, report)
    for name, tensor in finished.state_dict().items():  # in the given network's types
        if not is_finite(tensor) and (name not in before or is_finite(before[name])):
            what = "the network's weights, or its images, are too large"
            raise KTError(f"the smaller network's {name} is not finite: {what}")
    return finished


def _found(model: nn.Module, graph: Graph, example: Example) -> tuple[list[Block], dict[str, str]]:
    """The blocks of a network, and what is left: no block that other layers read in training mode.

    A network that can only be traced in evaluation mode is taken to be the same in the other.
    """
    blocks, left = find(model, graph)
    trained = copy.deepcopy(model).train()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            other = Graph(trained, take(example, torch.zeros(2, dtype=torch.long)))
        found, reasons = find(trained, other)
    except KTError:
        return blocks, left
    called = {node.target for node in other.nodes if node.op == "call_module"}
    same = {(block.into, block.between, block.out) for block in found}
    for block in list(blocks):
        if block.into in called and (block.into, block.between, block.out) not in same:
            blocks.remove(block)
            why = reasons.get(block.into, "read by another layer")
            left[block.into] = f"in training mode: {why}"
    return blocks, left


@torch.no_grad()
def _first_answer(model: nn.Module, example: Example) -> Any:
    """What a network answers to the example: something to learn from, the same again and again.

    Raises:
        KTError: its answer to the example holds no floating-point numbers, or some that are not
            finite, or is another the next time.
    """
    answer, again, third = (call(model, example) for _ in range(3))
    answers = tensors(answer)
    if not any(answer.is_floating_point() and answer.numel() for answer in answers):
        raise KTError("the network's answer holds no tensor of floating-point numbers")
    if not all(map(is_finite, answers)):
        raise KTError("the network's answer to the example is not finite")
    for later in (again, third):
        for ours, theirs in steps.paired(later, answer):
            if (ours - theirs).norm() > SAME * theirs.norm():
                what = "the network's answers to the same example differ from call to call"
                raise KTError(f"{what}: it must not draw or count in evaluation mode")
    return answer


def _prepared(model: nn.Module) -> nn.Module:
    """A copy to work with: in evaluation mode, in single precision, its gradients off.

    Raises:
        KTError: the network carries hooks, has complex weights, or cannot be copied.
    """
    for name, parameter in model.named_parameters():
        if parameter.is_complex():
            raise KTError(f"{name} is complex: only networks of real weights can be made smaller")
    for name, module in model.named_modules():
        if module._forward_hooks or module._forward_pre_hooks:
            raise KTError(
                f"{name or 'the network'} carries forward hooks (old weight norms do): remove them"
            )
    with users_code("the network cannot be copied"):
        return copy.deepcopy(model).eval().requires_grad_(False).float()


def _finished(smaller: nn.Module, model: nn.Module, report: Report) -> nn.Module:
    """The smaller network with the types, modes and gradients of the given one."""
    for name, module in smaller.named_modules():
        given = model.get_submodule(name)
        module.training = given.training
        types = {
            k: t.dtype
            for k, t in (*given._parameters.items(), *given._buffers.items())
            if t is not None
        }
        for key, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is None:
                continue
            kind = types.get(key, types.get("weight", tensor.dtype))
            tensor.data = tensor.data.to(kind)
            if key in module._parameters:
                like = given._parameters.get(key)
                like = given._parameters["weight"] if like is None else like
                tensor.requires_grad_(like.requires_grad)
    smaller.kt_report = report
    return smaller


def _summary(left: Mapping[str, str]) -> str:
    """The first few reasons."""
    if not left:
        return "the network calls no convolution or linear layer"
    shown = [f"{name}: {reason}" for name, reason in list(left.items())[:3]]
    more = f" (and {len(left) - 3} more)" if len(left) > 3 else ""
    return "; ".join(shown) + more
