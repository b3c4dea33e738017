"""One trained network, from its file to a smaller one: what the command line and a script need.

The rest of the library works on many networks at once; here a network is a plain module.
"""

import copy
from pathlib import Path

import torch

from kt import ensemble, images, translators
from kt.ensemble import Recipe
from kt.images import IMAGE_SETS, ImageSet
from kt.images.files import wrong
from kt.networks.blocks import (
    Network,
    Sizes,
    require_images,
    require_possible,
    sizes_of,
    skeleton,
    weights,
)
from kt.networks.weights import Weights, part, prefixed, stack_of_one
from kt.run.errors import KTError
from kt.run.files import require_tensors, save_tensors
from kt.run.state_dicts import COUNTER, load_state_dict
from kt.translators import Translator
from kt.translators.refine import refine as refine_stacked

PRETRAINED = Path(__file__).parent / "pretrained" / "merge.safetensors"
"""The translator of the default run, which comes with the package."""
RECIPE = Recipe(batch_size=32, lr=0.02)
"""How the networks of the default run are trained."""
IMAGES = "they must be square, (M, H, W) or (M, 3, H, W) uint8, with labels (M,) int64 in 0..9"


def load_images(name: str, folder: Path | str = "data") -> tuple[ImageSet, ImageSet]:
    """The (training, test) images of "digits", "glyphs", "mnist" or "usps".

    Args:
        folder: keeps what is unpacked or downloaded; the first two sets need no files.

    Raises:
        KTError: there is no such set, or its files are damaged or cannot be had.
    """
    if name not in IMAGE_SETS:
        raise KTError(f"there is no image set {name!r}: choose among {', '.join(IMAGE_SETS)}")
    return images.load_images(name, Path(folder))


def load_translator(path: Path | str = PRETRAINED) -> Translator:
    """Read a translator from its safetensors file, in evaluation mode.

    Raises:
        KTError: the file is missing, damaged or not a translator.
    """
    return translators.load_translator(Path(path))


def load_network(path: Path | str) -> Network:
    """Read a trained network with a large block, in evaluation mode and float32.

    Args:
        path: a safetensors file, or a `torch.save` of a `state_dict` or a checkpoint, in any
            precision. Names may have the prefixes of `DataParallel` and `torch.compile`.

    Raises:
        KTError: the file is missing, damaged, or holds something else; a weight is not finite, or a
            stored variance negative.
    """
    path = Path(path)
    stored = load_state_dict(path)
    kept = {name: t for name, t in stored.items() if not name.endswith(COUNTER)}
    sizes = _sizes(kept)
    expected = weights(skeleton(lambda: Network(sizes=sizes)))
    try:
        kept = {name: t.float() if t.is_floating_point() else t for name, t in kept.items()}
        require_tensors(path, kept, expected)
    except KTError as error:
        raise KTError(f"{error}: kt.Network('large') is what can be translated") from None
    require_possible(kept, str(path))
    network = Network(sizes=sizes)
    network.load_state_dict(kept, strict=False)
    return network.eval()


def _sizes(stored: Weights) -> Sizes:
    """Of one network; the paper's if its tensors are none of a network's."""
    try:
        return sizes_of(stack_of_one(stored))
    except (LookupError, ValueError, ArithmeticError):
        return Sizes()


def save_network(path: Path | str, network: Network) -> None:
    """Write a network's weights and running statistics as a safetensors file.

    Raises:
        KTError: a weight is not finite, or the file cannot be written.
    """
    _require(Network, network)
    save_tensors(Path(path), weights(network), seal=True)


def train_network(data: ImageSet, seed: int = 1, recipe: Recipe = RECIPE) -> Network:
    """Train one network with a large block, in evaluation mode afterwards.

    Raises:
        KTError: the images cannot be used, or the network diverges.
    """
    _require_set(data)
    channels = data.images.shape[1] if data.images.dim() == 4 else 1
    sizes = Sizes(image_channels=channels, image_size=data.images.shape[-1])
    trained = ensemble.train_networks(data, [seed], seed, recipe, sizes=sizes)
    network = Network(sizes=sizes)
    network.load_state_dict({name: t[0] for name, t in trained.items()}, strict=False)
    return network.eval()


def translate(
    network: Network, translator: Translator | None = None, hidden: int | None = None
) -> Network:
    """The network with its large block translated; former and latter blocks are copied.

    Args:
        network: with a large block; left as it is, but in evaluation mode.
        translator: by default the one that comes with the package. It takes networks of any width,
            with the paper's kernels, for grey images of 28 x 28.
        hidden: channels of the small block; None: the translator's own number, 3.

    Raises:
        KTError: the translator is not for networks of these sizes, or one of the two is neither.
        ValueError: the network's block is not the large one.
    """
    _require(Network, network)
    if translator is not None:
        _require(Translator, translator)
    return translators.compress(translator or load_translator(), network, hidden)


def refine(small: Network, large: Network, data: ImageSet | None, steps: int = 200) -> Network:
    """`small` after further steps that bring its outputs closer to those of `large`.

    Args:
        data: images, whose labels are not used; `kt.translators.own_images` gives a translator's
            prototypes. None: random strokes.

    Raises:
        KTError: the small block is not convolutional, the images cannot be used, steps are no
            number above zero, or refining ends in weights that are not finite.
    """
    if not isinstance(steps, int) or steps < 1:
        raise KTError(f"steps is {steps!r}; accepts a whole number above zero")
    _require(Network, small, large)
    if data is not None:
        _require(ImageSet, data)
        _require(torch.Tensor, data.images)
        data = ImageSet(data.images, torch.zeros(data.images.shape[:1], dtype=torch.int64))
        _require_set(data, large)
    networks = stack_of_one(weights(large))
    networks |= prefixed("large", part(networks, "block"))
    start = part(stack_of_one(weights(small)), "block")
    block = refine_stacked(small.kind, networks, start, data, steps, seed=1)
    refined = copy.deepcopy(small)
    refined.block.load_state_dict({name: tensor[0] for name, tensor in block.items()})
    return refined


def accuracy(network: Network, data: ImageSet) -> float:
    """Percentage of the images that the network classifies correctly.

    Raises:
        KTError: the images cannot be used, or are of another size or colour than the network's.
    """
    _require(Network, network)
    _require_set(data, network)
    stacked = stack_of_one(weights(network))
    return ensemble.evaluate(network.kind, data, stacked, part(stacked, "block")).item()


def _require(kind: type, *given: object) -> None:
    """Refuse what is not of a kind.

    Raises:
        KTError: one is not.
    """
    for one in given:
        if not isinstance(one, kind):
            raise KTError(f"needs a {kind.__name__}, not a {type(one).__name__}")


def _require_set(data: ImageSet, network: Network | None = None) -> None:
    """Refuse images that no network reads, or that this one does not.

    Raises:
        KTError: saying what is wrong with them.
    """
    _require(ImageSet, data)
    if (how := wrong(data)) is not None:
        raise KTError(f"the images cannot be used ({how}): {IMAGES}")
    if network is not None:
        sizes = sizes_of(stack_of_one(weights(network)), data.images.shape[-1])
        require_images(data.images, sizes)
