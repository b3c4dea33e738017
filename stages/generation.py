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


def make_store(
    params: Params,
    compute: Compute,
    split: str,
    count: int,
    data: ImageSet,
    with_small: bool = True,
    large: Weights | None = None,
    checkpoints: Sequence[int] = (),
    folder: Path | None = None,
) -> None:
    """Train `count` networks on `data` into data/pairs/`split`, or another folder.

    Args:
        with_small: also train a small block of the target kind for each (step 2).
        large: large blocks to freeze in the networks instead of training their own.
        checkpoints: epochs after which the networks are stored too, behind the trained ones.
    """
    plan = Plan(
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
    inputs = runtime.fingerprint(data.images, data.labels, *(large or {}).values())
    engines = [compute.engine_for(kind).__name__ for kind in ("large", params.target)]
    with (
        runtime.scratch("generate", dataclasses.asdict(plan), inputs, engines) as kept,
        runtime.progress_bar(plan.images(data), f"{split}: {count} networks", "image") as bar,
    ):

        def show(images: int, done_before: bool) -> None:
            if done_before:
                bar.initial += images  # not counted into the rate
            bar.update(images)

        parts = generate.run(plan, data, kept, compute, large, show)
        pairs.write(folder or PAIRS / split, parts, plan.stored, {"plan": dataclasses.asdict(plan)})


def make_training_store(params: Params, compute: Compute, folder: Path) -> None:
    """Train the networks that a translator learns from into a folder."""
    make_store(
        params,
        compute,
        "train",
        params.active.networks.train,
        image_set("main", "train"),
        with_small=params.generate.small_blocks,
        checkpoints=params.generate.checkpoints,
        folder=folder,
    )
