"""Image sets in memory: embedded digits and glyphs, MNIST and USPS through torchvision.

Everything is a tensor from the start; no training loop does Python work per image.
"""

import gzip
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from kt.networks.blocks import CLASSES, IMAGE_SIZE
from kt.run import seeds
from kt.run.errors import KTError

EMBEDDED_SEED = 20240112
"""Fixed once: the embedded sets and their splits are data, not an experiment's random draw."""


@dataclass(frozen=True)
class ImageSet:
    """Images (M, 28, 28) uint8 and labels (M,) int64 in 0..9."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, index: Tensor | slice) -> "ImageSet":
        return ImageSet(self.images[index], self.labels[index])

    def to(self, device: torch.device | str) -> "ImageSet":
        return ImageSet(self.images.to(device), self.labels.to(device))


def pixels(images: Tensor) -> Tensor:
    """(B, 28, 28) uint8 -> (B, 1, 28, 28) float32 in [0, 1], the scripts' only normalisation."""
    return images.unsqueeze(1).float().div_(255)


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


# --- the sets -----------------------------------------------------------------------------------


def _digits() -> tuple[ImageSet, ImageSet]:
    """The 1,797 handwritten 8 x 8 digits inside scikit-learn, enlarged; 360 of them for testing."""
    from sklearn.datasets import load_digits

    source = load_digits()
    small = torch.from_numpy(source.images).float().unsqueeze(1) / 16
    large = F.interpolate(small, size=24, mode="bilinear", align_corners=False)
    images = F.pad(large, (2, 2, 2, 2)).squeeze(1).mul(255).round().to(torch.uint8)
    order = torch.randperm(len(images), generator=seeds.generator(EMBEDDED_SEED, "digits"))
    whole = ImageSet(images[order], torch.from_numpy(source.target)[order].long())
    return whole.subset(slice(360, None)), whole.subset(slice(0, 360))


def _glyphs(train: int = 1200, test: int = 600) -> tuple[ImageSet, ImageSet]:
    """Digits drawn from the typefaces that matplotlib carries, each with its own affine map."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    text_faces = [f for f in sorted(folder.glob("*.ttf")) if _has_text_digits(f.name)]
    drawn = torch.zeros(len(text_faces), CLASSES, IMAGE_SIZE, IMAGE_SIZE)
    for f, path in enumerate(text_faces):
        font = ImageFont.truetype(str(path), 24)
        for digit in range(CLASSES):
            picture = Image.new("L", (IMAGE_SIZE, IMAGE_SIZE))
            centre = (IMAGE_SIZE / 2, IMAGE_SIZE / 2)
            ImageDraw.Draw(picture).text(centre, str(digit), fill=255, font=font, anchor="mm")
            flat = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
            drawn[f, digit] = flat.view(IMAGE_SIZE, IMAGE_SIZE) / 255

    draw = seeds.generator(EMBEDDED_SEED, "glyphs")
    count = train + test
    faces = torch.randint(len(text_faces), (count,), generator=draw)
    labels = torch.randint(CLASSES, (count,), generator=draw)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=draw)

    angle, shear, scale = uniform(-0.35, 0.35), uniform(-0.3, 0.3), uniform(0.85, 1.25)
    rotation = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(-1, 2, 2)
    shearing = torch.eye(2).repeat(count, 1, 1)
    shearing[:, 0, 1] = shear
    shift = torch.stack([uniform(-0.15, 0.15), uniform(-0.15, 0.15)], 1)
    affine = torch.cat([rotation @ shearing * scale[:, None, None], shift[:, :, None]], 2)
    grid = F.affine_grid(affine, [count, 1, IMAGE_SIZE, IMAGE_SIZE], align_corners=False)
    warped = F.grid_sample(drawn[faces, labels].unsqueeze(1), grid, align_corners=False)
    images = warped.squeeze(1).mul(255).round().to(torch.uint8)
    whole = ImageSet(images, labels)
    return whole.subset(slice(0, train)), whole.subset(slice(train, None))


def _has_text_digits(name: str) -> bool:
    """Whether a font file is a text face: the mathematical ones carry other glyphs or none."""
    return (name.startswith("DejaVu") and "Display" not in name) or name.startswith("STIXGeneral")


MNIST_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
"""Published checksums of the unpacked files; torchvision itself checks the packed ones only."""
USPS_SIZES = (7291, 2007)


def _mnist(folder: Path) -> tuple[ImageSet, ImageSet]:
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
        _torchvision("mnist", lambda split=split: MNIST(root, train=split, download=True))
        for split in (True, False)
    )
    return (
        ImageSet(train.data, train.targets.long()),
        ImageSet(test.data, test.targets.long()),
    )


def _usps(folder: Path) -> tuple[ImageSet, ImageSet]:
    """USPS's 16 x 16 digits, enlarged bilinearly to MNIST's layout: 20 x 20 inside 28 x 28."""
    from torchvision.datasets import USPS

    root = folder / "torchvision" / "USPS"
    root.mkdir(parents=True, exist_ok=True)
    if (source := os.environ.get("KT_DATA_ROOT")) is not None:
        for name in ("usps.bz2", "usps.t.bz2"):
            if (Path(source) / "USPS" / name).exists():
                _copy(Path(source) / "USPS" / name, root / name)

    def convert(split: bool) -> ImageSet:
        data = _torchvision("usps", lambda: USPS(str(root), train=split, download=True))
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


def _torchvision(name: str, make: Callable[[], object]):
    """A torchvision data set, or an error that says what to do if it is not available."""
    try:
        return make()
    except (EOFError, ValueError) as error:
        raise KTError(f"the files of {name} are damaged ({error}): fetch them again") from None
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise KTError(
            f"{name} is not available and could not be downloaded ({reason}): set KT_DATA_ROOT to "
            "the folder that holds MNIST/ and USPS/, or use the embedded 'digits' and 'glyphs'"
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


IMAGE_SETS: dict[str, Callable[[Path], tuple[ImageSet, ImageSet]]] = {
    "digits": lambda folder: _digits(),
    "glyphs": lambda folder: _glyphs(),
    "mnist": _mnist,
    "usps": _usps,
}


def load_images(name: str, folder: Path) -> tuple[ImageSet, ImageSet]:
    """The named set's (training, test) images; `folder` keeps what is unpacked or downloaded.

    Raises:
        KTError: the set is neither here nor downloadable, or its files are damaged.
    """
    return IMAGE_SETS[name](folder)
