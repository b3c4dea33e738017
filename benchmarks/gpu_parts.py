"""The parts of `benchmarks.gpu`: each prints its results, a line of JSON each."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import torch
from torch import Tensor

from benchmarks import evaluate, generate
from benchmarks.process import seconds
from kt import ensemble
from kt.ensemble import Compute, cpu_engine, cuda_engine, torch_engine
from kt.images import ImageSet, load_images, training_batches
from kt.networks.blocks import Network, initial_weights
from kt.networks.weights import Weights, part
from kt.run.threads import full_precision
from kt.translators.fit import Training, fit
from kt.translators.merge import Merge, MergeConfig
from kt.translators.mixer import PAPER_SIZES, Mixer
from kt.translators.objectives import BehaviourObjective, WeightObjective

ROOT = Path(__file__).resolve().parent.parent
MARK = "RESULT "
"""Begins the lines of a part's output that are results, as JSON."""
GPU = "cuda"
STEPS, IMAGES = 20, 10_000
TAKEN = ("kt", "stages", "tests", "params.yaml", "dvc.yaml", ".dvcignore", ".dvc/config")
"""Of the project, by a copy in which the pipeline is run."""

Row = dict[str, object]


def note(what: str, measure: Callable[[], Row]) -> None:
    """Print a result, or how measuring it failed."""
    try:
        row = measure()
    except Exception as error:
        traceback.print_exc()
        row = {"failed": f"{type(error).__name__}: {str(error).strip()[:300]}"}
        torch.cuda.empty_cache()
    print(f"{MARK}{json.dumps({'what': what} | row)}", flush=True)


# --- exactness ----------------------------------------------------------------------------------


def exactness() -> None:
    for what, row in tests():
        note(what, lambda row=row: row)
    for step in ("step 1", "step 1, frozen block", "step 2"):
        for batches in (1, 8):
            deviations(step, batches)


def tests() -> Iterator[tuple[str, Row]]:
    """Outcomes of the CUDA engine's tests, several at a time, which compile the kernels."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "tests.xml"
        command = [sys.executable, "-m", "pytest", "-v", "-rA", "--maxprocesses=8"]
        command += ["-p", "no:cacheprovider", f"--junitxml={report}", "tests/cuda_kernels.py"]
        command += ["tests/test_cuda_engine.py", "-k", "not what_the_reference_computes"]
        subprocess.run(command, cwd=ROOT, check=False)
        for case in ElementTree.parse(report).iter("testcase"):
            faults = [child for child in case if child.tag in ("failure", "error", "skipped")]
            words = {f.tag: (f.get("message") or "").strip()[:300] for f in faults}
            yield case.get("name", ""), {"seconds": float(case.get("time", 0)), **words}


def deviations(step: str, batches: int, networks: int = 64) -> None:
    """How far weights' changes are from those in float64: relative, in the 2-norm of a tensor."""
    whole = initial_weights(Network, range(networks))
    small = initial_weights("conv", range(networks))
    images, _ = generate.training_images(generate.BATCH * batches)
    stream = list(training_batches(images, generate.BATCH, 1, True, seed=0))

    def trained(engine, device: str, dtype: torch.dtype) -> Weights:
        def there(weights: Weights) -> Weights:
            return {name: w.to(device, dtype) for name, w in weights.items()}

        fed = [(x.to(device, dtype), y.to(device)) for x, y in stream]
        settings = (fed, 0.05, generate.MOMENTUM)
        if step == "step 2":
            former, latter = (there(part(whole, name)) for name in ("former", "latter"))
            found = engine.train_blocks("conv", there(small), former, latter, *settings)
        else:
            found = engine.train_networks(there(whole), *settings, step != "step 1")
        return {name: w.cpu().double() for name, w in found.items()}

    exact = trained(torch_engine, "cpu", torch.float64)
    initial = small if step == "step 2" else whole
    moved = {name: w - initial[name] for name, w in exact.items()}

    def deviation(engine, device: str, allowed: bool) -> Row:
        with full_precision(not allowed):
            found = trained(engine, device, torch.float32)
        apart = {
            name: (w - exact[name]).flatten(1).norm(dim=1) / moved[name].flatten(1).norm(dim=1)
            for name, w in found.items()
            if moved[name].any()
        }
        worst = max(apart, key=lambda name: apart[name].median())
        return {
            "median": apart[worst].median().item(),
            "largest": max(of.max().item() for of in apart.values()),
            "tensor": worst,
        }

    for label, (engine, device, allowed) in {
        "cuda engine": (cuda_engine, GPU, False),
        "torch engine, GPU": (torch_engine, GPU, False),
        "torch engine, GPU, TF32": (torch_engine, GPU, True),
        "torch engine, CPU": (torch_engine, "cpu", False),
    }.items():
        of = f"{step}, {batches} batches: {label}"
        note(of, lambda e=engine, d=device, a=allowed: deviation(e, d, a))


