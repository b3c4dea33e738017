"""Arguments that users give to the library's functions, checked once and before any work.

Nothing is coerced: a text is no number, True and False are no whole numbers.
"""

import inspect
import math
import os
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from kt.run.errors import KTError, one_line

SEEDS = 2**63
"""Seeds are below it: PyTorch's own limit for any generator."""
SHOWN = 60
"""Characters of a wrong value that a message shows, at most."""


def refused(name: str, value: object, accepts: str) -> KTError:
    """The error of an argument: what it is, and what is accepted."""
    try:
        text = one_line(repr(value), SHOWN)
    except Exception:  # a class of the user's, or a number of too many digits
        text = f"a {type(value).__name__}"
    return KTError(f"{name} is {text}; it accepts {accepts}")


def is_whole(value: object, least: int = 1) -> bool:
    """Whether a value is a whole number, `least` or more."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def is_number(value: object) -> bool:
    """Whether a value is a number that is finite, as a float too."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float holds
        return False


def accepts(function: object, count: int) -> bool:
    """Whether something can be called with so many arguments, as far as it tells."""
    if not callable(function):
        return False
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError:
        return False
    except ValueError:  # a built-in function, which does not tell
        pass
    return True


def require_whole(name: str, value: object, least: int, most: int, accepts: str = "") -> None:
    """Refuse what is no whole number from `least` to `most`.

    Raises:
        KTError: naming the argument, what it is and what it accepts.
    """
    if not (is_whole(value, least) and value <= most):  # type: ignore[operator]
        raise refused(name, value, accepts or f"a whole number from {least} to {most}")


def require_seed(value: object) -> None:
    """Refuse what is no seed.

    Raises:
        KTError: as `require_whole`.
    """
    require_whole("seed", value, 0, SEEDS - 1)


def require_flag(name: str, value: object) -> None:
    """Refuse what is neither True nor False.

    Raises:
        KTError: as `require_whole`.
    """
    if not isinstance(value, bool):
        raise refused(name, value, "True or False")


def require_kind(name: str, value: object, kind: Any, accepts: str) -> None:
    """Refuse what is not of a kind, or of any of several.

    Raises:
        KTError: as `require_whole`.
    """
    if not isinstance(value, kind):
        raise refused(name, value, accepts)


def path_of(value: object, name: str = "path") -> Path:
    """A path from what a user gives for one.

    Raises:
        KTError: it is no text and no path, or has no name.
    """
    if not isinstance(value, str | os.PathLike) or isinstance(text := os.fspath(value), bytes):
        raise refused(name, value, "a path")
    if not text:
        raise refused(name, value, "a name")
    return Path(text)
