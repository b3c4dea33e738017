"""Independent random streams, all derived from one seed."""

import hashlib

import torch


def derive(seed: int, *keys: str | int) -> int:
    """A 63-bit seed for the stream named by `keys`, independent of every other stream's.

    The same (seed, keys) give the same stream on every machine, whatever else is drawn.
    """
    text = repr((int(seed), *keys)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def generator(seed: int, *keys: str | int) -> torch.Generator:
    """A CPU generator on the stream `derive(seed, *keys)`."""
    return torch.Generator().manual_seed(derive(seed, *keys))
