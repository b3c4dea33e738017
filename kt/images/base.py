"""Images in memory, the stream of training images, and the registry of image sets."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from kt.run import memory, seeds
from kt.run.errors import KTError

RESIZED = 4096
"""Images that are resized at once."""


@dataclass(frozen=True)
class ImageSet:
    """Images (M, H, W) uint8, or (M, 3, H, W) in colour, and labels (M,) int64 in 0..9."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, index: Tensor | slice) -> "ImageSet":
        return ImageSet(self.images[index], self.labels[index])

    def to(self, device: torch.device | str) -> "ImageSet":
        return ImageSet(self.images.to(device), self.labels.to(device))


def pixels(images: Tensor) -> Tensor:
    """(B, 28, 28) uint8 -> (B, 1, 28, 28) float32 in [0, 1], the scripts' only normalisation.

    Colour images (B, 3, H, W) keep their shape.
    """
    return (images.unsqueeze(1) if images.dim() == 3 else images).float().div_(255)


def fitted(data: ImageSet, channels: int, size: int) -> ImageSet:
    """The same images with 1 or 3 channels, `size` x `size` pixels: enlarged or shrunk bilinearly.

    The grey of a colour image is the mean of its channels.
    """
    images = data.images
    if (3 if images.dim() == 4 else 1) != channels:
        if channels == 1:
            images = images.float().mean(1).round().to(torch.uint8)
        else:
            images = images[:, None].repeat(1, 3, 1, 1)
    if images.shape[-1] != size:
        what = f"{len(data):,} images of {size} x {size} pixels"
        memory.require(4.0 * len(data) * channels * size**2, what, "make them smaller")
        shown = pixels(images)
        resized = [
            F.interpolate(few, size=size, mode="bilinear", align_corners=False, antialias=True)
            for few in shown.split(RESIZED)
        ]
        images = torch.cat(resized).clamp(0, 1).mul(255).round().to(torch.uint8)
        images = images.squeeze(1) if channels == 1 else images
    return ImageSet(images, data.labels)


def ordered_batches(data: ImageSet, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The whole set once, in order, as (images (B, 1, 28, 28), labels (B,))."""
    for images, labels in zip(
        data.images.split(batch_size), data.labels.split(batch_size), strict=True
    ):
        yield pixels(images), labels


def training_batches(
    data: ImageSet, batch_size: int, epochs: int, flip: bool, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """`epochs` passes in random order, each image mirrored left-right with probability 0.5.

    The order and the flips depend on `seed` alone (never on the device), the last batch of a pass
    may be smaller, and every pass is drawn anew.
    """
    draw = seeds.generator(seed, "images")
    for _ in range(epochs):
        order = torch.randperm(len(data), generator=draw)
        mirrored = (torch.rand(len(data), generator=draw) < 0.5) & flip
        for at in range(0, len(data), batch_size):
            index = order[at : at + batch_size].to(data.labels.device)
            chosen = mirrored[at : at + batch_size].to(data.labels.device)
            images = pixels(data.images[index])
            yield (
                torch.where(chosen[:, None, None, None], images.flip(-1), images),
                data.labels[index],
            )


# --- the registry -------------------------------------------------------------------------------

Loader = Callable[[Path], tuple[ImageSet, ImageSet]]
LOADERS: dict[str, Loader] = {}
"""All image sets by name."""
IMAGE_SETS: dict[str, Loader] = {}
"""Those that the paper's networks read as they are: 28 x 28, grey."""


def image_set(name: str, grey: bool = True) -> Callable[[Loader], Loader]:
    """Make a function known as the loader of a set: from a folder, its training and test images.

    Args:
        grey: whether the paper's networks read it.
    """

    def register(load: Loader) -> Loader:
        LOADERS[name] = load
        if grey:
            IMAGE_SETS[name] = load
        return load

    return register


def load_images(name: str, folder: Path) -> tuple[ImageSet, ImageSet]:
    """The named set's (training, test) images; `folder` keeps what is unpacked or downloaded.

    Raises:
        KTError: there is no such set, it is neither at hand nor downloadable, or its files are
            damaged.
    """
    if name not in LOADERS:
        raise KTError(f"there is no image set {name!r}: choose among {', '.join(LOADERS)}")
    return LOADERS[name](folder)
