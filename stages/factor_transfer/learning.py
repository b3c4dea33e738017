"""What the stages that train a network share: images, teacher, a resumable run, what is kept."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from kt import pairs, seeds
from kt.cifar import training
from kt.cifar.networks import NETWORKS
from kt.cifar.training import Losses, Record, Training
from kt.data import ImageSet
from kt.ensemble import Compute
from kt.errors import KTError
from stages import runtime
from stages.factor_transfer.settings import IMAGES, Settings

WEIGHTS = "weights.safetensors"
METRICS = "training.json"


def image_set(split: str, device: torch.device) -> ImageSet:
    """The "train" or "test" images that the `images` stage wrote."""
    names = [f"{split}.images", f"{split}.labels"]
    tensors = pairs.load(IMAGES, names)
    return ImageSet(*(tensors[name] for name in names)).to(device)


def image_source() -> str:
    """What the images are: "original" or "JPEG"."""
    with safe_open(IMAGES, framework="pt") as file:
        return file.metadata()["source"]


def fresh(make: Callable[[], nn.Module], seed: int, part: str, device: torch.device) -> nn.Module:
    """A module on the device, channels last, its initial weights drawn from (seed, part)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.derive(seed, part))
        module = make()
    return module.to(device, memory_format=torch.channels_last)


def stored(module: nn.Module, folder: Path) -> nn.Module:
    """The module with the weights that a stage kept in a folder, frozen."""
    module.load_state_dict(pairs.load(folder / WEIGHTS))
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


@contextmanager
def trained(
    name: str,
    learner: nn.Module,
    losses: Callable[[Tensor, Tensor], Losses],
    how: Training,
    compute: Compute,
    *key: object,
) -> Iterator[list[Record]]:
    """Within it `learner` is trained, and the work that could be taken up is still there.

    Args:
        key: what the result depends on beside `how` and the images.

    Yields:
        The record of every epoch.

    Raises:
        KTError: the GPU does not have the precision.
    """
    images = image_set("train", compute.device)
    if compute.device.type == "cpu":
        torch.set_num_threads(compute.workers)
    else:  # compiling takes longer than it saves on a CPU
        if how.precision == "bfloat16" and not torch.cuda.is_bf16_supported():
            raise KTError("training.precision: got 'bfloat16', which this GPU does not have")
        losses = torch.compile(losses)
    content = runtime.fingerprint(images.images.cpu(), images.labels.cpu())
    with (
        runtime.scratch(f"factor-{name}", dataclasses.asdict(how), content, *key) as scratch,
        runtime.progress_bar(how.epochs, name, "epoch") as bar,
    ):

        def show(record: Record) -> None:
            bar.set_postfix(loss=f"{record['loss']:.4g}", refresh=False)
            bar.update()

        yield training.train(learner, losses, images, how, scratch / "checkpoint.pt", show)


def keep(folder: Path, module: nn.Module, history: list[Record], **metrics: float) -> None:
    """Write a trained module's weights, its metrics and the record of every epoch."""
    weights = {name: tensor.detach().cpu() for name, tensor in module.state_dict().items()}
    pairs.save(folder / WEIGHTS, weights)
    seconds = sum(record["seconds"] for record in history)
    runtime.write_json(
        folder / METRICS, {**metrics, "seconds": round(seconds, 1), "history": history}
    )
