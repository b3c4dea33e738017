"""Train a smaller network with labels from three starts: translated, selected, random."""

import copy
import time

import torch
from torch import nn

from kt.ensemble import Compute
from kt.real import compress, surgery
from kt.real.blocks import find
from kt.real.graph import Graph
from stages.common.base import outputs, runtime
from stages.common.base.params import Params
from stages.networks import settings
from stages.networks.cell import accuracy, answers
from stages.networks.resnet import pixels
from stages.networks.training import train


def main(params: Params, compute: Compute, name: str) -> None:
    chosen = settings.load()
    wanted, tuning = chosen.among("tuned", name), chosen.active.tuning
    network = chosen.trained(name).to(compute.device)
    stored = {split: chosen.stored(split).to(compute.device) for split in ("test", "labelled")}
    seed = chosen.seeds[0]
    unlabelled = chosen.shown(seed).to(compute.device)
    test, labelled = (pixels(stored[split].images) for split in ("test", "labelled"))
    labels = stored["labelled"].labels
    shown, unseen = slice(tuning.held_out, None), slice(tuning.held_out)
    images = pixels(unlabelled.images)
    begun = time.perf_counter()
    translated = compress(
        network, images[:2], tuning.keep, images, schedule=wanted.steps.schedule, seed=seed
    ).requires_grad_(True)
    spent = time.perf_counter() - begun
    starts = {
        "translated": translated,
        "selected": selected(network, translated, images[:2]),
        "random": fresh(translated, seed),
    }
    rows = []
    bar = runtime.progress_bar(len(starts) * len(tuning.rates), f"tune {name}", "network")
    for start, given in starts.items():
        for lr in tuning.rates:
            tuned = copy.deepcopy(given).eval()
            begun, paused = time.perf_counter(), 0.0

            def measure(epoch, tuned=tuned, start=start, lr=lr, begun=begun):
                nonlocal paused
                now = time.perf_counter()
                if epoch in (0, *tuning.epochs):
                    found, held = answers(tuned, test), answers(tuned, labelled[unseen])
                    rows.append({
                        "start": start,
                        "rate": lr,
                        "epoch": epoch,
                        "seconds": now - begun - paused + spent * (start == "translated"),
                        "accuracy": accuracy(found, stored["test"].labels.cpu()),
                        "held_out": accuracy(held, labels[unseen].cpu()),
                    })  # fmt: skip
                paused += time.perf_counter() - now

            measure(0)
            draw = torch.Generator().manual_seed(seed)
            train(
                tuned, labelled[shown], labels[shown], max(tuning.epochs), lr, draw,
                measure,
            )  # fmt: skip
            bar.update()
    bar.close()
    outputs.write_json(chosen.tuned_cell(name), {"labels": tuning.labelled, "rows": rows})


def selected(network: nn.Module, like: nn.Module, example: torch.Tensor) -> nn.Module:
    """Every so manieth hidden channel of a network, the widths of another.

    Xu et al., 2024, "Initializing Models with Larger Ones", which selects evenly.
    """
    smaller = copy.deepcopy(network)
    blocks, _ = find(network, Graph(network, example))
    for block in blocks:
        _, width = like.kt_report.blocks[block.into]
        surgery.shrink(smaller, block, [at * block.channels // width for at in range(width)])
    return smaller.requires_grad_(True)


def fresh(like: nn.Module, seed: int) -> nn.Module:
    """A network of the same shapes with random weights."""
    made = copy.deepcopy(like)
    torch.manual_seed(seed)
    for module in made.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return made


if __name__ == "__main__":
    runtime.run(main, __doc__, "cell")
