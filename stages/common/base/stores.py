"""The door by which stages read stores of networks that other stages wrote."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from kt.networks.blocks import (
    Former,
    Latter,
    Sizes,
    block_shapes,
    require_possible,
    skeleton,
    weights,
)
from kt.pairs.store import Pairs
from stages.common.base.inputs import PAIRS, REMEDY, damaged


def pairs(
    folder: Path, sizes: Sizes, *parts: str, target: str | None = None, count: int = 1
) -> Pairs:
    """A store that a stage wrote, all of it verified.

    Args:
        sizes: of the networks.
        parts: which there must be, of "former", "large", "latter" and "small".
        target: the kind of the small blocks, if there are any; None: whatever they are.
        count: networks that there must be.

    Raises:
        KTError: the store is missing or damaged, or does not hold this.
    """
    found = Pairs(folder, REMEDY)
    _require_split(folder, found.about.get("plan"))
    found.require(count)
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


def _shapes(make: Callable[..., nn.Module], sizes: Sizes) -> dict[str, tuple[int, ...]]:
    module = skeleton(lambda: make(sizes))
    return {name: tuple(tensor.shape) for name, tensor in weights(module).items()}
