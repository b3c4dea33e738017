"""All students of the chosen scale as one table, and their loss curves."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
from pydantic import Field

from kt.ensemble import Compute
from kt.networks.blocks import parameter_count
from kt.networks.residual import NETWORKS
from kt.rivals.factor_transfer import FactorTranslator, Paraphraser
from kt.run.statistics import summary
from stages.common.base import inputs, outputs, runtime
from stages.common.base.metrics import Known, Number, Percent, Whole, checked
from stages.common.base.params import Params
from stages.factor_transfer import learning, settings
from stages.factor_transfer.settings import Settings
from stages.figures import lines, style

PUBLISHED = (
    "A toolbox's published figures for this pair are 94.86 with Factor Transfer, 94.82 alone and "
    "95.55 for the teacher; its factor loss is weighted 1 where the authors used 500."
)


class Epoch(Known):
    epoch: Whole
    loss: Number


class Training(Known):
    """Of a network."""

    history: Annotated[Sequence[Epoch], Field(min_length=1)]


class Judged(Training):
    accuracy: Percent


class StudentEpoch(Epoch):
    cross_entropy: Number


class Student(Judged):
    history: Annotated[Sequence[StudentEpoch], Field(min_length=1)]


def main(params: Params, compute: Compute) -> None:
    chosen = settings.load()
    folder = settings.TABLE / "results" / chosen.scale
    teacher = read(chosen.folder / "teacher", Judged)
    students = {
        method: [
            read(chosen.folder / "students" / method / str(seed), Student) for seed in chosen.seeds
        ]
        for method in chosen.methods
    }
    results = compared(students, chosen.methods[0])
    metrics = {"teacher": round(teacher["accuracy"], 4), **results}
    rebuilt = read(chosen.folder / "paraphraser", Training)["history"][-1]
    metrics["paraphraser_loss"] = rebuilt["loss"]
    outputs.write_json(folder / "summary.json", metrics)
    table = as_table(chosen, teacher, students, results)
    outputs.write_csv(folder / "summary.csv", table)
    outputs.write_markdown(folder / "summary.md", caption(chosen), table)
    curves = pd.DataFrame(
        {
            "method": method,
            "seed": seed,
            "epoch": record["epoch"],
            "loss": record["loss"],
            "cross_entropy": record.get("cross_entropy", record["loss"]),  # the teacher's only loss
        }
        for method, runs in (students | {lines.TEACHER: [teacher]}).items()
        for seed, run in zip(chosen.seeds, runs, strict=False)
        for record in run["history"]
    )
    outputs.write_csv(folder / "loss.csv", curves)
    labels = {method: chosen.settings[method].label for method in chosen.methods}
    draw(folder, labels)


def draw(folder: Path, labels: dict[str, str]) -> None:
    """Draw the losses in a scale's folder, of methods by name in words."""
    curves = inputs.read_table(folder / "loss.csv", "epoch", "loss", words=("method",))
    figure = lines.losses_of_students(curves, labels | {lines.TEACHER: "teacher"})
    style.save(figure, folder / "loss.png")


def read(folder: Path, kind: type[Training]) -> dict:
    """The metrics that `stages.factor_transfer.learning.keep` wrote beside the weights.

    Raises:
        KTError: they are missing or damaged, or are not of this kind.
    """
    return checked(folder / learning.METRICS, kind)


def compared(students: dict[str, list[dict]], control: str) -> dict[str, dict]:
    """Accuracies over seeds, and gains over the control, seed by seed."""
    reached = {
        method: torch.tensor([run["accuracy"] for run in runs], dtype=torch.double)
        for method, runs in students.items()
    }
    return {
        method: {"accuracy": summary(values)}
        | ({"gain": summary(values - reached[control])} if method != control else {})
        for method, values in reached.items()
    }


def as_table(
    chosen: Settings, teacher: dict, students: dict[str, list[dict]], results: dict[str, dict]
) -> pd.DataFrame:
    """The table that a reader sees: the teacher, then every method."""
    active = chosen.active
    rows = [
        {
            "network": f"teacher ({active.teacher.network})",
            "parameters": f"{parameter_count(NETWORKS[active.teacher.network]()):,}",
            "accuracy": f"{teacher['accuracy']:.2f}",
            "gain, points": "",
            "n": 1,
            "cross-entropy": f"{teacher['history'][-1]['loss']:.3f}",
        }
    ]
    for method, runs in students.items():
        found = results[method]
        last = [run["history"][-1]["cross_entropy"] for run in runs]
        rows.append(
            {
                "network": f"{chosen.settings[method].label} ({active.student.network})",
                "parameters": f"{parameter_count(NETWORKS[active.student.network]()):,}",
                "accuracy": spread(found["accuracy"]),
                "gain, points": spread(found["gain"], "+") if "gain" in found else "",
                "n": len(runs),
                "cross-entropy": f"{sum(last) / len(last):.3f}",
            }
        )
    return pd.DataFrame(rows)


def spread(result: dict, sign: str = "") -> str:
    """Mean and 95 % interval; of a single seed there is none."""
    interval = f" ± {result['ci95']:.2f}" if result["n"] > 1 else ""
    return f"{result['mean']:{sign}.2f}{interval}"


def caption(chosen: Settings) -> str:
    """What was done, in words."""
    active, training = chosen.active, chosen.training
    networks = (NETWORKS[part.network]() for part in (active.teacher, active.student))
    widths = (network.head.in_features for network in networks)
    paraphraser = Paraphraser(next(widths), chosen.paraphraser.rate)
    translator = FactorTranslator(next(widths), paraphraser.factor_channels)
    aside = parameter_count(paraphraser) + parameter_count(translator)
    words = (
        f"Scale `{chosen.scale}`: CIFAR-10, accuracy in percent on its 10,000 test images after "
        f"the last epoch (teacher {active.teacher.epochs}, paraphraser "
        f"{active.paraphraser.epochs}, students {active.student.epochs} epochs, batch "
        f"{training.batch_size}, {training.precision}); intervals are 95 % over seeds (Student), "
        "gains are over the first student with the same initial weights and images. The "
        "cross-entropy is that with the labels, of the last epoch's training images. Paraphraser "
        f"and translator, {aside:,} parameters, are there in training alone."
    )
    if learning.image_source() == "JPEG":
        words += (
            " Images are JPEG copies, slightly lossy: accuracies compare with each other, and only "
            "roughly with published ones."
        )
    return f"{words} {PUBLISHED}" if chosen.scale == "resnet50_to_18" else words


if __name__ == "__main__":
    runtime.run(main, __doc__)
