"""Measure the test networks with each of the blocks that need no translator."""

from dataclasses import asdict

import pandas as pd

from kt.ensemble import Compute
from kt.networks.weights import part
from kt.run.statistics import summary
from kt.translators import baselines
from stages.common import ceiling
from stages.common.base import outputs, runtime
from stages.common.base.generation import plan
from stages.common.base.inputs import PAIRS, RESULTS, image_set
from stages.common.base.params import Params
from stages.common.base.stores import pairs
from stages.common.evaluation import Subjects

OUT = RESULTS / "baselines"


def main(params: Params, compute: Compute) -> None:
    selection, test = (
        Subjects.of_store(split, image_set(params, "main", images), params, "small")
        for split, images in (("selection", "held_back"), ("test", "test"))
    )
    count = params.active.pairs
    train = pairs(params, PAIRS / "train", "large", target=params.target, count=count).read(
        "large", "small", first=count, optional=["small"]
    )
    train_large, train_small = part(train, "large"), part(train, "small")
    count, seed = len(test), params.seed
    replacements = {
        "random_initialisation": baselines.random_initialisation(
            params.target, count, seed, params.sizes
        ),
    }
    if train_small:  # not where generate.small_blocks is false
        replacements |= {
            "random_replacement": baselines.random_replacement(train_small, count, seed),
            "greedy_replacement": baselines.greedy_replacement(
                test.large, train_large, train_small
            ),
        }
    replacements |= {
        "identity": baselines.identity(params.target, count, params.sizes),
        "retrained": part(test.networks, "small"),
    }
    images = image_set(params, "main", "train")
    about = [params.target, seed, asdict(plan(params, "test", count).recipe)]
    about.append(compute.engine_for(params.target, params.sizes).__name__)
    seen = runtime.fingerprint(images.images, images.labels, *selection.tensors(), *test.tensors())
    with runtime.scratch("ceiling", ceiling.MADE_BY, *about, seen) as kept:
        sgd = part(selection.networks, "small")
        choice = ceiling.choose(params, selection, sgd, images, compute, kept)
        replacements["adam"] = ceiling.adam(
            params, test.networks, images, choice.rate, "test", compute, kept
        )
    with runtime.progress_bar(len(replacements) + 1, "baselines", "block") as bar:
        accuracies = {}
        for name, small in replacements.items():
            accuracies[name] = test.with_small(small, compute)
            bar.update()
        accuracies["large"] = test.with_large(compute)
        bar.update()
    metrics = {name: summary(values) for name, values in accuracies.items()}
    metrics["ceiling"] = metrics[choice.by] | choice.about()
    outputs.write_json(OUT / "metrics.json", metrics)
    table = pd.DataFrame({"network": range(count), **accuracies})
    outputs.write_csv(OUT / "accuracies.csv", table)


if __name__ == "__main__":
    runtime.run(main, __doc__)
