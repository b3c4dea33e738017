"""Image sets through torchvision, from KT_DATA_ROOT or downloaded: MNIST and USPS."""

import bz2
import gzip
import hashlib
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch.nn import functional as F

from kt.images.base import ImageSet, image_set
from kt.images.root import data_root
from kt.networks.blocks import CLASSES
from kt.run.errors import KTError
from kt.run.files import MALFORMED, damaged, reading, replacing, writing

Data = TypeVar("Data")
EMBEDDED = ", or use the embedded 'digits' and 'glyphs'"
DIGITS = f"MNIST/ and USPS/{EMBEDDED}"
MNIST_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
"""Published checksums of the unpacked files; torchvision itself checks the packed ones only."""
USPS_FILES = {True: ("usps.bz2", 7291), False: ("usps.t.bz2", 2007)}
"""Of the training and the test images: a file, packed, and how many there are."""
AGAIN = "delete it there, and fetch it again"
PUBLISHED = "its checksum is not the published one"


@image_set("mnist")
def mnist(folder: Path) -> tuple[ImageSet, ImageSet]:
    from torchvision.datasets import MNIST

    root = folder / "torchvision"
    raw = root / "MNIST" / "raw"
    lacking = [
        name
        for name, md5 in MNIST_MD5.items()
        if _fetch("MNIST/raw", [name, f"{name}.gz"], raw / name, md5) is None
    ]
    whole = len(lacking) in (0, len(MNIST_MD5))
    held = DIGITS if whole else f"MNIST/raw/{lacking[0]}.gz, too{EMBEDDED}"
    train, test = (
        from_torchvision("mnist", held, partial(MNIST, root, train=split, download=True))
        for split in (True, False)
    )
    return (
        ImageSet(train.data, train.targets.long()),
        ImageSet(test.data, test.targets.long()),
    )


@image_set("usps")
def usps(folder: Path) -> tuple[ImageSet, ImageSet]:
    """USPS's 16 x 16 digits, enlarged bilinearly to MNIST's layout: 20 x 20 inside 28 x 28."""
    from torchvision.datasets import USPS

    root = folder / "torchvision" / "USPS"
    with writing(root):
        root.mkdir(parents=True, exist_ok=True)

    def convert(train: bool) -> ImageSet:
        name, size = USPS_FILES[train]
        at_hand = _fetch("USPS", [name], root / name)
        if at_hand is not None:
            _require_range(at_hand)
        make = partial(USPS, str(root), train=train, download=at_hand is None)
        held = DIGITS if train else f"USPS/{name}, too{EMBEDDED}"  # the other file is there
        data = from_torchvision("usps", held, make, at_hand)
        if len(data.data) != size or not {*data.targets} <= {*range(CLASSES)}:
            what = f"{len(data.data)} images of classes {sorted({*data.targets})}"
            raise damaged(at_hand or root / name, f"{what}, not {size} of 0 to 9", AGAIN)
        small = torch.from_numpy(data.data).float().unsqueeze(1)
        large = F.interpolate(small, size=20, mode="bilinear", align_corners=False)
        images = F.pad(large, (4, 4, 4, 4)).squeeze(1).round().clamp(0, 255).to(torch.uint8)
        return ImageSet(images, torch.tensor(data.targets))

    return convert(True), convert(False)


def _require_range(path: Path) -> None:
    """Refuse a file of USPS with a pixel that torchvision would take for another.

    It reads pixels in the order of the file, and casts those that are not in -1 to 1 to any byte.

    Raises:
        KTError: it has one, or cannot be read.
    """
    with reading(path, AGAIN), bz2.open(path, "rt") as lines:
        for number, line in enumerate(lines, 1):
            pixels = [pixel.partition(":") for pixel in line.split()[1:]]
            if not all(-1 <= float(value) <= 1 for _, _, value in pixels):
                raise ValueError(f"a pixel of image {number} is not in -1 to 1")
            if any(name != str(place) for place, (name, _, _) in enumerate(pixels, 1)):
                raise ValueError(f"the pixels of image {number} are not in order")


def from_torchvision(
    name: str, held: str, make: Callable[[], Data], at_hand: Path | None = None
) -> Data:
    """A torchvision data set.

    Args:
        held: what KT_DATA_ROOT should hold.
        at_hand: the file or folder that it is read from, if nothing is downloaded.

    Raises:
        KTError: its files are damaged, or it is not available; with what to do.
    """
    try:
        return make()
    except (OSError, *MALFORMED) as error:
        if at_hand is not None:
            raise damaged(at_hand, error, AGAIN) from None
        if not isinstance(error, OSError | RuntimeError):
            raise KTError(f"the files of {name} are damaged ({error}): fetch them again") from None
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        root = data_root()
        here = "" if root is None else f", which is {root} now,"
        raise KTError(
            f"{name} is not available and could not be downloaded ({reason}): set KT_DATA_ROOT"
            f"{here} to the folder that holds {held}"
        ) from None


def _fetch(inside: str, names: list[str], target: Path, md5: str | None = None) -> Path | None:
    """Copy a file from KT_DATA_ROOT, unpacked, unless its copy is there already, and whole.

    Args:
        inside: its folder below KT_DATA_ROOT.
        names: it may have there.
        md5: its published checksum; None: it must be what is in KT_DATA_ROOT.

    Returns:
        Where its content comes from; None if it is neither there nor here.

    Raises:
        KTError: it is damaged there; or its copy is, and it is not there to be copied again.
    """
    root = data_root()
    places = [] if root is None else [root / inside / name for name in names]
    source = next((place for place in places if place.exists()), None)
    if target.exists():
        if _md5(target) == (md5 or _md5(source or target)):
            return source or target
        if source is None:
            raise damaged(target, PUBLISHED, AGAIN)
    if source is None:
        return None
    opened = gzip.open if source.suffix == ".gz" else open
    with reading(source, AGAIN), replacing(target) as partial:
        with opened(source, "rb") as packed, partial.open("wb") as plain:
            shutil.copyfileobj(packed, plain)
        if md5 not in (None, _md5(partial)):
            raise ValueError(PUBLISHED)
    return source


def _md5(path: Path) -> str:
    with reading(path, AGAIN), path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
