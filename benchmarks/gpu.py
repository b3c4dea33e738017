"""All that wants a GPU, in one command: exactness, speed, and the pipeline from end to end.

    python -m benchmarks.gpu [--only exactness generation ...] [--out benchmarks/results/gpu]

Parts, in this order: `exactness` runs the CUDA engine's tests and measures how far one step of each
engine is from float64; `generation` and `evaluation` time the engines and the plain loop;
`translator` times the training of translators; `pipeline` runs `dvc repro` at a tiny scale. Each is
a process of its own with a limit of its own, ten minutes in all. What fails is noted, and the next
goes on. Results are written as they come, to `results.json` and `results.md`; a part's log holds
all that it printed.
"""

import argparse
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.command import Parser, start
from benchmarks.gpu_parts import (
    MARK,
    ROOT,
    Row,
    evaluation,
    exactness,
    generation,
    pipeline,
    translator,
)
from kt.ensemble import cuda_engine

RESULTS = Path(__file__).parent / "results" / "gpu"
SECONDS = 570
"""For everything; a part that begins late gets what is left."""
LOG_LINES = 8
"""Of a part's output that are noted where it fails."""
PARTS = {exactness: 200, generation: 150, evaluation: 90, translator: 120, pipeline: 180}
"""Each with its limit in seconds."""


def machine() -> Row:
    """What the numbers were measured on."""
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        driver = subprocess.run(asked, capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.TimeoutExpired):
        driver = ""
    return {
        "card": torch.cuda.get_device_name(),
        "driver": driver.strip() or "unknown",
        "CUDA": torch.version.cuda,
        "torch": torch.__version__,
        "triton": importlib.metadata.version("triton"),
        "python": sys.version.split()[0],
        "CPU threads": torch.get_num_threads(),
    }


def run(part: str, limit: float, log: Path, found: Callable[[Row], None]) -> Row:
    """A part in its own process; `found` is called with every result as it comes."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "benchmarks.gpu", "--part", part],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    late = threading.Event()

    def stop() -> None:
        late.set()
        os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(limit, stop)
    timer.start()
    started, last = time.perf_counter(), []
    with log.open("w") as lines:
        for line in process.stdout:
            lines.write(line)
            lines.flush()
            if line.startswith(MARK):
                print(f"{part}: {line.removeprefix(MARK).strip()}", flush=True)
                found(json.loads(line.removeprefix(MARK)))
            else:
                last = [*last, line.rstrip()][-LOG_LINES:]
    status = process.wait()
    timer.cancel()
    outcome: Row = {"seconds": time.perf_counter() - started}
    if late.is_set():
        outcome |= {"failed": f"stopped after {limit:.0f} s", "last lines": last}
    elif status:
        outcome |= {"failed": f"ended with {status}", "last lines": last}
    return outcome


def markdown(results: dict) -> str:
    """All results as tables, a column for every name that a part's rows have."""
    lines = ["# On a GPU", "", "; ".join(f"{k} {v}" for k, v in results["machine"].items()), ""]
    for title, of in results["parts"].items():
        names = list(dict.fromkeys(name for row in of["rows"] for name in row))
        outcome = of["outcome"]
        ended = f"{outcome.get('seconds', 0):.0f} s, {outcome.get('failed', 'ended well')}"
        lines += [f"## {title}", "", f"{ended}.", ""]
        if names:
            lines += [f"| {' | '.join(names)} |", "| --- |" + " ---: |" * (len(names) - 1)]
            lines += [f"| {' | '.join(cell(row, n) for n in names)} |" for row in of["rows"]]
            lines.append("")
        if "last lines" in outcome:
            lines += ["```", *outcome["last lines"], "```", ""]
    return "\n".join(lines)


def cell(row: Row, name: str) -> str:
    value = row.get(name, "")
    shown = f"{value:.4g}" if isinstance(value, float) else str(value)
    return " ".join(shown.replace("|", "/").split())[:160]


def main() -> None:
    parts = {measure.__name__: measure for measure in PARTS}
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=parts, default=list(parts), metavar="PART")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--part", choices=parts, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if (reason := cuda_engine.reason()) is not None:
        print(f"nothing to measure: {reason}")
        return
    if options.part is not None:
        parts[options.part]()
        return

    options.out.mkdir(parents=True, exist_ok=True)
    results: dict = {"machine": machine(), "parts": {}}

    def write() -> None:
        (options.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
        (options.out / "results.md").write_text(markdown(results))

    end = time.monotonic() + SECONDS
    for measure, limit in PARTS.items():
        name = measure.__name__
        if name not in options.only:
            continue
        of = results["parts"][name] = {"outcome": {"failed": "not ended"}, "rows": []}

        def found(row: Row, rows: list = of["rows"]) -> None:
            rows.append(row)
            write()

        limit = max(1.0, min(limit, end - time.monotonic()))
        of["outcome"] = run(name, limit, options.out / f"{name}.log", found)
        write()
        print(f"{name}: {json.dumps(of['outcome'])}", flush=True)
    print(markdown(results))


if __name__ == "__main__":
    start(main)
