"""One clear line for every mistake in a file of parameters.

Files are read by DVC's own rules: those of YAML 1.2, in which `1e-05`, as DVC writes 0.00001, is a
number. So what DVC records is what a stage uses.
"""

import difflib
import reprlib
from collections.abc import Iterable
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

from pydantic import AfterValidator, ValidationError
from ruamel.yaml import YAML, YAMLError
from ruamel.yaml.constructor import ConstructorError, SafeConstructor
from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent

from kt.run.errors import KTError, one_line

DEEPEST = 50
"""Sections within sections. DVC's parser, in C, dies of a stack overflow some thousands deep."""
MOST = 100_000
"""Values in a file: anchors within anchors can stand for more than any memory holds."""
KEY = "[key]"
"""What pydantic puts behind a name that is itself wrong."""
SHOWN = 60
"""Characters of a wrong value that a message shows, at most."""
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict, _SHORT.maxstring, _SHORT.maxother = 3, 8, 4, 60, 60


class _Constructor(SafeConstructor):
    """DVC's, but that a scalar which is not what its tag or form says is an error with a place."""

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            problem = f"{shown(getattr(node, 'value', None))} is no valid value: {error}"
            raise ConstructorError(None, None, problem, node.start_mark) from None


def read_yaml(path: Path) -> dict[Any, Any]:
    """What a file of parameters says, not checked.

    Raises:
        KTError: the file cannot be read or is not valid YAML, a key is there twice, or the file
            does not consist of sections with names.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise KTError(f"{path} is no regular file")
    try:
        return _parsed(path.read_bytes().decode())
    except FileNotFoundError:
        raise KTError(f"{path} is missing: run from the repository's root") from None
    except OSError as error:
        raise KTError(f"{path} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        line, byte = error.object.count(b"\n", 0, error.start) + 1, error.object[error.start]
        raise KTError(
            f"{path}, line {line}: not valid YAML (byte 0x{byte:02x} is not UTF-8: save the file "
            "in this encoding)"
        ) from None
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}, line {mark.line + 1}" if mark else str(path)
        reason = getattr(error, "problem", None) or getattr(error, "reason", None) or error
        raise KTError(f"{place}: not valid YAML ({one_line(reason)})") from None
    except ValueError as error:  # of the parser itself, about a very long integer
        raise KTError(f"{path}: not valid YAML ({one_line(error)})") from None
    except RecursionError:
        raise KTError(f"{path}: not valid YAML (a section contains itself)") from None


def _parsed(text: str) -> dict[Any, Any]:
    depth = 0
    for event in YAML(typ="safe").parse(text):  # which, unlike `load`, does not recur
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > DEEPEST:
            problem = f"more than {DEEPEST} sections or lists within each other"
            raise ConstructorError(None, None, problem, event.start_mark)
    reader = YAML(typ="safe")
    reader.Constructor = _Constructor
    found = reader.load(text)
    if not isinstance(found, dict):
        what = "is empty" if found is None else f"begins with {shown(found)}"
        raise ConstructorError(None, None, f"the file {what}, not with a section's name")
    if _size(found, set(), {}) > MOST:
        raise ConstructorError(None, None, f"more than {MOST:,} values")
    return found


def _size(value: object, around: set[int], known: dict[int, int]) -> int:
    """How many values there are in nested ones, those under an anchor as often as they are named.

    Raises:
        RecursionError: a section contains itself.
    """
    place = id(value)
    if not isinstance(value, dict | list):
        return 1
    if place in around:
        raise RecursionError
    if place not in known:
        inside = value.values() if isinstance(value, dict) else value
        known[place] = 1 + sum(_size(one, around | {place}, known) for one in inside)
    return known[place]


def shown(value: object) -> str:
    """A value as a message shows it, cut if it is long."""
    try:
        text = _SHORT.repr(value)
    except ValueError:  # an integer of thousands of digits
        text = f"a {type(value).__name__} that is too long to show"
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def different(values: list) -> list:
    """Refuse a list with two equal entries."""
    if len(set(values)) < len(values):
        raise ValueError(f"got {shown(values)}; each must be another")
    return values


def one_of(*accepted: int) -> AfterValidator:
    """Accept some whole numbers alone. A `Literal` takes True and 1.0 for 1."""

    def known(value: int) -> int:
        if value not in accepted:
            raise ValueError(f"got {shown(value)}; accepts {', '.join(map(str, accepted))}")
        return value

    return AfterValidator(known)


def none_of(key: str, value: object, known: Iterable[str], what: str = "") -> str:
    """That a value is none of those which are known, in words."""
    return f"{key} is {shown(value)}, which is none of{what} {', '.join(known)}"


def explain(failure: ValidationError, schema: Any, place: tuple[str, ...] = ()) -> str:
    """One line for the first of pydantic's errors in what lies at `place` of the parameters."""
    error = failure.errors(include_url=False)[0]
    section, steps = _walk(schema, error["loc"])
    own_name = error["loc"][-1:] == (KEY,) and error["type"] != "extra_forbidden"
    key = ".".join((*place, *(steps[:-2] if own_name else steps)))
    if error["type"] == "extra_forbidden":
        accepted = sorted(getattr(section, "model_fields", ()))
        close = difflib.get_close_matches(str(error["loc"][-1]), accepted, 1)
        hint = f"did you mean {close[0]}?" if close else f"known here: {', '.join(accepted)}"
        return f"{key}: unknown key; {hint}"
    if error["type"] == "missing":
        return f"{key}: missing"
    message = one_line(error["msg"].removeprefix("Value error, "))
    if error["type"] == "value_error":
        return f"{key}: {message}" if key else message
    got = "got the name" if own_name else "got"
    what = f"{got} {shown(error['input'])}; {message[0].lower()}{message[1:]}"
    return f"{key}: {what}" if key else what


def _walk(schema: Any, location: tuple) -> tuple[Any, list[str]]:
    """The last section on the way to an error, and the keys on the way."""
    section, steps = schema, []
    for step in location:
        section = schema
        steps.append(one_line(step, SHOWN))
        if get_origin(schema) is dict:  # of sections: the key says nothing of their type
            schema = get_args(schema)[1]
        else:
            known = getattr(schema, "model_fields", {})
            schema = known[step].annotation if step in known else None
        if isinstance(schema, UnionType):  # a section that may be left out
            schema = next(kind for kind in get_args(schema) if kind is not NoneType)
    return section, steps
