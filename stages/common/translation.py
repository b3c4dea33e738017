"""Train a translator from parameters, for all stages that train one."""

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from dvclive import Live
from scmrepo.exceptions import SCMError
from torch import Tensor

from kt.ensemble import Compute
from kt.run import distributed, seeds
from kt.run.errors import KTError
from kt.run.files import check_output
from kt.run.guard import lacks_memory
from kt.run.statistics import summary
from kt.translators import Translator, require_memory, save_translator
from kt.translators.fit import Fitted, Record, Training, fit
from stages.common import kinds
from stages.common.base import outputs, runtime
from stages.common.base.inputs import TRANSLATOR, image_set
from stages.common.base.params import Params
from stages.common.evaluation import Subjects
from stages.common.kinds import TRAINING

TRAINS_TRANSLATORS = (*runtime.TRAINS_NETWORKS, "translators")
"""The folders of `kt` that train translators."""
ACCURACIES, METRICS, PLOTS = "accuracies.csv", "metrics.json", "plots"
"""Files, and a folder, of a training's results. DVCLive writes the last two."""


@dataclass(frozen=True)
class Trained:
    """A translator with the weights of its chosen epoch, and the history of its training.

    Attributes:
        selection, test: accuracies of the selection and the test networks in percent, (N,).
    """

    model: Translator
    fitted: Fitted
    selection: Tensor
    test: Tensor

    def metrics(self) -> dict:
        """Summaries of the accuracies, and the epochs that the two rules chose."""
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
    also: Callable[[Translator], Record] | None = None,
) -> Trained:
    """Train the translator, choose its epoch on selection networks, measure it on test networks.

    Args:
        out: the folder for the translator, its metrics and their history; None: nothing is written.
            If the training fails, what was there before is there again.
        store: the networks to learn from.
        repeats: how many translators are trained, each from its own seed. The first is returned
            and written; the accuracies of all are written.
        also: measures what else is wanted at every evaluation, kept as `also` in the history.

    Raises:
        KTError: the training is impossible or fails, or its results cannot be written.
    """
    first = distributed.rank() == 0  # only this process writes and shows anything
    if out is not None and first:
        for name in (TRANSLATOR.name, ACCURACIES, METRICS, f"{PLOTS}/metrics/loss.tsv"):
            check_output(out / name)
    cuda = compute.device.type == "cuda"
    if params.train.precision == "bfloat16" and cuda and not torch.cuda.is_bf16_supported():
        raise KTError("params.yaml: train.precision: got 'bfloat16', which this GPU does not have")
    drawn = (seeds.derive(params.seed, "translator", "repeat", i) for i in range(1, repeats))
    trainings = [training_of(params, seed) for seed in (params.seed, *drawn)]
    require_memory(kinds.chosen(params), kinds.configuration(params))
    material = kinds.Stored(params, compute, store)
    selection = Subjects.of_store("selection", image_set(params, "main", "held_back"), params)
    test = Subjects.of_store("test", image_set(params, "main", "test"), params)

    def evaluate(model: Translator) -> Record:
        on_selection, on_test = (
            subjects.translated(model, compute) for subjects in (selection, test)
        )
        return {
            "selection_accuracy": on_selection.mean().item(),
            "test_accuracy": on_test.mean().item(),
            "selection": on_selection,
            "test": on_test,
            **({"also": also(model)} if also else {}),
        }

    key: list[Any] = [
        make_model(params, params.seed).describe(),
        dataclasses.asdict(trainings[0]),
        dataclasses.asdict(kinds.learning(params)),
    ]
    key += [params.train.precision, params.augment.model_dump(), material.checksums]
    key.append(runtime.fingerprint(*selection.tensors(), *test.tensors()))
    key.append(also is not None)
    work = runtime.scratch("translator", TRAINS_TRANSLATORS, *key)
    with (
        work if first else contextlib.nullcontext(Path()) as kept,
        runtime.progress_bar(repeats * trainings[0].epochs, "translator", "epoch", first) as bar,
        _live(out if first else None) as live,
    ):
        trained: list[Trained] = []

        def show(record: Record) -> None:
            if live is not None and not trained:  # only the first training is logged
                _log(live, record)
            bar.set_postfix(
                {k: f"{v:.4g}" for k, v in record.items() if k.endswith(("loss", "cy"))}
            )
            bar.update()

        for number, training in enumerate(trainings, 1):
            if repeats > 1:
                bar.set_description(f"translator, seed {number} of {repeats}")
            model = make_model(params, training.seed)
            own = material.drawn_from(training.seed)
            objective = kinds.objective(model, params, own)
            model.to(compute.device)
            file = kept / f"checkpoint-{number}.pt"
            fitted = fit(model, objective, training, evaluate, "selection_accuracy", file, show)
            model.load_state_dict(fitted.weights)
            model.eval()
            trained.append(Trained(model, fitted, fitted.best["selection"], fitted.best["test"]))
        if live is not None and out is not None:  # before the checkpoints are deleted
            _write(trained, live, out)
    return trained[0]


