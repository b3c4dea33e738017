"""What `compress` is asked for, checked before any work."""

import math
from collections.abc import Mapping
from typing import Any

from torch import nn

from kt.real.blocks import NORMS
from kt.real.graph import size, tensors
from kt.run.errors import KTError, one_line

OF = ("multiply-adds", "parameters")
RATIOS = ("harm", "even")


def require_possible(
    model: Any, example: Any, keep: Any, of: str, ratios: str, round_to: Any, positions: Any
) -> None:
    """Refuse what no network can be made of.

    Raises:
        KTError: naming the argument, what it is, and what it accepts.
    """
    if not isinstance(model, nn.Module):
        raise KTError(f"model is a {type(model).__name__}; it accepts a torch.nn.Module")
    given = tensors(example)
    if not given or not given[0].ndim or not size(example):
        what = "a tensor, a tuple of inputs, or a mapping by name, one example or more"
        raise KTError(f"example is {one_line(type(example).__name__)}; it accepts {what}")
    if isinstance(keep, Mapping):
        for name, width in keep.items():
            if not _is_count(width):
                raise KTError(f"keep: {name} is {one_line(repr(width), 60)}; it accepts a width")
    elif isinstance(keep, bool) or not isinstance(keep, int | float) or not 0 < keep <= 1:
        shown = one_line(repr(keep), 60)
        raise KTError(f"keep is {shown}; it accepts a share above 0 and up to 1, or widths by name")
    for name, value, known in (("of", of, OF), ("ratios", ratios, RATIOS)):
        if value not in known:
            raise KTError(f"{name} is {one_line(repr(value), 60)}; it accepts {' or '.join(known)}")
    for name, value in (("round_to", round_to), ("positions", positions)):
        if not _is_count(value):
            raise KTError(f"{name} is {one_line(repr(value), 60)}; it accepts a number above 0")
    _require_variances(model)


def require_schedule(steps: Any, batch: Any, stride: Any) -> None:
    """Refuse steps that cannot be taken.

    Raises:
        KTError: naming what is wrong.
    """
    if not (_is_count(steps) or steps == 0):
        raise KTError(f"steps is {one_line(repr(steps), 60)}; it accepts a number, or 0 for none")
    if not _is_count(batch):
        raise KTError(f"batch is {one_line(repr(batch), 60)}; it accepts a number above 0")
    if stride is not None and not 0 < stride < math.inf:
        raise KTError(f"stride is {one_line(repr(stride), 60)}; it accepts a number above 0")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _require_variances(model: nn.Module) -> None:
    for name, module in model.named_modules():
        variance = module.running_var if type(module) in NORMS else None
        if variance is not None and bool((variance < 0).any()):
            raise KTError(f"{name}.running_var holds a negative variance: no training makes it")
