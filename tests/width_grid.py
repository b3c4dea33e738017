"""The compiled engine against the plain modules at all widths: C of 1, 4, 6, 7, 16, hidden 1 to C.

    python -m tests.width_grid [--channels 7 16]

The tests of tests/test_widths.py, at 34 widths instead of a few: each has a library of its own to
compile. Images are 14 x 14, grey and coloured in turn. If one fails, the exit status is 1.
"""

import argparse
import sys
import traceback
from collections.abc import Iterator

from kt.ensemble import cpu_library
from kt.networks.blocks import CONVOLUTIONAL, TARGETS, Sizes
from tests import test_widths as tests

CHANNELS = (1, 4, 6, 7, 16)


def checks(sizes: Sizes) -> Iterator[tuple]:
    """Calls of tests, as pytest would make them."""
    yield tests.test_step_1_is_plain_sgd, sizes
    for kind in TARGETS:
        yield tests.test_step_2_is_plain_sgd_on_the_small_block, sizes, kind
    for kind in ("large", *TARGETS):
        yield tests.test_outputs_and_behaviour_are_the_references, sizes, kind
    for kind in CONVOLUTIONAL:
        yield tests.test_equations_are_the_references, sizes, kind


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--channels", type=int, nargs="+", default=CHANNELS)
    options = parser.parse_args()
    cpu_library.FLAGS = [flag.replace("-O3", "-O1") for flag in cpu_library.FLAGS]
    failed = done = 0
    for channels in options.channels:
        for hidden in range(1, channels + 1):
            colours = 1 if hidden % 2 else 3
            sizes = Sizes(channels, hidden, image_channels=colours, image_size=14)
            wrong = []
            for test, *arguments in checks(sizes):
                done += 1
                try:
                    test(*arguments)
                except Exception:
                    traceback.print_exc()
                    wrong.append(f"{test.__name__}{tuple(arguments[1:])}")
            failed += len(wrong)
            print(f"{channels:2} -> {hidden:2}: {', '.join(wrong) or 'exact'}", flush=True)
    print(f"{done - failed} of {done} checks passed ({cpu_library.isa()})")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
