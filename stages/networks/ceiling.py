"""Train smaller networks with labels until nothing more is gained: the ceiling."""

import time

import torch

from kt.ensemble import Compute
from kt.real import Schedule, compress, load
from kt.run.errors import KTError
from stages.common.base import inputs, outputs, runtime
from stages.common.base.params import Params
from stages.networks import settings
from stages.networks.cell import accuracy, answers, measured
from stages.networks.resnet import pixels
from stages.networks.training import until_converged


def main(params: Params, compute: Compute, name: str) -> None:
    """From where the steps on the answers start, with the labels of the training from starts."""
    chosen = settings.load()
    if name not in chosen.tuned:
        raise KTError(f"{name!r} is not among `tuned` of tables/networks/params.yaml")
    wanted, tuning = chosen.active.networks[name], chosen.active.tuning
    network = load(wanted.fresh, chosen.data / f"{name}.safetensors").eval().to(compute.device)
    test, labelled = (
        inputs.images_of(chosen.data / "images.safetensors", split).to(compute.device)
        for split in ("test", "labelled")
    )
    seed = chosen.seeds[0]
    unlabelled = inputs.images_of(chosen.unlabelled(seed), "unlabelled").to(compute.device)
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

        epochs = until_converged(
            smaller, pictures[shown], labelled.labels[shown], max(tuning.epochs),
            min(tuning.rates), torch.Generator().manual_seed(seed), wanted.training is None,
            held_out,
        )  # fmt: skip
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
