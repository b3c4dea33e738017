"""Image sets through torchvision, from KT_DATA_ROOT or downloaded: MNIST and USPS."""

import gzip
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch.nn import functional as F

from kt.images.base import ImageSet, image_set
from kt.run.errors import KTError

Data = TypeVar("Data")
DIGITS = "MNIST/ and USPS/, or use the embedded 'digits' and 'glyphs'"
MNIST_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
"""Published checksums of the unpacked files; torchvision itself checks the packed ones only."""
USPS_SIZES = (7291, 2007)


@image_set("mnist")
def mnist(folder: Path) -> tuple[ImageSet, ImageSet]:
    from torchvision.datasets import MNIST
    from torchvision.datasets.utils import check_md5

    root = folder / "torchvision"
    raw = root / "MNIST" / "raw"
    if (source := os.environ.get("KT_DATA_ROOT")) is not None:
        _unpack(Path(source) / "MNIST" / "raw", raw)
    for name, md5 in MNIST_MD5.items():
        if (raw / name).exists() and not check_md5(raw / name, md5):
            raise KTError(
                f"{raw / name} is damaged (its checksum is not the published one): delete it, "
                "and check the file in KT_DATA_ROOT that it came from"
            )
    train, test = (
        from_torchvision("mnist", DIGITS, partial(MNIST, root, train=split, download=True))
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
    root.mkdir(parents=True, exist_ok=True)
    if (source := os.environ.get("KT_DATA_ROOT")) is not None:
        for name in ("usps.bz2", "usps.t.bz2"):
            if (Path(source) / "USPS" / name).exists():
                _copy(Path(source) / "USPS" / name, root / name)

    def convert(split: bool) -> ImageSet:
        data = from_torchvision("usps", DIGITS, lambda: USPS(str(root), train=split, download=True))
        small = torch.from_numpy(data.data).float().unsqueeze(1)
        large = F.interpolate(small, size=20, mode="bilinear", align_corners=False)
        images = F.pad(large, (4, 4, 4, 4)).squeeze(1).round().clamp(0, 255).to(torch.uint8)
        return ImageSet(images, torch.tensor(data.targets))

    train, test = convert(True), convert(False)
    if (len(train), len(test)) != USPS_SIZES:
        raise KTError(
            f"{root} is damaged: {len(train)} and {len(test)} images instead of {USPS_SIZES}"
        )
    return train, test


def from_torchvision(name: str, held: str, make: Callable[[], Data]) -> Data:
    """A torchvision data set, or an error that says what to do if it is not available."""
    try:
        return make()
    except (EOFError, ValueError) as error:
        raise KTError(f"the files of {name} are damaged ({error}): fetch them again") from None
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise KTError(
            f"{name} is not available and could not be downloaded ({reason}): set KT_DATA_ROOT to "
            f"the folder that holds {held}"
        ) from None


def _unpack(source: Path, target: Path) -> None:
    """Unpack the IDX files of `source` (gzipped or not) into `target`, each atomically."""
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.glob("*-ubyte*")):
        destination = target / path.name.removesuffix(".gz")
        if destination.exists():
            continue
        if path.suffix != ".gz":
            _copy(path, destination)
            continue
        partial = destination.with_suffix(".partial")
        try:
            with gzip.open(path) as packed, partial.open("wb") as plain:
                shutil.copyfileobj(packed, plain)
        except (EOFError, gzip.BadGzipFile) as error:
            raise KTError(f"{path} is damaged: {error}") from None
        partial.replace(destination)


def _copy(source: Path, target: Path) -> None:
    if not target.exists():
        partial = target.with_suffix(".partial")
        shutil.copyfile(source, partial)
        partial.replace(target)
