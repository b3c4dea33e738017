"""Train smaller networks with labels until nothing more is gained: the ceiling."""

import time

import torch

from kt.ensemble import Compute
from kt.real import Schedule, compress
from stages.common.base import outputs, runtime
from stages.common.base.params import Params
from stages.networks import settings
from stages.networks.cell import accuracy, answers, measured
from stages.networks.resnet import pixels
from stages.networks.training import train, until_converged


def main(params: Params, compute: Compute, name: str) -> None:
    """From where the steps on the answers start, with the labels of the training from starts."""
    chosen = settings.load()
    chosen.among("ceilings", name)
    tuning, network = chosen.active.tuning, chosen.trained(name).to(compute.device)
    test, labelled = (chosen.stored(split).to(compute.device) for split in ("test", "labelled"))
    seed = chosen.seeds[0]
    unlabelled = chosen.shown(seed).to(compute.device)
    images, pictures, unseen = (pixels(s.images) for s in (unlabelled, labelled, test))
    own = answers(network, unseen)
    held, shown = slice(tuning.held_out), slice(tuning.held_out, None)
    rows = []
    bar = runtime.progress_bar(len(chosen.keep), f"ceiling {name}", "network")
    for keep in chosen.keep:
        begun = time.perf_counter()
        smaller = compress(network, images[:2], keep, images, schedule=Schedule(0), seed=seed)
        smaller.requires_grad_(True)

        def held_out(smaller=smaller) -> float:
            return accuracy(answers(smaller, pictures[held]), labelled.labels[held].cpu())

        draw = torch.Generator().manual_seed(seed)

        def cycle(epochs: int, smaller=smaller, draw=draw) -> None:
            train(
                smaller, pictures[shown], labelled.labels[shown], epochs, min(tuning.rates), draw,
            )  # fmt: skip

        epochs = until_converged(cycle, max(tuning.epochs), held_out)
        seconds = time.perf_counter() - begun
        rows.append(
            measured(smaller, unseen, test.labels.cpu(), own)
            | {"keep": keep, "seed": seed, "images": len(images), "seconds": seconds}
            | {"labels": tuning.labelled + tuning.held_out, "epochs": epochs}
        )
        bar.update()
    bar.close()
    outputs.write_json(chosen.ceiling_cell(name), {"rows": rows})


if __name__ == "__main__":
    runtime.run(main, __doc__, "cell")
