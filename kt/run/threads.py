"""How PyTorch's operations run: in how many threads, in what precision."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


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


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Within it convolutions on a GPU read float32.

    By default cuDNN rounds what they read to TF32's 10 bits. Gradients of tiny networks are then
    off by percent (`python -m benchmarks.gpu` measures it), and engines no longer agree.
    """
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def spread(
    pool: Executor, work: Callable[[Item], Result], items: Iterable[Item]
) -> Iterator[Result]:
    """`map` over the threads of a pool, in order, each item's operations in a single thread."""

    def alone(item: Item) -> Result:
        torch.set_num_threads(1)  # of the pool's thread
        return work(item)

    with one_thread():
        yield from pool.map(alone, items)
