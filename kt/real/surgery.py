"""Make layers smaller, in place, and fit layers to the tensors of a smaller network."""

from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from kt.real.blocks import CONVOLUTIONS, NORMS, Block
from kt.run.errors import KTError
from kt.run.state_dicts import COUNTER


def shrink(model: nn.Module, block: Block, kept: list[int]) -> None:
    """Keep some hidden channels of a block: all its layers become so much smaller.

    Args:
        kept: indices, each once.
    """
    index = torch.tensor(kept, device=model.get_submodule(block.into).weight.device)
    for name in (block.into, *block.between):
        layer = model.get_submodule(name)
        for key, tensor in [*layer.named_parameters(), *layer.named_buffers()]:
            if tensor.ndim and len(tensor) == block.channels:
                _put(layer, key, tensor.detach()[index])
        _measure(layer)
    out = model.get_submodule(block.out)
    weight = out.weight.detach().unflatten(1, (block.channels, -1))[:, index].flatten(1, 2)
    _put(out, "weight", weight)
    _measure(out)


def replace(model: nn.Module, block: Block, weight: Tensor, bias: Tensor) -> None:
    """Give a block's second map new weights, (outputs, numbers read), and biases, (outputs,)."""
    out = model.get_submodule(block.out)
    _put(out, "weight", weight.to(out.weight).view(out.weight.shape[0], -1, *out.weight.shape[2:]))
    _put(out, "bias", bias.to(out.weight))


def resize(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give every layer the widths that a smaller network's tensors have, and these tensors.

    Raises:
        KTError: naming a tensor that is missing, too many, or does not fit.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    expected = model.state_dict()
    for name, tensor in tensors.items():
        path, _, key = name.rpartition(".")
        layer = modules.get(path)
        new_bias = key == "bias" and isinstance(layer, (*CONVOLUTIONS, nn.Linear))
        if name not in expected and not new_bias:
            raise KTError(f"the network has no {name}: the weights are another network's")
        own = expected.get(name)
        if own is None or own.shape != tensor.shape:
            if own is not None and not _fits(tensor, own):
                raise KTError(
                    f"{name} is {tuple(tensor.shape)}, but the network has {tuple(own.shape)}"
                )
            _put(layer, key, tensor)
            _measure(layer)
    _require_readers({name: (t, expected[name]) for name, t in tensors.items() if name in expected})
    counters = {name for name in expected if name.endswith(COUNTER)}
    if missing := [name for name in expected if name not in tensors and name not in counters]:
        raise KTError(f"the weights lack {missing[0]}: they are another network's")
    state = OrderedDict(tensors)
    # Versions of the layers, which files do not hold: some layers refuse weights without.
    state._metadata = expected._metadata  # type: ignore[attr-defined]
    model.load_state_dict(state, strict=False)


def _fits(tensor: Tensor, own: Tensor) -> bool:
    """Whether a tensor may belong to a smaller network."""
    sizes = zip(tensor.shape, own.shape, strict=False)
    return tensor.ndim == own.ndim and all(min(most, 1) <= size <= most for size, most in sizes)


def _require_readers(pairs: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    """Refuse a smaller network, each tensor beside its own, that gives or reads fewer numbers.

    Raises:
        KTError: a map has a width that no other map reads, or reads one that no other map has: the
            layers are not hidden ones.
    """
    maps = {name: pair for name, pair in pairs.items() if pair[0].ndim > 1}
    read = [t.shape[1] for t, own in maps.values() if t.shape[1] < own.shape[1]]
    given = [len(t) for t, own in maps.values() if len(t) < len(own)]
    for name, (tensor, own) in maps.items():
        width, numbers = tensor.shape[:2]
        what = ""
        if width < len(own) and not any(those % width == 0 for those in read):
            what = f"has {width} outputs, not {len(own)}, and no layer reads so few"
        if numbers < own.shape[1] and not any(numbers % those == 0 for those in given):
            what = f"reads {numbers} inputs, not {own.shape[1]}, and no layer gives so few"
        if what:
            raise KTError(f"{name} {what}: the weights are another network's")


def _put(layer: nn.Module, key: str, tensor: Tensor) -> None:
    """Set a parameter or a buffer; a parameter is trained where the one before was."""
    if key in layer._buffers:
        layer._buffers[key] = tensor.clone()
        return
    before = layer._parameters.get(key)
    trained = layer.weight.requires_grad if before is None else before.requires_grad
    setattr(layer, key, nn.Parameter(tensor.clone(), requires_grad=trained))


def _measure(layer: nn.Module) -> None:
    """Set the numbers that a layer keeps about its own size."""
    if isinstance(layer, CONVOLUTIONS):
        depthwise = layer.groups > 1
        layer.out_channels = layer.weight.shape[0]
        layer.groups = layer.out_channels if depthwise else 1
        layer.in_channels = layer.weight.shape[1] * layer.groups
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape
    elif isinstance(layer, NORMS):
        layer.num_features = len(layer.running_mean)
    elif isinstance(layer, nn.PReLU):
        layer.num_parameters = len(layer.weight)
