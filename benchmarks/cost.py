"""Estimate what every table costs at a scale: its work, counted, over rates measured here.

    python -m benchmarks.cost paper [--device cuda]

Work is counted from params.yaml: images that pass through networks in training and evaluation,
and pairs or networks that translators learn from. Rates are of this machine, a few seconds each.
The result goes to tables/results/<scale>/cost.md, which `dvc repro tables/dvc.yaml:page` shows.
"""

import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch

from kt import ensemble
from kt.ensemble import Compute, Recipe
from kt.images import ImageSet, load_images
from kt.networks.blocks import Network, initial_weights
from kt.run import seeds
from kt.run.errors import KTError
from kt.translators.fit import Training, fit
from kt.translators.objectives import BehaviourObjective, WeightObjective
from stages.common.base import runtime
from stages.common.base.params import Params, at_scale, settings_of
from stages.common.translation import make_model
from stages.tables import output
from stages.tables.cells import figure4, mixers, paper, trained
from stages.tables.cells.settings import (
    Augmentation,
    Grid,
    Kept,
    Merge,
    OfOneCost,
    Size,
    Targets,
    grid_of,
    swept_at,
)

Work = Counter[str]
"""Units of work by the name of their rate."""
NETWORKS = 32
"""Trained together while rates are measured."""
IMAGES = 8192
LONG_ENOUGH = 1.0
"""Seconds that a measurement takes at least."""
MEASURED_BATCH = 128
"""Of translators' training while its rate is measured, at most."""
UNITS = {"hours": 3600, "days": 86400, "years": 365.25 * 86400}


