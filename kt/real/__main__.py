"""`python -m kt.real compress ...`, until the whole program has this command."""

import argparse

from kt.real import command
from kt.run.guard import guard

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m kt.real")
    command.add(parser.add_subparsers(required=True, metavar="command"))
    with guard():
        options = parser.parse_args()
        options.run(options)
