"""Headline numbers of the run for `dvc metrics diff`, and the machine that made them."""

import platform
from pathlib import Path

from kt.ensemble import Compute
from kt.run.statistics import gap_closed
from stages.common.base import metrics, outputs, runtime
from stages.common.base.inputs import RESULTS
from stages.common.base.params import Params

OUT = RESULTS / "metrics.json"


def main(params: Params, compute: Compute) -> None:
    train, baselines, transfer, partial = (
        metrics.read(name) for name in ("train", "baselines", "transfer", "partial")
    )
    mean = train["translation"]["mean"]
    over = train["over_seeds"]
    low, high = (baselines[name]["mean"] for name in ("random_initialisation", "ceiling"))
    fewest = next(iter(partial.values()))
    numbers = {
        "translation": mean,
        "translation_ci95": train["translation"]["ci95"],
        "translation_over_seeds": over["mean"],
        "random_initialisation": low,
        "ceiling": high,
        "gap_closed": round(gap_closed(over["mean"], low, high), 2),
        "transfer_gain": transfer["gain"]["mean"],
        "fewest_images_gain": fewest["gain"]["mean"],
    }
    engine = compute.engine_for("large").__name__.rpartition(".")[2].removesuffix("_engine")
    outputs.write_json(OUT, numbers | {"engine": engine, "processor": processor()})


def processor() -> str:
    """The model of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


if __name__ == "__main__":
    runtime.run(main, __doc__)
