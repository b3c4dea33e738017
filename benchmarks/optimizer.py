"""What an optimiser costs: this library's against `torch.optim`'s, each in a fresh process.

    python -m benchmarks.optimizer [--steps 200]

The weights are those of the default translator. The first step includes what an optimiser imports
when it is first used.
"""

import torch

from benchmarks.command import Parser, count, start
from benchmarks.process import alone, seconds
from kt.run.optimizer import Adam
from kt.run.threads import one_thread
from kt.translators.merge import Merge, MergeConfig

KINDS = {
    "kt.run.optimizer.Adam": lambda weights: Adam(weights, 0.001),
    "torch.optim.Adam, fused": lambda weights: torch.optim.Adam(weights, 0.001, fused=True),
    "torch.optim.Adam, foreach": lambda weights: torch.optim.Adam(weights, 0.001, foreach=True),
}


def measure(kind: str, steps: int) -> tuple[float, float]:
    """Seconds of the first step, and of each of the others on average."""
    weights = list(Merge(MergeConfig()).parameters())
    draw = torch.Generator().manual_seed(0)
    for weight in weights:
        weight.grad = torch.randn(weight.shape, generator=draw)
    with one_thread():
        first = seconds(lambda: KINDS[kind](weights).step())
        optimizer = KINDS[kind](weights)
        rest = seconds(lambda: [optimizer.step() for _ in range(steps)])
    return first, rest / steps


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=count, default=200)
    options = parser.parse_args()
    print(f"{'':27}{'first step, s':>14}{'others, ms':>12}")
    for kind in KINDS:
        (first, step), _ = alone(measure, kind, options.steps)
        print(f"{kind:27}{first:14.3f}{1e3 * step:12.3f}")


if __name__ == "__main__":
    start(main)
