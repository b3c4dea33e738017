"""Some rows of the measured Table 1: a family of methods, tried on unseen networks."""

import statistics
import time

import torch
from torch import nn

from kt import ensemble
from kt.ensemble import Compute
from kt.networks.blocks import Former, Latter, parameter_count, weights
from kt.networks.cost import multiply_adds
from kt.networks.weights import part
from kt.run.statistics import summary
from kt.run.threads import one_thread
from stages.common.base.inputs import image_set
from stages.common.base.params import Params
from stages.tables.cells import cell
from stages.tables.cells.methods import FAMILIES, Row, Setting

SHOWN, TURNS = 128, 50
"""Images that a block's latency is measured on, and how often."""


def make(params: Params, compute: Compute, of: str, family: str) -> None:
    cell.known(family, FAMILIES, of)
    rows = FAMILIES[family](Setting.of(params, compute))
    found = {name: numbers(row, params, compute) for name, row in rows.items()}
    took = {name: times(row, params) for name, row in rows.items()}
    cell.write(params, f"{of}/{family}", found, took)


def numbers(row: Row, params: Params, compute: Compute) -> dict:
    """A method's row of Table 1."""
    block = part(row.networks, "block")
    kind = "large" if "bn1.weight" in block else params.target
    accuracy = ensemble.evaluate(
        kind, image_set(params, "main", "test"), row.networks, block, compute
    )
    around, module = nn.ModuleList([Former(params.sizes), Latter(params.sizes)]), row.module.eval()
    block_bytes, rest = row.bytes or (4 * size(module), 4 * size(around))
    maps = shown(params, 1)
    return {
        "label": row.label,
        "accuracy": summary(accuracy),
        "accuracies": cell.listed(accuracy),
        "parameters": parameter_count(module),
        "network_parameters": parameter_count(module) + parameter_count(around),
        "bytes": block_bytes,
        "network_bytes": block_bytes + rest,
        "multiply_adds": multiply_adds(module, maps),
        "images": row.images,
        "once": bool(row.once),
        "updates": row.updates,
        "late_fall": row.late_fall,
        "retrains": row.retrains,
        "any_architecture": row.any_architecture,
    }


def shown(params: Params, count: int) -> torch.Tensor:
    """Random maps that a block reads."""
    sizes = params.sizes
    return torch.rand(count, sizes.channels, sizes.map_size, sizes.map_size)


def times(row: Row, params: Params) -> dict[str, float]:
    """What the clock says of a method."""
    maps = shown(params, SHOWN)
    return {
        "latency_us": round(latency(row.module.eval(), maps) * 1e6, 2),
        "seconds": row.seconds,
        "alone_seconds": row.alone,
        "once_seconds": row.once,
    }


def size(module: nn.Module) -> int:
    """How many numbers a module stores, batch norm's statistics included."""
    return sum(tensor.numel() for tensor in weights(module).values())


@torch.no_grad()
def latency(module: nn.Module, maps: torch.Tensor) -> float:
    """Seconds that a block takes for one image of a batch, in plain PyTorch and one thread."""
    with one_thread():
        module(maps)
        taken = []
        for _ in range(TURNS):
            started = time.perf_counter()
            module(maps)
            taken.append(time.perf_counter() - started)
    return statistics.median(taken) / len(maps)
