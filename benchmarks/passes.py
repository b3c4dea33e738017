"""Where the compiled engine's time goes: a training step's passes over a batch, one by one.

    python -m benchmarks.passes [--channels 16 --hidden 8] [--images 8]

One thread and one pack of networks. Times are per network: a pass's best of some rounds, over the
number of networks. With `--images 8` instead of a whole batch the maps that are kept between the
passes stay in the caches: the difference is what memory costs.
"""

import ctypes
from pathlib import Path

import torch

from benchmarks.command import Parser, count, start
from benchmarks.generate import BATCH, LR, MOMENTUM, training_images
from benchmarks.process import seconds
from kt.ensemble import cpu_library
from kt.ensemble.cpu_packs import (
    Packs,
    is_statistic,
    on_huge_pages,
    packed_block,
    packed_frozen,
    tensor_names,
)
from kt.images import training_batches
from kt.networks.blocks import PAPER, Network, Sizes, initial_weights
from kt.networks.weights import part

PASSES = (
    "former, first convolution",
    "second convolution",
    "block's output, latter convolution",
    "logits and back",
    "back to the block's output",
    "back through the second convolution",
    "back through the first and the former",
)


def milliseconds(images: torch.Tensor, labels: torch.Tensor, sizes: Sizes, rounds: int) -> dict:
    """Of each pass of step 1, and of step 2 as a whole, for a network."""
    engine = cpu_library.library(sizes)
    source = Path(__file__).with_name("passes.cpp")
    passes = ctypes.CDLL(str(cpu_library.built(source, cpu_library.isa(), sizes)))
    passes.start.argtypes = [*[ctypes.c_void_p] * 4, ctypes.c_int, ctypes.c_void_p]
    lanes = engine.kt_lanes()

    whole = initial_weights(lambda: Network(sizes=sizes), range(lanes), sizes)
    names = tensor_names("network")
    weights = Packs(engine, [n for n in names if not is_statistic(n)], whole).values
    statistics = Packs(engine, [n for n in names if is_statistic(n)], whole).values
    small = packed_block(engine, "conv", initial_weights("conv", range(lanes), sizes)).values
    frozen = packed_frozen(engine, part(whole, "former"), part(whole, "latter")).values
    memory = on_huge_pages(engine.kt_step1_memory(len(labels)) * lanes)
    momenta = torch.zeros_like(small)
    batch = (images.data_ptr(), labels.data_ptr(), len(labels))

    best = dict.fromkeys([*PASSES, "step 2"], float("inf"))
    for _ in range(rounds):
        passes.start(weights.data_ptr(), statistics.data_ptr(), *batch, memory.data_ptr())
        times = [seconds(lambda number=number: passes.run(number)) for number in range(len(PASSES))]
        addresses = (t.data_ptr() for t in (small, momenta, frozen))
        times.append(
            seconds(lambda: engine.kt_train_conv(1, *addresses, *batch, LR, MOMENTUM, 1))  # noqa: B023
        )
        best = {name: min(best[name], t) for name, t in zip(best, times, strict=True)}
    return {name: 1e3 * t / lanes for name, t in best.items()}


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--channels", type=count, default=PAPER.channels)
    parser.add_argument("--hidden", type=count, default=PAPER.hidden)
    parser.add_argument("--images", type=count, default=BATCH, help="of the batch")
    parser.add_argument("--rounds", type=count, default=20)
    options = parser.parse_args()

    sizes = Sizes(channels=options.channels, hidden=options.hidden)
    images, name = training_images(options.images, sizes)
    batch = next(iter(training_batches(images, options.images, 1, True, seed=0)))
    times = milliseconds(*batch, sizes, options.rounds)
    print(f"{sizes}\n{name}, {options.images} images, {cpu_library.isa()}, one thread")
    for what, ms in times.items():
        print(f"{what:42}{ms:8.3f} ms{1e3 * ms / options.images:9.2f} us an image")
    ms = sum(times.values())
    print(f"{'both steps':42}{ms:8.3f} ms{1e3 * ms / options.images:9.2f} us an image")


if __name__ == "__main__":
    start(main)
