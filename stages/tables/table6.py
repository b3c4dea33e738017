"""Table 6 of the paper: other kinds of small blocks."""

import pandas as pd

from kt.ensemble import Compute
from stages.common.base import runtime
from stages.common.base.params import Params, settings_of
from stages.tables import output, printed
from stages.tables.cells import cell
from stages.tables.cells.settings import Targets, epochs_of

TABLE = "table6"


def main(params: Params, compute: Compute) -> None:
    table = settings_of(TABLE, Targets)
    epochs = epochs_of(params, "tables/table6/params.yaml", table.epochs)
    results = {target: cell.read(params, f"{TABLE}/{target}") for target in table.targets}
    identity, rows = output.references()["identity"], []
    for target, result in results.items():
        random, translation = printed.TARGETS[target]
        rows.append(
            {
                "target": target,
                "random initialisation": output.spread(result["random_initialisation"]),
                "the paper's random": random,
                "identity": output.spread(identity),
                "translation": output.spread(result["translation"]),
                "best epoch on test": output.spread(result["paper_rule_best_on_test"]),
                "the paper's translation": translation,
                "n": result["translation"]["n"],
                "seen": f"{result['training']['mean']:.2f}",
                "pairs": result["networks"],
            }
        )
    metrics = {
        target: {"random_initialisation": result["random_initialisation"]}
        | {"translation": printed.numbers(result)}
        for target, result in results.items()
    }
    caption = (
        f"{output.protocol(params)}. The {table.size} mixer learns from pairs in {epochs} epochs. "
        "*Identity* is a block of zero weights, which passes its input on, whatever its kind. "
        "Merge translates to convolutional blocks only. "
        f"{output.trained_with({f'to {t}': [r] for t, r in results.items()})}"
    )
    output.write(params, TABLE, caption, metrics, pd.DataFrame(rows))


if __name__ == "__main__":
    runtime.run(main, __doc__)
