"""Write results/report.md: every number and figure of the run on one page."""

import json

import pandas as pd

from kt import translator
from kt.ensemble import Compute
from kt.statistics import gap_closed
from stages import feature_maps, figures, runtime
from stages.inputs import RESULTS, TRANSLATOR
from stages.params import Params

FIGURES = RESULTS / "figures"
PAPER = {
    "random_initialisation": "27.38",
    "random_replacement": "23.67",
    "greedy_replacement": "26.53",
    "translation": "52.07 (best epoch on test)",
}
"""The paper's accuracies: MNIST, 300,000 pairs, 10-epoch networks (Tables 3 and 4)."""


TRANSLATORS = {
    "mixer": "the paper's MLP-Mixer, which reads the large block's convolutions",
    "merge": "merge (ours), which reads the whole network and keeps prototype images of its own",
}


def main(params: Params, compute: Compute) -> None:
    baselines = read_json("baselines/metrics.json")
    train = read_json("train/metrics.json")
    transfer = read_json("transfer/metrics.json")
    partial = read_json("partial/metrics.json")
    accuracies = {
        name: train["translation"] if name == "translation" else baselines[name]
        for name in figures.LABELS
        if name == "translation" or name in baselines
    }
    draw(params, accuracies, transfer)
    features = feature_maps.draw(params, compute, translator.load(TRANSLATOR, compute.device))
    features.savefig(FIGURES / "features.png", metadata={"Software": None})
    page = "\n".join(
        [
            *introduction(params, train),
            *main_table(accuracies, train),
            *features_section(params),
            *transfer_table(transfer),
            *partial_table(partial),
            *augmentation(),
        ]
    )
    (RESULTS / "report.md").write_text(page + "\n")


def draw(params: Params, accuracies: dict, transfer: dict) -> None:
    images = params.active.images
    moved = {name: transfer[name] for name in figures.LABELS if name in transfer}
    curves = [
        read_table(f"train/plots/metrics/{name}.tsv")
        for name in ("loss", "selection_accuracy", "test_accuracy")
    ]
    drawn = {
        "accuracy": figures.accuracy_bars(accuracies, f"test networks, {images.main}"),
        "training": figures.training_curves(*curves),
        "histogram": figures.accuracy_histogram(
            read_table("baselines/accuracies.csv")["random_initialisation"],
            read_table("train/accuracies.csv")["translation"],
        ),
        "transfer": figures.accuracy_bars(moved, f"{images.main} to {images.transfer}"),
        "partial": figures.partial_data(read_table("partial/partial.csv")),
        "augmentation": figures.augmentation_effect(
            read_table("augment/masking.csv"), read_table("augment/noise.csv")
        ),
    }
    FIGURES.mkdir(parents=True, exist_ok=True)
    for name, figure in drawn.items():
        figure.savefig(FIGURES / f"{name}.png", metadata={"Software": None})


def features_section(params: Params) -> list[str]:
    return [
        "## Feature maps",
        "",
        "What the blocks make of the first test images, in the first test network (the paper's "
        f"Figure 5): six channels each, from {params.active.images.main}.",
        "",
        "![feature maps](figures/features.png)",
        "",
    ]


def introduction(params: Params, train: dict) -> list[str]:
    active, recipe = params.active, params.active.recipe
    epochs = ", ".join(map(str, params.generate.checkpoints))
    checkpoints = f" (also as they were after epochs {epochs})" if epochs else ""
    return [
        "# Report",
        "",
        f"Scale `{params.scale}`, written by `dvc repro`. Images: {active.images.main}; transfer: "
        f"{active.images.transfer}. Target block: {params.target}. Networks: "
        f"{active.networks.train} for training{checkpoints}, {active.networks.selection} for "
        f"selection, {active.networks.test} for the test, {recipe.epochs} epochs a step at batch "
        f"{recipe.batch_size} and learning rate {recipe.lr:g}. Translator: "
        f"{TRANSLATORS[params.model.kind]}; {params.model.layers} layers of "
        f"{params.model.hidden_size}, {params.schedule.epochs} epochs on {active.train.pairs} "
        f"networks; training loss at the chosen epoch {train['loss']:.4f}.",
        "",
        "Every accuracy is in percent on images that no network saw; intervals are 95 % over "
        "networks (Student).",
        "",
    ]


