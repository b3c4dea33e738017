"""Pictures of any format in memory."""

from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor


def picture(file: Path | IO[bytes], size: tuple[int, int] | None = None) -> Tensor:
    """A picture in colour, (3, height, width) uint8.

    Args:
        size: height and width that it is resized to.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged, or in no known format.
    """
    from PIL import Image

    try:
        found: Image.Image = Image.open(file)
        if found.mode == "F":  # a conversion would take them for 0 to 255
            raise ValueError("its pixels are real numbers, of a range that nobody knows")
        if found.mode.startswith("I"):  # 16 bits, of which a conversion makes 255 at most
            found = found.convert("I").point(lambda value: value * (1 / 257))
        found = found.convert("RGB")
        if size is not None:
            found = found.resize((size[1], size[0]))
    except OSError:
        raise
    except Exception as error:  # each format's decoder has its own
        raise ValueError(error) from None
    return torch.from_numpy(np.array(found)).permute(2, 0, 1)
