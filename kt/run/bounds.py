"""Bounds on the fields of configurations."""

from dataclasses import field
from typing import Any


def bounded(default: Any, **bounds: float) -> Any:
    """A dataclass field with a default and bounds, by the names `ge`, `gt`, `le` and `lt`.

    The bounds are kept in the field's metadata: who fills the field from a file checks them.
    """
    return field(default=default, metadata=bounds)
