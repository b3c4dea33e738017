"""The families of methods that the measured Table 1 compares, each as rows of the table."""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import comb
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch
from torch import nn

from kt.ensemble import Compute
from kt.images import ImageSet
from kt.networks.blocks import BLOCKS, TARGETS, Former, LargeBlock, Latter, weights
from kt.networks.weights import Weights, concatenated, part, prefixed, take
from kt.pairs import generate
from kt.rivals import low_rank, pruning, quantisation, retraining
from kt.rivals.low_rank import LowRankBlock, bottleneck, separable
from kt.rivals.retraining import Retraining
from kt.run import seeds
from kt.run.files import load_tensors
from kt.translators import baselines, translate
from stages.common import ceiling, translation
from stages.common.base import metrics
from stages.common.base.generation import plan
from stages.common.base.inputs import image_set
from stages.common.base.params import Params, settings_of
from stages.common.evaluation import Subjects
from stages.tables.cells import cell, mixers
from stages.tables.cells.settings import Merge, Table1

TABLE = "table1"
MIXER = "large"
"""The paper's mixer of its best size is compared."""
LEARNED = {"images": "all, labelled", "retrains": True, "any_architecture": True}
"""What is true of every method that trains a network's small block."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Row:
    """The networks after a method has compressed them.

    Attributes:
        label: the method in words.
        networks: stacked `former.*`, `block.*` and `latter.*`.
        module: a block as it is kept and run, with any values.
        seconds: of compute for a network among many.
        alone: of compute for a single network.
        images: that it takes, in words.
        updates: training steps for it; of a translator, those of its own training.
        late_fall: of a translator's loss (`kt.translators.fit.late_fall`).
        retrains: whether a network is trained anew for it.
        any_architecture: whether the block may be of another kind than the large one.
        once: seconds of compute in all, however many networks it compresses.
        bytes: of the block, and of the former and latter blocks; None: all are float32.
    """

    label: str
    networks: Weights
    module: nn.Module
    seconds: float
    alone: float
    images: str = "none"
    updates: int = 0
    late_fall: float | None = None
    retrains: bool = False
    any_architecture: bool = False
    once: float = 0.0
    bytes: tuple[int, int] | None = None


@dataclass(frozen=True)
class Setting:
    """The input of every method: networks to compress, training images, and parameters."""

    params: Params
    compute: Compute
    networks: Weights
    images: ImageSet

    @classmethod
    def of(cls, params: Params, compute: Compute) -> "Setting":
        test = Subjects.of_store("test", image_set(params, "main", "test"), params)
        count = settings_of(TABLE, Table1).networks
        networks = {name: tensor[:count] for name, tensor in test.networks.items()}
        return cls(params, compute, networks, image_set(params, "main", "train"))

    @property
    def large(self) -> Weights:
        return part(self.networks, "large")

    def __len__(self) -> int:
        return len(self.networks["latter.fc.bias"])

    @property
    def first(self) -> "Setting":
        """With one network alone."""
        return dataclasses.replace(self, networks=take(self.networks, slice(1)))

    def row(
        self, label: str, make: Callable[["Setting"], Weights], module: nn.Module, **about: Any
    ) -> Row:
        """The row of a method that changes blocks alone.

        Args:
            make: gives the blocks that come in place of a setting's large ones, stacked.
        """
        block, seconds = timed(partial(make, self))
        _, alone = timed(partial(make, self.first))
        networks = {k: t for k, t in self.networks.items() if k.startswith(("former.", "latter."))}
        networks |= prefixed("block", block)
        return Row(label, networks, module, seconds / len(self), alone, **about)

    def small(self) -> nn.Module:
        return BLOCKS[self.params.target](self.params.sizes)

    def large_module(self) -> LargeBlock:
        return LargeBlock(self.params.sizes)


def timed(make: Callable[[], Result]) -> tuple[Result, float]:
    started = time.perf_counter()
    return make(), time.perf_counter() - started


def large(setting: Setting) -> dict[str, Row]:
    return {"large": setting.row("large block", lambda some: some.large, setting.large_module())}


def low_rank_blocks(setting: Setting) -> dict[str, Row]:
    """Low-rank blocks: multiplied out to evaluate them, but stored, timed and counted as chains."""
    sizes = setting.params.sizes
    spatial, tucker = low_rank.spatial_ranks(sizes), low_rank.tucker_ranks(sizes)
    methods: dict[str, tuple[str, Callable, Callable, tuple]] = {
        "spatial_svd": ("spatial SVD", low_rank.spatial_svd, separable, spatial),
        "tucker2": ("Tucker-2", low_rank.tucker2, bottleneck, tucker),
    }

    def dense(factorise: Callable[..., Weights], ranks: tuple, some: Setting) -> Weights:
        return low_rank.dense(factorise(some.large, ranks))

    return {
        name: setting.row(
            f"low rank: {label}",
            partial(dense, factorise, ranks),
            LowRankBlock(chain, ranks, sizes.channels),
        )
        for name, (label, factorise, chain, ranks) in methods.items()
    }


def prunings(setting: Setting) -> dict[str, Row]:
    few = setting.images.subset(slice(0, pruning.IMAGES))
    target, images = setting.params.target, f"{len(few)} unlabelled"
    sizes = setting.params.sizes
    ways, hidden = comb(sizes.channels, sizes.hidden), sizes.hidden

    def best(some: Setting, refitted: bool = False) -> Weights:
        return pruning.best_subset(target, some.networks, few, some.compute, refitted, hidden)

    def norm(some: Setting) -> Weights:
        return pruning.by_norm(target, some.large, hidden)

    best_label = f"pruning: best of {ways:,} subsets"
    refit_label = f"pruning: best of {ways:,}, refitted"
    return {
        "prune_norm": setting.row("pruning: by norm", norm, setting.small()),
        "prune_best": setting.row(best_label, best, setting.small(), images=images),
        "prune_refit": setting.row(
            refit_label, partial(best, refitted=True), setting.small(), images=images
        ),
    }


def quantisations(setting: Setting) -> dict[str, Row]:
    def quantised(bits: int, some: Setting) -> Weights:
        return quantisation.quantised(some.large, bits, least_squares=True)

    sizes = setting.params.sizes
    around = (Former(sizes), Latter(sizes))
    rest = 4 * sum(t.numel() for part in around for t in weights(part).values())
    rows = {
        f"quantised_{bits}": setting.row(
            f"quantisation: block at {bits} bits",
            partial(quantised, bits),
            setting.large_module(),
            bytes=(quantisation.block_bytes(bits, sizes), rest),
        )
        for bits in quantisation.BITS
    }
    return rows | {"int8": int8(setting)}


def int8(setting: Setting) -> Row:
    """Whole networks, written to files and read again."""
    names = {name: name.replace("large.", "block.") for name in setting.networks}
    names = {k: v for k, v in names.items() if not k.startswith("small.")}
    stored: Weights = {}
    loaded: list[Weights] = []

    def through_files(count: int) -> None:
        loaded.clear()
        with TemporaryDirectory() as folder:
            for i in range(count):
                path = Path(folder) / f"{i}.safetensors"
                network = {new: setting.networks[name][i] for name, new in names.items()}
                quantisation.save_int8(path, network)
                loaded.append(quantisation.load_int8(path))
            stored.update(load_tensors(path))

    _, alone = timed(partial(through_files, 1))
    _, seconds = timed(partial(through_files, len(setting)))
    networks = {name: torch.stack([one[name] for one in loaded]) for name in loaded[0]}
    block = sum(t.nbytes for name, t in stored.items() if name.startswith("block."))
    rest = sum(t.nbytes for t in stored.values()) - block
    label = "quantisation: the whole network in int8 files"
    each = seconds / len(setting)
    return Row(label, networks, setting.large_module(), each, alone, bytes=(block, rest))


def retrained(setting: Setting) -> dict[str, Row]:
    """Re-training by the paper's step 2, by Adam on its budget, and by few steps of Adam.

    The first two are those of the ceiling: the same blocks, trained once more to be timed.
    """
    params, images = setting.params, setting.images
    whole = plan(params, "test", params.active.networks.test)
    rate = metrics.read("baselines")["ceiling"]["rate"]

    def step_2(some: Setting) -> Weights:
        few = dataclasses.replace(whole, count=len(some))
        made = [
            generate.compute_part(few, index, images, some.compute, networks=some.networks)
            for index in few.parts
        ]
        return concatenated([part(one, "small") for one in made])

    def by_adam(some: Setting) -> Weights:
        return ceiling.adam(params, some.networks, images, rate, "test", some.compute)

    recipe = whole.recipe
    about = LEARNED | {"updates": recipe.epochs * -(-len(images) // recipe.batch_size)}
    epochs = f"{recipe.epochs} epochs"
    return {
        "retrained": setting.row(
            f"re-training: the paper's SGD, {epochs}", step_2, setting.small(), **about
        ),
        "adam": setting.row(f"re-training: Adam, {epochs}", by_adam, setting.small(), **about),
        "few_steps": distilled(setting, "re-training", retraining.cross_entropy),
    }


def distilled(
    setting: Setting, label: str, method: Callable[[Retraining, Weights], Weights]
) -> Row:
    """Re-training by few steps of Adam, from the same fresh blocks for every method."""
    params = setting.params
    steps, seed = settings_of(TABLE, Table1).steps, seeds.derive(params.seed, TABLE)

    def learned(some: Setting) -> Weights:
        how = Retraining(params.target, some.networks, some.images, steps, seed, some.compute)
        fresh = baselines.random_initialisation(params.target, len(some), seed, params.sizes)
        return method(how, fresh)

    label = f"{label}: {steps} steps"
    about = LEARNED | {"updates": steps}
    return setting.row(label, learned, setting.small(), **about)


def merge(setting: Setting) -> dict[str, Row]:
    sizes = settings_of("merge", Merge).model_dump()
    changed = setting.params.changed(
        {"model": {"kind": "merge"} | sizes}, "tables/params.yaml: merge"
    )
    return {"kt_merge": translated(setting, "KT: merge (ours)", changed)}


def mixer(setting: Setting) -> dict[str, Row]:
    label = f"KT: the paper's mixer ({MIXER})"
    return {"kt_mixer": translated(setting, label, mixers.changed(setting.params, MIXER))}


def translated(setting: Setting, label: str, params: Params) -> Row:
    """Knowledge Translation by a translator that is trained first.

    Its cost counts once: the networks to learn from and to choose the epoch, the small blocks that
    only the mixer needs, and the training without evaluations.
    """
    compute, count = setting.compute, params.active.pairs
    trained = translation.train(params, compute)
    training = sum(count / record["samples_per_second"] for record in trained.fitted.history)
    networks = count + params.active.networks.selection
    step_1, step_2 = seconds_of_steps(setting)
    small_blocks = trained.model.learns_from_small_blocks
    once = networks * step_1 + (count * step_2 if small_blocks else 0) + training
    any_architecture = set(trained.model.targets) == set(TARGETS)

    def translated(some: Setting) -> Weights:
        return translate(trained.model, some.networks, compute)

    images = cell.stored(cell.prototypes_of(trained.model))
    about = {"images": images, "any_architecture": any_architecture, "once": once}
    about |= {"updates": params.updates, "late_fall": trained.fitted.late_fall}
    return setting.row(label, translated, setting.small(), **about)


def seconds_of_steps(setting: Setting) -> tuple[float, float]:
    """Seconds that steps 1 and 2 take a network.

    Measured over one epoch, on as many networks as share a stream of images.
    """
    recipe = setting.params.active.recipe
    found = []
    for with_small in (False, True):
        whole = plan(setting.params, TABLE, setting.params.active.networks.per_stream, with_small)
        short = dataclasses.replace(whole, recipe=dataclasses.replace(whole.recipe, epochs=1))
        run = partial(generate.compute_part, short, 0, setting.images, setting.compute)
        found.append(timed(run)[1] * recipe.epochs / whole.count)
    return found[0], max(0.0, found[1] - found[0])


FAMILIES: dict[str, Callable[[Setting], dict[str, Row]]] = {
    "large": large,
    "low_rank": low_rank_blocks,
    "pruning": prunings,
    "quantisation": quantisations,
    "retraining": retrained,
    "logits": lambda setting: {"logits": distilled(setting, "distilled logits", retraining.logits)},
    "fitnets": lambda setting: {"fitnets": distilled(setting, "FitNets", retraining.fitnets)},
    "factor_transfer": lambda setting: {
        "factor_transfer": distilled(setting, "Factor Transfer", retraining.transferred_factors)
    },
    "mixer": mixer,
    "merge": merge,
}
"""Rows by family, in the order of the table."""
