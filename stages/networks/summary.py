"""The table and the figure: what each method leaves of a network's accuracy."""

import pandas as pd

from kt.ensemble import Compute
from stages.common.base import outputs, runtime
from stages.common.base.params import Params
from stages.figures import style
from stages.figures.style import Figure
from stages.networks import content, settings
from stages.networks.methods import METHODS
from stages.networks.training import GAIN

CEILING = "ceiling"
"""Rows of `stages.networks.ceiling`."""
OURS = "ours"
VARIANTS = ("ours_fitted", "ours_alone", "ours_adapted", "ours_drawn", "ours_weights")
"""Ours with less knowledge, or without steps."""
SHADES = (
    style.GREY, style.VERMILLION, style.ORANGE, style.PURPLE, style.GREEN, style.BLUE, style.BLACK,
)  # fmt: skip
"""Of ours, in the table's order."""


def main(params: Params, compute: Compute) -> None:
    chosen = settings.load()
    rows = []
    for network in chosen.networks:
        for method in chosen.methods:
            for seed in chosen.seeds:
                cell = content.cell(chosen, network, method, seed)
                known = {"network": network, "method": method}
                rows += [
                    known | {"labels": cell["labels"] * (row["keep"] < 1)} | row
                    for row in cell["rows"]
                ]
    trained = []
    for network in chosen.ceilings:
        known = {"network": network, "method": CEILING}
        for row in content.ceiling(chosen, network)["rows"]:
            trained.append(f"{row.pop('epochs')} ({network}, {row['keep']:.0%})")
            rows.append(known | row)
    measured = pd.DataFrame(rows)
    whole = measured[measured["keep"] == 1].groupby("network").first()
    results = settings.TABLE / "results" / chosen.scale
    outputs.write_csv(results / "networks.csv", measured)
    words = caption(chosen, trained) + behind(measured, chosen)
    outputs.write_markdown(results / "networks.md", words, table(measured, whole, chosen))
    chart(measured, chosen).savefig(results / "accuracy.png")
    tuned(chosen)
    metrics = {
        network: {"whole": float(whole.loc[network, "accuracy"])}
        | {
            method: {
                f"keep_{round(100 * keep)}": float(own["accuracy"].mean())
                for keep, own in part.groupby("keep")
                if keep < 1
            }
            for method, part in measured[measured["network"] == network].groupby("method")
        }
        for network in chosen.networks
    }
    outputs.write_json(results / "metrics.json", metrics)


def table(measured: pd.DataFrame, whole: pd.DataFrame, chosen: settings.Settings) -> pd.DataFrame:
    """One row for each method, network and share kept: means over seeds.

    Args:
        whole: the networks themselves, by name.
    """
    rows = []
    for network in chosen.networks:
        full = whole.loc[network]
        rows.append(
            _row(
                network,
                "the network itself",
                "",
                "",
                f"{full.accuracy:.1f}",
                "100.0",
                "100.0 %",
                full,
            )
        )
        for keep in chosen.keep:
            for method in chosen.methods + [CEILING] * (network in chosen.ceilings):
                own = _rows_of(measured, network, method, keep)
                mean = own.mean(numeric_only=True)
                spread = f" ± {own['accuracy'].std():.1f}" if len(own) > 1 else ""
                share = f"{100 * mean.multiply_adds / full.multiply_adds:.1f} %"
                images = f"{mean.images:.0f}"
                if method != CEILING and METHODS[method].images == "drawn":
                    images += " drawn"
                rows.append(
                    _row(
                        network,
                        _label(method),
                        f"{keep:.0%}",
                        images,
                        f"{mean.accuracy:.1f}{spread}",
                        f"{mean.agreement:.1f}",
                        share,
                        mean,
                    )
                )
    return pd.DataFrame(rows)


def tuned(chosen: settings.Settings) -> None:
    """Training with labels from three starts: a row for each, its best rate on held-out images."""
    rows = []
    for network in chosen.tuned:
        cell = content.tuned(chosen, network)["rows"]
        rows += [{"network": network, **row} for row in cell]
    measured = pd.DataFrame(rows)
    results = settings.TABLE / "results" / chosen.scale
    outputs.write_csv(results / "tuned.csv", measured)
    lines = []
    for (network, start), own in measured.groupby(["network", "start"], sort=False):
        last = own[own["epoch"] == own["epoch"].max()]
        rate = last.loc[last["held_out"].idxmax(), "rate"]
        own = own[own["rate"] == rate].set_index("epoch")
        line = {"network": network, "start": start, "highest rate": f"{rate:g}"}
        line |= {f"epoch {at}": f"{row.accuracy:.1f}" for at, row in own.iterrows()}
        lines.append(line | {"seconds": f"{own['seconds'].iloc[-1]:.0f}"})
    tuning = chosen.active.tuning
    words = (
        f"Scale `{chosen.scale}`: test accuracy, in percent, of networks with "
        f"{tuning.keep:.0%} of the multiply-adds, the same widths for all, trained on "
        f"{tuning.labelled:,} labelled images in one cycle of the learning rate, whose highest is "
        f"chosen on {tuning.held_out:,} others. This is short: none has converged. Seconds include "
        "those of the translation."
    )
    outputs.write_markdown(results / "tuned.md", words, pd.DataFrame(lines))


