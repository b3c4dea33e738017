"""Training the translator: the plain loop and `kt.translators.fit`, on the same pairs in one run.

    python -m benchmarks.translator [--pairs 512] [--batch 128] [--layers 8] [--loaders 0]

The plain loop is the paper's protocol as it stands: a file for each pair, read and augmented one at
a time in a `DataLoader`, PyTorch's Adam with its defaults, the whole batch in one graph. Both train
the same mixer for the same number of passes, in turns and each time in a fresh process; the fastest
pass is reported. FLOP are those of the matrix products.
"""

import tempfile
import time
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.command import Parser, count, some, start
from benchmarks.process import alone, seconds
from benchmarks.store import Files, write_files, write_shards
from kt.networks.weights import Weights, part
from kt.pairs.augment import augment
from kt.pairs.store import Pairs
from kt.translators.fit import Training, fit
from kt.translators.losses import weight_mse
from kt.translators.mixer import Mixer, MixerConfig
from kt.translators.objectives import WeightObjective

MASKING, NOISE = 0.05, 0.01


def matrix_product_rate(size: int = 2048) -> float:
    """This machine's float32 matrix product with all threads, in GFLOP/s: the best of a few."""
    a, b = torch.rand(size, size), torch.rand(size, size)
    best = min(seconds(lambda: a @ b) for _ in range(8))
    return 2 * size**3 / best / 1e9


class AugmentedFiles(Files):
    """One file for each pair, augmented when it is read."""

    def __getitem__(self, index: int) -> tuple[Weights, Weights]:
        pair = super().__getitem__(index)
        large, small = part(pair, "large"), part(pair, "small")
        return augment(large, small, MASKING, NOISE, "large")


def make_model(layers: int) -> Mixer:
    torch.manual_seed(0)
    return Mixer(MixerConfig(layers=layers))


def plain_loop(
    folder: Path, pairs: int, batch: int, layers: int, passes: int, loaders: int
) -> float:
    """Samples a second of the fastest pass."""
    model = make_model(layers).train()
    optimizer = torch.optim.Adam(model.parameters())
    files = AugmentedFiles(folder / "files", pairs)
    loader = DataLoader(files, batch, shuffle=True, num_workers=loaders)
    rates = []
    for _ in range(passes):
        start = time.perf_counter()
        for large, small in loader:
            loss = weight_mse(model(large), small)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()
        rates.append(pairs / (time.perf_counter() - start))
    return max(rates)


def ours(folder: Path, batch: int, layers: int, passes: int) -> float:
    """Samples a second of the fastest pass."""
    store = Pairs(folder / "shards")
    large, small = (part(store.mapped(side), side) for side in ("large", "small"))
    training = Training(epochs=passes, batch_size=batch)
    objective = WeightObjective(large, small, MASKING, NOISE, workers=torch.get_num_threads())
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = Path(scratch) / "checkpoint.pt"
        model = make_model(layers)
        fitted = fit(model, objective, training, lambda _: {"none": 0.0}, "none", checkpoint)
    return max(record["samples_per_second"] for record in fitted.history)


def flop(layers: int, batch: int = 8) -> float:
    """Floating-point operations of a training step, for one sample."""
    model = make_model(layers)
    large = {f"conv{i}.weight": torch.rand(batch, 6, 6, 3, 3) for i in (1, 2)}
    small = {name: torch.rand(batch, *shape) for name, shape in model.shapes.items()}
    with FlopCounterMode(display=False) as counter:
        weight_mse(model(large), small).backward()
    return counter.get_total_flops() / batch


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=count, default=512)
    parser.add_argument("--batch", type=count, default=128)
    parser.add_argument("--layers", type=some, default=8, help="of the mixer")
    parser.add_argument("--passes", type=count, default=2, help="over the pairs, in each turn")
    parser.add_argument("--turns", type=count, default=2)
    parser.add_argument(
        "--loaders", type=some, default=0, help="the plain loop's loading processes"
    )
    options = parser.parse_args()

    each, rate = flop(options.layers), 0.0
    best = {"plain loop": (0.0, 0.0), "kt.translators.fit": (0.0, 0.0)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_files(folder / "files", options.pairs)
        write_shards(folder / "shards", options.pairs)
        shape = (options.batch, options.layers, options.passes)
        for _ in range(options.turns):
            rate = max(rate, matrix_product_rate())
            runs = {
                "plain loop": alone(plain_loop, folder, options.pairs, *shape, options.loaders),
                "kt.translators.fit": alone(ours, folder, *shape),
            }
            best = {label: max(best[label], run) for label, run in runs.items()}

    print(f"{options.pairs} pairs, batch {options.batch}, {options.layers} layers")
    print(f"{each / 1e6:.0f} MFLOP a sample, {torch.get_num_threads()} threads")
    print(f"matrix product {rate:.0f} GFLOP/s (float32, all threads)")
    print(f"{'':12}{'samples/s':>11}{'ratio':>8}{'GFLOP/s':>9}{'share':>7}{'peak GiB':>10}")
    for label, (samples, peak) in best.items():
        reached = each * samples / 1e9
        ratio = samples / best["plain loop"][0]
        print(
            f"{label:12}{samples:11.1f}{ratio:8.2f}{reached:9.1f}{reached / rate:7.0%}{peak:10.2f}"
        )


if __name__ == "__main__":
    start(main)
