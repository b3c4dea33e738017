"""CIFAR-10 (Krizhevsky, 2009) in memory, and its augmentation, drawn for a whole batch at once."""

import gzip
import tarfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from kt.images.base import ImageSet, image_set
from kt.images.downloaded import AGAIN, from_torchvision
from kt.images.pictures import picture
from kt.images.root import data_root
from kt.networks.blocks import CLASSES
from kt.run import seeds
from kt.run.files import damaged, reading

SIZES, SIDE = (50000, 10000), 32
MEAN = (0.4914, 0.4822, 0.4465)
DEVIATION = (0.2470, 0.2435, 0.2616)
"""Of the training images' channels, pixels in [0, 1]."""
MARGIN = 4
"""Black pixels around an image before it is cropped to its size again (He et al., 2016)."""
ORIGINAL, ARCHIVE = Path("cifar-10-batches-py"), Path("CIFAR10") / "cifar10-jpeg.tar.gz"
SOURCES = ("original", "JPEG")


@image_set("cifar10", grey=False)
def cifar10(folder: Path) -> tuple[ImageSet, ImageSet]:
    """The training and test images, (M, 3, 32, 32) uint8.

    From KT_DATA_ROOT, if it is set: the original in torchvision's layout, `cifar-10-batches-py/`,
    or else JPEG images, `CIFAR10/cifar10-jpeg.tar.gz`, which are slightly lossy. Without these the
    original is downloaded into `folder`.

    Raises:
        KTError: the files are damaged, or neither at hand nor downloadable.
    """
    root = data_root()
    if root is not None and source() == "JPEG":
        place = root / ARCHIVE
        sets = _of_archive(place)
    else:
        place, sets = ORIGINAL, _original(folder)
    for data, size in zip(sets, SIZES, strict=True):
        counts = data.labels.bincount().tolist()
        if len(data) != size or len(set(counts)) > 1 or len(counts) > CLASSES:
            what = f"it holds {counts} images of its classes, not {size:,} in equal parts"
            raise damaged(place, what, AGAIN)
    return sets


def source() -> str:
    """What `cifar10` reads, one of `SOURCES`."""
    root = data_root()
    if root is None or (root / ORIGINAL).is_dir() or not (root / ARCHIVE).exists():
        return SOURCES[0]
    return SOURCES[1]


def _original(folder: Path) -> tuple[ImageSet, ImageSet]:
    from torchvision.datasets import CIFAR10

    root = data_root()
    at_hand = root / ORIGINAL if root is not None and (root / ORIGINAL).is_dir() else None
    place = folder / "torchvision" if at_hand is None else at_hand.parent

    def split(train: bool) -> ImageSet:
        held = f"{ORIGINAL}/ or {ARCHIVE}"
        make = partial(CIFAR10, place, train=train, download=at_hand is None)
        data = from_torchvision("CIFAR-10", held, make, at_hand)
        images = torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous()
        return ImageSet(images, torch.tensor(data.targets))

    return split(True), split(False)


def _of_archive(path: Path) -> tuple[ImageSet, ImageSet]:
    """Images of an archive of `train/<class>/*.jpg` and `test/<class>/*.jpg`, in order of names.

    Classes in alphabetical order are the original's 0 to 9.
    """
    found: dict[str, dict[tuple[str, str], Tensor]] = {"train": {}, "test": {}}
    with reading(path, AGAIN), gzip.open(path) as packed:
        with tarfile.open(fileobj=packed, mode="r:") as archive:
            for member in archive:
                which, *name = Path(member.name).parts or ("",)
                content = archive.extractfile(member) if member.isfile() else None
                if which in found and len(name) == 2 and content is not None:
                    image = picture(content)
                    if image.shape[1:] != (SIDE, SIDE):
                        raise ValueError(f"{member.name} is of {tuple(image.shape[1:])} pixels")
                    found[which][name[0], name[1]] = image
        while packed.read(2**20):  # behind the last image is the checksum of all
            pass
    classes = sorted({kind for images in found.values() for kind, _ in images})

    def split(which: str) -> ImageSet:
        if not (images := found[which]):
            raise damaged(path, f"it holds no images below {which}/", AGAIN)
        names = sorted(images)
        labels = [classes.index(kind) for kind, _ in names]
        return ImageSet(torch.stack([images[name] for name in names]), torch.tensor(labels))

    return split("train"), split("test")


def pixels(images: Tensor) -> Tensor:
    """(B, 3, 32, 32) uint8 -> the same as float32, each channel at mean 0 and deviation 1."""
    mean, deviation = (
        255 * torch.tensor(values, device=images.device).view(3, 1, 1)
        for values in (MEAN, DEVIATION)
    )
    return (images - mean) / deviation


def augmented_batches(
    data: ImageSet, batch_size: int, seed: int, epoch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """One pass in random order: each image shifted by up to 4 pixels, half of them mirrored.

    Images are padded with black, cropped at random and flipped (He et al., 2016, Section 4.2), as
    one gathering of pixels for the whole batch. All draws depend on (seed, epoch) alone, never on
    the device. Images left over after the last whole batch are skipped in this pass.

    Returns:
        Normalised images (B, 3, 32, 32), channels last in memory, and labels (B,).
    """
    draw = seeds.generator(seed, "images", epoch)
    count, _, height, width = data.images.shape
    device = data.images.device
    order = torch.randperm(count, generator=draw)
    tops, lefts = torch.randint(2 * MARGIN + 1, (2, count, 1), generator=draw)
    mirrored = torch.rand(count, 1, generator=draw) < 0.5
    rows = tops + torch.arange(height)
    columns = lefts + torch.where(mirrored, torch.arange(width).flip(0), torch.arange(width))
    for at in range(0, count - count % batch_size, batch_size):
        here = slice(at, at + batch_size)
        index, row, column = (t[here].to(device) for t in (order, rows, columns))
        padded = F.pad(data.images[index], [MARGIN] * 4)
        each = torch.arange(batch_size, device=device)[:, None, None]
        # The indices take the front, the channels the end: as a convolution likes them in memory.
        cropped = padded.permute(0, 2, 3, 1)[each, row[:, :, None], column[:, None, :]]
        yield pixels(cropped.permute(0, 3, 1, 2)), data.labels[index]
