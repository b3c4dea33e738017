"""Translators: modules that map large blocks to small blocks, and their files.

Each kind is one module: see `kt.translators.base`.
"""

import hashlib
import importlib
import json
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from kt.ensemble import Compute
from kt.images import ImageSet
from kt.networks.blocks import Network, Sizes, sizes_of, skeleton, weights
from kt.networks.given import given, like, require_large
from kt.networks.weights import (
    Weights,
    concatenated,
    network_count,
    part,
    prefixed,
    take,
)
from kt.run import memory
from kt.run.bounds import require_bounds
from kt.run.errors import KTError
from kt.run.files import (
    SEAL,
    checksum,
    damaged,
    load_metadata,
    load_tensors,
    problem,
    require_tensors,
    save_tensors,
)
from kt.run.finite import finite_networks, is_finite
from kt.run.strict_json import parsed
from kt.translators.base import Translator, kind_named

METADATA = "translator"
TRANSLATION_BATCH = 256
TRAINING_COPIES = 4
HUGE = "the translator's or the networks' weights are too large"


def save_translator(path: Path, model: Translator) -> None:
    """Write a translator with its configuration and its checksum inside, atomically."""
    # One metadata entry: safetensors writes several in random order, and so other bytes each time.
    save_tensors(path, model.state_dict(), {METADATA: description(model)})


def description(model: Translator) -> str:
    """What a translator's file says of it: its configuration, and a checksum of all, as JSON."""
    about = model.describe()
    return json.dumps(about | {SEAL: _seal(about, model.state_dict())})


def _seal(about: dict, tensors: Weights) -> str:
    text = json.dumps(about, sort_keys=True) + checksum(tensors)
    return hashlib.sha256(text.encode()).hexdigest()


def load_translator(path: Path, device: torch.device | str = "cpu", remedy: str = "") -> Translator:
    """Read a translator that `save_translator` wrote, in evaluation mode.

    Args:
        remedy: what to do about a file that cannot be used.

    Raises:
        KTError: the file is missing, damaged or not a translator.
    """
    metadata = load_metadata(path, remedy)
    try:
        about = parsed(metadata[METADATA])
        seal, described = about.pop(SEAL), dict(about)
        make = kind_named(about.pop("kind"))
        if "sizes" in about:
            about["sizes"] = Sizes(**about["sizes"])
        config = make.Config(**about)
        require_bounds(config)
        expected = skeleton(lambda: make(config)).state_dict()
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError):
        what = "is not a translator that this version can read"
        raise problem(path, what, remedy) from None
    except KTError as error:
        raise damaged(path, error, remedy) from None
    tensors = load_tensors(path, remedy=remedy)
    require_tensors(path, tensors, expected, remedy)
    if _seal(described, tensors) != seal:
        raise damaged(path, "its checksum is another", remedy)
    model = make(config)
    model.load_state_dict(tensors)
    return model.to(device).eval()


def require_memory(make: type[Translator], config: Any) -> None:
    """Refuse a translator whose training does not fit into the memory there is.

    Raises:
        KTError: it does not: weights, gradients and Adam's two averages.
    """
    require_bounds(config)
    shapes = skeleton(lambda: make(config)).state_dict().values()
    needed = TRAINING_COPIES * sum(t.numel() * t.element_size() for t in shapes)
    memory.require(needed, f"a {make.kind} translator of this size", "make it smaller")


@torch.no_grad()
def translate(
    model: Translator, networks: Weights, compute: Compute = Compute(), hidden: int | None = None
) -> Weights:
    """Small blocks for the large blocks of stacked networks, in batches; CPU tensors.

    Args:
        networks: `large.*` (N, ...), and `former.*` and `latter.*`, which some kinds do not read.
        hidden: channels of the small blocks, of a kind that can be asked for any; None: its own.

    Raises:
        KTError: the networks are of other sizes than the translator knows.
        NotFiniteError: blocks are not finite.
    """
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    pieces = [
        slice(at, at + TRANSLATION_BATCH)
        for at in range(0, network_count(networks), TRANSLATION_BATCH)
    ]
    asked = {} if hidden is None else {"hidden": hidden}
    if asked and not model.any_hidden:
        raise KTError(f"a {model.kind} translates to its own number of hidden channels only")
    batches = [model.translate(take(networks, piece, device), compute, **asked) for piece in pieces]
    model.train(training)
    blocks = {name: t.float().cpu() for name, t in concatenated(batches).items()}
    return finite_networks(blocks, "translated blocks", HUGE)


def own_images(model: Translator) -> ImageSet | None:
    """The images that a translator brings and looks at, with zeros for labels; None if it has none.

    They are synthetic. A translated block can be refined on them if there are no other images.
    """
    images = model.own_images()
    if images is None:
        return None
    return ImageSet(images.cpu(), torch.zeros(len(images), dtype=torch.int64))


def compress(model: Translator, network: Network, hidden: int | None = None) -> Network:
    """One trained network with its large block translated; former and latter blocks are copied.

    The network and its copy are in evaluation mode: batch norm's running statistics are used.

    Args:
        hidden: as in `translate`.

    Raises:
        KTError: the network cannot be (`kt.networks.given`), or has no large block; it is of other
            sizes than the translator knows; the translator is not in single precision or not
            finite; or the translation is not.
    """
    for name, tensor in model.state_dict().items():
        if tensor.is_meta or (tensor.is_floating_point() and tensor.dtype != torch.float32):
            raise KTError(
                f"the translator's {name} is {tensor.dtype} on {tensor.device}, not float32"
            )
        if not is_finite(tensor):
            raise KTError(f"the translator holds numbers that are not finite ({name})")
    return with_block(
        network, model.config.target, lambda networks: translate(model, networks, hidden=hidden)
    )


def with_block(network: Network, kind: str, write: Callable[[Weights], Weights]) -> Network:
    """A copy of a trained network with a small block in place of its large one.

    Args:
        kind: of the small block.
        write: makes it of stacked `former.*`, `large.*` and `latter.*`, (1, ...).

    Raises:
        KTError: as `compress`.
    """
    stacked = given(network)
    require_large(network, "the network")
    small = write(stacked | prefixed("large", part(stacked, "block")))
    sizes = sizes_of(stacked, network.sizes.image_size, small)
    compressed = Network(kind, sizes)
    kept = {name: t for name, t in weights(network).items() if not name.startswith("block.")}
    kept |= {f"block.{name}": tensor[0] for name, tensor in small.items()}
    compressed.load_state_dict(kept, strict=False)
    return like(compressed, network, "the smaller network").eval()


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")  # it registers its kind, if it has one
