"""How many threads PyTorch's operations use."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from typing import TypeVar

import torch

Item, Result = TypeVar("Item"), TypeVar("Result")


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Run each of PyTorch's operations in one CPU thread.

    Operations on small tensors gain nothing from more, and lose a great deal where the cores have
    other work: every operation then waits for the slowest thread.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def spread(
    pool: Executor, work: Callable[[Item], Result], items: Iterable[Item]
) -> Iterator[Result]:
    """`map` over the threads of a pool, in order, each item's operations in a single thread."""

    def alone(item: Item) -> Result:
        torch.set_num_threads(1)  # of the pool's thread
        return work(item)

    with one_thread():
        yield from pool.map(alone, items)
