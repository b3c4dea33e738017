"""How far two float32 computations of the same may lie apart, whatever processor makes them.

Libraries add up in another order on every kind of processor. No test asserts more than follows from
the number of terms added, float32's epsilon and the size of the numbers.
"""

import torch
from torch import Tensor

EPSILON = torch.finfo(torch.float32).eps
POSITIONS = 14 * 14
BLOCK = 2 * (6 * 9 + 4)
"""Terms behind a number that a block gives: two convolutions, each with batch norm; the sum."""
NETWORK = 9 + 4 + BLOCK + 6 + 4 + 12 * 7 * 7
"""The same of a logit: former block, block, latter block."""

Tensors = Tensor | dict[str, Tensor]


def bound(terms: int, scale: float) -> float:
    """Largest difference of two sums of `terms` numbers whose partial sums stay below `scale`.

    Each addition rounds by at most half an epsilon, in either computation.
    """
    return terms * EPSILON * scale


def assert_near(
    found: Tensors, expected: Tensors, terms: int, scale: float | None = None, gates: int = 0
) -> None:
    """Two results are the same but for rounding.

    Args:
        terms: added up one after the other for each number.
        scale: of the numbers; the largest expected one if None.
        gates: for gradients, and what is learned from them: of how many positions, each behind a
            ReLU or a maximum, they are sums. Where its input is zero or a tie but for rounding, one
            may be open in one computation and shut in the other, which changes a sum of that many
            numbers of either sign by their root's share.
    """
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            assert_near(found[name], tensor, terms, scale, gates)
        return
    assert found.shape == expected.shape and found.dtype == expected.dtype
    assert torch.isfinite(found).all() and torch.isfinite(expected).all()
    size = expected.abs().max().item() if scale is None else scale
    allowed = bound(terms, size) + (size * gates**-0.5 if gates else 0)
    apart = (found - expected).abs().max().item()
    assert apart <= allowed, f"{apart:.3g} apart, of {size:.3g}; rounding explains {allowed:.3g}"


def assert_trained_alike(found: Tensors, expected: Tensors, start: Tensors, images: int) -> None:
    """A few steps of training led from `start` to the same, each on that many images.

    Gates (`assert_near`) decide how near: in terms of how far the training has moved a tensor.
    After many steps they would let even equal protocols drift apart.
    """
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            assert_trained_alike(found[name], tensor, start[name], images)
        return
    rounding = NETWORK * EPSILON * expected.abs().max().item()
    moved = (expected - start).abs().max().item()
    allowed = rounding + moved * (images * POSITIONS) ** -0.5
    apart = (found - expected).abs().max().item()
    assert apart <= allowed, f"{apart:.3g} apart, moved by {moved:.3g}; allowed {allowed:.3g}"