def main_table(accuracies: dict, train: dict) -> list[str]:
    rule = train["paper_rule_best_on_test"]
    low, high = (accuracies[k]["mean"] for k in ("random_initialisation", "retrained"))
    closed = gap_closed(accuracies["translation"]["mean"], low, high)
    rows = table_of(
        accuracies, lambda name: PAPER.get(name, "not printed"), "the paper's, on MNIST"
    )
    if "random_replacement" not in accuracies:
        rows += ["", "Random and greedy replacement need trained small blocks; none were made."]
    return [
        "## Test networks",
        "",
        *rows,
        "",
        f"Epoch {train['epoch']} was chosen on the selection networks and held-back training "
        f"images ({train['selection']['mean']:.2f} there). The paper's rule, the best evaluation "
        f"on the test networks and images themselves, would give {rule['mean']:.2f} at epoch "
        f"{rule['epoch']}. Translation closes {closed:.0f} % of the gap from random initialisation "
        "to the re-trained small block.",
        "",
        *spread_over_seeds(train),
        "![accuracy of the test networks](figures/accuracy.png)",
        "",
        "![training of the translator](figures/training.png)",
        "",
        "![histogram of the accuracies](figures/histogram.png)",
        "",
    ]


def spread_over_seeds(train: dict) -> list[str]:
    """What differs by chance, where the translator was trained from several seeds."""
    over = train["over_seeds"]
    if over["n"] == 1:
        return []
    each = ", ".join(
        f"{one['translation']:.2f} (epoch {one['epoch']})" for one in train["seeds"].values()
    )
    return [
        f"Trained from {over['n']} seeds, the first of which is reported here, translators come to "
        f"{each}: {over['mean']:.2f} on average, with a standard deviation of {over['std']:.2f}. "
        "Another processor rounds differently when a translator is trained, which changes a "
        "seed's result like another seed.",
        "",
    ]


def transfer_table(transfer: dict) -> list[str]:
    gain = transfer["gain"]
    results = {name: transfer[name] for name in figures.LABELS if name in transfer}
    return [
        f"## Transfer from {transfer['from']} to {transfer['to']}",
        "",
        "The test networks' large blocks, frozen, between former and latter blocks trained on the "
        "other set; the translator has seen neither.",
        "",
        *table_of(results),
        "",
        f"Gain over random initialisation: {gain['mean']:+.2f} points "
        f"(± {gain['ci95']:.2f}, n = {gain['n']}). The paper: +11.11 from MNIST to USPS.",
        "",
        "![accuracy on the transfer set](figures/transfer.png)",
        "",
    ]


def partial_table(partial: dict) -> list[str]:
    lines = [
        "## Networks trained on part of the images",
        "",
        "| images | random initialisation | translation | large | gain, points | n |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for key, result in partial.items():
        cells = [
            f"{result[name]['mean']:.2f} ± {result[name]['ci95']:.2f}"
            for name in ("random_initialisation", "translation", "large", "gain")
        ]
        share = key.removesuffix("_percent").replace("_", ".")
        lines.append(f"| {share} % | {' | '.join(cells)} | {result['gain']['n']} |")
    return [*lines, "", "![gain by fraction of the images](figures/partial.png)", ""]


def augmentation() -> list[str]:
    return [
        "## What augmentation does to function",
        "",
        "Accuracy of selection networks on held-back images with one block's weights augmented.",
        "",
        "![effect of augmentation](figures/augmentation.png)",
    ]


def table_of(results: dict, extra=None, extra_title: str = "") -> list[str]:
    """A Markdown table of summaries, with one more column from `extra(name)` if given."""
    columns = ["block", "mean", "± 95 %", "std", "min", "max", "n"] + [extra_title] * bool(extra)
    lines = [f"| {' | '.join(columns)} |", f"| --- |{' ---: |' * (len(columns) - 1)}"]
    for name, r in results.items():
        cells = [figures.LABELS[name]]
        cells += [f"{r[key]:.2f}" for key in ("mean", "ci95", "std", "min", "max")]
        cells += [str(r["n"])] + ([extra(name)] if extra else [])
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def read_json(name: str) -> dict:
    return json.loads((RESULTS / name).read_text())


def read_table(name: str) -> pd.DataFrame:
    return pd.read_csv(RESULTS / name, sep="\t" if name.endswith(".tsv") else ",")


if __name__ == "__main__":
    runtime.run(main, __doc__)
