"""Measure a method on a network: all shares kept, all seeds."""

import time

import torch
from torch import Tensor, nn

from kt.ensemble import Compute
from kt.real import cost
from kt.run.errors import KTError
from stages.common.base import outputs, runtime
from stages.common.base.params import Params
from stages.networks import settings
from stages.networks.methods import METHODS, Task
from stages.networks.resnet import pixels


def main(params: Params, compute: Compute, cell: str) -> None:
    chosen = settings.load()
    name, key, seed = _parts(cell, chosen)
    wanted, method = chosen.active.networks[name], METHODS[key]
    network = chosen.trained(name).to(compute.device)
    shown, stored = chosen.shown(seed), chosen.stored("test")
    images, test = (pixels(given.images.to(compute.device)) for given in (shown, stored))
    known = shown.labels.to(compute.device)
    labels, own = stored.labels, answers(network, test)
    rows = []
    if seed == chosen.seeds[0]:  # the network itself is the same for all seeds
        whole = {"keep": 1.0, "images": 0, "seconds": 0.0}
        rows.append(measured(network, test, labels, own) | whole)
    bar = runtime.progress_bar(len(chosen.keep), cell, "network")
    for keep in chosen.keep:
        start = time.perf_counter()
        smaller = method.narrow(Task(network, keep, images, known, wanted.steps.schedule, seed))
        if compute.device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        drawn = smaller.kt_report.images if method.images == "drawn" else 0
        used = {"given": len(images), "drawn": drawn, "none": 0}[method.images]
        rows.append(
            measured(smaller, test, labels, own)
            | {"keep": keep, "images": used, "seconds": seconds}
        )
        bar.update()
    bar.close()
    cell_rows = [row | {"seed": seed} for row in rows]
    outputs.write_json(
        chosen.cell(name, key, seed),
        {"labels": len(images) if method.labels else 0, "rows": cell_rows},
    )


def _parts(cell: str, chosen: settings.Settings) -> tuple[str, str, int]:
    """Network, method and seed."""
    name, _, rest = cell.partition("-")
    key, _, seed = rest.partition("-")
    if name in chosen.networks and key in METHODS and seed in map(str, chosen.seeds):
        return name, key, int(seed)
    raise KTError(f"cell {cell!r} is no network-method-seed of tables/networks/params.yaml")


def measured(network: nn.Module, test: Tensor, labels: Tensor, own: Tensor) -> dict[str, float]:
    """What a network is worth.

    Args:
        labels: of the test images. own: what the original answers to them.
    """
    found = answers(network, test)
    return {
        "accuracy": accuracy(found, labels),
        "agreement": accuracy(found, own),
        "multiply_adds": cost.multiply_adds(network, test[:2]),
        "parameters": cost.parameters(network),
        "milliseconds": cost.latency(network, test[:64]),
    }


@torch.inference_mode()
def answers(network: nn.Module, images: Tensor) -> Tensor:
    """The class of each image, (N,)."""
    return torch.cat([network(batch).argmax(1) for batch in images.split(250)]).cpu()


def accuracy(found: Tensor, expected: Tensor) -> float:
    """In percent."""
    return 100 * (found == expected).double().mean().item()


if __name__ == "__main__":
    runtime.run(main, __doc__, "cell")
