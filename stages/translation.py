"""Train a translator as parameters say: what the stages that train one share."""

import contextlib
import dataclasses
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from dvclive import Live
from torch import Tensor

from kt import distributed, ensemble, generate, losses, seeds, symmetry, translator
from kt.blocks import initial_weights
from kt.ensemble import Compute
from kt.errors import KTError
from kt.fit import Fitted, Record, Training, fit
from kt.losses import LossWeights
from kt.objectives import BehaviourObjective, Samples, WeightObjective
from kt.pairs import Pairs
from kt.statistics import summary
from kt.translator import Merge, Mixer, Translator
from stages import runtime
from stages.evaluation import Subjects
from stages.inputs import AUGMENTED, PAIRS, TRANSLATOR, image_set
from stages.params import Params

TRAINING = PAIRS / "train"
PREPARED = 1024
"""Networks that set the scale of a translator's inputs, at most."""
BLOCK = 4096
"""Pairs in memory at a time while their statistics are taken."""


@dataclass(frozen=True)
class Trained:
    """A translator with the weights of its chosen epoch, and how it came to them.

    Attributes:
        selection, test: accuracies of the selection and the test networks in percent, (N,).
    """

    model: Translator
    fitted: Fitted
    selection: Tensor
    test: Tensor

    def metrics(self) -> dict:
        """The accuracies' summaries, and what the two rules for the epoch chose."""
        return {
            "translation": summary(self.test),
            "selection": summary(self.selection),
            **epochs(self.fitted),
        }


def train(
    params: Params,
    compute: Compute,
    out: Path | None = None,
    store: Path = TRAINING,
    repeats: int = 1,
) -> Trained:
    """Train the translator, choose its epoch on selection networks, measure it on test networks.

    Args:
        out: the folder for the translator, its metrics and their history; None: nothing is written.
        store: the networks to learn from.
        repeats: how many are trained, each from a seed of its own: the first one is returned and
            written, beside all accuracies.
    """
    cuda = compute.device.type == "cuda"
    if params.train.precision == "bfloat16" and cuda and not torch.cuda.is_bf16_supported():
        raise KTError("params.yaml: train.precision: got 'bfloat16', which this GPU does not have")
    drawn = (seeds.derive(params.seed, "translator", "repeat", i) for i in range(1, repeats))
    trainings = [training_of(params, seed) for seed in (params.seed, *drawn)]
    model = make_model(params)
    objective, learned_from = make_objective(params, compute, model, store)
    selection = Subjects.of_store("selection", image_set("main", "held_back"), params.target)
    test = Subjects.of_store("test", image_set("main", "test"), params.target)

    def evaluate(model: torch.nn.Module) -> Record:
        on_selection, on_test = (
            subjects.translated(model, compute) for subjects in (selection, test)
        )
        return {
            "selection_accuracy": on_selection.mean().item(),
            "test_accuracy": on_test.mean().item(),
            "selection": on_selection,
            "test": on_test,
        }

    key = [
        model.describe(),
        dataclasses.asdict(trainings[0]),
        params.train.model_dump(),
        learned_from,
    ]
    key.append(runtime.fingerprint(*selection.tensors(), *test.tensors()))
    first = distributed.rank() == 0  # the only process that writes and shows anything
    with (
        runtime.scratch("translator", *key) if first else contextlib.nullcontext(Path()) as kept,
        runtime.progress_bar(repeats * trainings[0].epochs, "translator", "epoch", first) as bar,
        _live(out if first else None) as live,
    ):
        trained: list[Trained] = []

        def show(record: Record) -> None:
            if live is not None and not trained:  # the first one's training is logged
                _log(live, record)
            bar.set_postfix(
                {k: f"{v:.4g}" for k, v in record.items() if k.endswith(("loss", "cy"))}
            )
            bar.update()

        for number, training in enumerate(trainings, 1):
            if number > 1:
                model = make_model(params, training.seed)
                objective, _ = make_objective(params, compute, model, store, training.seed)
            checkpoint = kept / f"checkpoint-{number}.pt"
            model.to(compute.device)
            fitted = fit(
                model, objective, training, evaluate, "selection_accuracy", checkpoint, show
            )
            model.load_state_dict(fitted.weights)
            model.eval()
            trained.append(Trained(model, fitted, fitted.best["selection"], fitted.best["test"]))
        if live is not None:  # before the checkpoints are deleted
            _write(trained, live, out)
    return trained[0]


def training_of(params: Params, seed: int | None = None) -> Training:
    """How the translator is trained, from this seed or the parameters'."""
    chosen = {field.name for field in dataclasses.fields(Training)}
    own = getattr(params.train, params.model.kind)
    known = params.train.model_dump() | own.model_dump() | params.schedule.model_dump()
    known = {name: value for name, value in known.items() if name in chosen}
    return Training(**known, seed=params.seed if seed is None else seed)


def make_model(params: Params, seed: int | None = None) -> Translator:
    """An untrained translator; its weights are drawn from this seed or the parameters'."""
    chosen = params.model
    make, configure = translator.KINDS[chosen.kind]
    config = configure(
        layers=chosen.layers,
        hidden_size=chosen.hidden_size,
        **getattr(chosen, chosen.kind).model_dump(),
        dropout=params.train.dropout,
        target=params.target,
    )
    seed = params.seed if seed is None else seed
    torch.manual_seed(seeds.derive(seed, "translator", "initial weights"))
    model = make(config)
    loss = params.train.mixer.loss
    if isinstance(model, Mixer) and loss.difference:
        initial = initial_weights(params.target, [generate.shared_initial_seed(params.seed)])
        # The same function; aligned targets are balanced, and so is what they differ from.
        model.start_from(symmetry.balance(initial) if loss.align else initial)
    return model


