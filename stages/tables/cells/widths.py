"""Translators at widths that they have learned and at others, and the blocks beside them.

A width is how many channels networks have, and how many hidden ones their small blocks. Widths of
as many channels share their networks. A cell holds the accuracy of every test network, so that
translators can be compared network by network.
"""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kt import ensemble
from kt.ensemble import Compute
from kt.images import ImageSet
from kt.networks.weights import Weights, concatenated, network_count, take
from kt.rivals import pruning
from kt.run import seeds
from kt.translators import baselines, translate
from kt.translators.fit import Record, fit
from kt.translators.merge import Merge
from kt.translators.objectives import BehaviourObjective, SeveralWidths
from stages.common import ceiling, translation
from stages.common.base import runtime
from stages.common.base.generation import plan
from stages.common.base.inputs import PAIRS, image_set
from stages.common.base.params import Params, settings_of
from stages.common.base.stores import pairs
from stages.common.evaluation import Subjects
from stages.tables.cells import cell
from stages.tables.cells.settings import Merge as MergeSettings
from stages.tables.cells.settings import Widths

TABLE = "widths"


@dataclass(frozen=True)
class Setting:
    """The input of every cell: parameters with `merge` as their translator, and the table's own."""

    params: Params
    widths: Widths
    compute: Compute

    @classmethod
    def of(cls, params: Params, compute: Compute) -> "Setting":
        sizes = settings_of("merge", MergeSettings).model_dump()
        merge = params.changed({"model": {"kind": "merge"} | sizes}, "tables/params.yaml: merge")
        return cls(merge, settings_of(TABLE, Widths), compute)

    def at(self, width: str) -> Params:
        """The parameters of a width."""
        channels, _, hidden = width.partition("_to_")
        sizes = {"channels": int(channels), "hidden": int(hidden)}
        return self.params.changed({"network": sizes}, f"tables/{TABLE}/params.yaml: {width}")

    def networks(self, width: str, role: str, count: int | None = None) -> Weights:
        """A width's networks that are "test", "selection" or learned from: "networks".

        Args:
            count: of them; None: all.
        """
        roles = {name: getattr(self.widths, name) for name in ("test", "selection", "networks")}
        start = sum(list(roles.values())[: list(roles).index(role)])
        stop = start + (roles[role] if count is None else count)
        parts, folder = ("former", "large", "latter"), PAIRS / TABLE / self.widths.store(width)
        store = pairs(self.at(width), folder, *parts, count=sum(roles.values()))
        return take(store.mapped(*parts), slice(start, stop))

    def subjects(self, width: str, role: str, count: int | None = None) -> Subjects:
        """Test networks with test images, or selection networks with held-back ones."""
        params = self.at(width)
        images = image_set(params, "main", "test" if role == "test" else "held_back")
        return Subjects(self.networks(width, role, count), images, params.target, params.sizes)

    def prepared(self, widths: list[str], networks: list[Weights], images: ImageSet) -> Merge:
        """A translator before any learning."""
        params = self.at(widths[0])
        model = translation.make_model(params, params.seed)
        assert isinstance(model, Merge)
        draw = seeds.generator(params.seed, "translator", "prototypes")
        model.prepare(networks, images, draw, params.generate.flip)
        return model.to(self.compute.device).eval()


def make(params: Params, compute: Compute, of: str, kind: str, name: str) -> None:
    cell.known(kind, MADE, of)
    content, seconds = MADE[kind](Setting.of(params, compute), name)
    cell.write(params, f"{of}/{kind}/{name}", content, seconds)


Cell = tuple[dict[str, Any], dict[str, float]]
"""What a cell holds, and what the clock said."""


def learned(setting: Setting, name: str) -> Cell:
    cell.known(name, setting.widths.learned, f"tables/{TABLE}/params.yaml: learned")
    return trained(setting, setting.widths.learned[name], setting.widths.measured)


def own(setting: Setting, width: str) -> Cell:
    known_width(setting, width)
    return trained(setting, [width], [width])


