"""How stages write metrics and tables: whole or not at all, and nothing that is not finite."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from kt.run.errors import KTError
from kt.run.files import write_bytes
from kt.run.finite import LOWER


def write_text(path: Path, text: str) -> None:
    """Write a file of text atomically: after a crash it is there whole or not at all.

    Raises:
        KTError: the file cannot be written.
    """
    write_bytes(path, text.encode())


def write_json(path: Path, content: Mapping) -> None:
    """Write a metrics file: strict JSON, which knows no NaN and no infinity.

    Raises:
        KTError: a number is not finite, or the file cannot be written.
    """
    if (place := _not_finite(content)) is not None:
        raise KTError(f"{path} is not written: {place} is not finite: {LOWER}")
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def _not_finite(content: object, place: str = "") -> str | None:
    """Where in nested mappings and lists a number is not finite."""
    if isinstance(content, float):
        return None if math.isfinite(content) else place
    inside = enumerate(content) if isinstance(content, list | tuple) else ()
    for key, value in content.items() if isinstance(content, Mapping) else inside:
        if (found := _not_finite(value, f"{place}.{key}" if place else str(key))) is not None:
            return found
    return None


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write a table of plot data.

    Raises:
        KTError: a number is not finite, or the file cannot be written.
    """
    for name in table.select_dtypes("number"):
        if not np.isfinite(table[name].to_numpy()).all():
            raise KTError(f"{path} is not written: {name} is not finite: {LOWER}")
    write_text(path, table.to_csv(index=False, lineterminator="\n"))


def write_markdown(path: Path, caption: str, table: pd.DataFrame) -> None:
    """Write a table for readers: a paragraph, then the table, in Markdown."""
    lines = [
        caption,
        "",
        f"| {' | '.join(table.columns)} |",
        f"| --- |{' ---: |' * (len(table.columns) - 1)}",
        *(f"| {' | '.join(map(str, row))} |" for row in table.itertuples(index=False)),
    ]
    write_text(path, "\n".join(lines) + "\n")
