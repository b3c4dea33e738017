"""What many pairs cost: time, machines, storage and network, from rates measured here.

    python -m benchmarks.scaling mnist [--device cuda]

Prints a table. A pair is trained by the scale's recipe on its images.
"""

from benchmarks.cost import Rates, image_sizes, machine, measured, of_scale
from kt.ensemble import Compute
from kt.networks.blocks import BLOCKS, Network
from stages.common.base import runtime
from stages.common.base.params import Params
from stages.tables.cells.table1 import size

PAIRS = (3e5, 1e7, 1e9)
WEEK = 7 * 86400
UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (0, "B"))


def in_bytes(count: float) -> str:
    """A size in the largest unit of which it has at least one."""
    size, unit = next(entry for entry in UNITS if count >= entry[0])
    return f"{count / (size or 1):.3g} {unit}"


def bytes_of_pair(target: str) -> int:
    """Of a network with its small block, float32, as a store keeps it."""
    parts = (Network(), BLOCKS[target]())
    return 4 * sum(map(size, parts))


def main(params: Params, compute: Compute, scale: str) -> None:
    params = of_scale(params, scale)
    images, sizes = image_sizes(params)
    names = ["step 1", f"step 2 {params.target}", "merge", "mixer large to conv"]
    found = measured(Rates(params, compute, images), names)
    passes = params.active.recipe.epochs * sizes["train"]
    seconds = sum(passes / found[name] for name in names[:2])
    pair = bytes_of_pair(params.target)
    print(f"On {machine(compute)}, scale {scale}:")
    print("; ".join(f"{name} {rate:,.0f}/s" for name, rate in found.items()))
    print(f"a pair: {seconds:.2f} s, {in_bytes(pair)}\n")
    heads = ("pairs", "machine-days", "machines for a week", "store", "written meanwhile")
    heads += ("an epoch of merge", "an epoch of the large mixer")
    print(f"| {' | '.join(heads)} |\n|{' ---: |' * len(heads)}")
    for count in PAIRS:
        machines = max(1.0, count * seconds / WEEK)
        row = (
            f"{count:,.0f}",
            f"{count * seconds / 86400:,.0f}",
            f"{machines:,.0f}",
            in_bytes(count * pair),
            f"{in_bytes(machines * pair / seconds)}/s",
            *(f"{count / found[name] / 3600:,.1f} h" for name in names[2:]),
        )
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    runtime.run(main, __doc__, "scale")
