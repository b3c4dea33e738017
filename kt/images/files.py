"""Image sets in files: a safetensors file, and beside it the checksums of what is in it."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from kt.images.base import ImageSet
from kt.networks.blocks import CLASSES
from kt.run.files import checksum, damaged, load_metadata, load_tensors, problem, save_tensors
from kt.run.strict_json import load_json, save_json


def write_sets(
    path: Path, sets: Mapping[str, ImageSet], about: dict[str, str] | None = None
) -> None:
    """Write image sets ("train", "test", ...) to one file, and their checksums beside it.

    Args:
        about: what they are, one entry at most, kept in the file: {"name": "digits"}, say.

    Raises:
        KTError: they cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    for split, images in sets.items():
        tensors |= _named(split, images)
    save_tensors(path, tensors, about)
    save_json(sums_of(path), {split: checksum(_named(split, s)) for split, s in sets.items()})


def read_set(path: Path, split: str, remedy: str = "", name: str | None = None) -> ImageSet:
    """One of the sets that `write_sets` wrote: square images, grey or in colour.

    Args:
        name: of the data set that it must be; None: any.

    Raises:
        KTError: a file is missing or damaged, or holds images of another data set, size or type,
            labels that are no classes, or another content than was written.
    """
    names = list(_named(split, ImageSet(torch.empty(0), torch.empty(0))))
    tensors = load_tensors(path, names, remedy)
    images = ImageSet(*tensors.values())
    if (how := wrong(images)) is not None:
        raise damaged(path, how, remedy)
    sums = load_json(sums_of(path), remedy)
    if not isinstance(sums, dict) or sums.get(split) != checksum(tensors):
        raise damaged(path, f"the checksum of {split!r} is not that of {sums_of(path)}", remedy)
    if name is not None and (found := load_metadata(path, remedy).get("name")) != name:
        raise problem(path, f"holds images of {found!r}, not of {name!r}", remedy)
    return images


def sums_of(path: Path) -> Path:
    """Where the checksums of a file of image sets are."""
    return path.with_suffix(".json")


def _named(split: str, images: ImageSet) -> dict[str, torch.Tensor]:
    return {f"{split}.images": images.images, f"{split}.labels": images.labels}


def wrong(data: ImageSet) -> str | None:
    """What is wrong with square images, grey or in colour, and labels; None if nothing is."""
    images, labels = data.images, data.labels
    for given in (images, labels):
        if not isinstance(given, Tensor):
            return f"images and labels are tensors, not {type(given).__name__}"
        if given.is_meta or given.layout != torch.strided:
            return "images and labels are plain tensors, neither sparse nor on the device meta"
    if images.dtype != torch.uint8 or labels.dtype != torch.int64:
        return f"images are {images.dtype}, labels {labels.dtype}, not uint8 and int64"
    *colours, height, width = images.shape[1:] if images.dim() > 2 else (0, 0, 0)
    if height != width or colours not in ([], [3]) or labels.shape != images.shape[:1]:
        return f"images are {tuple(images.shape)}, labels {tuple(labels.shape)}"
    if not images.numel():
        return "there are no images"
    if not 0 <= labels.min() <= labels.max() < CLASSES:
        return f"labels are {labels.min()} to {labels.max()}, not 0 to {CLASSES - 1}"
    return None
