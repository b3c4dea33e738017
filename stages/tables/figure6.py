"""Figure 6 of the paper: training loss and accuracy over epochs, deep and wide translators."""

from pathlib import Path

import pandas as pd

from kt.ensemble import Compute
from stages.common.base import inputs, runtime
from stages.common.base.params import Params, settings_of
from stages.figures import lines, style
from stages.tables import output
from stages.tables.cells import cell
from stages.tables.cells.settings import Compared, cell_of_table3


def main(params: Params, compute: Compute) -> None:
    chosen = settings_of("figure6", Compared)
    names = {s: cell_of_table3(params, s, chosen.dropout) for s in chosen.sizes}
    cells = {size: cell.read(params, name) for size, name in names.items()}
    found = {size: result["evaluations"] for size, result in cells.items()}
    table = pd.DataFrame(
        {
            "translator": size,
            "epoch": at["epoch"],
            "training loss": f"{at['loss']:.6f}",
            "selection accuracy": f"{at['selection']:.2f}",
            "test accuracy": f"{at['test']:.2f}",
        }
        for size, way in found.items()
        for at in way
    )
    caption = (
        f"{output.protocol(params)}. The translators are the paper's mixers of Table 3 with "
        f"dropout {chosen.dropout:g} on {params.active.pairs:,} pairs. Accuracies are means "
        "in percent: of selection networks on held-back images, and of test networks on test "
        f"images. {output.trained_with({'mixers': list(cells.values())})}"
    )
    last = {size: way[-1] for size, way in found.items()}
    metrics = {s: {"loss": at["loss"], "test_accuracy": at["test"]} for s, at in last.items()}
    output.write(params, "figure6", caption, metrics, table)
    draw(output.folder(params))


def draw(folder: Path) -> None:
    """Draw the table in a scale's folder."""
    table = inputs.read_table(folder / "figure6.csv", "epoch")
    names = {"training loss": "loss", "test accuracy": "test"}
    style.save(lines.training_of_sizes(table.rename(columns=names)), folder / "figure6.png")


if __name__ == "__main__":
    runtime.run(main, __doc__)
