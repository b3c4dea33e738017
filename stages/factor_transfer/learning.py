"""Shared by the stages that train a network: images, teacher, a resumable run, its results."""

import dataclasses
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from kt.ensemble import Compute
from kt.images import ImageSet, cifar
from kt.networks.residual import NETWORKS
from kt.rivals import classifier as training
from kt.rivals.classifier import Losses, Module, Record, Training
from kt.run import seeds
from kt.run.errors import KTError
from kt.run.files import load_metadata, load_tensors, require_tensors, save_tensors
from kt.run.threads import spread
from stages.common.base import inputs, outputs, runtime
from stages.factor_transfer.settings import IMAGES, SOURCE, Settings

CODE = ("ensemble", "images", "networks", "rivals", "run")
"""The folders of `kt` that train these networks."""
WEIGHTS = "weights.safetensors"
METRICS = "training.json"


def image_set(split: str, device: torch.device) -> ImageSet:
    """The "train" or "test" images that the `images` stage wrote.

    Raises:
        KTError: their file is missing or damaged, or holds others.
    """
    images = inputs.images_of(IMAGES, split).to(device)
    if images.images.shape[1:] != (3, 32, 32):
        raise inputs.damaged(IMAGES, f"its images are {tuple(images.images.shape[1:])}")
    return images


def image_source() -> str:
    """The form of the images: "original" or "JPEG".

    Raises:
        KTError: their file is missing or damaged, or says something else.
    """
    found = load_metadata(IMAGES, inputs.REMEDY).get(SOURCE)
    if found not in cifar.SOURCES:
        raise inputs.damaged(IMAGES, f"it says that its images are {found!r}")
    return found


def fresh(make: Callable[[], Module], seed: int, part: str, device: torch.device) -> Module:
    """A module on the device, channels last, its initial weights drawn from (seed, part)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.derive(seed, part))
        module = make()
    return module.to(device).to(memory_format=torch.channels_last)


def stored(module: Module, folder: Path) -> Module:
    """The module with the weights that a stage kept in a folder, frozen."""
    path = folder / WEIGHTS
    kept = load_tensors(path, remedy=inputs.REMEDY)
    require_tensors(path, kept, module.state_dict(), inputs.REMEDY)
    module.load_state_dict(kept)
    return training.frozen(module)


def teacher(settings: Settings, device: torch.device) -> nn.Module:
    """The trained teacher, frozen, its batch norm fused into convolutions: a quarter faster."""
    make = NETWORKS[settings.active.teacher.network]
    network = stored(fresh(make, settings.seed, "teacher", device), settings.folder / "teacher")
    return training.frozen(fuse(network)).to(memory_format=torch.channels_last)


def fingerprint(*modules: nn.Module) -> str:
    """Of what the modules have learned."""
    tensors = (tensor.cpu() for module in modules for tensor in module.state_dict().values())
    return runtime.fingerprint(*tensors)


@dataclass(frozen=True)
class Task:
    """What to train, on which losses (`kt.rivals.classifier.train`), and how."""

    learner: nn.Module
    losses: Callable[[Tensor, Tensor], Losses]
    how: Training


class Stopped(Exception):
    """Another thread has failed, or the user has interrupted the run."""


@contextmanager
def trained(
    name: str, tasks: list[Task], compute: Compute, *key: object
) -> Iterator[list[list[Record]]]:
    """Train the learners; inside this context the resumable work still exists.

    Several networks are trained side by side, one on each CPU core: threads that share the small
    operations of one network wait for each other most of the time if the cores have other work.

    Args:
        key: what the result depends on beside the training and the images.

    Yields:
        For every task the record of every epoch.

    Raises:
        KTError: the GPU does not have the precision.
    """
    images = image_set("train", compute.device)
    content = runtime.fingerprint(images.images.cpu(), images.labels.cpu())
    hows = [dataclasses.asdict(task.how) for task in tasks]
    total = sum(task.how.images(len(images)) for task in tasks)
    stopped = threading.Event()
    with (
        runtime.scratch(f"factor-{name}", CODE, hows, content, *key) as scratch,
        runtime.progress_bar(total, name, "image") as bar,
    ):

        def progress(passed: int, done_before: bool) -> None:
            if stopped.is_set():
                raise Stopped
            if done_before:
                bar.initial += passed  # not counted into the rate
            bar.update(passed)

        def train(index: int) -> list[Record]:
            task = tasks[index]
            losses = task.losses if compute.device.type == "cpu" else _compiled(task)
            checkpoint = scratch / f"{index}.pt"
            return training.train(task.learner, losses, images, task.how, checkpoint, progress)

        if compute.device.type == "cpu" and len(tasks) > 1:
            with ThreadPoolExecutor(compute.workers) as pool:
                try:
                    histories = list(spread(pool, train, range(len(tasks))))
                finally:
                    stopped.set()
        else:
            torch.set_num_threads(compute.workers)
            histories = [train(index) for index in range(len(tasks))]
        yield histories


def _compiled(task: Task) -> Callable[[Tensor, Tensor], Losses]:
    """The losses, compiled for a GPU; on a CPU that takes longer than it saves."""
    if task.how.precision == "bfloat16" and not torch.cuda.is_bf16_supported():
        raise KTError("training.precision: got 'bfloat16', which this GPU does not have")
    return torch.compile(task.losses)


def keep(folder: Path, module: nn.Module, history: list[Record], **metrics: float) -> None:
    """Write a trained module's weights, its metrics and the record of every epoch, but no times."""
    weights = {name: tensor.detach().cpu() for name, tensor in module.state_dict().items()}
    save_tensors(folder / WEIGHTS, weights)
    measured = [{k: v for k, v in record.items() if k != "seconds"} for record in history]
    outputs.write_json(folder / METRICS, {**metrics, "history": measured})