def training_of(params: Params, seed: int) -> Training:
    """How the translator is trained from this seed."""
    names = {field.name for field in dataclasses.fields(Training)}
    own = dataclasses.asdict(kinds.learning(params))
    known = params.train.model_dump() | own | params.schedule.model_dump()
    return Training(**{k: v for k, v in known.items() if k in names}, seed=seed)


def make_model(params: Params, seed: int) -> Translator:
    """An untrained translator; its weights are drawn from this seed."""
    config = kinds.configuration(params)
    torch.manual_seed(seeds.derive(seed, "translator", "initial weights"))
    return kinds.chosen(params)(config)


def prepared_model(params: Params, compute: Compute) -> Translator:
    """A translator before any training, with what it takes from the training set beforehand."""
    model = make_model(params, params.seed)
    kinds.objective(model, params, kinds.Stored(params, compute))
    return model


@contextlib.contextmanager
def _live(out: Path | None) -> Iterator[Live | None]:
    """DVCLive's log of the training, if one is wanted."""
    if out is None:
        yield None
        return
    logging.getLogger("dvclive").setLevel(logging.ERROR)
    with (
        outputs.restored_on_error(out, [METRICS, PLOTS]),
        logger(out) as live,
    ):
        yield live


def logger(out: Path) -> Live:
    """DVCLive for a training's results.

    Raises:
        KTError: the Git repository around them has no commit, or the files of Git or DVC cannot be
            used.
    """
    try:
        return Live(str(out), dvcyaml=False, save_dvc_exp=False)
    except SCMError as error:
        raise KTError(f"DVCLive cannot use this Git repository ({error}): commit once") from None
    except Exception as error:  # whatever is wrong with the files of Git, and of DVC's cache
        if lacks_memory(error):
            raise
        what = f"DVCLive cannot use the files of Git and DVC ({type(error).__name__}: {error})"
        raise KTError(f"{what}: make room, or mend them") from error


def _log(live: Live, record: Record) -> None:
    live.step = record["epoch"]
    for name, value in record.items():
        if isinstance(value, float) and name != "samples_per_second":  # the clock's
            live.log_metric(name, value)
    live.make_summary()  # for those who watch the training


def _write(trained: list[Trained], live: Live, out: Path) -> None:
    save_translator(out / TRANSLATOR.name, trained[0].model)
    live.summary = trained[0].metrics() | over_seeds(trained)
    accuracy = trained[0].test
    table = pd.DataFrame({"network": range(len(accuracy)), "translation": accuracy})
    outputs.write_csv(out / ACCURACIES, table)


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
    """The result of our rule for the epoch, and of the paper's; and whether the loss still fell."""
    evaluated = [record for record in fitted.history if "test_accuracy" in record]
    best_on_test = max(evaluated, key=lambda record: record["test_accuracy"])
    return {
        "epoch": fitted.best["epoch"],
        "loss": fitted.best["loss"],
        "final_loss": fitted.history[-1]["loss"],
        "late_fall": fitted.late_fall,
        "paper_rule_best_on_test": {
            "epoch": best_on_test["epoch"],
            **summary(best_on_test["test"]),
        },
    }
