"""The state of a training run in one file: written atomically, sealed, read with weights only.

Behind the file stands the one before. A file that is damaged is set aside, with a notice, and the
one before takes its place; a run that goes on from there ends in the same bytes.
"""

import contextlib
import copy
import hashlib
import io
import math
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from kt.run.errors import KTError, notice
from kt.run.files import MALFORMED, read_bytes, reading, save_bytes, set_aside
from kt.run.finite import is_finite

MARK = b"KT checkpoint 1\n"
HEAD = len(MARK) + 32


class Stateful(Protocol):
    """A module, an optimiser or a schedule."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


def save(path: Path, parts: Mapping[str, Stateful], **kept: Any) -> None:
    """Write the states of `parts`, and whatever tensors and plain values are `kept` beside them.

    Raises:
        KTError: the file cannot be written; the one before is still there.
    """
    state = {name: part.state_dict() for name, part in parts.items()}
    buffer = io.BytesIO()  # on a full disk torch.save raises an error of its own
    torch.save({"parts": state, "kept": kept}, buffer)
    content = buffer.getvalue()
    with contextlib.suppress(OSError):  # none is there, or the file system knows no links
        before(path).unlink(missing_ok=True)
        os.link(path, before(path))
    save_bytes(path, MARK + hashlib.sha256(content).digest() + content)


def before(path: Path) -> Path:
    """Where the checkpoint before the last one is."""
    return path.with_suffix(".before")


def load(path: Path) -> dict[str, Any] | None:
    """What `save` wrote last; None where there is no such file, or none that is whole."""
    for file in (path, before(path)):
        if not os.path.lexists(file):
            continue
        try:
            return _read(file)
        except KTError as error:
            aside = set_aside(file).name
            notice(f"{error}: it is set aside as {aside}, and the work is done again")
    return None


def _read(path: Path) -> dict[str, Any]:
    content = read_bytes(path)
    with reading(path):
        if content[:HEAD] != MARK + hashlib.sha256(content[HEAD:]).digest():
            raise ValueError("its checksum is another")
        try:
            state = torch.load(io.BytesIO(content[HEAD:]), map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise ValueError(error) from None
        if not isinstance(state, dict) or {*state} != {"parts", "kept"}:
            raise ValueError("it holds something else")
        if not _finite(state):
            raise ValueError("it is not finite")
    return state


def restore(
    state: dict[str, Any] | None,
    parts: Mapping[str, Stateful],
    defaults: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Put what `load` returned, if anything, into `parts`; return what was kept beside them.

    A state that is another work's changes nothing: a notice says so.

    Args:
        defaults: what is kept at the beginning; a state must have kept the same names.
    """
    start = dict(defaults or {})
    if state is None:
        return start
    untouched = {name: copy.deepcopy(part.state_dict()) for name, part in parts.items()}
    try:
        for name, part in parts.items():
            part.load_state_dict(state["parts"][name])
        if defaults is not None and {*state["kept"]} != {*defaults}:
            raise KeyError(*({*state["kept"]} ^ {*defaults}))
    except MALFORMED:
        for name, part in parts.items():
            part.load_state_dict(untouched[name])
        notice("a checkpoint holds the state of something else: the work begins anew")
        return start
    return state["kept"]


def _finite(state: Any) -> bool:
    """Whether all tensors and numbers in nested containers are finite."""
    if isinstance(state, Tensor):
        return is_finite(state)
    if isinstance(state, float):
        return math.isfinite(state)
    if isinstance(state, Mapping):
        return all(map(_finite, state.values()))
    return not isinstance(state, list | tuple) or all(map(_finite, state))
