"""Translating blocks: one network at a time in plain PyTorch, and many together, in one run.

    python -m benchmarks.translate [--networks 1024] [--translator FILE]

Both on one core. Without a translator's file an untrained `merge` of the default size does the same
work. The blocks agree but where rounding tips the choice among channels that do equally well.
"""

import time
from pathlib import Path

import torch

from benchmarks.command import Parser, count, start
from kt.ensemble import Compute
from kt.images import load_images
from kt.networks.blocks import Network, initial_weights
from kt.translators import load_translator, translate
from kt.translators.merge import Merge, MergeConfig


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", type=count, default=1024)
    parser.add_argument("--plain-networks", type=count, default=16)
    parser.add_argument("--translator", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)

    networks = initial_weights(Network, range(options.networks))
    networks = {name.replace("block.", "large."): tensor for name, tensor in networks.items()}
    if options.translator is None:
        torch.manual_seed(0)
        model = Merge(MergeConfig())
        images, _ = load_images("digits", Path("data"))
        model.prepare(networks, images, torch.Generator().manual_seed(0))
    else:
        model = load_translator(options.translator)
    Compute().engine_for("conv")  # compiled before the clock starts

    started = time.perf_counter()
    ours = translate(model, networks)
    ours_each = (time.perf_counter() - started) / options.networks
    same = 0
    started = time.perf_counter()
    for i in range(options.plain_networks):
        single = {name: tensor[i : i + 1] for name, tensor in networks.items()}
        alone = translate(model, single, Compute(engine="torch"))
        same += all(
            torch.allclose(tensor[0], ours[name][i], rtol=1e-2, atol=1e-2)
            for name, tensor in alone.items()
        )
    plain_each = (time.perf_counter() - started) / options.plain_networks
    print(f"{model.describe()['kind']}, one core, {options.networks} networks")
    print(f"one at a time, plain PyTorch {1 / plain_each:8.1f} blocks a second")
    print(f"together                     {1 / ours_each:8.1f} blocks a second", end="")
    print(f", ratio {plain_each / ours_each:.0f}")
    print(f"the same block for {same} of {options.plain_networks} networks")


if __name__ == "__main__":
    start(main)
