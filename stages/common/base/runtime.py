"""Shared by all stages: the command line, one-line errors, scratch space and progress bars."""

import argparse
import atexit
import contextlib
import hashlib
import importlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

import kt
from kt.ensemble import Compute, cpu_engine, cuda_engine
from kt.networks.blocks import Sizes
from kt.run.arguments import Parser
from kt.run.errors import KTError
from kt.run.files import writing
from kt.run.guard import SCRATCH, guard
from kt.run.threads import device_named, processors
from stages.common.base import params
from stages.common.base.checks import shown
from stages.common.base.params import Params

RAY = {
    "ray": "generate networks on the Ray cluster with this address; auto: the one started here",
    "ray_cpus": "CPU threads of each of its tasks; 1",
    "ray_gpus": "share of a GPU that each of its tasks takes; 0",
}
WITHOUT_COMPILER = (
    "plain PyTorch trains the networks, ten to forty times slower: the default run takes a quarter "
    "of an hour instead of two minutes. A compiler comes with `apt install g++` (Debian, Ubuntu), "
    "`dnf install gcc-c++` (Fedora), `xcode-select --install` (macOS); fewer networks save a third "
    "of it: `dvc exp run -S scales.quick.networks.train=32 -S scales.quick.pairs=32`"
)
KEPT = 1
"""Version of what is kept there. Raise it when a stage keeps something else under the same key."""
TRAINS_NETWORKS = ("ensemble", "images", "networks", "pairs", "run")
"""The folders of `kt` that train networks."""
ENGINES = ("auto", "cpu", "cuda", "torch")
MOST = 10_000
"""Of workers and of networks in a chunk."""
TEMPORARY = (".dvc", "tmp", "exps")
"""Where DVC keeps the copies of the project in which it runs experiments, in the project."""
os.environ["MPLBACKEND"] = "Agg"  # the images' typefaces come with matplotlib


def run(main: Callable[..., None], description: str, cell: str | None = None) -> None:
    """Run a stage: check its parameters, then call `main`. A user's error ends with one line.

    `main` is called with the parameters, what to compute on, and, where `cell` names one, the cell
    of a grid that the command line asks for.

    Flags or the environment, never `params.yaml`, set how fast it runs: --device (KT_DEVICE),
    --workers (KT_WORKERS), --chunk (KT_CHUNK), --engine (KT_ENGINE), and those of RAY.
    """
    parser = Parser(description=description)
    parser.add_argument("--device", help="cpu, cuda, cuda:1 [KT_DEVICE; cuda if there is one]")
    parser.add_argument("--workers", help="CPU threads that train networks [KT_WORKERS; all]")
    parser.add_argument("--chunk", help="networks vectorised in one go [KT_CHUNK; 16, cuda: 256]")
    parser.add_argument("--engine", help="auto, cpu (compiled), cuda or torch [KT_ENGINE; auto]")
    for name, words in RAY.items():
        parser.add_argument(f"--{name.replace('_', '-')}", help=f"{words} [KT_{name.upper()}]")
    if cell is not None:
        parser.add_argument("cell", metavar=cell)
    flags = parser.parse_args()
    for name in RAY:  # looked up where networks are generated
        if (value := getattr(flags, name)) is not None:
            os.environ[f"KT_{name.upper()}"] = value
    named = [flags.cell] if cell is not None else []

    def work() -> None:
        give_home()
        loaded = checked()
        main(loaded, _compute(flags, loaded.sizes), *named)

    one_line(work)


def give_home() -> None:
    """Libraries want a name and a home for settings. A container's user may have neither."""
    try:
        Path.home()
    except RuntimeError:
        home = tempfile.mkdtemp(prefix="kt-home-")
        atexit.register(shutil.rmtree, home, ignore_errors=True)
        os.environ["HOME"] = home
        os.environ.setdefault("USER", "nobody")


def checked() -> Params:
    """The parameters, those of the chosen kind of translator checked too, before any work.

    The kind is imported by name here: nothing that a stage writes depends on this check, so no
    stage that knows no translators runs again when one changes.

    Raises:
        KTError: one of them is not valid.
    """
    loaded = params.load()
    kinds = importlib.import_module("stages.common.kinds")
    kinds.configuration(loaded)
    kinds.learning(loaded)
    return loaded


def one_line(work: Callable[[], object]) -> None:
    """Do some work. Whatever goes wrong ends it with one line: `kt.run.guard`."""
    with guard(kept=f"run again to go on from what is kept in {SCRATCH}/"):
        work()


