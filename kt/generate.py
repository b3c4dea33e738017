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
    """

    split: str
    count: int
    networks_per_stream: int
    target: str | None
    recipe: Recipe
    seed: int

    @property
    def parts(self) -> range:
        return range(-(-self.count // self.networks_per_stream))

    def networks(self, part: int) -> range:
        """Indices of the networks of a part."""
        start = part * self.networks_per_stream
        return range(start, min(start + self.networks_per_stream, self.count))

    def images(self, data: ImageSet) -> int:
        """How many images pass through networks in all: the unit of progress."""
        steps = 1 if self.target is None else 2
        return self.count * steps * self.recipe.epochs * len(data)


def shared_initial_seed(seed: int) -> int:
    """The seed of the initial weights that all small blocks share, where they share them."""
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
    """

    def seed(*keys: str | int) -> int:
        return seeds.derive(plan.seed, plan.split, *keys)

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
    )
    result = {
        name.replace("block.", "large.") if name.startswith("block.") else name: tensor
        for name, tensor in networks.items()
    }
    if plan.target is not None:
        small = ensemble.train_blocks(
            plan.target,
            data,
            networks,
            [seed("small block", i) for i in indices],
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
    """Compute the missing parts into `scratch`, then yield all of them in order.

    Args:
        scratch: keeps finished parts; a later call with the same plan goes on from there.
        progress: called with (images passed, whether they were found done already).
    """
    for index in plan.parts:
        path = _part_file(scratch, plan, index)
        if _complete(path, len(plan.networks(index))):
            if progress is not None:
                progress(plan.images(data) * len(plan.networks(index)) // plan.count, True)
            continue
        tick = None if progress is None else (lambda images: progress(images, False))
        pairs.save(path, compute_part(plan, index, data, compute, large, tick))
    for index in plan.parts:
        yield pairs.load(_part_file(scratch, plan, index))


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
