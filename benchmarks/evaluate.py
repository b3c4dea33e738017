"""Evaluating assembled networks: the plain loop and the ensemble, on the same work in one run.

    python -m benchmarks.evaluate [--networks 100] [--images 10000]

The plain loop puts one network at a time together and runs it over a `DataLoader` of PIL images at
batch 128. It is timed on a few networks; the accuracies of those must agree. FLOP are counted as
the plain loop does them, and shown beside the processor's multiply-add peak; the engine leaves out
positions that the latter block does not read, so it may pass it.
"""

import time

import torch
from torch.utils.data import DataLoader
from torchvision import transforms

from benchmarks.command import Parser, count, start
from benchmarks.generate import BATCH, Pictures, multiply_add_peak, training_images
from kt import ensemble
from kt.ensemble import Compute, cpu_engine
from kt.images import ImageSet
from kt.networks.blocks import PAPER, Network, initial_weights
from kt.networks.cost import multiply_adds


def plain_loop(networks: dict, small: dict, images: ImageSet, count: int) -> list[float]:
    """Accuracy in percent of each of the first `count` networks, one at a time."""
    pictures = Pictures(images)
    pictures.transform = transforms.ToTensor()
    accuracies = []
    for i in range(count):
        network = Network("conv")
        state = {k: t[i] for k, t in networks.items() if not k.startswith("block.")}
        state |= {f"block.{k}": t[i] for k, t in small.items()}
        network.load_state_dict(state, strict=False)
        network.eval()
        with torch.no_grad():
            right = sum(
                (network(x).argmax(1) == y).sum().item() for x, y in DataLoader(pictures, BATCH)
            )
        accuracies.append(100 * right / len(images))
    return accuracies


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", type=count, default=100, help="evaluated by the ensemble")
    parser.add_argument("--images", type=count, default=10_000)
    parser.add_argument("--plain-networks", type=count, default=2, help="in the plain loop")
    options = parser.parse_args()

    images, name = training_images(options.images)
    networks = initial_weights(Network, range(options.networks))
    small = initial_weights("conv", range(options.networks))
    compute = Compute(workers=torch.get_num_threads())
    engine = compute.engine_for("conv").__name__.rpartition(".")[2]  # compiled before the clock

    started = time.perf_counter()
    ours = ensemble.evaluate("conv", images, networks, small, compute)
    ours_each = (time.perf_counter() - started) / options.networks
    started = time.perf_counter()
    plain = plain_loop(networks, small, images, options.plain_networks)
    plain_each = (time.perf_counter() - started) / options.plain_networks

    print(f"{name}: {len(images)} images, {options.networks} networks")
    print(f"plain loop  {1e3 * plain_each:9.1f} ms a network")
    print(f"{engine:11} {1e3 * ours_each:9.1f} ms a network, ratio {plain_each / ours_each:.0f}")
    if cpu_engine.available():
        image = torch.zeros(1, 1, PAPER.image_size, PAPER.image_size)
        giga = 2 * len(images) * multiply_adds(Network("conv").eval(), image) / 1e9
        peak = multiply_add_peak(compute.workers)
        reached, least = giga / ours_each, giga / peak
        print(f"{engine:11} {reached:9.1f} GFLOP/s, {reached / peak:.0%} of the peak")
        print(f"at the peak {1e3 * least:9.1f} ms a network, ratio {plain_each / least:.0f}")
    apart = max(abs(a - b.item()) for a, b in zip(plain, ours, strict=False))
    print(f"accuracies differ by at most {apart:.2f} points over {options.plain_networks} networks")


if __name__ == "__main__":
    start(main)
