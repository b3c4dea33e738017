"""Generate networks in parts that can be computed in any order, interrupted and resumed.

A part is a few networks that share one image stream. Everything a part draws is derived from the
seed, the split and its index, so the result is the same whoever computes which part when.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kt import ensemble, pairs, seeds
from kt.data import ImageSet
from kt.ensemble import Compute, Progress, Recipe
from kt.errors import KTError
from kt.pairs import Weights


@dataclass(frozen=True)
class Plan:
    """Which networks to generate.

    Attributes:
        split: names the random streams ("train", "selection", ...); splits share nothing.
        count: number of networks.
        networks_per_stream: networks that see the same images in the same order: one part.
        target: kind of the small block trained in step 2; None for step 1 only.
        recipe: how both steps train.
        seed: the seed that everything random is derived from.
        shared_init: start all small blocks from the same weights (`shared_initial_seed`).
        checkpoints: increasing numbers of epochs of step 1, below the recipe's. The networks as
            they are then are stored too, each with a small block of its own (the paper's outlook).

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

    def images(self, data: ImageSet) -> int:
        """How many images pass through networks in all: the unit of progress."""
        trained = self.count + (0 if self.target is None else self.stored)
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
    progress: Progress | None = None,
) -> Weights:
    """Train the networks of one part: stacked `former.*`, `large.*`, `latter.*` and `small.*`.

    Args:
        large: all of the plan's large blocks, (count, ...), to freeze in place of trained ones.

    Returns:
        {name: ((1 + C) * n, ...)}: the part's n networks, then their C checkpoints, latest first.
    """

    def seed(*keys: str | int) -> int:
        return seeds.derive(plan.seed, plan.split, *keys)

    def small_seed(*keys: int) -> int:
        return shared_initial_seed(plan.seed) if plan.shared_init else seed("small block", *keys)

    indices = plan.networks(index)
    frozen = None
    if large is not None:
        frozen = {name: tensor[indices.start : indices.stop] for name, tensor in large.items()}
    networks = ensemble.train_networks(
        data,
        [seed("network", i) for i in indices],
        seed("stream", index, "step 1"),
        plan.recipe,
        compute,
        frozen,
        progress,
        plan.checkpoints,
    )
    result = {
        name.replace("block.", "large.") if name.startswith("block.") else name: tensor
        for name, tensor in networks.items()
    }
    if plan.target is not None:
        moments = [(), *((epoch,) for epoch in reversed(plan.checkpoints))]
        small = ensemble.train_blocks(
            plan.target,
            data,
            networks,
            [small_seed(i, *moment) for moment in moments for i in indices],
            seed("stream", index, "step 2"),
            plan.recipe,
            compute,
            progress,
        )
        result |= {f"small.{name}": tensor for name, tensor in small.items()}
    return result


def run(
    plan: Plan,
    data: ImageSet,
    scratch: Path,
    compute: Compute,
    large: Weights | None = None,
    progress: Callable[[int, bool], None] | None = None,
) -> Iterator[Weights]:
    """Compute the missing parts into `scratch`, then yield all networks in the store's order.

    Args:
        scratch: keeps finished parts; a later call with the same plan goes on from there.
        progress: called with (images passed, whether they were found done already).
    """
    for index in plan.parts:
        path = _part_file(scratch, plan, index)
        if _complete(path, len(plan.networks(index)) * (1 + len(plan.checkpoints))):
            if progress is not None:
                progress(plan.images(data) * len(plan.networks(index)) // plan.count, True)
            continue
        tick = None if progress is None else (lambda images: progress(images, False))
        pairs.save(path, compute_part(plan, index, data, compute, large, tick))
    for moment in range(1 + len(plan.checkpoints)):
        for index in plan.parts:
            count = len(plan.networks(index))
            tensors = pairs.load(_part_file(scratch, plan, index))
            yield {name: t[moment * count :][:count] for name, t in tensors.items()}


def _part_file(scratch: Path, plan: Plan, index: int) -> Path:
    return scratch / f"{plan.split}-{index:06d}.safetensors"


def _complete(path: Path, count: int) -> bool:
    """Whether a finished part is there; a damaged one counts as missing and is computed again."""
    if not path.exists():
        return False
    try:
        tensors = pairs.load(path, ["latter.fc.bias"])
    except KTError:
        return False
    return len(tensors["latter.fc.bias"]) == count
