"""One trained network, from its file to a smaller one: what the command line and a script need.

The rest of the library works on many networks at once; here a network is a plain module.
"""

import copy
import os
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
from kt.networks.given import given, like, require_alike, require_large
from kt.networks.weights import Weights, part, prefixed, stack_of_one
from kt.run.arguments import output
from kt.run.bounds import require_bounds
from kt.run.errors import KTError
from kt.run.files import problem, require_tensors, save_tensors
from kt.run.given import path_of, require_flag, require_kind, require_seed, require_whole
from kt.run.state_dicts import COUNTER, load_state_dict
from kt.run.surroundings import usual_settings
from kt.translators import Translator
from kt.translators.alone import from_weights
from kt.translators.refine import MOST_STEPS
from kt.translators.refine import refine as refine_stacked

PRETRAINED = Path(__file__).parent / "pretrained" / "merge.safetensors"
"""The translator of the default run, which comes with the package."""
RECIPE = Recipe(batch_size=32, lr=0.02)
"""How the networks of the default run are trained."""
IMAGES = "they must be square, (M, H, W) or (M, 3, H, W) uint8, with labels (M,) int64 in 0..9"


@usual_settings()
def load_images(name: str, folder: Path | str = "data") -> tuple[ImageSet, ImageSet]:
    """The (training, test) images of "digits", "glyphs", "mnist" or "usps".

    Args:
        folder: keeps what is unpacked or downloaded; the first two sets need no files.

    Raises:
        KTError: there is no such set, or its files are damaged or cannot be had.
    """
    if not isinstance(name, str) or name not in IMAGE_SETS:
        raise KTError(f"there is no image set {name!r}: choose among {', '.join(IMAGE_SETS)}")
    return images.load_images(name, path_of(folder, "folder"))


@usual_settings()
def load_translator(path: Path | str = PRETRAINED) -> Translator:
    """Read a translator from its safetensors file, in evaluation mode.

    Raises:
        KTError: the file is missing, damaged or not a translator.
    """
    return translators.load_translator(path_of(path))


@usual_settings()
def load_network(path: Path | str) -> Network:
    """Read a trained network with a large block, in evaluation mode and float32.

    Args:
        path: a safetensors file, or a `torch.save` of a `state_dict` or a checkpoint, in any
            precision. Names may have the prefixes of `DataParallel` and `torch.compile`.

    Raises:
        KTError: the file is missing, damaged, or holds something else; a weight is not finite, or a
            stored variance negative.
    """
    path = path_of(path)
    stored = load_state_dict(path)
    kept = {name: t for name, t in stored.items() if not name.endswith(COUNTER)}
    sizes = _sizes(path, kept)
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


def _sizes(path: Path, stored: Weights) -> Sizes:
    """Of one network; the paper's if its tensors are none of a network's.

    Raises:
        KTError: there are no networks of such sizes.
    """
    try:
        return sizes_of(stack_of_one(stored))
    except KTError as error:
        raise problem(path, f"holds no network that is known here ({error})") from None
    except (LookupError, ValueError, ArithmeticError):
        return Sizes()


@usual_settings()
def save_network(path: Path | str, network: Network) -> None:
    """Write a network's weights and running statistics as a safetensors file.

    Raises:
        KTError: the network cannot be (`kt.networks.given`), or the file cannot be written.
    """
    given(network)
    place = path_of(path)
    output(os.fspath(path))  # a folder's name, say, which a `Path` would forget to be one
    save_tensors(place, weights(network), seal=True)


@usual_settings()
def train_network(data: ImageSet, seed: int = 1, recipe: Recipe = RECIPE) -> Network:
    """Train one network with a large block, in evaluation mode afterwards.

    Raises:
        KTError: the images cannot be used, an argument is none of those that are accepted, or the
            network diverges.
    """
    require_set(data)
    require_seed(seed)
    require_kind("recipe", recipe, Recipe, "a Recipe")
    require_bounds(recipe)
    channels = data.images.shape[1] if data.images.dim() == 4 else 1
    sizes = Sizes(image_channels=channels, image_size=data.images.shape[-1])
    trained = ensemble.train_networks(data, [seed], seed, recipe, sizes=sizes)
    network = Network(sizes=sizes)
    network.load_state_dict({name: t[0] for name, t in trained.items()}, strict=False)
    return network.eval()


