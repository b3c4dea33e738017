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
from kt.pairs import Pairs
from kt.statistics import summary
from kt.translator import Mixer, MixerConfig
from stages import runtime
from stages.evaluation import Subjects
from stages.inputs import AUGMENTED, RESULTS, TRANSLATOR, image_set
from stages.params import Params

OUT = RESULTS / "train"


def main(params: Params, compute: Compute) -> None:
    mixer = MixerConfig(
        **params.model.model_dump(), dropout=params.train.dropout, target=params.target
    )
    training = Training(
        **params.active.train.model_dump(exclude={"pairs"}),
        **params.train.model_dump(exclude={"dropout"}),
        seed=params.seed,
    )
    cuda = compute.device.type == "cuda"
    if training.precision == "bfloat16" and cuda and not torch.cuda.is_bf16_supported():
        raise KTError("params.yaml: train.precision: got 'bfloat16', which this GPU does not have")
    store = Pairs(AUGMENTED)
    large = ensemble.part(store.mapped("large"), "large")
    small = ensemble.part(store.mapped("small"), "small")
    selection = Subjects.of_store("selection", image_set("main", "held_back"), params.target)
    test = Subjects.of_store("test", image_set("main", "test"), params.target)

    def evaluate(model: torch.nn.Module) -> Record:
        on_test = test.translated(model, compute)
        return {
            "selection_accuracy": selection.translated(model, compute).mean().item(),
            "test_accuracy": on_test.mean().item(),
            "test": summary(on_test),
        }

    torch.manual_seed(seeds.derive(params.seed, "translator", "initial weights"))
    model = Mixer(mixer).to(compute.device)
    key = [dataclasses.asdict(mixer), dataclasses.asdict(training), store.checksum]
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
        fitted = fit(
            model,
            large,
            small,
            training,
            evaluate,
            "selection_accuracy",
            checkpoint,
            show,
            compute.workers,
        )
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
