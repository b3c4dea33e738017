"""PyTorch's own settings, whatever a user has changed in them, while the library works."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def usual_settings(device: bool = True) -> Iterator[None]:
    """Single precision on the CPU by default, no automatic casts, no inference mode.

    Also a decorator. What a user has set is set again afterwards.

    Args:
        device: whether tensors are made on the CPU; users' networks may make theirs elsewhere.
    """
    kind = torch.get_default_dtype()
    with contextlib.ExitStack() as around:
        if device and torch.get_default_device().type != "cpu":
            around.enter_context(torch.device("cpu"))
        for name in ("cpu", "cuda"):
            if torch.is_autocast_enabled(name):
                around.enter_context(torch.autocast(name, enabled=False))
        if torch.is_inference_mode_enabled():
            around.enter_context(torch.inference_mode(False))
        if kind != torch.float32:
            around.callback(torch.set_default_dtype, kind)
            torch.set_default_dtype(torch.float32)
        yield
