"""Whether what was computed is finite, and what to do if it is not."""

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from kt.run.errors import NotFiniteError

LOWER = "lower the learning rate, the noise or the weight decay"


def is_finite(tensor: Tensor) -> bool:
    """Whether no entry is infinite or no number. One pass, and no copy."""
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    if tensor.element_size() == 1 and tensor.is_floating_point():
        tensor = tensor.float()  # operations on so small numbers are few
    if tensor.numel() == 0 or not tensor.is_floating_point():
        return True
    return bool(torch.stack(tensor.detach().aminmax()).isfinite().all())


def require_finite(tensors: Mapping[str, Tensor], what: str, remedy: str = LOWER) -> None:
    """Refuse tensors that are not finite.

    Args:
        what: they are, the error's subject: "the training diverged".

    Raises:
        NotFiniteError: naming the first one.
    """
    for name, tensor in tensors.items():
        if not is_finite(tensor):
            raise NotFiniteError(f"{what} ({name} is not finite): {remedy}")


@contextlib.contextmanager
def solving(what: str) -> Iterator[None]:
    """Solve linear equations of what a user gives.

    Args:
        what: they are made of, the error's subject.

    Raises:
        NotFiniteError: they have no solution in the numbers that there are.
    """
    try:
        yield
    except torch.linalg.LinAlgError:
        how = "their weights are too large, or too small, or too different in size"
        raise NotFiniteError(f"{what} cannot be computed with: {how}") from None


def finite_networks(
    stacked: dict[str, Tensor],
    what: str = "networks diverged",
    remedy: str = "lower the learning rate they are trained with",
) -> dict[str, Tensor]:
    """Stacked weights {name: (N, ...)} as they are, unless those of one network are not finite.

    A network that has died, and always gives one answer, is finite: it is kept.

    Raises:
        NotFiniteError: saying how many of them.
    """
    if all(map(is_finite, stacked.values())):
        return stacked
    bad = torch.stack([~t.flatten(1).isfinite().all(1).cpu() for t in stacked.values()]).any(0)
    raise NotFiniteError(f"{what}: {int(bad.sum())} of {len(bad)} are not finite: {remedy}")
