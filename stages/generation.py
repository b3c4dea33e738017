"""Generate a store of networks with a progress bar, resumable: what the generate stages share."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from kt import generate, pairs
from kt.data import ImageSet
from kt.ensemble import Compute, Recipe
from kt.generate import Plan
from kt.pairs import Weights
from stages import runtime
from stages.inputs import PAIRS, image_set
from stages.params import Params


def plan(
    params: Params,
    split: str,
    count: int,
    with_small: bool = True,
    checkpoints: Sequence[int] = (),
) -> Plan:
    """How `count` networks are trained as parameters say.

    Args:
        with_small: also train a small block of the target kind for each (step 2).
        checkpoints: epochs after which the networks are stored too, behind the trained ones.
    """
    return Plan(
        split=split,
        count=count,
        networks_per_stream=params.active.networks.per_stream,
        target=params.target if with_small else None,
        recipe=Recipe(
            **params.active.recipe.model_dump(),
            **params.generate.model_dump(include={"momentum", "flip"}),
        ),
        seed=params.seed,
        shared_init=with_small and params.generate.small_init == "shared",
        checkpoints=tuple(checkpoints),
    )


def make_store(
    plan: Plan,
    compute: Compute,
    data: ImageSet,
    folder: Path | None = None,
    large: Weights | None = None,
) -> None:
    """Train a plan's networks on `data` into a folder, data/pairs/<split> if none is given.

    Args:
        large: large blocks to freeze in the networks instead of training their own.
    """
    inputs = runtime.fingerprint(data.images, data.labels, *(large or {}).values())
    engines = [compute.engine_for(kind).__name__ for kind in ("large", plan.target or "large")]
    title = f"{plan.split}: {plan.count} networks"
    with (
        runtime.scratch("generate", dataclasses.asdict(plan), inputs, engines) as kept,
        runtime.progress_bar(plan.images(data), title, "image") as bar,
    ):

        def show(images: int, done_before: bool) -> None:
            if done_before:
                bar.initial += images  # not counted into the rate
            bar.update(images)

        parts = generate.run(plan, data, kept, compute, large, show)
        pairs.write(
            folder or PAIRS / plan.split, parts, plan.stored, {"plan": dataclasses.asdict(plan)}
        )


def make_training_store(params: Params, compute: Compute, folder: Path) -> None:
    """Train the networks that a translator learns from into a folder."""
    networks = plan(
        params,
        "train",
        params.active.networks.train,
        params.generate.small_blocks,
        params.generate.checkpoints,
    )
    make_store(networks, compute, image_set("main", "train"), folder)
