"""The ablation's rows that train no further translator: prunings, the translation, refinements."""

import dataclasses
import time
from collections.abc import Callable
from math import comb

from torch import Tensor

from kt.ensemble import Compute
from kt.images import ImageSet
from kt.networks.weights import Weights
from kt.rivals import pruning
from kt.run.errors import KTError
from kt.run.statistics import summary
from kt.translators import alone, own_images, refine, translate
from stages.common import translation
from stages.common.base import runtime
from stages.common.base.inputs import TRANSLATOR, image_set
from stages.common.base.params import Params, settings_of
from stages.common.evaluation import Subjects, translator
from stages.tables.cells import cell
from stages.tables.cells.settings import Ablation


def make(params: Params, compute: Compute, of: str) -> None:
    test = Subjects.of_store("test", image_set(params, "main", "test"), params)
    unlabelled = image_set(params, "main", "train")
    few = unlabelled.subset(slice(0, pruning.IMAGES))
    networks, target, seed = test.networks, params.target, params.seed
    hidden, ways = params.sizes.hidden, comb(params.sizes.channels, params.sizes.hidden)
    steps = settings_of("ablation", Ablation).refine_steps
    model = translator(TRANSLATOR, params, compute.device)
    if (prototypes := own_images(model)) is None:
        got = f"{params.model.kind} with {params.model.layers} layers"
        raise KTError(f"model: got {got}; the ablation's fixed rows need merge with one or more")
    untrained = translation.prepared_model(params, compute)
    blocks: dict[str, Weights] = {}

    def refined(images: ImageSet | None, start: str = "translation") -> Weights:
        return refine.refine(target, networks, blocks[start], images, steps, seed, compute)

    shown, own = f"{len(few)} unlabelled", cell.stored(len(prototypes))
    rows: dict[str, tuple[str, Callable[[], Weights], str]] = {
        "prune_norm": (
            "pruning by norm",
            lambda: pruning.by_norm(target, test.large, hidden),
            "none",
        ),
        "prune_best": (
            f"best of the {ways:,} prunings, on {pruning.IMAGES} unlabelled images",
            lambda: pruning.best_subset(target, networks, few, compute, hidden=hidden),
            shown,
        ),
        "prune_refit": (
            "the same, second convolutions refitted by least squares",
            lambda: pruning.best_subset(target, networks, few, compute, True, hidden),
            shown,
        ),
        "prune_best_bias": (
            f"best of the {ways:,} prunings with biases (conv_bias)",
            lambda: pruning.best_subset("conv_bias", networks, few, compute, hidden=hidden),
            shown,
        ),
        "prune_refit_bias": (
            "the same, refitted",
            lambda: pruning.best_subset("conv_bias", networks, few, compute, True, hidden),
            shown,
        ),
        "prune_prototypes": (
            "pruning, refitted on merge's own prototypes",
            lambda: pruning.best_subset(target, networks, prototypes, compute, True, hidden),
            own,
        ),
        "prune_prototypes_refined": (
            f"the same, then {steps} steps on them",
            lambda: refined(prototypes, "prune_prototypes"),
            own,
        ),
        "weights_alone": (
            f"pruning, refitted on strokes, then {alone.STEPS} steps on them",
            lambda: alone.from_weights(target, networks, seed, compute, hidden),
            "none",
        ),
        "merge_untrained": (
            "merge before any training: steps of fixed, falling size",
            lambda: translate(untrained, networks, compute),
            own,
        ),
        "translation": (
            "merge (the default translator)",
            lambda: translate(model, networks, compute),
            own,
        ),
        "refined_prototypes": (
            f"merge, then {steps} steps on the translator's own images",
            lambda: refined(prototypes),
            own,
        ),
        "refined_strokes": (
            f"merge, then {steps} steps on random strokes that fit batch norm's statistics",
            lambda: refined(None),
            own,
        ),
        "refined_images": (
            f"merge, then {steps} steps on unlabelled images",
            lambda: refined(unlabelled),
            f"{own}; all, unlabelled",
        ),
    }
    results, took = {}, {}
    with runtime.progress_bar(len(rows), "fixed rows", "row") as bar:
        for name, (label, make, images) in rows.items():
            blocks[name], seconds = timed(make)
            biased = "conv1.bias" in blocks[name]
            judge = dataclasses.replace(test, target="conv_bias") if biased else test
            accuracy: Tensor = judge.with_small(blocks[name], compute)
            results[name] = {
                "label": label,
                "images": images,
                "translation": summary(accuracy),
                "accuracies": cell.listed(accuracy),
            }
            took[name] = round(seconds / len(test), 5)
            bar.update()
    cell.write(params, of, results, took)


def timed(make: Callable[[], Weights]) -> tuple[Weights, float]:
    started = time.perf_counter()
    return make(), time.perf_counter() - started
