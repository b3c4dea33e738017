"""Networks that a user gives: checked before any work, and made ready for it."""

import torch
from torch import Tensor
from torch.func import functional_call

from kt.networks.blocks import BLOCKS, Network, Sizes, require_possible, skeleton, weights
from kt.networks.weights import Weights, stack_of_one
from kt.run.errors import KTError, NotFiniteError
from kt.run.finite import is_finite

PRECISIONS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
"""Of networks that are taken; work is done in the first."""


def given(network: Network, what: str = "the network") -> Weights:
    """A network's weights as a stack of one, in single precision, on the CPU.

    Args:
        what: it is, the errors' subject.

    Raises:
        KTError: it is no `Network`, or its tensors are not those of one; a weight is not finite, a
            stored variance negative; or its answers are not finite.
    """
    if not isinstance(network, Network):
        raise KTError(f"needs a Network, not a {type(network).__name__}")
    own = weights(network)
    _require_tensors(network, own, what)
    plain = {name: _plain(tensor) for name, tensor in own.items()}
    require_possible(plain, what)
    if not is_finite(_answers(network, plain)):
        raise NotFiniteError(f"{what}'s answers are not finite: its weights are too large")
    return stack_of_one(plain)


def like(made: Network, network: Network, what: str) -> Network:
    """A network that was made from another one: in its precision, on its device.

    Args:
        what: was made, the errors' subject.

    Raises:
        KTError: the network that was made, or its answers, are not finite.
    """
    first = next(network.parameters())
    made = made.to(first.device, first.dtype)
    given(made, what)
    return made


def require_large(network: Network, what: str) -> None:
    """Refuse a network whose block is another than the large one.

    Raises:
        KTError: it is.
    """
    if network.kind != "large":
        raise KTError(f"{what} has a {network.kind!r} block: only 'large' is translated")


def require_alike(small: Network, large: Network) -> None:
    """Refuse networks that are not the same but for their blocks.

    Raises:
        KTError: saying in which size they differ.
    """
    for name in ("channels", "kernel", "image_channels", "image_size"):
        one, other = (getattr(network.sizes, name) for network in (small, large))
        if one != other:
            raise KTError(f"small and large do not belong together: {name} {one} and {other}")


def _require_tensors(network: Network, own: Weights, what: str) -> None:
    """Refuse a network whose tensors are not those that its kind and sizes say."""
    if network.kind not in BLOCKS or not isinstance(network.sizes, Sizes):
        raise KTError(f"{what} does not say its kind and its sizes, as kt.Network does")
    expected = weights(skeleton(lambda: Network(network.kind, network.sizes)))
    for name in (*expected, *own):
        if name not in own or name not in expected:
            raise KTError(f"{what} has {'no' if name in expected else 'an unknown'} {name}")
        shapes = tuple(own[name].shape), tuple(expected[name].shape)
        if shapes[0] != shapes[1]:
            raise KTError(f"{what}'s {name} has shape {shapes[0]}, not {shapes[1]}")
    for name, tensor in own.items():
        if tensor.is_meta:
            raise KTError(f"{what} has no weights: {name} is on the device meta")
        if tensor.layout != torch.strided or tensor.dtype not in PRECISIONS:
            raise KTError(f"{what}'s {name} is {tensor.dtype}, {tensor.layout}: no plain weights")
    kinds = sorted({str(tensor.dtype) for tensor in own.values()})
    if len(kinds) > 1:
        raise KTError(f"{what} is in {' and '.join(kinds)}: make it one, as by network.float()")


def _plain(tensor: Tensor) -> Tensor:
    tensor = tensor.to("cpu", torch.float32)
    return tensor.clone() if tensor.is_inference() else tensor


@torch.no_grad()
def _answers(network: Network, own: Weights) -> Tensor:
    """To a black image, a white one and noise."""
    sizes = network.sizes
    shape = (1, sizes.image_channels, sizes.image_size, sizes.image_size)
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    shown = torch.cat([torch.zeros(shape), torch.ones(shape), noise])
    plain = skeleton(lambda: Network(network.kind, sizes)).eval()
    return functional_call(plain, own, (shown,))
