"""How many threads PyTorch's operations use."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Within it each of PyTorch's operations runs in one thread of a CPU.

    Operations on small tensors gain nothing from more, and lose a great deal where the cores have
    other work: every operation then waits for the slowest thread.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
