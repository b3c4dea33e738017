"""The state of a training run in one file: written atomically, read with weights only."""

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch


class Stateful(Protocol):
    """A module, an optimiser or a schedule."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


def save(path: Path, parts: Mapping[str, Stateful], **kept: Any) -> None:
    """Write the states of `parts`, and whatever tensors and plain values are `kept` beside them.

    Raises:
        OSError: the file cannot be written; the one before is still there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {name: part.state_dict() for name, part in parts.items()}
    buffer = io.BytesIO()  # on a full disk torch.save raises an error of its own
    torch.save({"parts": state, "kept": kept}, buffer)
    partial = path.with_suffix(".partial")
    partial.write_bytes(buffer.getbuffer())
    partial.replace(path)


def load(path: Path) -> dict[str, Any] | None:
    """What `save` wrote; None where there is no such file, or a damaged one."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, EOFError, RuntimeError, pickle.UnpicklingError):
        return None


def restore(state: dict[str, Any] | None, parts: Mapping[str, Stateful]) -> dict[str, Any]:
    """Put what `load` returned, if anything, into `parts`; return what was kept beside them."""
    if state is None:
        return {}
    for name, part in parts.items():
        part.load_state_dict(state["parts"][name])
    return state["kept"]