@usual_settings()
def translate(
    network: Network,
    translator: Translator | None = None,
    hidden: int | None = None,
    *,
    weights_alone: bool = False,
    seed: int = 1,
) -> Network:
    """The network with its large block translated; former and latter blocks are copied.

    Args:
        network: with a large block; left as it is, but in evaluation mode.
        translator: by default the one that comes with the package. It takes networks of any width,
            with the paper's kernels, for grey images of 28 x 28.
        hidden: channels of the small block; None: the translator's own number, 3; for the weights
            alone what the network's sizes say.
        weights_alone: without a translator, from the network's weights alone, in seconds
            (`kt.translators.alone`). It takes kernels and images of any size.
        seed: of what that draws.

    Raises:
        KTError: the network cannot be, or has no large block; the translator is not for networks of
            these sizes; an argument is none of those that are accepted; there is a translator, or
            there are fewer channels, for the weights alone.
    """
    require_flag("weights_alone", weights_alone)
    require_seed(seed)
    require_translatable(network, hidden)
    require_kind("translator", translator, Translator | None, "a Translator")
    if not weights_alone:
        return translators.compress(translator or load_translator(), network, hidden)
    if translator is not None:
        raise KTError("translator: weights_alone accepts none")

    def write(networks: Weights) -> Weights:
        wanted = network.sizes.hidden if hidden is None else hidden
        return from_weights("conv", networks, seed, hidden=wanted)

    return translators.with_block(network, "conv", write)


@usual_settings()
def refine(small: Network, large: Network, data: ImageSet | None, steps: int = 200) -> Network:
    """`small` after further steps that bring its outputs closer to those of `large`.

    Args:
        data: images, whose labels are not used; `kt.translators.own_images` gives a translator's
            prototypes. None: random strokes.

    Raises:
        KTError: a network cannot be, `large` has no large block, `small` none that is
            convolutional, or they do not belong together; the images cannot be used; steps are no
            number above zero; or refining ends in weights that are not finite.
    """
    require_whole("steps", steps, 1, MOST_STEPS)
    start, networks = given(small, "small"), given(large, "large")
    require_large(large, "large")
    require_alike(small, large)
    if data is not None:
        data = _unlabelled(data)
        require_set(data, large)
    networks |= prefixed("large", part(networks, "block"))
    block = refine_stacked(small.kind, networks, part(start, "block"), data, steps, seed=1)
    refined = copy.deepcopy(small)
    refined.block.load_state_dict({name: tensor[0] for name, tensor in block.items()})
    return like(refined, small, "the refined network")


@usual_settings()
def accuracy(network: Network, data: ImageSet) -> float:
    """Percentage of the images that the network classifies correctly.

    Raises:
        KTError: the network cannot be; or the images cannot be used, or are of another size or
            colour than the network's.
    """
    stacked = given(network)
    require_set(data, network)
    return ensemble.evaluate(network.kind, data, stacked, part(stacked, "block")).item()


def require_translatable(network: Network, hidden: int | None) -> None:
    """Refuse what no small block can be made of.

    Raises:
        KTError: the network cannot be, has no large block, or not as many channels as are asked
            for.
    """
    given(network)
    require_large(network, "the network")
    if hidden is not None:
        most = network.sizes.channels
        require_whole("hidden", hidden, 1, most, f"1 to {most}, the networks' channels")


def _unlabelled(data: ImageSet) -> ImageSet:
    """The same images with zeros for labels, on the CPU; what is no set of images as it is."""
    if not isinstance(data, ImageSet) or not isinstance(data.images, torch.Tensor):
        return data
    images = data.images if data.images.is_meta else data.images.cpu()
    return ImageSet(images, torch.zeros(images.shape[:1], dtype=torch.int64))


def require_set(data: ImageSet, network: Network | None = None) -> None:
    """Refuse images that no network reads, or that this one does not.

    Raises:
        KTError: saying what is wrong with them.
    """
    if not isinstance(data, ImageSet):
        raise KTError(f"needs an ImageSet, not a {type(data).__name__}")
    if (how := wrong(data)) is not None:
        raise KTError(f"the images cannot be used ({how}): {IMAGES}")
    if network is not None:
        sizes = sizes_of(stack_of_one(weights(network)), data.images.shape[-1])
        require_images(data.images, sizes)
