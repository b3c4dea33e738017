"""Unlabelled examples: from tensors, a loader or a folder; batches of them, shifted, mirrored."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from kt.images.pictures import picture
from kt.real.graph import Example, size, tensors
from kt.real.request import require_plain
from kt.run.errors import KTError
from kt.run.files import reading
from kt.run.finite import is_finite
from kt.run.given import path_of

MOST = 1000
"""Examples taken from a loader or a folder."""
SHIFT = 8
"""An image is shifted by up to one part in so many of its side."""
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm"}


def collect(
    images: Any, example: Example, mean: Sequence[float], deviation: Sequence[float]
) -> Any:
    """All examples in one, in the example's form: a tensor, a tuple or a mapping of tensors.

    Args:
        images: examples in that form already; or an iterable of batches, labels behind them
            ignored; or a folder of image files, which are resized to the example's size, then
            normalised.
        mean, deviation: by which images of a folder are normalised, pixels in [0, 1].

    Raises:
        KTError: there are none, or they do not fit the example.
    """
    if isinstance(images, str | Path):
        images = _folder(path_of(images, "images"), example, mean, deviation)
    elif not isinstance(images, Tensor | Mapping | tuple):
        images = _batches(images, example)
    names = [
        sorted(map(str, group)) if isinstance(group, Mapping) else [] for group in (images, example)
    ]
    if names[0] != names[1]:
        raise KTError(f"images: their inputs have the names {names[0]}, the example's {names[1]}")
    own, given = tensors(example), tensors(images)
    shapes = [[tuple(tensor.shape[1:]) for tensor in group] for group in (given, own)]
    if shapes[0] != shapes[1]:
        raise KTError(f"images: each is {shapes[0]}, but the example's are {shapes[1]}")
    require_plain("images", given)
    if all(map(is_finite, own)) and not all(map(is_finite, given)):
        raise KTError("images hold numbers that are not finite")
    if size(images) < 2:
        raise KTError(f"images: {size(images)} are too few")
    return images


def take(examples: Example, index: Tensor | slice) -> Example:
    """Some of many examples."""
    if isinstance(examples, Tensor):
        return examples[index]
    if isinstance(examples, Mapping):
        return {name: take(part, index) for name, part in examples.items()}
    if isinstance(examples, list | tuple):
        return tuple(take(part, index) for part in examples)
    return examples


def split(examples: Example, batch: int) -> list[Example]:
    """All examples, in order, in batches."""
    return [take(examples, slice(at, at + batch)) for at in range(0, size(examples), batch)]


def stream(examples: Example, batch: int, draw: torch.Generator, vary: bool) -> Iterator[Example]:
    """Batches without end, pass after pass in another order.

    Args:
        vary: shift and mirror images at random (single tensors, (N, channels, height, width)), and
            mix each example, where it is one tensor of real numbers, with another in a random
            proportion: what the original answers to mixtures tells much more of it (Beyer et al.,
            2022, "Knowledge distillation: A good teacher is patient and consistent").
    """
    count = size(examples)
    batch = min(batch, count)
    while True:
        order = torch.randperm(count, generator=draw)
        for at in range(0, count - batch + 1, batch):
            some = take(examples, order[at : at + batch])
            if vary and are_images(some):
                some = varied(some, draw)
            if vary and isinstance(some, Tensor) and some.is_floating_point():
                some = mixed(some, draw)
            yield some


def are_images(examples: Example) -> bool:
    """Whether examples are single tensors of colour or grey images."""
    return (
        isinstance(examples, Tensor)
        and examples.ndim == 4
        and examples.is_floating_point()
        and examples.shape[1] in (1, 3)
        and min(examples.shape[2:]) >= SHIFT
    )


def varied(images: Tensor, draw: torch.Generator, mirror: bool = True) -> Tensor:
    """Images each shifted at random, edges reflected into the gap, and half of them mirrored."""
    count, _, height, width = images.shape
    down, across = height // SHIFT, width // SHIFT
    padded = F.pad(images, (across, across, down, down), mode="reflect").permute(0, 2, 3, 1)
    rows = torch.randint(2 * down + 1, (count, 1), generator=draw) + torch.arange(height)
    columns = torch.randint(2 * across + 1, (count, 1), generator=draw) + torch.arange(width)
    if mirror:
        mirrored = torch.rand(count, 1, generator=draw) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    each, rows, columns = (t.to(images.device) for t in (torch.arange(count), rows, columns))
    return padded[each[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def mixed(examples: Tensor, draw: torch.Generator) -> Tensor:
    """Each example mixed with another, in proportions from 0 to 1."""
    other = examples[torch.randperm(len(examples), generator=draw)]
    share = torch.rand(len(examples), *[1] * (examples.ndim - 1), generator=draw).to(examples)
    return examples.lerp(other, share)


def _batches(images: Iterable, example: Example) -> Example:
    """The first examples of a loader."""
    found: list[Example] = []
    for item in islice(images, MOST):  # a loader without end may give batches without examples
        if isinstance(example, Tensor) and isinstance(item, list | tuple):
            item = item[0]  # labels are behind
        if not tensors(item):
            raise KTError(f"images: a batch is of {type(item).__name__}; it must hold tensors")
        found.append(item)
        if sum(map(size, found)) >= MOST:
            break
    if not found:
        raise KTError("images: there are none")
    return take(_joined(found), slice(MOST))


def _joined(parts: list) -> Any:
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(parts)
    if isinstance(first, Mapping):
        return {name: _joined([part[name] for part in parts]) for name in first}
    return tuple(_joined(list(each)) for each in zip(*parts, strict=True))


def _folder(
    folder: Path, example: Example, mean: Sequence[float], deviation: Sequence[float]
) -> Tensor:
    own = tensors(example)[0]
    if len(tensors(example)) != 1 or own.ndim != 4 or own.shape[1] != 3:
        raise KTError("images: a folder is for networks that read one (N, 3, H, W) tensor")
    if not os.path.isdir(folder):  # false for a name that is too long, too
        raise KTError(f"images: {folder} is no folder")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise KTError(f"images: {folder} holds no {', '.join(sorted(SUFFIXES))} file")
    # Folders are often sorted by class: take files from all over.
    files = [files[at * len(files) // min(MOST, len(files))] for at in range(min(MOST, len(files)))]
    height, width = own.shape[2:]
    pixels = []
    for path in files:
        with reading(path, "take it out of the folder"):
            pixels.append(picture(path, (height, width)))
    centre, spread = (torch.tensor(values).view(3, 1, 1) for values in (mean, deviation))
    images = (torch.stack(pixels).float() / 255 - centre) / spread
    if not is_finite(images):
        raise KTError("normalise: these means and deviations make images that are not finite")
    return images
