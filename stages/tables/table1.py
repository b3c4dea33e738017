"""Table 1 of the paper, measured: what each method of compression leaves, costs and needs."""

import pandas as pd

from kt.ensemble import Compute
from kt.rivals import retraining
from stages.common.base import runtime
from stages.common.base.params import Params
from stages.tables import cell, charts, output
from stages.tables.method_cell import SHOWN
from stages.tables.methods import FAMILIES, TABLE

RETRAINED = ("retrained", "adam")
TRANSLATED = ("kt_merge", "kt_mixer")


def main(params: Params, compute: Compute) -> None:
    found: dict[str, dict] = {}
    for family in FAMILIES:
        found |= cell.read(params, f"{TABLE}/{family}")
    points = {
        (kt, other): break_even(found[kt], found[other]) for kt in TRANSLATED for other in RETRAINED
    }
    words = [
        f"{found[kt]['label']} with {found[other]['label']}: "
        + ("never" if count is None else f"{count:,} networks")
        for (kt, other), count in points.items()
    ]
    caption = (
        f"{output.protocol(params)}; networks that no method saw before. Accuracy in percent on "
        "the test images, mean and 95 % interval over networks (Student). Parameters, bytes "
        "(float32, but where quantised: packed codes, a float32 scale and bias a channel), "
        "multiply-adds and latency are of one block; latency is that of an image among "
        f"{SHOWN}, in plain PyTorch and one thread, where quantised weights run as float32. "
        "Low-rank blocks have 12 biases beside their 324 weights. Seconds are those of the clock "
        "for a network among many; *once* is what a translator takes beforehand, the networks that "
        "it learns from included, however many it compresses. Images are those that a network "
        "takes. The paper's re-training mirrors images as the networks' own training does, the "
        f"steps of Adam (batch {retraining.BATCH}, rate {retraining.RATE:g} falling to 0) do not. "
        f"Translation breaks even, {'; '.join(words)}."
    )
    table = pd.DataFrame([in_words(row) for row in found.values()])
    metrics = {name: row["accuracy"] | counted(row) for name, row in found.items()}
    metrics["break_even"] = {f"{kt}_{other}": count for (kt, other), count in points.items()}
    output.write(params, TABLE, caption, metrics, table)
    shown = {name: found[name] for name in (*RETRAINED, *TRANSLATED)}
    charts.save(charts.seconds_by_networks(shown), params, TABLE)


def break_even(kt: dict, other: dict) -> int | None:
    """The fewest networks for which translation, its training included, takes less; or None."""
    saved = other["seconds"] - kt["seconds"]
    return None if saved <= 0 else int(kt["once_seconds"] / saved) + 1


def counted(row: dict) -> dict[str, int]:
    names = ("parameters", "network_parameters", "bytes", "network_bytes", "multiply_adds")
    return {name: row[name] for name in names}


def in_words(row: dict) -> dict[str, str]:
    return {
        "method": row["label"],
        "accuracy": output.spread(row["accuracy"]),
        "n": row["accuracy"]["n"],
        "parameters": f"{row['parameters']:,}",
        "of network": f"{row['network_parameters']:,}",
        "bytes": f"{row['bytes']:,}",
        "bytes of network": f"{row['network_bytes']:,}",
        "multiply-adds": f"{row['multiply_adds']:,}",
        "latency, us": f"{row['latency_us']:.1f}",
        "seconds": f"{row['seconds']:.2g}",
        "once, s": f"{row['once_seconds']:.0f}" if row["once_seconds"] else "",
        "images": row["images"],
        "re-trains": "yes" if row["retrains"] else "no",
        "any architecture": "yes" if row["any_architecture"] else "no",
    }


if __name__ == "__main__":
    runtime.run(main, __doc__)
