"""Generate a store of networks: resumable, with a progress bar, for all generate stages.

If KT_RAY (--ray) gives the address of a Ray cluster, its nodes train the networks. KT_RAY_CPUS and
KT_RAY_GPUS set what each task takes.
"""

import contextlib
import math
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from kt.ensemble import Compute, Recipe
from kt.images import ImageSet
from kt.networks.blocks import Former, Latter, Sizes, block_shapes, skeleton, weights
from kt.networks.weights import Weights
from kt.pairs import generate
from kt.pairs.cluster import Cluster
from kt.pairs.generate import Plan
from kt.pairs.store import check_store, write_store
from kt.run import memory
from kt.run.errors import KTError
from stages.common.base import room, runtime
from stages.common.base.checks import shown
from stages.common.base.inputs import PAIRS, image_set
from stages.common.base.params import TABLES, Params, fraction_name, store_key, stores

Number = TypeVar("Number", int, float)


def plan(
    params: Params,
    split: str,
    count: int,
    with_small: bool = True,
    checkpoints: Sequence[int] = (),
) -> Plan:
    """The plan of `count` networks, from the parameters.

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
        sizes=params.sizes,
    )


def plan_of(params: Params, name: str) -> Plan | None:
    """The plan of data/pairs/<name>: what the parameters say now; None if they say nothing.

    Tables' further training networks are made as "train" in folders of the tables.
    """
    params, networks = params.unchanged, params.unchanged.active.networks
    if name == "train":
        return training_plan(params)
    if name in ("selection", "test"):
        return plan(params, name, getattr(networks, name))
    if name == "transfer":  # around the test networks' large blocks
        return plan(params, name, networks.test)
    if name in map(fraction_name, params.partial.fractions):
        return plan(params, name, networks.partial, with_small=False)
    table, _, store = name.partition("/")
    if (TABLES / table / "params.yaml").is_file() and store in (changes := stores(table)):
        return training_plan(params.changed(changes[store], store_key(table, store)))
    return None


def training_plan(params: Params) -> Plan:
    """The plan of networks that a translator learns from."""
    generate = params.generate
    count = params.active.networks.train
    return plan(params, "train", count, generate.small_blocks, generate.checkpoints)


def make_store(
    plan: Plan,
    compute: Compute,
    data: ImageSet,
    folder: Path | None = None,
    large: Weights | None = None,
    networks: Weights | None = None,
) -> None:
    """Train a plan's networks on `data` into a folder, data/pairs/<split> if none is given.

    Args:
        large: large blocks to freeze in the networks instead of training their own.
        networks: those of the plan, if they are trained already and lack small blocks only.
    """
    cluster = cluster_of_environment()
    if cluster is not None:
        compute = cluster.compute(compute, plan.sizes)
    folder = folder or PAIRS / plan.split
    check_store(folder)
    require_room(plan, folder)
    given = (large or {}) | (networks or {})
    inputs = runtime.fingerprint(data.images, data.labels, *given.values())
    kinds = ("large", plan.target or "large")
    engines = [compute.engine_for(kind, plan.sizes).__name__ for kind in kinds]
    title = f"{plan.split}: {plan.count} networks"
    with (
        runtime.scratch(
            "generate", runtime.TRAINS_NETWORKS, plan.describe(), inputs, engines
        ) as kept,
        runtime.progress_bar(plan.images(data, networks), title, "image") as bar,
    ):

        def show(images: int, done_before: bool) -> None:
            if done_before:
                bar.initial += images  # not counted into the rate
            bar.update(images)
            if not done_before:
                rate = (bar.n - bar.initial) / max(bar.format_dict["elapsed"], 1e-9)
                bar.set_postfix_str(f"{rate * plan.stored / bar.total:.3g} networks/s", False)

        parts = generate.run(plan, data, kept, compute, large, networks, show, cluster)
        write_store(folder, parts, plan.stored, {"plan": plan.describe()})


def require_room(plan: Plan, folder: Path) -> None:
    """Raise KTError if a part does not fit into memory, or the store onto the disk.

    While a part is trained there are gradients, velocities and what the engine makes of all three.
    On the disk there are all parts and the store, for a while, less the parts that are done.
    """
    size = bytes_of(plan.target, plan.sizes)
    what = f"{plan.split}, {plan.stored:,} networks"
    part = min(plan.count, plan.networks_per_stream) * (1 + len(plan.checkpoints))
    memory.require(5 * part * size, f"{what} in parts of {part:,}", "lower networks.per_stream")
    done = sum(f.lstat().st_size for f in runtime.SCRATCH.glob(f"generate-*/{plan.split}-*"))
    room.require_disk(folder, 2 * plan.stored * size - done, what)


def bytes_of(target: str | None, sizes: Sizes) -> int:
    """Of a network with its large block, and with a small one of this kind if one is given."""
    around = (weights(skeleton(partial(make, sizes))).values() for make in (Former, Latter))
    numbers = sum(tensor.numel() for tensors in around for tensor in tensors)
    blocks = (block_shapes(kind, sizes).values() for kind in ("large", target) if kind is not None)
    return 4 * (numbers + sum(math.prod(shape) for shapes in blocks for shape in shapes))


def cluster_of_environment() -> Cluster | None:
    """The Ray cluster that the environment names; None if it names none.

    Raises:
        KTError: KT_RAY_CPUS or KT_RAY_GPUS is not a valid number.
    """

    def number(name: str, kind: type[Number], lowest: float, default: str) -> Number:
        value = os.environ.get(name) or default
        with contextlib.suppress(ValueError):
            if lowest <= (found := kind(value)) <= runtime.MOST:
                return found
        flag = name.removeprefix("KT_").lower().replace("_", "-")
        raise KTError(
            f"--{flag} ({name}): got {shown(value)}; accepts a number >= {lowest}, at most "
            f"{runtime.MOST}"
        )

    if not (address := os.environ.get("KT_RAY")):
        return None
    cpus = number("KT_RAY_CPUS", int, 1, "1")
    return Cluster(address, cpus, number("KT_RAY_GPUS", float, 0, "0"))


def make_training_store(
    params: Params, compute: Compute, folder: Path, networks: Weights | None = None
) -> None:
    """Train the networks that a translator learns from into a folder.

    Args:
        networks: as for `make_store`.
    """
    chosen, images = training_plan(params), image_set(params, "main", "train")
    make_store(chosen, compute, images, folder, networks=networks)
