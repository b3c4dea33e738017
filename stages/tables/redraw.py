"""Draw a scale's figures anew from its committed tables: python -m stages.tables.redraw mnist.

Figures 5 and 7 also need blocks and accuracies of single networks: their stages alone draw them.
"""

from kt.ensemble import Compute
from kt.run.errors import KTError
from stages.common.base import runtime
from stages.common.base.params import Params
from stages.tables import (
    curve,
    figure4,
    figure6,
    figure8,
    limits,
    mixer_curves,
    output,
    table1,
    times,
    widths,
)

DRAWN = {
    "table1": table1,
    "figure4": figure4,
    "figure6": figure6,
    "figure8": figure8,
    "curve": curve,
    "mixer_curves": mixer_curves,
    "limits": limits,
    "widths": widths,
}


def main(params: Params, compute: Compute, scale: str) -> None:
    scales = sorted(path.name for path in output.TABLES.glob("*/"))
    if scale not in scales:
        raise KTError(f"there are no tables of {scale!r}, but of {', '.join(scales) or 'none'}")
    folder = output.TABLES / scale
    for name, module in DRAWN.items():
        if (path := folder / f"{name}.json").exists():
            output.read(path)
            with output.computing(path):
                module.draw(folder)
    if (kept := times.TIMES / scale).exists():
        with output.computing(kept / "times.json"):
            times.draw(kept)


if __name__ == "__main__":
    runtime.run(main, __doc__, "scale")
