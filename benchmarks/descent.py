"""Steps on the answers of a published network, at equal cost: whitened, as learned, and Adam's.

    KT_DATA_ROOT=... python -m benchmarks.descent [--network resnet20] [--keep 0.25] [--steps 8 50]

All begin from the same translation without steps, on the same 1,000 unlabelled images. `learned`
are the steps of `kt.compress`: whitened, their lengths falling as `merge` learned it on the tiny
networks. Each kind takes the length of its longest step that does best on 1,000 other images.
"""

import copy
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.command import Parser, count, start
from kt.images import load_images
from kt.real import Schedule, compress
from kt.real.blocks import find
from kt.real.graph import Graph
from kt.real.images import stream
from kt.real.shown import error
from kt.real.steps import descend
from stages.networks import rivals
from stages.networks.cell import accuracy, answers
from stages.networks.resnet import pixels, published

LENGTHS = (0.5, 1, 2, 4, 8, 16)
"""Of the longest step, relative to what is taken by default."""


class Cosine(Schedule):
    """Steps whose lengths fall as a cosine."""

    def length(self, step: int, blocks: int) -> float:
        longest = Schedule(1, stride=self.stride, warmup=1).length(0, blocks)
        rising = min(1.0, (step + 1) / self.warmup)
        return longest * rising * (0.5 + 0.5 * math.cos(math.pi * step / self.steps))


Way = Callable[[nn.Module, int, float], None]


def ways(original: nn.Module, images: Tensor, blocks: int) -> dict[str, Way]:
    """Each moves a network, in place, by some steps of some length."""
    graph = Graph(original, images[:2])

    def whitened(kind: type[Schedule]) -> Way:
        def move(network: nn.Module, steps: int, length: float) -> None:
            draw = torch.Generator().manual_seed(0)
            stride = length * Schedule(1, warmup=1).length(0, blocks)
            schedule = kind(steps, stride=stride, warmup=max(1, min(5, steps // 4)))
            batches = stream(images, schedule.batch, draw, True)
            descend(network, original, graph, batches, schedule, blocks, draw)

        return move

    def adam(network: nn.Module, steps: int, length: float) -> None:
        batches = stream(images, 64, torch.Generator().manual_seed(0), True)
        rivals.adam(network, original, batches, steps, blocks, length)

    return {"whitened": whitened(Cosine), "learned": whitened(Schedule), "Adam": adam}


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=["resnet20", "resnet56"], default="resnet20")
    parser.add_argument("--keep", type=float, default=0.25)
    parser.add_argument("--steps", type=count, nargs="+", default=[8, 50])
    options = parser.parse_args()
    depth = int(options.network.removeprefix("resnet"))
    original = published(depth).eval().requires_grad_(False)
    train, test = load_images("cifar10", Path("data"))
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    images, others = (pixels(train.images[order[at : at + 1000]]) for at in (0, 1000))
    start = compress(original, images[:2], options.keep, images, schedule=Schedule(0))
    blocks = len(find(original, Graph(original, images[:2]))[0])
    pictures = pixels(test.images)

    def row(name: str, steps: int, network: nn.Module, length: str, seconds: float) -> None:
        right = accuracy(answers(network, pictures), test.labels)
        apart = error(network, original, others)
        print(f"{name:10}{steps:6}{length:>8}{apart:10.4f}{right:10.2f}{seconds:9.1f}", flush=True)

    print(f"{'':10}{'steps':>6}{'length':>8}{'KL':>10}{'accuracy':>10}{'seconds':>9}")
    row("start", 0, start, "", 0.0)
    for steps in options.steps:
        for name, move in ways(original, images, blocks).items():
            tried = []
            for length in LENGTHS:
                network = copy.deepcopy(start)
                begun = time.perf_counter()
                move(network, steps, length)
                seconds = time.perf_counter() - begun
                tried.append((error(network, original, others), length, network, seconds))
            _, length, network, seconds = min(tried, key=lambda one: one[0])
            row(name, steps, network, f"{length:g}", seconds)


if __name__ == "__main__":
    start(main)
