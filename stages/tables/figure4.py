"""Figure 4 of the paper: MLP, attention and convolution translators of equal cost, trained."""

from pathlib import Path

import pandas as pd

from kt.ensemble import Compute
from stages.common.base import inputs, runtime
from stages.common.base.metrics import checked
from stages.common.base.params import Params, settings_of
from stages.figures import lines, style
from stages.tables import output
from stages.tables.cells import cell
from stages.tables.cells.content import Losses
from stages.tables.cells.settings import OfOneCost

LABELS = {"mixer": "MLP (the mixer)", "attention": "attention", "convolution": "convolution"}
TABLE = "figure4"
LOSSES = {"training": "loss", "held out": "held_out_loss"}
MEAN_BLOCK = "mean_small_block"
ROWS = 10


def main(params: Params, compute: Compute) -> None:
    chosen = settings_of(TABLE, OfOneCost)
    found = {kind: cell.read(params, f"{TABLE}/{kind}") for kind in LABELS}
    for curve in found.values():
        if len(curve["history"]) != chosen.epochs:
            what = f"its history has {len(curve['history'])} epochs, not {chosen.epochs}"
            raise inputs.damaged(curve.path, what)
    curves = {LABELS[kind]: result["history"] for kind, result in found.items()}
    result, sizes = found["mixer"], chosen.compared
    caption = (
        f"{output.protocol(params)}. Translators learn the weights of small blocks from "
        f"{result['pairs']:,} training pairs in {chosen.epochs} epochs at batch "
        f"{result['batch_size']}. The table shows their mean squared error (Equation 1) on these "
        f"and on {result['held_out']} held-out pairs. Each is given the large block's weights. "
        "A translation takes these multiply-adds: "
        + "; ".join(
            f"{LABELS[kind]} {at['multiply_adds']:,} ({at['parameters']:,} parameters, "
            f"D_C {getattr(sizes, kind).channel_dim})"
            for kind, at in found.items()
        )
        + ". Always answering with the mean small block of the training pairs has errors of "
        f"{result['mean_block']['loss']:.6f} and {result['mean_block']['held_out_loss']:.6f}. In "
        "the paper (1,024 pairs, batch 128, 100 epochs) the MLP's training loss is the lowest. "
        f"{output.trained_with({LABELS[kind]: [at] for kind, at in found.items()})}"
    )
    metrics = {kind: numbers(at) for kind, at in found.items()}
    metrics[MEAN_BLOCK] = result["mean_block"]
    output.write(params, TABLE, caption, metrics, table(curves))
    draw(output.folder(params))


def draw(folder: Path) -> None:
    """Draw the table in a scale's folder."""
    table = inputs.read_table(folder / f"{TABLE}.csv", "epoch")
    of_kinds = [
        pd.DataFrame(
            {"kind": kind, "epoch": table["epoch"]}
            | {key: table[f"{label}, {which}"] for which, key in LOSSES.items()}
        )
        for kind, label in LABELS.items()
    ]
    path = folder / f"{TABLE}.json"
    metrics = checked(path, dict[str, Losses])
    for kind, label in LABELS.items():
        for which, key in LOSSES.items():
            shown, last = table[f"{label}, {which}"].iloc[-1], metrics[kind][key]
            if f"{shown:.6f}" != f"{last:.6f}":
                raise inputs.damaged(path, f"{kind}.{key} is {last:.6f}, not the table's {shown}")
    figure = lines.losses_of_kinds(pd.concat(of_kinds), metrics[MEAN_BLOCK])
    style.save(figure, folder / f"{TABLE}.png")


def table(curves: dict[str, list[dict]]) -> pd.DataFrame:
    """Both losses of every translator after the first epoch and after every tenth of them."""
    epochs = len(next(iter(curves.values())))
    shown = [e for e in range(1, epochs + 1) if e in (1, epochs) or e % -(-epochs // ROWS) == 0]
    columns = {
        f"{name}, {which}": [f"{curve[epoch - 1][key]:.6f}" for epoch in shown]
        for which, key in LOSSES.items()
        for name, curve in curves.items()
    }
    return pd.DataFrame({"epoch": shown} | columns)


def numbers(result: dict) -> dict:
    """A cell's metrics: what it costs, the last losses, and the lowest on held-out pairs."""
    last, best = result["history"][-1], min(result["history"], key=lambda at: at["held_out_loss"])
    return {
        **{key: result[key] for key in ("multiply_adds", "parameters", "pairs")},
        **{key: last[key] for key in ("loss", "held_out_loss")},
        "lowest_held_out_loss": {"loss": best["held_out_loss"], "epoch": best["epoch"]},
    }


if __name__ == "__main__":
    runtime.run(main, __doc__)
