"""How the CUDA engine divides its work."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Tiles:
    """How the work is divided.

    Attributes:
        lanes: networks of a program, a power of two. Rounding depends neither on it nor on `rows`.
        rows: rows of a program, a power of two; with 32 lanes, a warp each.
        gradient_rows: the same, of a program that forms weights' gradients,
        chunks: and how many times as many rows it goes through.
        whole: width of a tile of a 14 x 14 map: 14 or 2.
        read: width of a tile of a 7 x 7 map: 7 or 1.
        pooled: width of a tile of the former block's output: 14, 7, 2 or 1.
        channels: channels of a row in the linear layer's gradient, a divisor of 12.
        sums: partial sums that are read together, a power of two;
        descent_sums: the same, for each of `rows` weights at a time.
    """

    lanes: int = 32
    rows: int = 8
    gradient_rows: int = 4
    chunks: int = 16
    whole: int = 14
    read: int = 7
    pooled: int = 2
    channels: int = 2
    sums: int = 128
    descent_sums: int = 16


GPU = Tiles()
INTERPRETED = Tiles(4, 512, 512, 1, 2, 1, 2, channels=1, sums=512, descent_sums=64)
"""Few operations on large arrays: the interpreter takes as long for one number as for thousands."""