def trained(setting: Setting, widths: list[str], measured: list[str]) -> Cell:
    """A translator that learns some widths, from as many networks of each."""
    params, share = setting.params, len(widths)
    images = image_set(params, "main", "train")
    count = setting.widths.networks // share
    networks = [setting.networks(width, "networks", count) for width in widths]
    chosen = setting.widths.selection // share
    selection = [setting.subjects(width, "selection", chosen) for width in widths]
    model = setting.prepared(widths, networks, images)
    objective = SeveralWidths(
        [
            BehaviourObjective(
                take(some, device=setting.compute.device),
                images.to(setting.compute.device),
                params.target,
                setting.compute,
                flip=params.generate.flip,
                hidden=setting.at(width).sizes.hidden,
            )
            for width, some in zip(widths, networks, strict=True)
        ]
    )
    training = translation.training_of(params, params.seed)

    def evaluate(model: Merge) -> Record:
        found = torch.cat([translated(model, some, setting.compute) for some in selection])
        return {"selection_accuracy": found.mean().item()}

    seen = [tensor for some in networks for tensor in some.values()]
    seen += [tensor for some in selection for tensor in some.tensors()]
    key = [model.describe(), dataclasses.asdict(training), widths, params.generate.flip]
    key.append(runtime.fingerprint(images.images, *seen))
    with (
        runtime.scratch("widths", translation.TRAINS_TRANSLATORS, *key) as kept,
        runtime.progress_bar(training.epochs, f"learns {', '.join(widths)}", "epoch") as bar,
    ):
        fitted = fit(
            model, objective, training, evaluate, "selection_accuracy",
            kept / "checkpoint.pt", lambda record: bar.update(),
        )  # fmt: skip
        model.load_state_dict(fitted.weights)
        model.eval()
        found = {
            width: cell.listed(translated(model, setting.subjects(width, "test"), setting.compute))
            for width in measured
        }
    content = {
        "widths": widths,
        "networks": len(objective),
        "updates": training.epochs * -(-len(objective) // training.batch_size),
        "late_fall": fitted.late_fall,
        "prototypes": cell.prototypes_of(model),
        "epoch": fitted.best["epoch"],
        "loss": fitted.history[-1]["loss"],
        "selection": round(fitted.best["selection_accuracy"], 4),
        "measured": found,
    }
    seconds = sum(len(objective) / record["samples_per_second"] for record in fitted.history)
    return content, {"training": round(seconds, 2)}


def blocks(setting: Setting, width: str) -> Cell:
    """The blocks beside which translators are measured: for test and selection networks."""
    known_width(setting, width)
    params, compute = setting.at(width), setting.compute
    images = image_set(params, "main", "train")
    target, hidden, seed = params.target, params.sizes.hidden, seeds.derive(params.seed, TABLE)
    subjects = {role: setting.subjects(width, role) for role in ("test", "selection")}
    networks = concatenated([some.networks for some in subjects.values()])
    count = network_count(networks)
    few, labelled = images.subset(slice(0, pruning.IMAGES)), {"images": len(images), "labels": True}
    fresh = baselines.random_initialisation(target, count, params.seed, params.sizes)
    model = setting.prepared([width], [setting.networks(width, "networks")], images)
    recipe = plan(params, TABLE, count).recipe
    budget = labelled | {"updates": recipe.epochs * -(-len(images) // recipe.batch_size)}

    def step_2() -> Weights:
        drawn = [seeds.derive(seed, "small block", i) for i in range(count)]
        stream = seeds.derive(seed, "stream")
        return ensemble.train_blocks(
            target, images, networks, drawn, stream, recipe, compute, sizes=params.sizes
        )

    made: dict[str, tuple[Callable[[], Weights], dict[str, Any]]] = {
        "random_initialisation": (lambda: fresh, {}),
        "pruned": (
            lambda: pruning.best_subset(target, networks, few, compute, True, hidden),
            {"images": len(few)},
        ),
        "untrained": (
            lambda: translate(model, networks, compute, hidden),
            {"prototypes": cell.prototypes_of(model)},
        ),
        "retrained": (step_2, budget),
    }
    found: dict[str, dict[str, Any]] = {}
    found["large"] = {"accuracies": cell.listed(subjects["test"].with_large(compute))} | labelled
    seconds, tested = {}, slice(len(subjects["test"]))
    for name, (make, given) in made.items():
        started = time.perf_counter()
        block = make()
        seconds[name] = round((time.perf_counter() - started) / count, 4)
        on_test = subjects["test"].with_small(take(block, tested), compute)
        found[name] = {"accuracies": cell.listed(on_test)} | given
    rest = take(block, slice(tested.stop, None))  # of SGD, the last
    choice = ceiling.choose(params, subjects["selection"], rest, images, compute)
    started, test = time.perf_counter(), subjects["test"]
    block = ceiling.adam(params, test.networks, images, choice.rate, "test", compute)
    seconds["adam"] = round((time.perf_counter() - started) / len(test), 4)
    found["adam"] = {"accuracies": cell.listed(test.with_small(block, compute))} | budget
    found["ceiling"] = choice.about()
    return found, seconds


def known_width(setting: Setting, width: str) -> None:
    cell.known(width, setting.widths.measured, f"tables/{TABLE}/params.yaml: measured")


def translated(model: Merge, subjects: Subjects, compute: Compute) -> Tensor:
    """Accuracies with small blocks as wide as the subjects' are to be, (N,)."""
    block = translate(model, subjects.networks, compute, subjects.sizes.hidden)
    return subjects.with_small(block, compute)


MADE: dict[str, Callable[[Setting, str], Cell]] = {
    "learned": learned,
    "own": own,
    "blocks": blocks,
}
