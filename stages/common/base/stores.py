"""The door by which stages read stores of networks that other stages wrote."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from kt.networks.blocks import (
    PAPER,
    Former,
    Latter,
    Sizes,
    block_shapes,
    require_possible,
    skeleton,
    weights,
)
from kt.pairs.store import Pairs
from kt.run.files import problem
from stages.common.base.checks import shown
from stages.common.base.generation import plan_of
from stages.common.base.inputs import PAIRS, REMEDY, damaged
from stages.common.base.params import Params


def pairs(
    params: Params, folder: Path, *parts: str, target: str | None = None, count: int = 1
) -> Pairs:
    """A store that a stage wrote under these parameters, all of it verified.

    Args:
        parts: which there must be, of "former", "large", "latter" and "small".
        target: the kind of the small blocks, if there are any; None: whatever they are.
        count: networks that there must be.

    Raises:
        KTError: the store is missing or damaged, or does not hold this, or was made under other
            parameters.
    """
    found, sizes = Pairs(folder, REMEDY), params.sizes
    _require_split(folder, found.about.get("plan"))
    found.require(count)
    _require_plan(params, folder, found)
    found.mapped(*parts)  # are they there?
    rows = found.mapped()  # which verifies every checksum
    for name, own in rows.items():
        for piece in own.pieces:
            require_possible({name: piece}, str(folder))
    shapes = {
        "former": _shapes(Former, sizes),
        "large": block_shapes("large", sizes),
        "latter": _shapes(Latter, sizes),
        "small": block_shapes(target, sizes) if target else {},
    }
    held = {name.partition(".")[0] for name in rows}
    for part in held & shapes.keys():
        if part == "small" and target is None:
            continue
        numbers = {n.partition(".")[2]: r for n, r in rows.items() if n.startswith(f"{part}.")}
        if {name: tuple(tensor[:1].shape[1:]) for name, tensor in numbers.items()} != shapes[part]:
            what = f"{target!r}, params.yaml's target" if part == "small" else "the networks'"
            raise damaged(folder, f"its {part} blocks do not have the shapes of {what}")
    return found


def _require_split(folder: Path, plan: Any) -> None:
    """Refuse a store that was made as another one, "test" in the place of "selection", say.

    Tables' further training networks are made as "train" in folders of the tables.
    """
    if not isinstance(plan, dict) or not folder.is_relative_to(PAIRS):
        return
    name, made_as = folder.relative_to(PAIRS).as_posix(), plan.get("split")
    if made_as != name and not (made_as == "train" and "/" in name):
        raise damaged(folder, f"its networks were made as {made_as!r}")


def _require_plan(params: Params, folder: Path, found: Pairs) -> None:
    """Refuse a store whose networks are not those that the parameters ask for."""
    if not folder.is_relative_to(PAIRS):
        return
    plan = plan_of(params, folder.relative_to(PAIRS).as_posix())
    if plan is None:
        return
    if not isinstance(made := found.about.get("plan"), dict):
        raise damaged(folder, "it does not say how its networks were made")
    require_same(
        folder, {"sizes": asdict(PAPER)} | made, plan.describe() | {"sizes": asdict(plan.sizes)}
    )
    found.require(plan.stored)


def require_same(folder: Path, made: Any, wanted: dict[str, Any]) -> None:
    """Refuse a store that was made with other settings than are wanted.

    Raises:
        KTError: naming the settings that differ, what they were and what they are to be.
    """
    made, wanted = _leaves(made), _leaves(wanted)
    differing = [
        f"{name} {shown(made.get(name))}, but the parameters say {shown(value)}"
        for name, value in wanted.items()
        if name not in made or made[name] != value
    ]
    if differing:
        raise problem(folder, f"was made with {'; '.join(differing[:3])}", REMEDY)


def _leaves(settings: Any, place: str = "") -> dict[str, Any]:
    """Nested settings by their full keys, with lists for tuples, as JSON keeps them."""
    if isinstance(settings, dict):
        inside = (_leaves(v, f"{place}.{k}" if place else k) for k, v in settings.items())
        return {key: value for leaves in inside for key, value in leaves.items()}
    return {place: list(settings) if isinstance(settings, tuple) else settings}


def _shapes(make: Callable[..., nn.Module], sizes: Sizes) -> dict[str, tuple[int, ...]]:
    module = skeleton(lambda: make(sizes))
    return {name: tuple(tensor.shape) for name, tensor in weights(module).items()}
