"""Translators: modules that map large blocks to small blocks, and their files.

Each kind is one module: see `kt.translators.base`.
"""

import importlib
import json
import pkgutil
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from kt.ensemble import Compute
from kt.images import ImageSet
from kt.networks.blocks import Network, weights
from kt.networks.weights import (
    Weights,
    concatenated,
    network_count,
    part,
    prefixed,
    stack_of_one,
    take,
)
from kt.run.errors import KTError
from kt.run.files import load_tensors, save_tensors
from kt.translators.base import Translator, kind_named

METADATA = "translator"
TRANSLATION_BATCH = 256


def save_translator(path: Path, model: Translator) -> None:
    """Write a translator with its configuration inside, atomically."""
    # One metadata entry: safetensors writes several in random order, and so other bytes each time.
    save_tensors(path, model.state_dict(), {METADATA: json.dumps(model.describe())})


def load_translator(path: Path, device: torch.device | str = "cpu") -> Translator:
    """Read a translator that `save` wrote, in evaluation mode.

    Raises:
        KTError: the file is missing, damaged or not a translator.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})[METADATA])
        make = kind_named(about.pop("kind"))
        model = make(make.Config(**about))
        model.load_state_dict(load_tensors(path))
    except FileNotFoundError:
        raise KTError(f"{path} is missing: run `dvc repro train_translator` to make it") from None
    except SafetensorError as error:
        raise KTError(f"{path} is damaged ({error}): run `dvc repro -f train_translator`") from None
    except (KeyError, TypeError, ValueError, RuntimeError):
        raise KTError(f"{path} is not a translator that this version can read") from None
    return model.to(device).eval()


@torch.no_grad()
def translate(model: Translator, networks: Weights, compute: Compute = Compute()) -> Weights:
    """Small blocks for the large blocks of stacked networks, in batches; CPU tensors.

    Args:
        networks: `large.*` (N, ...), and `former.*` and `latter.*`, which some kinds do not read.
    """
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    pieces = [
        slice(at, at + TRANSLATION_BATCH)
        for at in range(0, network_count(networks), TRANSLATION_BATCH)
    ]
    batches = [model.translate(take(networks, piece, device), compute) for piece in pieces]
    model.train(training)
    return {name: t.float().cpu() for name, t in concatenated(batches).items()}


def own_images(model: Translator) -> ImageSet | None:
    """The images that a translator stores, with zeros for labels; None if it stores none.

    They are synthetic. A translated block can be refined on them if there are no other images.
    """
    images = model.own_images()
    if images is None:
        return None
    return ImageSet(images.cpu(), torch.zeros(len(images), dtype=torch.int64))


def compress(model: Translator, network: Network) -> Network:
    """One trained network with its large block translated; former and latter blocks are copied.

    The network and its copy are in evaluation mode: batch norm's running statistics are used.

    Raises:
        ValueError: the network's block is not the large one.
    """
    if network.kind != "large":
        raise ValueError(f"the network has a {network.kind!r} block: only 'large' is translated")
    stacked = stack_of_one(weights(network))
    small = translate(model, stacked | prefixed("large", part(stacked, "block")))
    compressed = Network(model.config.target)
    kept = {name: t for name, t in weights(network).items() if not name.startswith("block.")}
    kept |= {f"block.{name}": tensor[0] for name, tensor in small.items()}
    compressed.load_state_dict(kept, strict=False)
    return compressed.eval()


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")  # it registers its kind, if it has one
