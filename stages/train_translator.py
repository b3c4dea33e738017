"""Train the translator; choose its epoch on selection networks; report it on test networks."""

import dataclasses
import logging

import pandas as pd
import torch
from dvclive import Live

from kt import ensemble, seeds, translator
from kt.ensemble import Compute
from kt.errors import KTError
from kt.fit import Fitted, Record, Training, fit
from kt.objectives import BehaviourObjective, WeightObjective
from kt.pairs import Pairs
from kt.statistics import summary
from kt.translator import Merge, Translator
from stages import runtime
from stages.evaluation import Subjects
from stages.inputs import AUGMENTED, PAIRS, RESULTS, TRANSLATOR, image_set
from stages.params import Params

OUT = RESULTS / "train"
PREPARED = 1024
"""Networks that set the scale of a translator's inputs, at most."""


def main(params: Params, compute: Compute) -> None:
    training = training_of(params)
    cuda = compute.device.type == "cuda"
    if params.train.precision == "bfloat16" and cuda and not torch.cuda.is_bf16_supported():
        raise KTError("params.yaml: train.precision: got 'bfloat16', which this GPU does not have")
    torch.manual_seed(seeds.derive(params.seed, "translator", "initial weights"))
    model = make_model(params)
    objective, learned_from = make_objective(params, compute, model)
    model.to(compute.device)
    selection = Subjects.of_store("selection", image_set("main", "held_back"), params.target)
    test = Subjects.of_store("test", image_set("main", "test"), params.target)

    def evaluate(model: torch.nn.Module) -> Record:
        on_test = test.translated(model, compute)
        return {
            "selection_accuracy": selection.translated(model, compute).mean().item(),
            "test_accuracy": on_test.mean().item(),
            "test": summary(on_test),
        }

    key = [model.describe(), dataclasses.asdict(training), params.train.model_dump(), learned_from]
    key.append(runtime.fingerprint(*selection.tensors(), *test.tensors()))
    logging.getLogger("dvclive").setLevel(logging.ERROR)
    with (
        runtime.scratch("translator", *key) as kept,
        runtime.progress_bar(training.epochs, "translator", "epoch") as bar,
        Live(str(OUT), dvcyaml=False, save_dvc_exp=False) as live,
    ):

        def show(record: Record) -> None:
            live.step = record["epoch"]
            for name, value in record.items():
                if isinstance(value, float):
                    live.log_metric(name, value)
            live.make_summary()  # what is known so far, for those who watch
            bar.set_postfix(
                {k: f"{v:.4g}" for k, v in record.items() if k.endswith(("loss", "cy"))}
            )
            bar.update()

        checkpoint = kept / "checkpoint.pt"
        fitted = fit(model, objective, training, evaluate, "selection_accuracy", checkpoint, show)
        model.load_state_dict(fitted.weights)
        translator.save(TRANSLATOR, model)
        accuracy = test.translated(model, compute)
        live.summary = {
            "translation": summary(accuracy),
            "selection": summary(selection.translated(model, compute)),
            **epochs(fitted),
        }
    table = pd.DataFrame({"network": range(len(accuracy)), "translation": accuracy})
    runtime.write_csv(OUT / "accuracies.csv", table)


def training_of(params: Params) -> Training:
    common = params.train.model_dump(exclude={"dropout", "precision", "masking", "noise", "side"})
    return Training(**params.schedule.model_dump(), **common, seed=params.seed)


def make_model(params: Params) -> Translator:
    """An untrained translator."""
    sizes = params.model.model_dump() | {"dropout": params.train.dropout, "target": params.target}
    make, configure = translator.KINDS[params.model.kind]
    names = {field.name for field in dataclasses.fields(configure)}
    return make(configure(**{name: size for name, size in sizes.items() if name in names}))


def make_objective(
    params: Params, compute: Compute, model: Translator
) -> tuple[WeightObjective | BehaviourObjective, list[str]]:
    """What the translator learns, and checksums of what it learns from."""

    def on_device(samples: dict) -> dict:
        return {name: rows.to(compute.device) for name, rows in samples.items()}

    if isinstance(model, Merge):
        images = image_set("main", "train")
        store = Pairs(PAIRS / "train")
        networks = store.mapped("former", "large", "latter", first=params.active.train.pairs)
        first = {name: rows[:PREPARED] for name, rows in networks.items()}
        draw = seeds.generator(params.seed, "translator", "prototypes")
        model.prepare(first, images, draw)
        objective = BehaviourObjective(
            on_device(networks), images.to(compute.device), params.target, compute,
            flip=params.generate.flip,
        )  # fmt: skip
        return objective, [store.checksum, runtime.fingerprint(images.images, images.labels)]
    store = Pairs(AUGMENTED)
    large, small = (
        on_device(ensemble.part(store.mapped(side), side)) for side in ("large", "small")
    )
    changes = params.train.model_dump(include={"masking", "noise", "side", "precision"})
    objective = WeightObjective(large, small, **changes, workers=compute.workers)
    return objective, [store.checksum]


def epochs(fitted: Fitted) -> dict:
    """What was chosen by the honest rule, and what the paper's rule would have chosen and said."""
    evaluated = [record for record in fitted.history if "test_accuracy" in record]
    best_on_test = max(evaluated, key=lambda record: record["test_accuracy"])
    return {
        "epoch": fitted.best["epoch"],
        "loss": fitted.best["loss"],
        "final_loss": fitted.history[-1]["loss"],
        "paper_rule_best_on_test": {"epoch": best_on_test["epoch"], **best_on_test["test"]},
    }


if __name__ == "__main__":
    runtime.run(main, __doc__)
