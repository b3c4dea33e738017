"""`python -m kt.real compress ...`, until the whole program has this command."""

import argparse
import sys

from kt.real import command
from kt.run.errors import KTError

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m kt.real")
    command.add(parser.add_subparsers(required=True, metavar="command"))
    options = parser.parse_args()
    try:
        options.run(options)
    except KTError as error:
        sys.exit(f"error: {error}")
