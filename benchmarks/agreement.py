"""Does the ensemble train networks as well as a plain loop, one network at a time?

Trains former + large + latter both ways on MNIST with the protocol's settings, from the same
initial weights and over the same images, and compares the accuracies on the 10,000 test images,
which rounding alone can set apart, and the time a network takes.
"""

import argparse
import os
import time
from pathlib import Path

import torch
from torch.nn import functional as F

from kt import data, ensemble
from kt.blocks import Network
from kt.data import ImageSet, ordered_batches, training_batches
from kt.ensemble import Compute, Recipe
from kt.statistics import summary

STREAM = 1


def plain(train: ImageSet, test: ImageSet, recipe: Recipe, seed: int) -> float:
    """Accuracy of one network trained by an ordinary PyTorch loop."""
    torch.manual_seed(seed)
    network = Network()
    optimizer = torch.optim.SGD(network.parameters(), recipe.lr, recipe.momentum)
    for x, labels in training_batches(train, recipe.batch_size, recipe.epochs, True, STREAM):
        optimizer.zero_grad()
        F.cross_entropy(network(x), labels).backward()
        optimizer.step()
    network.eval()
    with torch.no_grad():
        right = sum((network(x).argmax(1) == y).sum().item() for x, y in ordered_batches(test, 250))
    return 100 * right / len(test)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--engine", default="auto", choices=("auto", "cpu", "torch"))
    options = parser.parse_args()
    train, test = data.load("mnist", Path("data"))
    recipe = Recipe(epochs=options.epochs)
    compute = Compute(workers=os.cpu_count() or 1, engine=options.engine)
    compute.engine_for("large")  # compile before the clock starts

    started = time.perf_counter()
    ours = ensemble.train_networks(train, range(options.networks), STREAM, recipe, compute)
    ours_seconds = time.perf_counter() - started
    accuracy = ensemble.evaluate("large", test, ours, ensemble.part(ours, "block"), compute)
    started = time.perf_counter()
    others = [plain(train, test, recipe, i) for i in range(options.networks)]
    plain_seconds = time.perf_counter() - started

    name = compute.engine_for("large").__name__.rpartition(".")[2]
    for label, values, seconds in (
        ("plain loop", torch.tensor(others), plain_seconds),
        (name, accuracy, ours_seconds),
    ):
        s = summary(values)
        print(
            f"{label:13} {s['mean']:.2f} % +- {s['ci95']:.2f} (std {s['std']:.2f}, n {s['n']}), "
            f"{seconds / options.networks:.2f} s a network"
        )
    gap = summary(accuracy - torch.tensor(others))
    print(f"difference {gap['mean']:+.2f} +- {gap['ci95']:.2f} points, network by network")
    print(f"the plain loop takes {plain_seconds / ours_seconds:.1f} times as long")


if __name__ == "__main__":
    main()
