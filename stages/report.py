"""Write results/report.md: every number and figure of the run on one page."""

from collections.abc import Mapping, Sequence

import pandas as pd

from kt.ensemble import Compute
from kt.networks.blocks import Sizes
from stages import feature_maps
from stages.common.base import inputs, metrics, outputs, runtime
from stages.common.base.checks import shown
from stages.common.base.inputs import RESULTS, TRANSLATOR
from stages.common.base.params import Params
from stages.common.evaluation import translator
from stages.figures import accuracies as of_accuracies
from stages.figures import lines, style
from stages.figures.style import LABELS
from stages.tables import output, printed, terms

FIGURES = RESULTS / "figures"
"""Where the report's figures are."""
CURVES = "train/plots/metrics"
PAPER = printed.BASELINES | {"translation": printed.GRIDS["table4"]["large"][1]}
"""The paper's accuracies (Tables 3 and 4); its translation's epoch is the best on the test set."""
TRANSLATORS = {
    "mixer": "the paper's MLP-Mixer, which reads the large block's convolutions",
    "merge": "merge (ours), which reads the whole network",
}


def main(params: Params, compute: Compute) -> None:
    baselines, train, transfer, partial = (
        metrics.read(name) for name in ("baselines", "train", "transfer", "partial")
    )
    model = translator(TRANSLATOR, params, compute.device)
    translated = column(params, "train/accuracies.csv", "translation")
    beside = output.references()
    beside["translation"] = train["translation"] | output.beside(translated.tolist())
    accuracies = {name: beside[name] for name in LABELS if name in beside}
    drawn = figures(params, accuracies, transfer, partial)
    features = feature_maps.draw(params, compute, model, translated)
    page = "\n".join(
        [
            *introduction(params, train),
            *main_table(params, accuracies, train, baselines),
            *features_section(features),
            *transfer_table(params, transfer),
            *partial_table(partial),
            *augmentation(),
        ]
    )
    for name, figure in (drawn | {"features": features.figure}).items():
        style.save(figure, FIGURES / f"{name}.png")
    outputs.write_text(RESULTS / "report.md", page + "\n")


def figures(
    params: Params, accuracies: dict, transfer: dict, partial: dict
) -> dict[str, style.Figure]:
    """The report's figures, by the names of their files."""
    images = params.active.images
    moved = {name: transfer[name] for name in LABELS if name in transfer}
    every, epochs = params.schedule.evaluate_every, [*range(1, params.schedule.epochs + 1)]
    evaluated = [epoch for epoch in epochs if epoch % every == 0 or epoch == epochs[-1]]
    loss = rows(f"{CURVES}/loss.tsv", "loss", of={"step": epochs})
    selection, reached = (
        rows(f"{CURVES}/{name}.tsv", name, of={"step": evaluated}, percent=True)
        for name in ("selection_accuracy", "test_accuracy")
    )
    kind = params.model.kind
    histograms = {
        LABELS["random_initialisation"]: column(
            params, "baselines/accuracies.csv", "random_initialisation"
        ),
        f"translation by {kind}": column(params, "train/accuracies.csv", "translation"),
    }
    colours = [style.colour(name) for name in ("random_initialisation", kind)]
    measured = ("large", "large_ci95", "small", "small_ci95")
    masking, noise = (
        rows(f"augment/{name}.csv", *measured, of={name: params.augment.measure}, percent=True)
        for name in ("masking", "noise")
    )
    compared = {
        column: [result[name][key] for result in partial.values()]
        for name in ("random_initialisation", "translation", "large", "gain")
        for column, key in ((name, "mean"), (f"{name}_ci95", "ci95"))
    }
    fractions = {"fraction": params.partial.fractions}
    shares = rows("partial/partial.csv", "fraction", of=fractions | compared)
    test, transferred = f"test networks, {images.main}", f"{images.main} to {images.transfer}"
    return {
        "accuracy": of_accuracies.bars(accuracies, test, kind),
        "training": lines.training_curves(loss, selection, reached, kind),
        "histogram": of_accuracies.histograms(histograms, colours),
        "transfer": of_accuracies.bars(moved, transferred, kind),
        "partial": lines.partial_data(shares, kind),
        "augmentation": lines.augmentation_effect(masking, noise),
    }


def features_section(features: feature_maps.FeatureMaps) -> list[str]:
    return [
        "## Feature maps",
        "",
        f"This is the paper's Figure 5. {features.caption()}",
        "",
        "![feature maps](figures/features.png)",
        "",
    ]


def introduction(params: Params, train: dict) -> list[str]:
    active, recipe = params.active, params.active.recipe
    epochs = ", ".join(map(str, params.generate.checkpoints))
    checkpoints = f" (also as they were after epochs {epochs})" if epochs else ""
    sizes, others = params.sizes, ""
    if sizes != Sizes():
        colours = "grey" if sizes.image_channels == 1 else "colour"
        others = (
            f"Their sizes are not the paper's: {sizes.channels} channels, small blocks of "
            f"{sizes.hidden} hidden ones, kernels of {sizes.kernel} x {sizes.kernel}, {colours} "
            f"images of {sizes.image_size} x {sizes.image_size}. "
        )
    return [
        "# Report",
        "",
        f"`dvc repro` wrote this page at scale `{params.scale}`. The networks are made for "
        f"{active.images.main}: {active.networks.train} for training{checkpoints}, "
        f"{active.networks.selection} for selection and {active.networks.test} for the test, each "
        f"trained for {recipe.epochs} epochs in each of two steps at batch {recipe.batch_size} and "
        f"learning rate {recipe.lr:g}. {others}"
        f"The small block is of kind {params.target}. The translator "
        f"is {TRANSLATORS.get(params.model.kind, params.model.kind)}, with {params.model.layers} "
        f"layers of {params.model.hidden_size}. It learned from {active.pairs} networks in "
        f"{params.updates:,} updates ({params.schedule.epochs} epochs at batch "
        f"{params.schedule.batch_size}); its training loss at the chosen epoch is "
        f"{train['loss']:.4f}.",
        "",
        "Every accuracy is in percent on held-out images; intervals are 95 % over n networks "
        "(Student). Every figure shows the same means and intervals.",
        "",
    ]


