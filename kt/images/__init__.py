"""Image sets in memory: embedded digits and glyphs, MNIST, USPS and CIFAR-10 through torchvision.

Everything is a tensor from the start; no training loop does Python work per image. A set is one
function: see `kt.images.base.image_set`.
"""

import importlib
import pkgutil

from kt.images.base import (
    IMAGE_SETS,
    LOADERS,
    ImageSet,
    fitted,
    image_set,
    load_images,
    ordered_batches,
    pixels,
    training_batches,
)

__all__ = [
    "IMAGE_SETS",
    "LOADERS",
    "ImageSet",
    "fitted",
    "image_set",
    "load_images",
    "ordered_batches",
    "pixels",
    "training_batches",
]

for _module in ("embedded", "downloaded", "cifar"):  # the order of the sets, then others
    importlib.import_module(f"{__name__}.{_module}")
for _found in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_found.name}")
