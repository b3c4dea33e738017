"""Files of tensors, in the safetensors format."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from kt.run.errors import KTError


def save_tensors(
    path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file atomically: after a crash it is there whole or not at all.

    Args:
        metadata: kept in the file. With one entry at most its bytes are the same every time:
            safetensors writes several in random order.

    Raises:
        KTError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with writing(path):
            save_file({name: t.contiguous() for name, t in tensors.items()}, partial, metadata)
            with partial.open("rb") as file:
                os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def load_tensors(path: Path, names: Iterable[str] | None = None) -> dict[str, Tensor]:
    """Read a safetensors file, or only the tensors `names` of it.

    Raises:
        KTError: the file is missing, truncated or not in that format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in names or file.keys()}
    except FileNotFoundError:
        raise KTError(f"{path} is missing: run `dvc repro` to make it") from None
    except SafetensorError as error:
        raise KTError(f"{path} is damaged ({error}): delete it and run again") from None


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Report a failed write, usually of a full disk, as a user's error."""
    try:
        yield
    except (SafetensorError, OSError) as error:
        raise KTError(f"{path} could not be written ({error}): make room and run again") from None
