"""One clear line for every mistake in a file of parameters."""

import difflib
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import ValidationError

from kt.run.errors import KTError


def read_yaml(path: Path) -> Any:
    """What a file of parameters says, not checked.

    Raises:
        KTError: the file is missing or not valid YAML.
    """
    try:
        return yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise KTError(f"{path} is missing: run from the repository's root") from None
    except yaml.YAMLError as error:
        place = getattr(error, "problem_mark", None)
        line = f", line {place.line + 1}" if place else ""
        reason = getattr(error, "problem", error)
        raise KTError(f"{path}{line}: not valid YAML ({reason})") from None


def explain(failure: ValidationError, schema: Any, place: tuple[str, ...] = ()) -> str:
    """One line for the first of pydantic's errors in what lies at `place` of the parameters."""
    error = failure.errors()[0]
    section, steps = _walk(schema, error["loc"])
    key = ".".join((*place, *steps))
    if error["type"] == "extra_forbidden":
        accepted = sorted(section.model_fields)
        close = difflib.get_close_matches(str(error["loc"][-1]), accepted, 1)
        hint = f"did you mean {close[0]}?" if close else f"known here: {', '.join(accepted)}"
        return f"{key}: unknown key; {hint}"
    if error["type"] == "missing":
        return f"{key}: missing"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error":
        return f"{key}: {message}" if key else message
    if error["type"] == "float_type" and isinstance(error["input"], str):
        message += " (YAML reads 1e-4 as text: write 0.0001)"
    return f"{key}: got {error['input']!r}; {message[0].lower()}{message[1:]}"


def _walk(schema: Any, location: tuple) -> tuple[Any, list[str]]:
    """The last section on the way to an error, and the keys on the way."""
    section, steps = schema, []
    for step in location:
        section = schema
        steps.append(str(step))
        if get_origin(schema) is dict:  # of sections: the key says nothing of their type
            schema = get_args(schema)[1]
        else:
            known = getattr(schema, "model_fields", {})
            schema = known[step].annotation if step in known else None
    return section, steps
