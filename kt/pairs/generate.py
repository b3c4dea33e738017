"""Generate networks in parts that can be computed in any order, interrupted and resumed.

A part is a few networks that share one image stream. All random draws of a part derive from the
seed, the split and its index. So the result does not depend on who computes which part, or when.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from kt import ensemble
from kt.ensemble import Compute, Progress, Recipe
from kt.images import ImageSet
from kt.networks.blocks import PAPER, Sizes
from kt.networks.weights import Weights, prefixed, take
from kt.run import seeds
from kt.run.errors import KTError, notice
from kt.run.files import damaged, load_metadata, load_tensors, save_tensors, set_aside

Executor = Callable[[Callable[[int], Weights], Sequence[int]], Iterator[tuple[int, Weights]]]
"""Computes parts anywhere, in any order: of a function and indices, (index, part) as they come."""
PART = "part"
"""Key of a part's metadata under which its file's name stands: parts may not change places."""
AGAIN = "run again, and it is computed again"


@dataclass(frozen=True)
class Plan:
    """Which networks to generate.

    Attributes:
        split: names the random streams ("train", "selection", ...); splits share nothing.
        count: number of networks.
        networks_per_stream: networks that see the same images in the same order: one part.
        target: kind of the small block trained in step 2; None for step 1 only.
        recipe: how both steps train.
        sizes: of the networks and their small blocks.
        seed: the seed that everything random is derived from.
        shared_init: start all small blocks from the same weights (`shared_initial_seed`).
        checkpoints: increasing numbers of epochs of step 1, below the recipe's. The networks as
            they are then are stored too, each with a small block of its own (the paper's future
            work).

    The store holds all trained networks, then all of them at the latest checkpoint, and so on to
    the earliest: its first networks are the same whatever the checkpoints.
    """

    split: str
    count: int
    networks_per_stream: int
    target: str | None
    recipe: Recipe
    seed: int
    shared_init: bool = False
    checkpoints: tuple[int, ...] = ()
    sizes: Sizes = PAPER

    def describe(self) -> dict[str, Any]:
        """What a store tells of it: without the paper's sizes."""
        about = asdict(self)
        if self.sizes == PAPER:
            del about["sizes"]
        return about

    @property
    def stored(self) -> int:
        """Number of networks in the store, checkpoints included."""
        return self.count * (1 + len(self.checkpoints))

    @property
    def parts(self) -> range:
        return range(-(-self.count // self.networks_per_stream))

    def networks(self, part: int) -> range:
        """Indices of the networks of a part."""
        start = part * self.networks_per_stream
        return range(start, min(start + self.networks_per_stream, self.count))

    def images(self, data: ImageSet, networks: Weights | None = None) -> int:
        """How many images pass through networks in all: the unit of progress.

        Args:
            networks: those that are trained already, as for `compute_part`.
        """
        trained = self.count if networks is None else 0
        trained += 0 if self.target is None else self.stored
        return trained * self.recipe.epochs * len(data)


def shared_initial_seed(seed: int) -> int:
    """Seed of the weights that all small blocks start from if they share them."""
    return seeds.derive(seed, "shared small block")


def compute_part(
    plan: Plan,
    index: int,
    data: ImageSet,
    compute: Compute,
    large: Weights | None = None,
    networks: Weights | None = None,
    progress: Progress | None = None,
) -> Weights:
    """Train the networks of one part: stacked `former.*`, `large.*`, `latter.*` and `small.*`.

    Args:
        large: all of the plan's large blocks, (count, ...), to freeze in place of trained ones.
        networks: all that the plan stores, stacked `former.*`, `large.*` and `latter.*`, if they
            are trained already: of a plan without checkpoints only small blocks are missing then.

    Returns:
        {name: ((1 + C) * n, ...)}: the part's n networks, then their C checkpoints, latest first.
    """

    def seed(*keys: str | int) -> int:
        return seeds.derive(plan.seed, plan.split, *keys)

    def small_seed(*keys: int) -> int:
        return shared_initial_seed(plan.seed) if plan.shared_init else seed("small block", *keys)

    indices = plan.networks(index)
    own = slice(indices.start, indices.stop)

    if networks is not None:
        result = take(networks, own)
    else:
        trained = ensemble.train_networks(
            data,
            [seed("network", i) for i in indices],
            seed("stream", index, "step 1"),
            plan.recipe,
            compute,
            None if large is None else take(large, own),
            progress,
            plan.checkpoints,
            plan.sizes,
        )
        result = {
            name.replace("block.", "large.") if name.startswith("block.") else name: tensor
            for name, tensor in trained.items()
        }
    if plan.target is not None:
        moments = [(), *((epoch,) for epoch in reversed(plan.checkpoints))]
        small = ensemble.train_blocks(
            plan.target,
            data,
            result,
            [small_seed(i, *moment) for moment in moments for i in indices],
            seed("stream", index, "step 2"),
            plan.recipe,
            compute,
            progress,
            plan.sizes,
        )
        result |= prefixed("small", small)
    return result


def run(
    plan: Plan,
    data: ImageSet,
    scratch: Path,
    compute: Compute,
    large: Weights | None = None,
    networks: Weights | None = None,
    progress: Callable[[int, bool], None] = lambda images, done_before: None,
    executor: Executor | None = None,
) -> Iterator[Weights]:
    """Compute the missing parts into `scratch`, then yield all networks in the store's order.

    Args:
        scratch: keeps finished parts; a later call with the same plan goes on from there.
        compute: what `executor` computes a part on.
        large, networks: as for `compute_part`.
        progress: called with (images passed, whether they were found done already).
        executor: computes the parts (`kt.pairs.cluster`); None: this process, one by one.
    """
    whole = plan.images(data, networks)
    missing = []
    for index in plan.parts:
        count = len(plan.networks(index))
        if _complete(_part_file(scratch, plan, index), count * (1 + len(plan.checkpoints))):
            progress(whole * count // plan.count, True)
        else:
            missing.append(index)
    work = partial(compute_part, plan, data=data, compute=compute, large=large, networks=networks)
    computed: Iterator[tuple[int, Weights]]
    if executor is None:
        computed = ((i, work(i, progress=lambda images: progress(images, False))) for i in missing)
    else:
        computed = executor(work, missing)
    for index, part in computed:
        path = _part_file(scratch, plan, index)
        save_tensors(path, part, {PART: path.name}, seal=True)
        if executor is not None:
            progress(whole * len(plan.networks(index)) // plan.count, False)
    for moment in range(1 + len(plan.checkpoints)):
        for index in plan.parts:
            count = len(plan.networks(index))
            tensors = load_tensors(_part_file(scratch, plan, index), sealed=True, remedy=AGAIN)
            yield {name: t[moment * count :][:count] for name, t in tensors.items()}


def _part_file(scratch: Path, plan: Plan, index: int) -> Path:
    return scratch / f"{plan.split}-{index:06d}.safetensors"


def _complete(path: Path, count: int) -> bool:
    """Whether a finished part is there; a damaged one is told of, set aside and computed again."""
    if not os.path.lexists(path):
        return False
    try:
        tensors = load_tensors(path, sealed=True)
        if load_metadata(path).get(PART) != path.name:
            raise damaged(path, "it is another part")
    except KTError as error:
        aside = set_aside(path).name
        notice(f"{error}: it is set aside as {aside}, and its networks are trained again")
        return False
    return len(tensors.get("latter.fc.bias", ())) == count
