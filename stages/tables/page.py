"""The results page: every table and figure of the paper and of our own, at every scale, in one."""

from kt.ensemble import Compute
from stages import runtime
from stages.params import Params
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
}
FEW_PAIRS = (
    "With the few pairs of the small scales a mixer learns little more than that the average small "
    "block is nearly zero: its chosen epoch does about what the identity block does, whatever its "
    "size and dropout. The paper's own numbers need its 300,000 pairs (scale `paper`)."
)
REMARKS = {
    "table2": "The counts agree with the paper's, whose 3.90 and 4.11 are cut off, not rounded.",
    "table3": FEW_PAIRS,
    "table4": FEW_PAIRS,
    "table5": FEW_PAIRS,
    "table6": FEW_PAIRS,
    "figure6": FEW_PAIRS,
    "figure7": FEW_PAIRS,
    "figure8": FEW_PAIRS,
    "usps": FEW_PAIRS,
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
    ]
    for name, title in TITLES.items():
        lines += ["", f'<a id="{name}"></a>', "", f"## {title}", "", command(name)]
        lines += ["", REMARKS[name]] if name in REMARKS else []
        for scale in params.scales:
            lines += section(scale, name)
    (output.TABLES / "README.md").write_text("\n".join(lines) + "\n")


def command(name: str) -> str:
    return f"`dvc repro tables/dvc.yaml:{name}`"


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
