"""Knowledge Translation: compress a trained network by translating its weights.

Sun et al., "Knowledge Translation: A New Pathway for Model Compression", arXiv 2401.05772.
Tensors in, tensors out: this package reads no parameter file and prints nothing.

The names below are for those who compress one network; they are imported on first use, so that
`import kt` costs nothing.
"""

import importlib

_HOME = {
    "ImageSet": "kt.images",
    "KTError": "kt.run.errors",
    "Network": "kt.networks.blocks",
    "accuracy": "kt.single",
    "compress": "kt.real",
    "load": "kt.real",
    "load_images": "kt.single",
    "load_network": "kt.single",
    "load_translator": "kt.single",
    "refine": "kt.single",
    "save_network": "kt.single",
    "train_network": "kt.single",
    "translate": "kt.single",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
