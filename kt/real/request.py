"""What `compress` is asked for, checked before any work."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kt.real.blocks import MAPS, NORMS
from kt.real.graph import size, tensors, users_code
from kt.run.errors import KTError
from kt.run.finite import is_finite
from kt.run.given import accepts, is_number, is_whole, refused, require_flag, require_seed

WRAPPERS = {
    "DataParallel": "module", "DistributedDataParallel": "module", "OptimizedModule": "_orig_mod",
}  # fmt: skip
"""By the names of their types, since importing the compiler takes seconds."""
OF = ("multiply-adds", "parameters")
RATIOS = ("harm", "even")
MOST_STEPS = 10**9


def require_possible(
    model: Any,
    example: Any,
    keep: Any,
    of: Any,
    ratios: Any,
    *,
    counts: Mapping[str, Any],
    flags: Mapping[str, Any],
    normalise: Any,
    seed: Any,
    progress: Any,
) -> None:
    """Refuse what no network can be made of.

    Args:
        counts, flags: further arguments by name: numbers above 0, and True or False.

    Raises:
        KTError: naming the argument, what it is, and what it accepts.
    """
    if not isinstance(model, nn.Module):
        raise KTError(f"model is a {type(model).__name__}; it accepts a torch.nn.Module")
    given = tensors(example)
    require_plain("example", given)
    if given and not (given[0].ndim and size(example)):
        shape = tuple(given[0].shape)
        raise KTError(f"example is of shape {shape}; it accepts one example or more, side by side")
    if not given:
        what = "a tensor, a tuple of inputs, or a mapping by name, one example or more"
        raise KTError(f"example is {type(example).__name__}; it accepts {what}")
    if isinstance(keep, Mapping):
        for name, width in keep.items():
            if not is_whole(width):
                raise refused(f"keep: {name}", width, "a width")
    elif not is_number(keep) or not 0 < keep <= 1:
        raise refused("keep", keep, "a share above 0 and up to 1, or widths by name")
    for name, value, known in (("of", of, OF), ("ratios", ratios, RATIOS)):
        if not isinstance(value, str) or value not in known:
            raise refused(name, value, " or ".join(known))
    for name, value in counts.items():
        if not is_whole(value):
            raise refused(name, value, "a number above 0")
    for name, value in flags.items():
        require_flag(name, value)
    _require_normalisation(normalise)
    require_seed(seed)
    if progress is not None and not accepts(progress, 3):
        raise refused("progress", progress, "a function of what is done, how much, and of how much")
    with users_code("the network's weights cannot be read"):
        _require_traceable(model)
        _require_weights(model)


def _require_traceable(model: nn.Module) -> None:
    """Refuse what hides a network's code from torch.fx.

    Raises:
        KTError: saying what to pass instead.
    """
    wrapper = type(model).__name__
    if wrapper in WRAPPERS:
        raise KTError(f"model is wrapped in {wrapper}: pass model.{WRAPPERS[wrapper]}")
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            where = name or "model"
            raise KTError(f"{where} is scripted; torch.fx reads the code of Python modules alone")


def require_plain(name: str, given: list[Tensor]) -> None:
    """Refuse tensors that are not numbers side by side in memory.

    Raises:
        KTError: naming the argument.
    """
    for tensor in given:
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested:
            raise KTError(f"{name}: there is a sparse, quantised or nested tensor among them")
        if tensor.is_meta:
            raise KTError(f"{name}: there is a tensor without numbers, on the device meta")


def require_nothing_shown(images: Any, schedule: Any) -> None:
    """Refuse images, or steps on them, where the weights alone are to tell.

    Raises:
        KTError: naming the argument.
    """
    if images is not None:
        raise KTError("images: weights_alone accepts none")
    if schedule is not None and schedule.steps:
        raise KTError("schedule: weights_alone accepts no steps, since there is nothing to see")


def require_schedule(steps: Any, batch: Any, stride: Any, warmup: Any) -> None:
    """Refuse steps that cannot be taken.

    Raises:
        KTError: naming what is wrong.
    """
    if not is_whole(steps, 0) or steps > MOST_STEPS:
        raise refused("steps", steps, f"a number up to {MOST_STEPS:,}, or 0 for none")
    for name, value in (("batch", batch), ("warmup", warmup)):
        if not is_whole(value):
            raise refused(name, value, "a number above 0")
    if stride is not None and not (is_number(stride) and stride > 0):
        raise refused("stride", stride, "a number above 0")


def _require_normalisation(given: Any) -> None:
    """Refuse what are no means and deviations of three colours."""
    try:
        means, deviations = ([*values] for values in given)
        numbers = len(means) == len(deviations) == 3 and all(map(is_number, means + deviations))
        right = numbers and min(deviations) > 0
    except (TypeError, ValueError):
        right = False
    if not right:
        raise refused("normalise", given, "three means, and three deviations above 0")


def _require_weights(model: nn.Module) -> None:
    """Refuse weights that no training ends in. Buffers of other layers may be infinite: masks."""
    trained = dict(model.named_parameters())
    for name, module in model.named_modules():
        if type(module) in NORMS:
            trained |= {f"{name}.{key}".lstrip("."): t for key, t in module.named_buffers()}
    for name, tensor in (*trained.items(), *model.named_buffers()):
        if nn.parameter.is_lazy(tensor):
            raise KTError(f"{name} of the network has no numbers yet: call the network once")
        if tensor.is_meta:
            raise KTError(f"{name} of the network has no numbers: it is on the device meta")
    for name, tensor in trained.items():
        if not is_finite(tensor):
            raise KTError(f"{name} of the network is not finite")
        if name.endswith("running_var") and bool((tensor < 0).any()):
            raise KTError(f"{name} holds a negative variance: no training makes it")
    for name, module in model.named_modules():
        if type(module) in MAPS:
            said = module.out_features if isinstance(module, nn.Linear) else module.out_channels
            weight = getattr(module, "weight", None)
            if weight is None or len(weight) != said:
                raise KTError(f"{name} of the network does not hold weights of {said!r} outputs")
