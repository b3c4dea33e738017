"""Image sets that need no download: digits and glyphs."""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from kt.images.base import ImageSet, image_set
from kt.networks.blocks import CLASSES
from kt.run import seeds

EMBEDDED_SEED = 20240112
"""Fixed once: the embedded sets and their splits are data, not an experiment's random draw."""
SIDE = 28
GLYPHS = (1200, 600)
"""Training and test images."""


@image_set("digits")
def digits(folder: Path) -> tuple[ImageSet, ImageSet]:
    """The 1,797 handwritten 8 x 8 digits inside scikit-learn, enlarged; 360 of them for testing."""
    from sklearn.datasets import load_digits

    source = load_digits()
    small = torch.from_numpy(source.images).float().unsqueeze(1) / 16
    large = F.interpolate(small, size=24, mode="bilinear", align_corners=False)
    images = F.pad(large, (2, 2, 2, 2)).squeeze(1).mul(255).round().to(torch.uint8)
    order = torch.randperm(len(images), generator=seeds.generator(EMBEDDED_SEED, "digits"))
    whole = ImageSet(images[order], torch.from_numpy(source.target)[order].long())
    return whole.subset(slice(360, None)), whole.subset(slice(0, 360))


@image_set("glyphs")
def glyphs(folder: Path) -> tuple[ImageSet, ImageSet]:
    """Digits drawn from the typefaces that matplotlib carries, each with its own affine map."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    text_faces = [f for f in sorted(fonts.glob("*.ttf")) if _has_text_digits(f.name)]
    drawn = torch.zeros(len(text_faces), CLASSES, SIDE, SIDE)
    for f, path in enumerate(text_faces):
        font = ImageFont.truetype(str(path), 24)
        for digit in range(CLASSES):
            picture = Image.new("L", (SIDE, SIDE))
            centre = (SIDE / 2, SIDE / 2)
            ImageDraw.Draw(picture).text(centre, str(digit), fill=255, font=font, anchor="mm")
            flat = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
            drawn[f, digit] = flat.view(SIDE, SIDE) / 255

    draw = seeds.generator(EMBEDDED_SEED, "glyphs")
    count = sum(GLYPHS)
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
    grid = F.affine_grid(affine, [count, 1, SIDE, SIDE], align_corners=False)
    warped = F.grid_sample(drawn[faces, labels].unsqueeze(1), grid, align_corners=False)
    images = warped.squeeze(1).mul(255).round().to(torch.uint8)
    whole = ImageSet(images, labels)
    return whole.subset(slice(0, GLYPHS[0])), whole.subset(slice(GLYPHS[0], None))


def _has_text_digits(name: str) -> bool:
    """Whether a font file is a text face: the mathematical ones carry other glyphs or none."""
    return (name.startswith("DejaVu") and "Display" not in name) or name.startswith("STIXGeneral")