# --- speed --------------------------------------------------------------------------------------


def generation() -> None:
    images, name = generate.training_images(generate.BATCH * STEPS)
    print(name)
    operations = generate.flop("conv")
    plain: dict[str, float] = {}

    def row(step: str, milliseconds: Callable[[], float]) -> Row:
        torch.cuda.reset_peak_memory_stats()
        ms = milliseconds()
        return {
            "ms a network and batch": ms,
            "times the plain loop": plain.get(step, float("nan")) / ms,
            "TFLOP/s": operations[step] / ms / 1e9,
            "GPU memory, GiB": torch.cuda.max_memory_allocated() / 2**30,
        }

    def loop(step: str) -> float:
        few = images.subset(slice(0, 8 * generate.BATCH))
        plain[step] = generate.plain_loop(few, step, "conv", 2, 0)
        return plain[step]

    def engine(step: str, engine, networks: int, device: str, **options: int) -> Row:
        return row(
            step,
            lambda: generate.engine_loop(
                engine, images, step, "conv", networks, device, **options
            ),
        )  # fmt: skip

    for step in ("step 1", "step 2"):
        note(f"{step}: plain loop, CPU", lambda s=step: row(s, lambda: loop(s)))
        if cpu_engine.available():
            threads = torch.get_num_threads()
            label = f"{step}: cpu engine, {16 * threads} networks, {threads} threads"
            run = {"networks": 16 * threads, "device": "cpu", "threads": threads}
            note(label, lambda s=step, r=run: engine(s, cpu_engine, **r))
        for networks in (256, 1024, 4096):
            label = f"{step}: cuda engine, {networks} networks"
            note(label, lambda s=step, n=networks: engine(s, cuda_engine, n, GPU))
        for networks, allowed in ((256, False), (256, True), (1024, True)):
            label = f"{step}: torch engine, {networks} networks{', TF32' * allowed}"
            with full_precision(not allowed):
                note(label, lambda s=step, n=networks: engine(s, torch_engine, n, GPU))


def evaluation() -> None:
    images, name = generate.training_images(IMAGES)
    print(name)
    most = 1024
    networks, small = initial_weights(Network, range(most)), initial_weights("conv", range(most))
    plain: dict[str, object] = {}

    def plain_loop() -> Row:
        started = time.perf_counter()
        plain["accuracies"] = evaluate.plain_loop(networks, small, images, 2)
        plain["ms"] = 500 * (time.perf_counter() - started)
        return {"ms a network": plain["ms"]}

    def together(count: int, compute: Compute) -> Row:
        some, blocks = (
            {name: w[:count] for name, w in of.items()} for of in (networks, small)
        )  # fmt: skip
        found: list[Tensor] = []

        def run(on: ImageSet) -> None:
            found.append(ensemble.evaluate("conv", on, some, blocks, compute))

        run(images.subset(slice(0, ensemble.EVALUATION_BATCH)))
        ms = 1e3 * seconds(lambda: run(images)) / count
        first = torch.tensor(plain["accuracies"], dtype=torch.float64)
        return {
            "ms a network": ms,
            "times the plain loop": plain["ms"] / ms,
            "largest difference, points": (found[-1][:2] - first).abs().max().item(),
        }

    note("plain loop, CPU", plain_loop)
    if cpu_engine.available():
        threads = torch.get_num_threads()
        on_cpu = Compute(workers=threads, engine="cpu")
        note(f"cpu engine, 256 networks, {threads} threads", lambda: together(256, on_cpu))
    for engine in ("cuda", "torch"):
        for count in (256, most):
            compute = Compute(torch.device(GPU), chunk=256, engine=engine)
            label = f"{engine} engine, {count} networks"
            note(label, lambda n=count, c=compute: together(n, c))