def behind(measured: pd.DataFrame, chosen: settings.Settings) -> str:
    """Where translation is not ahead of what others do, in words."""
    if OURS not in chosen.methods:
        return ""
    others = [name for name in chosen.methods if name not in (OURS, *VARIANTS)]
    found = []
    for network in chosen.networks:
        for keep in chosen.keep:
            own = _rows_of(measured, network, OURS, keep)["accuracy"].mean()
            for method in others:
                theirs = _rows_of(measured, network, method, keep)["accuracy"].mean()
                if theirs >= own:
                    score = f"{theirs:.1f} against {own:.1f}"
                    found.append(f"{network} at {keep:.0%}: {_label(method)} ({score})")
    ahead = f" `{METHODS[OURS].label}` is ahead of every rival"
    return f"{ahead} but for: {'; '.join(found)}." if found else f"{ahead}."


def _rows_of(measured: pd.DataFrame, network: str, method: str, keep: float) -> pd.DataFrame:
    return measured[
        (measured["network"] == network)
        & (measured["method"] == method)
        & (measured["keep"] == keep)
    ]


def _label(method: str) -> str:
    return (
        "ceiling: the same start, with labels until nothing is gained"
        if method == CEILING
        else METHODS[method].label
    )


def _row(network, label, keep, images, accuracy, agreement, share, numbers: pd.Series) -> dict:
    return {
        "network": network,
        "method": label,
        "keep": keep,
        "accuracy": accuracy,
        "agreement": agreement,
        "multiply-adds": share,
        "parameters": f"{numbers.parameters:,.0f}",
        "ms for 64 images": f"{numbers.milliseconds:.1f}",
        "images": images,
        "labels": f"{numbers.labels:.0f}",
        "seconds": f"{numbers.seconds:.0f}",
    }


def caption(chosen: settings.Settings, trained: list[str]) -> str:
    """What the table is.

    Args:
        trained: epochs of each ceiling, in words.
    """
    seeds = f"{len(chosen.seeds)} seed{'s' if len(chosen.seeds) > 1 else ''}"
    words = (
        f"Scale `{chosen.scale}`: accuracy and agreement with the network itself, in percent, on "
        f"all test images; means over {seeds} (of the images and of all draws; ± is the standard "
        "deviation). Rivals narrow all blocks by the same share. Times are those of the machine "
        "that ran the cell, whatever else it did."
    )
    if trained:
        words += (
            " A ceiling, of one seed, is trained with labels in cycles, each twice as long as the "
            f"one before, until one brings less than {GAIN} points on "
            f"{chosen.active.tuning.held_out:,} held-out images; epochs: {', '.join(trained)}."
        )
    if chosen.active.images == "cifar10":
        words += (
            " Images are JPEG copies of CIFAR-10, which cost the published networks ten points: "
            "compare drops."
        )
    return words


def chart(measured: pd.DataFrame, chosen: settings.Settings) -> Figure:
    """Accuracy against multiply-adds, a panel for each network."""
    figure = Figure(figsize=(4.6 * len(chosen.networks) + 2.4, 4.2), layout="constrained", dpi=120)
    panels = figure.subplots(1, len(chosen.networks), squeeze=False, sharey=True)[0]
    for ax, network in zip(panels, chosen.networks, strict=True):
        here = measured[measured["network"] == network]
        whole = here[here["keep"] == 1].iloc[0]
        ax.axhline(whole.accuracy, color="0.5", linewidth=0.8, zorder=0)
        ours = 0
        for method in chosen.methods:
            own = here[here["method"] == method].groupby("keep").mean(numeric_only=True)
            own = own.sort_index(ascending=False)
            mine = method.startswith("ours")
            line = {"linewidth": 1.0, "alpha": 0.7, "linestyle": "--"}
            if mine:
                line = {"linewidth": 1.8, "color": SHADES[ours]}
                ours += 1
            ax.plot(
                100 * own["multiply_adds"] / whole.multiply_adds, own["accuracy"],
                marker="o", markersize=3, label=METHODS[method].label, **line,
            )  # fmt: skip
        ceiling = here[here["method"] == CEILING]
        if len(ceiling):
            share = 100 * ceiling["multiply_adds"] / whole.multiply_adds
            ax.plot(share, ceiling["accuracy"], "k^", markersize=5, label=_label(CEILING))
        ax.set(title=network, xlabel="multiply-adds, % of the network's")
        ax.invert_xaxis()
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.3)
    panels[0].set_ylabel("accuracy, %")
    figure.legend(
        *panels[0].get_legend_handles_labels(), frameon=False, fontsize=7,
        loc="outside right upper",
    )  # fmt: skip
    return figure


if __name__ == "__main__":
    runtime.run(main, __doc__)