def _compute(flags: argparse.Namespace, sizes: Sizes) -> Compute:
    def setting(name: str, default: str) -> str:
        return getattr(flags, name) or os.environ.get(f"KT_{name.upper()}") or default

    def count(name: str, default: int) -> int:
        value = setting(name, str(default))
        if re.fullmatch("[0-9]{1,9}", value) and 1 <= int(value) <= MOST:
            return int(value)
        flag = f"--{name} (KT_{name.upper()})"
        raise KTError(f"{flag}: got {shown(value)}; accepts a number >= 1, at most {MOST}")

    available = "cuda" if torch.cuda.is_available() else "cpu"
    name = setting("device", available)
    try:
        device = device_named(name)
    except KTError as error:
        raise KTError(f"--device (KT_DEVICE): {error}") from None
    on_cpu = device.type == "cpu"
    workers = count("workers", processors()) if on_cpu else 1
    engine = setting("engine", "auto")
    if engine not in ENGINES:
        raise KTError(f"--engine (KT_ENGINE): got {shown(engine)}; accepts {', '.join(ENGINES)}")
    if engine == "cuda":
        try:
            cuda_engine.require(device)
        except KTError as error:
            raise KTError(f"--engine (KT_ENGINE): {error}") from None
    compute = Compute(device, workers, count("chunk", 16 if on_cpu else 256), engine)
    own = cpu_engine if on_cpu else cuda_engine
    if engine in ("auto", device.type) and (lacking := own.reason(sizes)) is not None:
        if engine != "auto":
            raise KTError(f"--engine (KT_ENGINE): {lacking}")
        if on_cpu and cpu_engine.reason() is not None:
            print(f"notice: {lacking}; {WITHOUT_COMPILER}", file=sys.stderr)
        else:
            print(f"notice: {lacking}; plain PyTorch trains the networks", file=sys.stderr)
    return compute


@contextlib.contextmanager
def scratch(stage: str, code: Sequence[str], *key: object) -> Iterator[Path]:
    """A folder for resumable work, deleted when the work inside succeeds.

    It lives outside DVC's outputs, which DVC deletes before a stage runs. Its name is a hash of all
    that the result depends on, so that work is resumed only if the result would be the same. A
    lock beside it keeps a second process away. If it cannot be deleted in the end, it stays: the
    work is done.

    Experiments that DVC runs in a copy of the project, which it deletes afterwards, keep theirs in
    the project itself, unless another experiment is doing the same work there.

    Args:
        code: folders of `kt` whose code makes the result: those among the stage's dependencies.
        key: parameters, and checksums of inputs.
    """
    digest = hashlib.sha256(json.dumps([KEPT, *key], sort_keys=True, default=str).encode())
    library = Path(kt.__file__).parent
    for path in sorted(path for name in code for path in (library / name).rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(path.read_bytes())
    name = f"{stage}-{digest.hexdigest()[:16]}"
    folder, lock = _locked([place / name for place in (*_of_project(), SCRATCH)])
    try:
        with writing(folder):
            folder.mkdir(exist_ok=True)
        yield folder
        shutil.rmtree(folder, ignore_errors=True)  # a network's file system may keep open files
        with contextlib.suppress(OSError):
            Path(lock.lock_file).unlink()
    finally:
        lock.release()


def _of_project() -> Iterator[Path]:
    """The scratch folder of the project, if this is a copy of it that DVC made."""
    for folder in Path.cwd().parents:
        if folder.parts[-len(TEMPORARY) :] == TEMPORARY:
            yield folder.parents[len(TEMPORARY) - 1] / SCRATCH


def _locked(folders: Sequence[Path]) -> tuple[Path, FileLock]:
    """The first of some folders that no other process holds, and the lock on it."""
    for folder in folders:
        lock = FileLock(file := folder.with_suffix(".lock"), timeout=0)
        with writing(file), contextlib.suppress(Timeout):
            folder.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
            return folder, lock
    raise KTError(f"another process is doing this work (it holds {lock.lock_file})")


def progress_bar(total: int, description: str, unit: str, shown: bool = True) -> tqdm:
    """A progress bar with rate and time left; in a log file, a line from time to time."""
    return tqdm(
        total=total,
        desc=description,
        unit=unit,
        unit_scale=True,
        mininterval=0.2 if sys.stderr.isatty() else 10,
        leave=True,
        disable=not shown,
    )


def fingerprint(*tensors: torch.Tensor) -> str:
    """SHA-256 of the tensors' bytes."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
