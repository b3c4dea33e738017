"""The store of pairs: a file for each pair and the shards, on the same work in one run.

    python -m benchmarks.store [--pairs 65536] [--plain-pairs 4096]

The plain way saves each pair with `torch.save` and reads it back in a `Dataset` under a shuffling
`DataLoader`. Both write complete networks and read batches of 4,096 random large and small blocks,
from the page cache: the second pass over the pairs is timed. The weights are random numbers.
"""

import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.command import MOST, Parser, count, existing, some, start, whole
from benchmarks.process import alone, seconds
from kt.networks.blocks import Network, initial_weights
from kt.networks.weights import Weights
from kt.pairs.store import Pairs, write_store

BATCH = 4096
PART = 256
"""Networks that arrive together, as they do at the paper's scale."""


class Files(Dataset):
    """One file for each pair: its large and its small block."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.count = folder, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Weights:
        pair = torch.load(self.folder / f"{index}.pt")
        return {name: t for name, t in pair.items() if name.startswith(("large.", "small."))}


def part(count: int) -> Weights:
    """Random weights of `count` complete networks with both blocks, named as in the store."""
    draw = torch.Generator().manual_seed(0)
    network = initial_weights(Network, [0])
    shapes = {name.replace("block.", "large."): t.shape[1:] for name, t in network.items()}
    shapes |= {f"small.{name}": t.shape[1:] for name, t in initial_weights("conv", [0]).items()}
    return {name: torch.randn(count, *s, generator=draw) for name, s in shapes.items()}


def write_shards(folder: Path, count: int) -> float:
    """Seconds to write a store."""
    some = part(PART)

    def parts() -> Iterator[Weights]:
        for at in range(0, count, PART):
            yield {name: tensor[: count - at].clone() for name, tensor in some.items()}

    return seconds(lambda: write_store(folder, parts(), count, {}))


def write_files(folder: Path, count: int) -> float:
    """Seconds to write a file for each pair."""
    folder.mkdir()
    some = part(PART)

    def write() -> None:
        for i in range(count):
            pair = {name: tensor[i % PART].clone() for name, tensor in some.items()}
            torch.save(pair, folder / f"{i}.pt")

    return seconds(write)


def read_shards(folder: Path, batches: int) -> tuple[float, float]:
    """Seconds to open and verify a store; pairs a second in batches of random rows."""
    rows = {}
    opening = seconds(lambda: rows.update(Pairs(folder).mapped("large", "small")))
    count = len(next(iter(rows.values())))

    def batch() -> None:
        index = torch.randint(count, (BATCH,))
        for tensor in rows.values():
            tensor[index]

    for _ in range(batches):  # every page into the process's map
        batch()
    return opening, BATCH / statistics.median(seconds(batch) for _ in range(batches))


def read_files(folder: Path, count: int, loaders: int) -> float:
    """Pairs a second in shuffled batches, in the second of two passes."""
    loader = DataLoader(Files(folder, count), min(BATCH, count), shuffle=True, num_workers=loaders)
    return [count / seconds(lambda: [None for _ in loader]) for _ in range(2)][1]


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=whole(8, MOST), default=65_536, help="28 kB each")
    parser.add_argument("--plain-pairs", type=count, default=4096, help="written one by one")
    parser.add_argument("--loaders", type=some, default=0, help="the plain way's loading processes")
    parser.add_argument(
        "--batches", type=count, default=64, help="of random pairs, read from shards"
    )
    parser.add_argument(
        "--folder", type=existing, help="where there is room [the temporary folder]"
    )
    options = parser.parse_args()

    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        little = options.pairs // 8
        _, peak_of_little = alone(write_shards, folder / "little", little)
        writing, peak = alone(write_shards, folder / "shards", options.pairs)
        plain_writing, plain_peak = alone(write_files, folder / "files", options.plain_pairs)
        (opening, rate), reading_peak = alone(read_shards, folder / "shards", options.batches)
        plain_rate, plain_reading_peak = alone(
            read_files, folder / "files", options.plain_pairs, options.loaders
        )
        shards = list((folder / "shards").glob("*.safetensors"))
        size = sum(file.stat().st_size for file in shards)

    ms, plain_ms = 1e3 * writing / options.pairs, 1e3 * plain_writing / options.plain_pairs
    print(f"{options.pairs} pairs: {len(shards)} shards and a manifest, {size / 1e9:.2f} GB")
    print(f"plain way: {options.plain_pairs} files, {options.loaders} loading processes")
    print(f"{'':28}{'plain way':>12}{'shards':>12}{'ratio':>8}")
    print(f"{'writing, ms a pair':28}{plain_ms:12.3f}{ms:12.4f}{plain_ms / ms:8.1f}")
    print(f"{'peak, GiB':28}{plain_peak:12.2f}{peak:12.2f}")
    print(f"{f'peak of {little} pairs, GiB':28}{'':12}{peak_of_little:12.2f}")
    print(f"{'opening and verifying, s':28}{'':12}{opening:12.2f}")
    print(f"{'random batches, pairs/s':28}{plain_rate:12.0f}{rate:12.0f}{rate / plain_rate:8.1f}")
    print(f"{'peak, GiB':28}{plain_reading_peak:12.2f}{reading_peak:12.2f}")
    print("the peak of reading shards counts the pages of the page cache that the map has touched")


if __name__ == "__main__":
    start(main)
