"""Generating networks: the plain loop and the engines, on the same work in one run.

    python -m benchmarks.generate [--networks 32] [--steps 20] [--channels 16 --hidden 8]

The plain loop trains one `Network` at a time with `torch.utils.data.DataLoader`, the protocol's
transforms on PIL images and `torch.optim.SGD`. Times are wall time per network and step,
the median over steps. Images are MNIST's where `KT_DATA_ROOT` names a folder that holds them, else
random ones that are as sparse. FLOP are counted as the plain loop does them, at every position.
The limit is the processor's multiply-add peak: a loop that stays in registers, in all threads.

`KT_ISA=avx2` holds the engine to AVX2; PyTorch has switches of its own for that:

    KT_ISA=avx2 ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 \\
        python -m benchmarks.generate
"""

import ctypes
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.command import MOST, Parser, count, some, start, whole
from benchmarks.process import peak_memory, seconds
from kt.ensemble import cpu_engine, cpu_library, cuda_engine, torch_engine
from kt.images import ImageSet, fitted, load_images, training_batches
from kt.networks.blocks import BLOCKS, PAPER, TARGETS, Network, Sizes, initial_weights
from kt.networks.weights import part
from kt.run.threads import one_thread

BATCH, LR, MOMENTUM = 128, 0.01, 0.9


def flop(target: str, sizes: Sizes = PAPER) -> dict[str, int]:
    """Floating-point operations of a network's training step, for each of the two trainings."""
    channels, area, read = sizes.channels, sizes.map_size**2, sizes.read_size**2
    taps = sizes.kernel**2 * channels
    former = sizes.image_size**2 * taps * sizes.image_channels
    large = 2 * area * taps * channels
    latter = 2 * read * channels**2 + 20 * read * channels
    # Forward, weights' gradient, inputs' gradient (the first layer of what is trained needs none).
    small = {
        "conv": 5 * area * taps * sizes.hidden,
        "conv_bias": 5 * area * taps * sizes.hidden,
        "mlp": 10 * area * channels**2,
        "attention": 9 * area * channels**2 + 6 * area**2 * channels,
    }
    steps = {
        "step 1": 2 * BATCH * (2 * former + 3 * large + 3 * latter),
        "step 2": 2 * BATCH * (former + small[target] + 2 * latter),
    }
    return steps | {"both": sum(steps.values())}


