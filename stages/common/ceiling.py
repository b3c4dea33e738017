"""The ceiling: small blocks re-trained with labels, by the better of SGD and Adam.

Both take step 2's budget: the same images, epochs and batch size. Selection networks on held-back
images choose between them, and Adam's rate; test networks and test images choose nothing.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kt.ensemble import Compute
from kt.images import ImageSet
from kt.networks.weights import Weights, network_count
from kt.rivals import retraining
from kt.run import seeds
from kt.run.errors import KTError, notice
from kt.run.files import load_tensors, save_tensors
from kt.translators import baselines
from stages.common.base import runtime
from stages.common.base.generation import plan
from stages.common.base.params import Params
from stages.common.evaluation import Subjects

MADE_BY = (*runtime.TRAINS_NETWORKS, "translators", "rivals")
"""The folders of `kt` that re-train, for `runtime.scratch`."""
WAYS = {"retrained": "SGD", "adam": "Adam"}
"""Of re-training, by their names in results; the first is the paper's."""


@dataclass(frozen=True)
class Choice:
    """What the selection networks chose.

    Attributes:
        by: one of `WAYS`.
        rate: the best of Adam, whether Adam is chosen or not.
        selection: mean accuracies in percent, of SGD and of Adam at each rate.
    """

    by: str
    rate: float
    selection: dict[str, float]

    def about(self) -> dict[str, Any]:
        """What a metrics file tells of it, beside the ceiling's summary."""
        return asdict(self)


def choose(
    params: Params,
    selection: Subjects,
    sgd: Weights,
    images: ImageSet,
    compute: Compute,
    kept: Path | None = None,
) -> Choice:
    """Choose the re-training that the ceiling is made by.

    Args:
        selection: selection networks, with held-back images.
        sgd: their small blocks of step 2, stacked (N, ...).
        images: to train on.
        kept: see `adam`.
    """
    found = {"retrained": selection.with_small(sgd, compute).mean().item()}
    by_rate = {}
    for rate in retraining.RATES:
        block = adam(params, selection.networks, images, rate, "selection", compute, kept)
        by_rate[rate] = selection.with_small(block, compute).mean().item()
    best = max(by_rate, key=lambda rate: by_rate[rate])
    by = "adam" if by_rate[best] > found["retrained"] else "retrained"
    found |= {f"adam_{rate:g}".replace(".", "_"): mean for rate, mean in by_rate.items()}
    return Choice(by, best, {name: round(mean, 4) for name, mean in found.items()})


def adam(
    params: Params,
    networks: Weights,
    images: ImageSet,
    rate: float,
    role: str,
    compute: Compute,
    kept: Path | None = None,
) -> Weights:
    """Small blocks of networks, re-trained by Adam on step 2's budget, stacked (N, ...).

    A network's block depends on its place among those of its role, not on how many there are.

    Args:
        role: names the fresh blocks and the stream of images: those of each role are its own.
        kept: a folder for finished blocks, of `runtime.scratch`; they are not trained again.
    """
    path = None if kept is None else kept / f"{role}-{rate:g}.safetensors"
    if path is not None and path.exists():
        try:
            return load_tensors(path, sealed=True)
        except KTError as error:
            notice(f"{error}: its blocks are trained again")
    count, seed = network_count(networks), seeds.derive(params.seed, "re-training by Adam", role)
    fresh = baselines.random_initialisation(params.target, count, seed, params.sizes)
    recipe, stream = plan(params, role, count).recipe, seeds.derive(seed, "stream")
    passed = recipe.epochs * len(images) * count
    with runtime.progress_bar(passed, f"{role}: Adam at {rate:g}", "image") as bar:
        block = retraining.on_budget(
            params.target, networks, images, fresh, stream, recipe, rate, compute, bar.update
        )
    if path is not None:
        save_tensors(path, block, seal=True)
    return block
