"""What a generated network costs as their number grows: time a network and step, and memory.

    python -m benchmarks.growth [--largest 10000] [--steps 4]

Networks go the way of the stages: `kt.generate.run` in parts of 256, then `kt.pairs.write`. Each
number of networks is a fresh process. A step is one of each training, at batch 128. What happens
once for a network whatever the steps (initial weights, files) is told apart by a second run with a
single step.
"""

import argparse
import tempfile
import time
from pathlib import Path

import matplotlib
import pandas as pd
import torch

from benchmarks.generate import BATCH, LR, MOMENTUM, load_images
from benchmarks.process import alone
from kt import generate, pairs
from kt.ensemble import Compute, Recipe
from kt.generate import Plan

PER_STREAM = 256
RESULTS = Path(__file__).parent / "results"


def seconds(networks: int, steps: int) -> float:
    """Wall time to generate a store of complete networks, the engine's compilation aside."""
    compute = Compute(workers=torch.get_num_threads())
    compute.engine_for("large")
    images, _ = load_images(BATCH * steps)
    recipe = Recipe(epochs=1, batch_size=BATCH, lr=LR, momentum=MOMENTUM)
    plan = Plan("growth", networks, PER_STREAM, "conv", recipe, 1)
    with tempfile.TemporaryDirectory() as name:
        start = time.perf_counter()
        parts = generate.run(plan, images, Path(name) / "parts", compute)
        pairs.write(Path(name) / "store", parts, networks, {})
        return time.perf_counter() - start


def draw(table: pd.DataFrame, path: Path) -> None:
    """Time a network and step, and peak memory, over the number of networks."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    left.loglog(table.networks, table.ms_per_step, "o-")
    left.set_ylabel("ms a network and step, both trainings")
    right.semilogx(table.networks, table.peak_gib, "o-")
    right.set_ylabel("peak memory, GiB")
    for axes, top in ((left, 2 * table.ms_per_step.max()), (right, 3.2)):
        axes.set_xlabel("networks")
        axes.set_ylim(top=top)
        axes.grid(alpha=0.3)
    left.set_ylim(bottom=0.5 * table.ms_per_step.min())
    right.set_ylim(bottom=0)
    right.axhline(3, color="grey", linestyle="--")
    figure.savefig(path, dpi=120, metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--largest", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=4, help="batches of 128 images")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the table and figure")
    options = parser.parse_args()

    counts = [2**i for i in range(4, options.largest.bit_length()) if 2**i < options.largest]
    rows = []
    print(f"{'networks':>9}{'seconds':>9}{'once, ms':>10}{'ms/step':>9}{'peak GiB':>10}")
    for networks in [*counts, options.largest]:
        one, _ = alone(seconds, networks, 1)
        whole, peak = alone(seconds, networks, 1 + options.steps)
        step = 1e3 * (whole - one) / networks / options.steps
        once = 1e3 * one / networks - step
        print(f"{networks:9}{whole:9.1f}{once:10.2f}{step:9.3f}{peak:10.2f}", flush=True)
        rows.append(
            {
                "networks": networks,
                "seconds": round(whole, 2),
                "ms_once": round(once, 3),
                "ms_per_step": round(step, 4),
                "peak_gib": round(peak, 3),
            }
        )
    options.out.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(rows)
    table.to_csv(options.out / "growth.csv", index=False)
    draw(table, options.out / "growth.png")


if __name__ == "__main__":
    main()