class Pictures(Dataset):
    """An image set as torchvision hands it out: a PIL image at a time, through the transforms."""

    def __init__(self, images: ImageSet) -> None:
        self.images = images
        self.transform = transforms.Compose(
            [transforms.RandomHorizontalFlip(p=0.5), transforms.ToTensor()]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        pixels = self.images.images[index]
        picture = Image.fromarray(
            (pixels if pixels.dim() == 2 else pixels.permute(1, 2, 0)).numpy()
        )
        return self.transform(picture), int(self.images.labels[index])


class Clock:
    """Passes batches on and notes the time from each request for a batch to the next one."""

    def __init__(self, batches: Iterator, warm_up: int = 1, device: str = "cpu") -> None:
        self.batches, self.warm_up, self.device, self.asked = batches, warm_up, device, []

    def __iter__(self) -> Iterator:
        for batch in self.batches:
            self.note()
            yield batch
        self.note()

    def note(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()
        self.asked.append(time.perf_counter())

    def milliseconds(self) -> float:
        spans = [b - a for a, b in zip(self.asked, self.asked[1:], strict=False)]
        return 1e3 * statistics.median(spans[self.warm_up :])


def training_images(count: int, sizes: Sizes = PAPER) -> tuple[ImageSet, str]:
    """Training images that such networks read, and their name."""
    images, name = paper_images(count)
    return fitted(images, sizes.image_channels, sizes.image_size), name


def paper_images(count: int) -> tuple[ImageSet, str]:
    """MNIST's; random ones with a fifth of the pixels set if need be."""
    if "KT_DATA_ROOT" in os.environ:
        with tempfile.TemporaryDirectory() as folder:
            train, _ = load_images("mnist", Path(folder))
        return train.subset(slice(0, count)), "MNIST"
    draw = torch.Generator().manual_seed(0)
    images = torch.zeros(count, PAPER.image_size, PAPER.image_size, dtype=torch.uint8)
    strokes = torch.randint(256, (count, 20, 8), generator=draw, dtype=torch.uint8)
    images[:, 4:24, 10:18] = strokes
    return ImageSet(images, torch.randint(10, (count,), generator=draw)), "random images"


def plain_loop(
    images: ImageSet, step: str, target: str, networks: int, loaders: int, sizes: Sizes = PAPER
) -> float:
    """Milliseconds per network and step of the plain loop."""
    loader = DataLoader(Pictures(images), BATCH, shuffle=True, drop_last=True, num_workers=loaders)
    spans = []
    for _ in range(networks):
        network = Network(sizes=sizes)
        parameters = list(network.parameters())
        if step == "step 2":
            network.eval().requires_grad_(False)
            network.block = BLOCKS[target](sizes)
            parameters = list(network.block.parameters())
        optimizer = torch.optim.SGD(parameters, LR, MOMENTUM)
        clock = Clock(loader, warm_up=2)
        for x, y in clock:
            optimizer.zero_grad()
            F.cross_entropy(network(x), y).backward()
            optimizer.step()
        spans.append(clock.milliseconds())
    return statistics.median(spans)


def engine_loop(
    engine,
    images: ImageSet,
    step: str,
    target: str,
    networks: int,
    device: str = "cpu",
    sizes: Sizes = PAPER,
    **options,
) -> float:
    """Milliseconds per network and step of an engine that trains all networks together."""

    def weights(part: Callable[[], Network] | str) -> dict[str, torch.Tensor]:
        return {k: v.to(device) for k, v in initial_weights(part, range(networks), sizes).items()}

    whole = weights(lambda: Network(sizes=sizes))
    images = images.to(torch.device(device))
    batches = Clock(training_batches(images, BATCH, 1, True, seed=0), device=device)
    if step == "step 1":
        engine.train_networks(whole, batches, LR, MOMENTUM, **options)
    else:
        former, latter = (part(whole, name) for name in ("former", "latter"))
        engine.train_blocks(
            target, weights(target), former, latter, batches, LR, MOMENTUM, **options
        )
    return batches.milliseconds() / networks


def multiply_add_peak(threads: int) -> float:
    """This processor's float32 multiply-adds in registers, in GFLOP/s: the best of a few."""
    source = Path(__file__).with_name("peak.cpp")
    library = ctypes.CDLL(str(cpu_library.built(source, cpu_library.isa())))
    library.multiply_add.argtypes = [ctypes.c_int64, ctypes.c_int, ctypes.c_float]
    rounds = 5_000_000
    best = min(seconds(lambda: library.multiply_add(rounds, threads, 0.5)) for _ in range(8))
    return threads * rounds * library.round_flop() / best / 1e9


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", type=count, default=32, help="trained together by an engine")
    parser.add_argument("--steps", type=whole(3, MOST), default=20, help="batches of 128 images")
    parser.add_argument("--plain-networks", type=count, default=2, help="in the plain loop")
    parser.add_argument("--target", choices=TARGETS, default="conv", help="small block of step 2")
    parser.add_argument(
        "--loaders", type=some, default=0, help="the plain loop's loading processes"
    )
    parser.add_argument("--channels", type=count, default=PAPER.channels)
    parser.add_argument("--hidden", type=count, default=PAPER.hidden)
    parser.add_argument(
        "--image-channels", type=count, choices=[1, 3], default=PAPER.image_channels
    )
    parser.add_argument("--image-size", type=count, default=PAPER.image_size)
    options = parser.parse_args()

    threads, target = torch.get_num_threads(), options.target
    sizes = Sizes(
        channels=options.channels,
        hidden=options.hidden,
        image_channels=options.image_channels,
        image_size=options.image_size,
    )
    images, name = training_images(BATCH * options.steps, sizes)
    print(sizes)
    print(f"{name}, batch {BATCH}, {options.steps} steps, {threads} threads")
    peak = None
    print(f"PyTorch: {torch.backends.cpu.get_cpu_capability()}")
    if cpu_engine.available(sizes):
        peak = multiply_add_peak(threads)
        print(f"engine: {cpu_library.isa()}, multiply-add peak {peak:.0f} GFLOP/s (all threads)")

    def cpu(threads: int) -> Callable[[str], float]:
        def run(step: str) -> float:
            with one_thread():  # PyTorch's, as in `kt.ensemble`: idle ones spin and take a core
                return engine_loop(
                    cpu_engine,
                    images,
                    step,
                    target,
                    options.networks,
                    sizes=sizes,
                    threads=threads,
                )

        return run

    runs: dict[str, Callable[[str], float]] = {}
    if cpu_engine.available(sizes):
        runs |= {f"cpu engine, {n} thread{'s' * (n > 1)}": cpu(n) for n in sorted({1, threads})}
    else:
        print(cpu_engine.reason(sizes))
    if cuda_engine.available(sizes) and cuda_engine.supports(target):
        runs["cuda engine"] = lambda step: engine_loop(  # a GPU needs many: --networks 256
            cuda_engine, images, step, target, options.networks, "cuda", sizes
        )
    runs |= {
        "torch engine": lambda step: engine_loop(
            torch_engine, images, step, target, options.networks, sizes=sizes
        ),
        "plain loop": lambda step: plain_loop(
            images, step, target, options.plain_networks, options.loaders, sizes
        ),
    }
    measured: dict[str, dict[str, float]] = {}
    peaks: dict[str, float] = {}
    for label, run in runs.items():
        measured[label] = {step: run(step) for step in ("step 1", "step 2")}
        measured[label]["both"] = sum(measured[label].values())
        peaks[label] = peak_memory()

    operations = flop(target, sizes)
    print(f"{'':24}{'':8}{'ms/network':>11}{'ratio':>8}{'GFLOP/s':>9}{'share':>7}{'peak GiB':>10}")
    for label, times in reversed(measured.items()):
        for step, ms in times.items():
            reached = operations[step] / ms / 1e6
            share = f"{reached / peak:.0%}" if peak else ""
            print(
                f"{label:24}{step:8}{ms:11.3f}{measured['plain loop'][step] / ms:8.1f}"
                f"{reached:9.1f}{share:>7}{peaks[label]:10.2f}"
            )
    print("peak: the process's high-water mark after that run, in the order from below upwards")


if __name__ == "__main__":
    start(main)