def prepared_model(params: Params, compute: Compute) -> Merge:
    """A merging translator before any training, with its prototypes."""
    model = make_model(params)
    networks, _ = _behaviour(params, compute, TRAINING)
    _prepare(params, model, networks, params.seed)
    return model


def _prepare(params: Params, model: Merge, learning: BehaviourObjective, seed: int) -> None:
    first = {name: rows[:PREPARED] for name, rows in learning.networks.items()}
    draw = seeds.generator(seed, "translator", "prototypes")
    model.prepare(first, image_set("main", "train"), draw, params.generate.flip)


def make_objective(
    params: Params, compute: Compute, model: Translator, store: Path, seed: int | None = None
) -> tuple[WeightObjective | BehaviourObjective, list[str]]:
    """What the translator learns, and checksums of what it learns from.

    Args:
        seed: of the prototypes that it is given along; None: the parameters'.
    """
    if isinstance(model, Merge):
        networks, learned_from = _behaviour(params, compute, store)
        _prepare(params, model, networks, params.seed if seed is None else seed)
        symmetric = params.train.merge.symmetry
        return dataclasses.replace(networks, symmetry=symmetric), learned_from
    train, loss = params.train.mixer, params.train.mixer.loss
    function, learned_from = _behaviour(params, compute, store) if loss.looks else (None, [])
    augmented = store == TRAINING and params.augment.copies > 0
    pairs = _augmented(params) if augmented else Pairs(store)
    first = None if augmented else params.active.train.pairs
    large, small = (
        _on(compute, ensemble.part(pairs.mapped(side, first=first), side))
        for side in ("large", "small")
    )
    objective = WeightObjective(
        large,
        small,
        **train.model_dump(include={"masking", "noise", "side"}),
        precision=params.train.precision,
        workers=compute.workers,
        align=loss.align,
        deviation=_deviation(small, loss.align) if loss.standardise else None,
        initial=_on(compute, model.initial_block()) if loss.difference else None,
        reorder=train.symmetry,
        shares=LossWeights(**loss.model_dump(exclude={"align", "standardise", "difference"})),
        function=function,
    )
    return objective, [pairs.checksum, *learned_from]


def _augmented(params: Params) -> Pairs:
    """The chosen pairs and their copies, as the stage `augment` wrote them."""
    pairs, wanted = Pairs(AUGMENTED), params.active.train.pairs
    if pairs.about["pairs"] != wanted:
        raise KTError(
            f"{AUGMENTED} holds copies of {pairs.about['pairs']} pairs, but {wanted} are to be "
            "learned from: this table needs augment.copies 0"
        )
    return pairs


def _behaviour(
    params: Params, compute: Compute, store: Path
) -> tuple[BehaviourObjective, list[str]]:
    """What the training networks do, and checksums of it."""
    images = image_set("main", "train")
    pairs = Pairs(store)
    networks = pairs.mapped("former", "large", "latter", first=params.active.train.pairs)
    objective = BehaviourObjective(
        _on(compute, networks), images.to(compute.device), params.target, compute,
        flip=params.generate.flip,
    )  # fmt: skip
    return objective, [pairs.checksum, runtime.fingerprint(images.images, images.labels)]


def _on(compute: Compute, samples: Samples) -> Samples:
    return {name: rows.to(compute.device) for name, rows in samples.items()}


def _deviation(small: Samples, align: bool) -> dict[str, Tensor]:
    """Standard deviations of the targets' entries; the stores are read in pieces."""
    count = len(next(iter(small.values())))
    pieces = [slice(at, at + BLOCK) for at in range(0, count, BLOCK)]
    blocks = ({name: rows[piece] for name, rows in small.items()} for piece in pieces)
    return losses.deviation(blocks, align)


@contextlib.contextmanager
def _live(out: Path | None) -> Iterator[Live | None]:
    """DVCLive's log of the training, if there is to be one."""
    if out is None:
        yield None
        return
    logging.getLogger("dvclive").setLevel(logging.ERROR)
    with Live(str(out), dvcyaml=False, save_dvc_exp=False) as live:
        yield live


def _log(live: Live, record: Record) -> None:
    live.step = record["epoch"]
    for name, value in record.items():
        if isinstance(value, float):
            live.log_metric(name, value)
    live.make_summary()  # what is known so far, for those who watch


def _write(trained: list[Trained], live: Live, out: Path) -> None:
    translator.save(out / TRANSLATOR.name, trained[0].model)
    live.summary = trained[0].metrics() | over_seeds(trained)
    accuracy = trained[0].test
    table = pd.DataFrame({"network": range(len(accuracy)), "translation": accuracy})
    runtime.write_csv(out / "accuracies.csv", table)


def over_seeds(trained: list[Trained]) -> dict:
    """Each seed's mean accuracies and epoch, and the summary of the test accuracies over seeds."""
    means = torch.stack([one.test.mean() for one in trained])
    each = {
        str(number): {
            "translation": round(one.test.mean().item(), 4),
            "selection": round(one.selection.mean().item(), 4),
            "epoch": one.fitted.best["epoch"],
        }
        for number, one in enumerate(trained, 1)
    }
    return {"seeds": each, "over_seeds": summary(means)}


def epochs(fitted: Fitted) -> dict:
    """What was chosen by the honest rule, and what the paper's rule would have chosen and said."""
    evaluated = [record for record in fitted.history if "test_accuracy" in record]
    best_on_test = max(evaluated, key=lambda record: record["test_accuracy"])
    return {
        "epoch": fitted.best["epoch"],
        "loss": fitted.best["loss"],
        "final_loss": fitted.history[-1]["loss"],
        "paper_rule_best_on_test": {
            "epoch": best_on_test["epoch"],
            **summary(best_on_test["test"]),
        },
    }
