"""Command lines of programs: whatever is wrong with one is said in one line."""

import argparse
import errno
import os
from pathlib import Path
from typing import NoReturn

from kt.run.errors import KTError, one_line
from kt.run.files import not_written


class Parser(argparse.ArgumentParser):
    """A parser of arguments whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {one_line(message)} (--help tells what there is)\n")


def place(text: str) -> Path:
    """A file or a folder that is read, as an argument.

    Raises:
        KTError: it has no name, which a `Path` would take for the working folder.
    """
    if not text:
        raise KTError("an empty name is given where a file or a folder is to be read")
    return Path(text)


def output(text: str) -> Path:
    """A file to write, as an argument.

    Raises:
        KTError: its name ends like a folder's, which a `Path` would forget.
    """
    if text and os.path.basename(text) in ("", os.curdir):
        raise not_written(text, IsADirectoryError(errno.EISDIR, "Is a directory"))
    return Path(text)


def seed(text: str) -> int:
    """A seed that PyTorch accepts, as an argument."""
    if not 0 <= (number := int(text)) < 2**63:
        raise ValueError
    return number
