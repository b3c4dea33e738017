"""The cost of generation as the number of networks grows: time a network and step, memory.

    python -m benchmarks.growth [--largest 10000] [--steps 4]

Networks go the way of the stages: `kt.pairs.generate.run` in parts of 256, then
`kt.pairs.store.write_store`. Each number of networks is a fresh process, warmed up by a few. A step
is one of each training, at batch 128. What happens once for a network, whatever the steps (initial
weights and files), is clocked by itself. Small numbers of networks are repeated for their median.
"""

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pandas as pd
import torch

from benchmarks.command import Parser, count, start
from benchmarks.generate import BATCH, LR, MOMENTUM, training_images
from benchmarks.process import alone
from kt import ensemble
from kt.ensemble import Compute, Recipe
from kt.pairs import generate
from kt.pairs.generate import Plan
from kt.pairs.store import write_store
from kt.run.files import check_output, reading, save_tensors
from stages.figures import lines, style

PER_STREAM = 256
LIMIT_GIB = 3
"""Of memory, whatever the number of networks."""
RESULTS = Path(__file__).parent / "results"


class Clocked:
    """A function that notes the time spent in it."""

    def __init__(self, function: Callable) -> None:
        self.function, self.seconds = function, 0.0

    def __call__(self, *arguments):
        start = time.perf_counter()
        result = self.function(*arguments)
        self.seconds += time.perf_counter() - start
        return result


def generation(networks: int, steps: int) -> tuple[float, float]:
    """Seconds of training, and of all else, to generate a store of complete networks: medians."""
    warm_up = min(networks, 2 * Compute.chunk)
    _generate(warm_up, 1)
    repeats = max(1, 512 // networks)
    times = [_generate(networks, steps) for _ in range(repeats)]
    return tuple(statistics.median(column) for column in zip(*times, strict=True))


def _generate(networks: int, steps: int) -> tuple[float, float]:
    images, _ = training_images(BATCH * steps)
    recipe = Recipe(epochs=1, batch_size=BATCH, lr=LR, momentum=MOMENTUM)
    plan = Plan("growth", networks, PER_STREAM, "conv", recipe, 1)
    compute = Compute(workers=torch.get_num_threads())
    initial, save = Clocked(ensemble.initial_weights), Clocked(save_tensors)
    with (
        tempfile.TemporaryDirectory() as name,
        mock.patch.object(ensemble, "initial_weights", initial),
        mock.patch.object(generate, "save_tensors", save),
    ):
        start = time.perf_counter()
        parts = generate.run(plan, images, Path(name) / "parts", compute)
        first = next(parts)  # computes them all
        trained = time.perf_counter()
        write_store(Path(name) / "store", itertools.chain([first], parts), networks, {})
        end = time.perf_counter()
    once = initial.seconds + save.seconds
    return trained - start - once, end - trained + once


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--largest", type=count, default=10_000)
    parser.add_argument("--steps", type=count, default=4, help="batches of 128 images")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the table and figure")
    parser.add_argument("--draw", action="store_true", help="draw the table that is there anew")
    options = parser.parse_args()
    if options.draw:
        return draw(options.out)

    check_output(options.out / "growth.csv")
    counts = [2**i for i in range(4, options.largest.bit_length()) if 2**i < options.largest]
    rows = []
    print(f"{'networks':>9}{'seconds':>9}{'once, ms':>10}{'ms/step':>9}{'peak GiB':>10}")
    for networks in [*counts, options.largest]:
        (training, rest), peak = alone(generation, networks, options.steps)
        step, once = 1e3 * training / networks / options.steps, 1e3 * rest / networks
        print(f"{networks:9}{training + rest:9.1f}{once:10.2f}{step:9.3f}{peak:10.2f}", flush=True)
        rows.append(
            {
                "networks": networks,
                "seconds": round(training + rest, 2),
                "ms_once": round(once, 3),
                "ms_per_step": round(step, 4),
                "peak_gib": round(peak, 3),
            }
        )
    options.out.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(options.out / "growth.csv", index=False)
    draw(options.out)


def draw(folder: Path) -> None:
    path = folder / "growth.csv"
    with reading(path, "run without --draw to make it"):
        table = pd.read_csv(path)
    style.save(lines.growth(table, LIMIT_GIB), folder / "growth.png")


if __name__ == "__main__":
    start(main)
