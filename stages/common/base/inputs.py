"""Where stages keep what other stages read."""

from pathlib import Path

from kt.images import ImageSet
from kt.run.files import load_tensors

IMAGES = Path("data/images")
PAIRS = Path("data/pairs")
AUGMENTED = Path("data/augmented")
RESULTS = Path("results")
TRANSLATOR = RESULTS / "train" / "translator.safetensors"


def image_set(which: str, split: str) -> ImageSet:
    """Images that the `images` stage wrote: "main" or "transfer", "train", "held_back", "test"."""
    names = [f"{split}.images", f"{split}.labels"]
    tensors = load_tensors(IMAGES / f"{which}.safetensors", names)
    return ImageSet(*(tensors[name] for name in names))
