"""The results page: every table and figure of the paper and of our own, at every scale, in one."""

from kt.ensemble import Compute
from stages.common.base import runtime
from stages.common.base.params import Params
from stages.tables import output

TITLES = {
    "table1": "Table 1: what other methods of compression leave, cost and need",
    "table2": "Table 2: the translator's sizes",
    "table3": "Table 3: size and dropout, beside the baselines",
    "table4": "Table 4: the same, trained for longer",
    "table5": "Table 5: augmentation where there are few pairs",
    "table6": "Table 6: other kinds of small blocks",
    "figure4": "Figure 4: MLP, attention and convolution translators of equal cost",
    "figure5": "Figure 5: feature maps",
    "figure6": "Figure 6: training of deep and wide translators",
    "figure7": "Figure 7: accuracies of all test networks",
    "figure8": "Figure 8: networks trained on part of the images",
    "usps": "Section 5.5: transfer to another set of images",
    "ablation": "From the paper's translator to merge",
    "curve": "How many networks it takes",
    "epochs": "Networks trained for other numbers of epochs",
    "cost": "What all of this costs",
}
COMMANDS = {"cost": "python -m benchmarks.cost paper"}
"""Of what is no stage."""
FEW_PAIRS = (
    "With the few pairs of the small scales the paper's mixers learn little more than that the "
    "average small block is nearly zero: the chosen epoch does about what the identity block does, "
    "whatever size, dropout, schedule or augmentation. The paper's own numbers need its 300,000 "
    "pairs: scale `paper`, whose [cost](#cost) no CPU pays. `merge`, ours, learns from behaviour "
    "instead of weights and needs a few networks only."
)
WHY = "The likely reason: [few pairs](#few-pairs)."
REMARKS = {
    "table1": (
        "The paper ticks and crosses; here is what it comes to. Without labels and with the small "
        "block's shape, `merge` leads: on MNIST by far (7 points before refitted pruning, which "
        "looks at images), on the digits beside it. Quantisation to 4 bits or more costs a point "
        "at most, but the architecture stays. With labels, steps of Adam do better; translation "
        "takes less time than they do from hundreds (digits) or thousands (MNIST) of networks on."
    ),
    "table2": "The counts agree with the paper's, whose 3.90 and 4.11 are cut off, not rounded.",
    "table3": (
        "Agrees: small blocks of other networks, drawn at random or of the nearest one, do worse "
        "than random initialisation. Does not: the paper's mixers without dropout reach 45 to "
        f"47 %, far above the wide one; ours all stay near the identity block. {WHY}"
    ),
    "table4": (
        "Does not agree: in the paper more epochs, and dropout with them, lift the large mixer "
        f"from 45 to 52 %; here they change nothing. {WHY}"
    ),
    "table5": (
        "Does not agree: in the paper few pairs cost 14 points, and masking and noise make up for "
        "them; here no row is clearly above the identity block, where the mixer with all pairs "
        f"stands as well. {WHY}"
    ),
    "table6": f"Agrees in sign: translation is better than random initialisation. {WHY}",
    "figure4": (
        "Agrees: the MLP's training loss is the lowest. On pairs that they did not see, which the "
        "paper does not show, none is ever notably better than always answering with the mean "
        f"small block, and all end worse: what falls is memory. {WHY}"
    ),
    "figure5": (
        "The identity block would pass on what the former block made; this translation hardly "
        f"differs from it. {WHY}"
    ),
    "figure6": f"In the paper the deep one ends 15 points above the wide one. {WHY}",
    "figure7": (
        "The paper's mixer hardly moves the histogram where the paper's own moved it by 25 points; "
        f"`merge` moves it past most of the way to re-training. {WHY}"
    ),
    "figure8": f"The mixer's gains are small at every fraction, `merge`'s are not. {WHY}",
    "usps": f"The mixer gains less than the paper's 11.11 points, `merge` far more. {WHY}",
}
"""What agrees with the paper, what does not, and the likely reason."""


def main(params: Params, compute: Compute) -> None:
    lines = [
        "# Results",
        "",
        "Every table and figure of the paper beside ours, then our own; a command makes each anew "
        "at the scale that `params.yaml` names. What is missing at a scale has not been run there.",
        "",
        *(f"* [{title}](#{name})" for name, title in TITLES.items()),
        "",
        '<a id="few-pairs"></a>',
        "",
        FEW_PAIRS,
    ]
    for name, title in TITLES.items():
        lines += ["", f'<a id="{name}"></a>', "", f"## {title}", "", command(name)]
        lines += ["", REMARKS[name]] if name in REMARKS else []
        for scale in params.scales:
            lines += section(scale, name)
    (output.TABLES / "README.md").write_text("\n".join(lines) + "\n")


def command(name: str) -> str:
    return f"`{COMMANDS.get(name, f'dvc repro tables/dvc.yaml:{name}')}`"


def section(scale: str, name: str) -> list[str]:
    """What there is of a table at a scale: its caption and rows, and its figure."""
    page = output.TABLES / scale / f"{name}.md"
    if not page.exists():
        return []
    figure = [f"![{TITLES[name]}, scale {scale}]({scale}/{name}.png)", ""]
    drawn = page.with_suffix(".png").exists()
    return ["", f"### Scale {scale}", "", *(figure if drawn else []), page.read_text().rstrip()]


if __name__ == "__main__":
    runtime.run(main, __doc__)
