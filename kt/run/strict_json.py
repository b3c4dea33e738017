"""JSON: strict, which knows no NaN, no infinity and no name twice."""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kt.run.errors import NotFiniteError
from kt.run.files import read_text, reading, save_text


def load_json(path: Path, remedy: str = "") -> Any:
    """What a JSON file says.

    Raises:
        KTError: it cannot be read, or is no JSON: NaN and infinity are none.
    """

    text = read_text(path, remedy)
    with reading(path, remedy):
        return parsed(text)


def parsed(text: str) -> Any:
    """What a text in JSON says.

    Raises:
        ValueError: it is no JSON, or says one thing twice; NaN and infinity are none.
    """

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no number")

    def number(digits: str) -> float:
        return value if math.isfinite(value := float(digits)) else refuse(digits)  # type: ignore

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            raise ValueError(f"{max(names, key=names.count)!r} is there twice")
        return found

    return json.loads(text, parse_constant=refuse, parse_float=number, object_pairs_hook=unique)


def save_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically.

    Raises:
        NotFiniteError: a number is not finite, which JSON cannot say.
        KTError: it cannot be written; the one before is still there.
    """
    if (place := _not_finite(content)) is not None:
        raise NotFiniteError(f"{path} is not written: {place} is not finite")
    save_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def _not_finite(content: Any, place: str = "a number") -> str | None:
    """Where in nested mappings and lists a number is not finite, if anywhere."""
    if isinstance(content, float):
        return None if math.isfinite(content) else place
    if isinstance(content, Mapping):
        parts: Iterable[tuple[Any, Any]] = content.items()
    elif isinstance(content, list | tuple):
        parts = enumerate(content)
    else:
        return None
    inside = (
        _not_finite(value, f"{place}.{key}".removeprefix("a number.")) for key, value in parts
    )
    return next((found for found in inside if found is not None), None)
