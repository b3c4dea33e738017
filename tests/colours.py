"""A project whose CIFAR-10 is a few images of noise."""

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from kt.images import cifar


def with_colours(project, train: int, test: int) -> Path:
    """Let a project's copy of the code expect so many images of every class, and write them.

    Returns:
        What KT_DATA_ROOT is to be.
    """
    module = project.folder / "kt/images/cifar.py"
    module.write_text(module.read_text().replace("(50000, 10000)", f"({10 * train}, {10 * test})"))
    root = project.folder / "given"
    _write_archive(root / cifar.ARCHIVE, {"train": train, "test": test})
    return root


def _write_archive(path, counts):
    """JPEG images of noise, so many of every class, as CIFAR-10's archive holds them."""
    draw = np.random.default_rng(0)
    path.parent.mkdir(parents=True)
    with tarfile.open(path, "w:gz") as archive:
        for split, count in counts.items():
            for label in range(10):
                for i in range(count):
                    content = io.BytesIO()
                    noise = draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                    Image.fromarray(noise).save(content, "JPEG")
                    about = tarfile.TarInfo(f"{split}/{label}/{i}.jpg")
                    about.size = len(content.getvalue())
                    content.seek(0)
                    archive.addfile(about, content)
