"""Command lines of programs: whatever is wrong with one is said in one line."""

import argparse
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from kt.run.errors import KTError, one_line
from kt.run.files import not_written
from kt.run.given import SEEDS


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
        KTError: it has no name, or one that ends like a folder's, which a `Path` would forget.
    """
    if not text:
        raise KTError("an empty name is given where a file is to be written")
    if os.path.basename(text) in ("", os.curdir):
        raise not_written(text, IsADirectoryError(errno.EISDIR, "Is a directory"))
    return Path(text)


def whole(least: int, most: int) -> Callable[[str], int]:
    """A type of arguments: whole numbers from `least` to `most`."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if not least <= number <= most:
            wanted = f"a whole number from {least} to {most}"
            raise argparse.ArgumentTypeError(f"got {text!r}; accepts {wanted}")
        return number

    return parse


seed = whole(0, SEEDS - 1)
"""A seed that PyTorch accepts, as an argument."""
