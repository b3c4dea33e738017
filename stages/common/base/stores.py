"""The door by which stages read stores of networks that other stages wrote."""

from pathlib import Path

from kt.networks.blocks import Former, Latter, block_shapes, skeleton, weights
from kt.pairs.store import Pairs
from stages.common.base.inputs import REMEDY, damaged


def pairs(folder: Path, *parts: str, target: str | None = None, count: int = 1) -> Pairs:
    """A store that a stage wrote, all of it verified.

    Args:
        parts: which there must be, of "former", "large", "latter" and "small".
        target: the kind of the small blocks, if there are any; None: whatever they are.
        count: networks that there must be.

    Raises:
        KTError: the store is missing or damaged, or does not hold this.
    """
    found = Pairs(folder, REMEDY)
    found.require(count)
    found.mapped(*parts)  # are they there?
    rows = found.mapped()  # which verifies every checksum
    shapes = {
        "former": _shapes(Former),
        "large": block_shapes("large"),
        "latter": _shapes(Latter),
        "small": block_shapes(target) if target else {},
    }
    held = {name.partition(".")[0] for name in rows}
    for part in held & shapes.keys():
        if part == "small" and target is None:
            continue
        own = {n.partition(".")[2]: r for n, r in rows.items() if n.startswith(f"{part}.")}
        if {name: tuple(tensor[:1].shape[1:]) for name, tensor in own.items()} != shapes[part]:
            what = f"{target!r}, params.yaml's target" if part == "small" else "the networks'"
            raise damaged(folder, f"its {part} blocks do not have the shapes of {what}")
    return found


def _shapes(make: type) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in weights(skeleton(make)).items()}
