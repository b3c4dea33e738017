"""Bounds on the fields of configurations."""

import math
import operator
from dataclasses import field, fields
from typing import Any, get_type_hints

from kt.run.errors import KTError

COMPARED = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


def bounded(default: Any, **bounds: float) -> Any:
    """A dataclass field with a default and bounds, by the names `ge`, `gt`, `le` and `lt`.

    The bounds are kept in the field's metadata: who fills the field from a file checks them.
    """
    return field(default=default, metadata=bounds)


def require_bounds(config: Any) -> None:
    """Refuse a dataclass whose plain fields have another type, are out of bounds or not finite.

    Raises:
        KTError: naming the first such field, what it is and what it accepts.
    """
    hints = get_type_hints(type(config))
    for known in fields(config):
        value, kind = getattr(config, known.name), hints[known.name]
        if kind not in (int, float, bool, str):
            continue
        accepted = (int, float) if kind is float else kind
        if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
            raise KTError(f"{known.name}: got {value!r}; accepts {kind.__name__}")
        for name, bound in known.metadata.items():
            if not getattr(operator, name)(value, bound):
                raise KTError(f"{known.name}: got {value!r}; accepts {COMPARED[name]} {bound}")
        if kind is float and not math.isfinite(value):
            raise KTError(f"{known.name}: got {value!r}; accepts a finite number")