# --- the translator -----------------------------------------------------------------------------


def translator() -> None:
    """Samples a second; those of `merge` are networks that it looks at."""
    gpu = torch.device(GPU)
    with tempfile.TemporaryDirectory() as folder:
        images, _ = load_images("digits", Path(folder))
    whole = initial_weights(Network, range(256))
    networks = {name.replace("block.", "large."): w for name, w in whole.items()}

    def rate(model: torch.nn.Module, objective, batch: int) -> Row:
        torch.cuda.reset_peak_memory_stats()
        with tempfile.TemporaryDirectory() as folder:
            kept = Path(folder) / "checkpoint.pt"
            training = Training(epochs=4, batch_size=batch)
            fitted = fit(model, objective, training, lambda _: {"none": 0.0}, "none", kept)
        peak = torch.cuda.max_memory_allocated() / 2**30
        fastest = max(record["samples_per_second"] for record in fitted.history)
        return {"samples a second": fastest, "GPU memory, GiB": peak}

    def merge(compute: Compute, batch: int) -> Row:
        torch.manual_seed(0)
        model = Merge(MergeConfig())
        model.prepare(networks, images, torch.Generator().manual_seed(0))
        there = {name: w.to(compute.device) for name, w in networks.items()}
        objective = BehaviourObjective(there, images.to(compute.device), "conv", compute)
        return rate(model.to(compute.device), objective, batch)

    def mixer(size: str, precision: str, batch: int = 4096) -> Row:
        torch.manual_seed(0)
        model = Mixer(PAPER_SIZES[size]).to(gpu)
        large, small = (
            {
                name: torch.randn(2 * batch, *w.shape[1:], device=gpu)
                for name, w in initial_weights(kind, range(1)).items()
            }
            for kind in ("large", "conv")
        )
        return rate(model, WeightObjective(large, small, precision=precision), batch)

    for batch in (32, 256):
        for engine in ("cuda", "torch"):
            compute = Compute(gpu, chunk=256, engine=engine)
            label = f"merge, batch {batch}, {engine} engine"
            note(label, lambda c=compute, b=batch: merge(c, b))
    note("merge, batch 32, CPU", lambda: merge(Compute(workers=torch.get_num_threads()), 32))
    for size in ("base", "large"):
        for precision in ("float32", "bfloat16"):
            label = f"mixer {size}, batch 4096, {precision}"
            note(label, lambda s=size, p=precision: mixer(s, p))


# --- the pipeline -------------------------------------------------------------------------------


def pipeline() -> None:
    """`dvc repro` in a copy of the project without a history, at the scale of the tests."""
    paths = [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    environment = {**os.environ, "KT_DEVICE": GPU, "PATH": os.pathsep.join(paths)}
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        for name in TAKEN:
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, clone / name)
        (clone / ".dvc" / "config.local").write_text("[core]\n    no_scm = true\n")

        def run(*command: str) -> Row:
            started = time.perf_counter()
            done = subprocess.run(
                [sys.executable, *command], cwd=clone, env=environment, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
            taken = time.perf_counter() - started
            print(done.stdout, flush=True)
            if done.returncode:
                raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}")
            return {"seconds": taken, "ended with": done.stdout.strip().rpartition("\n")[2]}

        run("tests/tiny_params.py", "params.yaml")
        note("dvc repro", lambda: run("-m", "dvc", "repro"))
        note("dvc repro, again", lambda: run("-m", "dvc", "repro"))
        metrics = clone / "results" / "train" / "metrics.json"
        note("accuracy of translation, %", lambda: json.loads(metrics.read_text())["translation"])