def main_table(params: Params, accuracies: dict, train: dict, baselines: dict) -> list[str]:
    """The test networks' blocks, `output.beside` the ceiling."""
    rule, over = train["paper_rule_best_on_test"], train["over_seeds"]
    closed = output.gap(over["mean"], baselines)
    comparable = params.active.images.main == "mnist"
    labels = {name: output.label(name, baselines) for name in accuracies}
    if params.model.kind == "merge" and params.model.layers:
        labels["translation"] += f" (has {output.prototypes(params)})"
    if over["n"] > 1:
        labels["over_seeds"] = f"translation, the means of {over['n']} seeds"
        accuracies = accuracies | {"over_seeds": over}
    rows = table_of(accuracies, PAPER if comparable else None, labels)
    if "random_replacement" not in accuracies:
        rows += ["", "Random and greedy replacement need trained small blocks; none were made."]
    if comparable:
        rows += [
            "",
            "The paper learned from 300,000 pairs and chose the translator's epoch on the test "
            "networks and images.",
        ]
    return [
        "## Test networks",
        "",
        *rows,
        "",
        f"{output.yardstick(baselines)} Re-training and the large block have seen all labelled "
        "training images.",
        "",
        *terms.lines("ceiling", "gap", f"below {output.FAILED}", "beside the ceiling"),
        "",
        f"The selection networks and held-back training images chose epoch {train['epoch']} "
        f"({train['selection']['mean']:.2f} % there). The paper takes the best evaluation on the "
        f"test networks and images themselves; that would be {rule['mean']:.2f} % at epoch "
        f"{rule['epoch']}. Translation closes {closed:.0f} % of the gap, by the mean over seeds "
        f"({over['n']}).",
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


def transfer_table(params: Params, transfer: dict) -> list[str]:
    gain, images = transfer["gain"], params.active.images
    comparable = (images.main, images.transfer) == ("mnist", "usps")
    paper = f" The paper gains {printed.USPS_GAIN} points here." if comparable else ""
    results = {name: transfer[name] for name in LABELS if name in transfer}
    return [
        f"## Transfer from {transfer['from']} to {transfer['to']}",
        "",
        f"These networks are made for {transfer['to']}: their former and latter blocks are "
        "trained on it around the test networks' large blocks, which stay as "
        f"{transfer['from']} left them. "
        "The translator has seen none of them.",
        "",
        *table_of(results),
        "",
        f"Translation gains {gain['mean']:.2f} ± {gain['ci95']:.2f} points over random "
        f"initialisation in {gain['n']} networks.{paper}",
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
        "The figure shows the mean accuracy of the selection networks on held-back images when one "
        "block's weights are masked (a share m of the entries is set to 0) or noisy (noise of "
        "standard deviation n is added). Bars are 95 % intervals over the networks.",
        "",
        "![effect of augmentation](figures/augmentation.png)",
    ]


def table_of(
    results: dict, paper: dict[str, str] | None = None, labels: dict[str, str] = LABELS
) -> list[str]:
    """A Markdown table of summaries, `output.told` of those that have it, and the paper's numbers
    if they are given.
    """
    told = {name: output.told(r) for name, r in results.items() if "beside_ceiling" in r}
    columns = ["block", "mean", "± 95 %", "std", "min", "max", "n"]
    nothing = dict.fromkeys(next(iter(told.values()), {}), "")
    columns += nothing
    columns += [] if paper is None else ["the paper's"]
    lines = [f"| {' | '.join(columns)} |", f"| --- |{' ---: |' * (len(columns) - 1)}"]
    for name, r in results.items():
        cells = [labels[name]]
        cells += [f"{r[key]:.2f}" for key in ("mean", "ci95", "std", "min", "max")]
        cells += [str(r["n"]), *told.get(name, nothing).values()]
        cells += [] if paper is None else [paper.get(name, "not printed")]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def column(params: Params, name: str, of: str) -> pd.Series:
    """Accuracies of the test networks, in percent."""
    found = inputs.read_table(RESULTS / name, of, percent=True)[of]
    if len(found) != (count := params.active.networks.test):
        raise inputs.damaged(RESULTS / name, f"it has {len(found)} networks, not {count}")
    return found


def rows(
    name: str, *columns: str, of: Mapping[str, Sequence[float]], percent: bool = False
) -> pd.DataFrame:
    """A table of plot data.

    Args:
        columns: as `percent`, those of `inputs.read_table`.
        of: columns that are known already.

    Raises:
        KTError: the table is missing or damaged, or a column is not what is known of it.
    """
    path = RESULTS / name
    table = inputs.read_table(path, *columns, words=[*of], percent=percent)
    for column, known in of.items():
        if table[column].tolist() != list(known):
            what = f"{column} is {shown(table[column].tolist())}, not {shown(list(known))}"
            raise inputs.damaged(path, what)
    return table


if __name__ == "__main__":
    runtime.run(main, __doc__)
