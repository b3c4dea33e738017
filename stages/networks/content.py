"""What cells of the networks table hold, checked as they are read."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from pydantic import Field

from stages.common.base.inputs import Found, damaged
from stages.common.base.metrics import Known, Number, Percent, Whole, checked
from stages.networks.settings import Settings

Share = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[Number, Field(gt=0)]


class Measured(Known):
    """A network, made smaller or not."""

    accuracy: Percent
    agreement: Percent
    multiply_adds: Positive
    parameters: Positive
    milliseconds: Number
    keep: Share
    images: Whole
    seconds: Number
    seed: Whole


class Cell(Known):
    """Of a method, all shares kept."""

    labels: Whole
    rows: Annotated[list[Measured], Field(min_length=1)]


class Converged(Measured):
    labels: Whole
    epochs: Whole


class Ceiling(Known):
    rows: Annotated[list[Converged], Field(min_length=1)]


class Epoch(Known):
    """Of a training from a start, at a rate."""

    start: str
    rate: Positive
    epoch: Whole
    seconds: Number
    accuracy: Percent
    held_out: Percent


class Tuned(Known):
    rows: Annotated[list[Epoch], Field(min_length=1)]


def cell(chosen: Settings, network: str, method: str, seed: int) -> Found:
    """A method's cell. The network as it is stands in those of the first seed, at least.

    Raises:
        KTError: the file is missing or damaged, lacks a share that is kept or has one twice, or is
            of another seed.
    """
    path = chosen.cell(network, method, seed)
    whole = [1.0] if seed == chosen.seeds[0] else []
    found = _with_shares(path, checked(path, Cell), [*whole, *chosen.keep])
    if others := {row["seed"] for row in found["rows"]} - {seed}:
        raise damaged(path, f"it has rows of seed {min(others)}")
    return found


def ceiling(chosen: Settings, network: str) -> Found:
    """The cell of a network's ceiling.

    Raises:
        KTError: as `cell`.
    """
    path = chosen.ceiling_cell(network)
    return _with_shares(path, checked(path, Ceiling), chosen.keep)


def tuned(chosen: Settings, network: str) -> Found:
    """The cell of a network's training from three starts.

    Raises:
        KTError: the file is missing or damaged.
    """
    return checked(chosen.tuned_cell(network), Tuned)


def _with_shares(path: Path, found: Found, shares: Iterable[float]) -> Found:
    kept = [row["keep"] for row in found["rows"]]
    if lacking := set(shares) - {*kept}:
        raise damaged(path, f"it has no row that keeps {max(lacking):g}")
    if twice := {keep for keep in kept if kept.count(keep) > 1}:
        raise damaged(path, f"it has two rows that keep {max(twice):g}")
    return found
