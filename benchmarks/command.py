"""The command line of a benchmark: whatever is wrong with it, or goes wrong later, is one line."""

import argparse
from collections.abc import Callable
from pathlib import Path

from kt.run.arguments import Parser, whole
from kt.run.guard import guard

__all__ = ["MOST", "Parser", "count", "existing", "some", "start", "whole"]

MOST = 10**9
count, some = whole(1, MOST), whole(0, MOST)
"""Types of arguments."""


def existing(text: str) -> Path:
    """A folder that is there, as an argument."""
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is no folder")
    return Path(text)


def start(main: Callable[[], None]) -> None:
    """Run a benchmark; an error ends it with one line."""
    with guard():
        main()
