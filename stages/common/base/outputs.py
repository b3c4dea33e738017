"""How stages write metrics and tables: whole or not at all, and nothing that is not finite."""

import contextlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from kt.run.errors import NotFiniteError
from kt.run.files import save_text, writing
from kt.run.finite import LOWER
from kt.run.strict_json import save_json

write_text = save_text


def write_json(path: Path, content: Mapping) -> None:
    """Write a metrics file: strict JSON, which knows no NaN and no infinity.

    Raises:
        KTError: a number is not finite, or the file cannot be written.
    """
    try:
        save_json(path, content)
    except NotFiniteError as error:
        raise NotFiniteError(f"{error}: {LOWER}") from None


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write a table of plot data.

    Raises:
        KTError: a number is not finite, or the file cannot be written.
    """
    for name in table.select_dtypes("number"):
        if not np.isfinite(table[name].to_numpy()).all():
            raise NotFiniteError(f"{path} is not written: {name} is not finite: {LOWER}")
    write_text(path, table.to_csv(index=False, lineterminator="\n"))


def write_markdown(path: Path, caption: str, table: pd.DataFrame) -> None:
    """Write a table for readers: a paragraph, then the table, in Markdown."""
    write_text(path, "\n".join([caption, "", *markdown_rows(table)]) + "\n")


def markdown_rows(table: pd.DataFrame) -> list[str]:
    """A table's lines in Markdown."""
    return [
        f"| {' | '.join(table.columns)} |",
        f"| --- |{' ---: |' * (len(table.columns) - 1)}",
        *(f"| {' | '.join(map(str, row))} |" for row in table.itertuples(index=False)),
    ]


@contextlib.contextmanager
def restored_on_error(folder: Path, names: Sequence[str]) -> Iterator[None]:
    """Take files and folders away while others are made in their place, and bring them back if
    that fails.

    They wait in a hidden folder beside theirs. A kill leaves them there, for the next time.

    Raises:
        KTError: they cannot be moved.
    """
    folder = folder.resolve() if folder.is_symlink() else folder  # a move stays on one disk
    aside = folder.with_name(f".{folder.name}.before")
    with writing(aside):
        for name in names:
            if (folder / name).exists() and not (aside / name).exists():
                aside.mkdir(exist_ok=True)
                (folder / name).rename(aside / name)
    try:
        yield
    except BaseException:
        with writing(folder):
            for earlier in aside.glob("*"):
                remove(folder / earlier.name)
                earlier.rename(folder / earlier.name)
            remove(aside)
        raise
    remove(aside)


def remove(path: Path) -> None:
    """Delete a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
