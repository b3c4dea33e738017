"""Compare networks trained by every engine with networks trained by a plain loop.

    python -m benchmarks.agreement [--images digits] [--networks 32] [--epochs 10]

Trains former + large + latter, then a small block between the frozen two, in each engine and in a
plain PyTorch loop: from the same initial weights, over the same images, flips and order. Rounding
alone can set the accuracies on the test images apart; the difference is taken network by network.
"""

import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.command import Parser, count, start
from kt import ensemble
from kt.ensemble import Compute, Recipe, cpu_engine
from kt.images import ImageSet, load_images, ordered_batches, training_batches
from kt.networks.blocks import Network, SmallBlock
from kt.networks.weights import part
from kt.run.statistics import summary
from kt.run.threads import processors

RECIPES = {"digits": {"batch_size": 32, "lr": 0.02}, "mnist": {"batch_size": 128, "lr": 0.01}}


def train(network: nn.Module, parameters, images: ImageSet, recipe: Recipe, stream: int) -> None:
    optimizer = torch.optim.SGD(parameters, recipe.lr, recipe.momentum)
    for x, labels in training_batches(images, recipe.batch_size, recipe.epochs, True, stream):
        optimizer.zero_grad()
        F.cross_entropy(network(x), labels).backward()
        optimizer.step()


def accuracy(network: nn.Module, images: ImageSet) -> float:
    network.eval()
    with torch.no_grad():
        batches = ordered_batches(images, 250)
        right = sum((network(x).argmax(1) == y).sum().item() for x, y in batches)
    return 100 * right / len(images)


def plain(images: ImageSet, test: ImageSet, recipe: Recipe, seed: int) -> tuple[float, float]:
    """Accuracy with the large and with the small block, by an ordinary PyTorch loop."""
    torch.manual_seed(seed)
    network = Network()
    train(network, network.parameters(), images, recipe, 1)
    large = accuracy(network, test)
    network.requires_grad_(False)
    torch.manual_seed(seed)
    network.block = SmallBlock()
    train(network, network.block.parameters(), images, recipe, 2)
    return large, accuracy(network, test)


def by_engine(
    images: ImageSet, test: ImageSet, recipe: Recipe, count: int, compute: Compute
) -> tuple[Tensor, Tensor]:
    """The same for all networks together."""
    networks = ensemble.train_networks(images, range(count), 1, recipe, compute)
    block = part(networks, "block")
    small = ensemble.train_blocks("conv", images, networks, range(count), 2, recipe, compute)
    return (
        ensemble.evaluate("large", test, networks, block, compute),
        ensemble.evaluate("conv", test, networks, small, compute),
    )


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", choices=RECIPES, default="digits")
    parser.add_argument("--networks", type=count, default=32)
    parser.add_argument("--epochs", type=count, default=10)
    options = parser.parse_args()
    images, test = load_images(options.images, Path("data"))
    recipe = Recipe(epochs=options.epochs, **RECIPES[options.images])
    workers = processors()
    computes = {"torch": Compute(workers=workers, engine="torch")}
    if cpu_engine.available():  # and compiled before the clock starts
        computes["cpu"] = Compute(workers=workers, engine="cpu")
    if torch.cuda.is_available():
        computes["cuda"] = Compute(torch.device("cuda"), chunk=options.networks)

    started = time.perf_counter()
    rows = [plain(images, test, recipe, seed) for seed in range(options.networks)]
    seconds = time.perf_counter() - started
    reference = [torch.tensor(column) for column in zip(*rows, strict=True)]
    print(f"{options.images}, {options.networks} networks, {options.epochs} epochs a step")
    print(f"{'':12}{'block':7}{'accuracy, %':>16}{'std':>7}{'difference, points':>22}")

    def show(label: str, accuracies: tuple | list, differences: bool) -> None:
        for name, values, expected in zip(("large", "small"), accuracies, reference, strict=True):
            s, gap = summary(values), summary(values - expected)
            apart = f"{gap['mean']:+.2f} +- {gap['ci95']:.2f}" if differences else ""
            mean = f"{s['mean']:.2f} +- {s['ci95']:.2f}"
            print(f"{label:12}{name:7}{mean:>16}{s['std']:7.2f}{apart:>22}")

    show("plain loop", reference, False)
    for name, compute in computes.items():
        started = time.perf_counter()
        show(name, by_engine(images, test, recipe, options.networks, compute), True)
        ratio = seconds / (time.perf_counter() - started)
        print(f"{'':12}{ratio:.1f} times as fast as the plain loop, which loads no pictures here")


if __name__ == "__main__":
    start(main)