def work(params: Params, images: dict[str, int]) -> dict[str, Work]:
    """The work of every table, without what another table has done already.

    Args:
        images: numbers of images in `train`, `held_back`, `test` and `transfer`, by these names.
    """
    active, networks = params.active, params.active.networks
    passes = active.recipe.epochs
    judged = networks.selection * images["held_back"] + networks.test * images["test"]

    def made(count: int, on: float, *steps: str) -> Work:
        return Work({step: count * passes * on for step in steps})

    def mixer(size: str, dropout: float, epochs: int, count: int, target: str = "conv") -> Work:
        every = params.changed(paper.mixer(params, size, epochs), "tables").schedule.evaluate_every
        evaluations = -(-epochs // every)
        name = f"mixer {size}" + (", dropout" if dropout else "") + f" to {target}"
        return Work({name: epochs * count, "evaluation": evaluations * judged})

    def grid(table: str) -> Work:
        cells = grid_of(params, table)
        epochs = at_scale(params, f"{table}: epochs", settings_of(table, Grid).epochs)
        rows = [mixer(s, d, epochs, active.pairs) for s in cells.sizes for d in cells.dropout]
        return sum(rows, Work())

    few, kinds = settings_of("table5", Augmentation), settings_of("table6", Targets)
    swept = swept_at(params, few)
    longer = few.share * at_scale(params, "table3: epochs", settings_of("table3", Grid).epochs)
    on_few = mixer(swept.size, 0, longer, active.pairs // few.share)
    pairs = max(
        params.changed(trained.target(params, target)[0], "table6").active.pairs
        for target in kinds.targets
    )
    epochs = at_scale(params, "table6: epochs", kinds.epochs)
    of = {
        size: mixer(one.size, one.dropout, one.epochs, active.pairs)
        for size in settings_of("mixers", dict[Size, Kept])
        for one in [mixers.at_scale(params, size)]
    }
    both = ("step 1", "step 2 conv")
    own = params.translators["merge"].schedule[params.scale]
    merge = Work({"merge": own.epochs * active.pairs})
    merge["evaluation"] += judged * -(-own.epochs // own.evaluate_every)
    compared = settings_of("figure4", OfOneCost)
    of_one_cost = params.changed(compared.stores["pairs"], "figure4").active.pairs
    fractions = sum(params.partial.fractions)
    anew = pairs if pairs > networks.train else 0  # else the networks that are there do
    return {
        "training networks": made(networks.train, images["train"], *both),
        "other networks": made(networks.selection + networks.test, images["train"], *both)
        + made(networks.test, images["transfer"], *both)
        + made(networks.partial, fractions * images["train"], "step 1"),
        "merge": sum([merge] * active.repeats, Work()),
        "table3": grid("table3"),
        "table4": grid("table4"),
        "table5": sum([on_few] * len(swept.names()), Work()),
        "table6": sum(
            (
                made(pairs, images["train"], f"step 2 {target}")
                + made(anew, images["train"], "step 1")
                + mixer(kinds.size, 0, epochs, pairs, target)
                for target in kinds.targets
            ),
            Work(),
        ),
        "figure4": (
            made(max(0, of_one_cost - networks.train), images["train"], *both)
            + Work({kind: compared.epochs * of_one_cost for kind in figure4.KINDS})
        ),
        "figure5": of["base"],
        "figure7, figure8, usps": of["large"],
    }


class Rates:
    """Units a second of each kind of work, measured when it is first asked for."""

    def __init__(self, params: Params, compute: Compute, images: ImageSet) -> None:
        self.params, self.compute, self.images = params, compute, images
        self.recipe = Recipe(epochs=1, batch_size=params.active.recipe.batch_size)
        whole = initial_weights(Network, range(NETWORKS))
        self.networks = {name.replace("block.", "large."): w for name, w in whole.items()}

    def of(self, name: str) -> float:
        what, _, target = name.rpartition(" ")
        if name == "step 1":
            return self._passes(
                lambda images: ensemble.train_networks(
                    images, range(NETWORKS), 0, self.recipe, self.compute
                )
            )
        if what == "step 2":
            return self._passes(
                lambda images: ensemble.train_blocks(
                    target, images, self.networks, range(NETWORKS), 0, self.recipe, self.compute
                )
            )
        if name == "evaluation":
            small = initial_weights("conv", range(NETWORKS))
            return self._passes(
                lambda images: ensemble.evaluate("conv", images, self.networks, small, self.compute)
            )
        return self._samples(name)

    def _passes(self, run: Callable[[ImageSet], object]) -> float:
        """Of images through networks; on more and more of them, until the clock can be trusted."""
        count, taken = 128, 0.0
        run(self.images.subset(slice(0, count)))  # what is compiled or allocated once
        while taken < LONG_ENOUGH and count < len(self.images):
            count *= 2
            started = time.perf_counter()
            run(self.images.subset(slice(0, count)))
            taken = time.perf_counter() - started
        return NETWORKS * count / taken

    def _samples(self, name: str) -> float:
        """Of a translator's training: networks that `merge` looks at, or pairs."""
        if name == "merge":
            change = {"model": {"kind": "merge"} | settings_of("merge", Merge).model_dump()}
            model = make_model(self.params.changed(change, "tables.merge"), self.params.seed)
            model.prepare(self.networks, self.images, seeds.generator(0, "prototypes"))
            networks = self._on(self.networks)
            objective = BehaviourObjective(networks, self.images, "conv", self.compute)
            return self._learned(model, objective, self._batch("merge"))
        if name in figure4.KINDS:
            batch = at_scale(
                self.params, "figure4: batch_size", settings_of("figure4", OfOneCost).batch_size
            )
            return self._learned_pairs(figure4.matched(self.params)[name][0], "conv", batch)
        size, _, target = name.removeprefix("mixer ").partition(" to ")
        size, _, dropout = size.partition(", ")
        change = paper.mixer(self.params, size, 1, {"train": {"dropout": 0.1 if dropout else 0.0}})
        changed = self.params.changed(change | {"target": target}, "tables")
        model = make_model(changed, changed.seed)
        return self._learned_pairs(model, target, self._batch("mixer"))

    def _batch(self, kind: str) -> int:
        return self.params.translators[kind].schedule[self.params.scale].batch_size

    def _learned_pairs(self, model: torch.nn.Module, target: str, batch: int) -> float:
        batch = min(batch, MEASURED_BATCH)
        blocks = (initial_weights(kind, range(batch)) for kind in ("large", target))
        large, small = map(self._on, blocks)
        objective = WeightObjective(large, small, workers=self.compute.workers)
        return self._learned(model, objective, batch)

    def _learned(
        self, model: torch.nn.Module, objective: WeightObjective | BehaviourObjective, batch: int
    ) -> float:
        model.to(self.compute.device)
        epochs, taken = 1, 0.0
        while taken < LONG_ENOUGH:
            epochs *= 2
            training = Training(epochs, min(batch, len(objective)))
            with tempfile.TemporaryDirectory() as folder:
                kept = Path(folder) / "checkpoint.pt"
                fitted = fit(model, objective, training, lambda _: {"none": 0.0}, "none", kept)
            _, *rates = (record["samples_per_second"] for record in fitted.history)
            taken = sum(len(objective) / rate for rate in rates)
        return statistics.median(rates)

    def _on(self, weights: ensemble.Weights) -> ensemble.Weights:
        return {name: tensor.to(self.compute.device) for name, tensor in weights.items()}


def main(params: Params, compute: Compute, scale: str) -> None:
    params = of_scale(params, scale)
    images, sizes = image_sizes(params)
    works = work(params, sizes)
    rates = measured(Rates(params, compute, images), sorted(set().union(*works.values())))
    seconds = {
        table: sum(units / rates[name] for name, units in needed.items())
        for table, needed in works.items()
    }
    everything = seconds | {"all": sum(seconds.values())}
    rows = pd.DataFrame({"what": what, "time": in_words(s)} for what, s in everything.items())
    caption = (
        f"What scale `{scale}` costs on {machine(compute)}: the work that params.yaml asks for, "
        "over rates measured there in seconds. What several tables need is counted once, in the "
        "first rows. Measured: "
        + "; ".join(f"{name} {rate:,.0f}/s" for name, rate in rates.items())
        + " (images that pass through networks; pairs or networks that translators learn from)."
    )
    metrics = {"seconds": seconds, "rates": rates}
    output.write(params, "cost", caption, metrics, rows)


def of_scale(params: Params, scale: str) -> Params:
    """The parameters at another scale.

    Raises:
        KTError: there is no such scale.
    """
    if scale not in params.scales:
        raise KTError(f"{scale!r} is no scale; accepts {', '.join(params.scales)}")
    return params.changed({"scale": scale}, "scale")


def measured(rates: Rates, names: list[str]) -> dict[str, float]:
    """Some of the rates by name, with a progress bar."""
    found = {}
    with runtime.progress_bar(len(names), "rates", "rate") as bar:
        for name in names:
            found[name] = rates.of(name)
            bar.update()
    return found


def image_sizes(params: Params) -> tuple[ImageSet, dict[str, int]]:
    """Some training images, and how many images of each kind there are."""
    chosen = params.active.images
    train, test = load_images(chosen.main, Path("data"))
    transfer, _ = load_images(chosen.transfer, Path("data"))
    return train.subset(slice(0, IMAGES)), {
        "train": len(train) - chosen.held_back,
        "held_back": chosen.held_back,
        "test": len(test),
        "transfer": len(transfer),
    }


def machine(compute: Compute) -> str:
    """The kind of machine, for a caption."""
    if compute.device.type == "cuda":
        return torch.cuda.get_device_name(compute.device)
    return f"{compute.workers} CPU threads with {torch.backends.cpu.get_cpu_capability()}"


def in_words(seconds: float) -> str:
    """A time in the largest unit of which it has at least one."""
    unit = [unit for unit, length in UNITS.items() if seconds >= length] or ["hours"]
    return f"{seconds / UNITS[unit[-1]]:,.1f} {unit[-1]}"


if __name__ == "__main__":
    runtime.run(main, __doc__, "scale")
