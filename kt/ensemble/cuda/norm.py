"""Batch norm as an affine map and its gradient as another; sums over partial sums; SGD.

One program does one channel, or one weight, of one pack. `norm` (P, C, 2, L) holds scale and shift
of z = scale * x + shift; `statistics` (P, C, 2, L), float64, mean and inverse standard deviation;
`chain` (P, C, 3, L) slope, along and constant of dx = slope * dz + along * x + constant.
"""

import triton
import triton.language as tl


@triton.jit
def total_of(partial, ROWS: tl.constexpr, C: tl.constexpr, S: tl.constexpr, L: tl.constexpr):
    """The sum of the first of partial (ROWS, C, L) over its rows, S at a time: (L,) float64."""
    row, lane = tl.arange(0, S)[:, None], tl.arange(0, L)[None, :]
    total = tl.full((S, L), 0.0, tl.float64)
    for first in range(0, ROWS, S):
        at = (first + row) * (C * L) + lane
        total += tl.load(partial + at, mask=first + row < ROWS, other=0.0).to(tl.float64)
    return tl.sum(total, 0)


@triton.jit
def moved(weight, momenta, gradient, lr, momentum):
    """One step of SGD, as PyTorch does it."""
    velocity = momentum * tl.load(momenta) + gradient.to(tl.float32)
    tl.store(momenta, velocity)
    tl.store(weight, tl.load(weight) - lr * velocity)


@triton.jit
def batch_norm(
    total, squares, count, at, pair,
    weight, bias, running_mean, running_variance, norm, statistics, L: tl.constexpr,
):  # fmt: skip
    """From the batch's sums of x and x^2: norm and statistics; moves the running ones on."""
    count = count.to(tl.float64)
    mean = total / count
    variance = tl.maximum(squares / count - mean * mean, 0.0)
    old_mean = tl.load(running_mean + at).to(tl.float64)
    old_variance = tl.load(running_variance + at).to(tl.float64)
    unbiased = variance * (count / (count - 1.0))
    tl.store(running_mean + at, (0.9 * old_mean + 0.1 * mean).to(tl.float32))
    tl.store(running_variance + at, (0.9 * old_variance + 0.1 * unbiased).to(tl.float32))
    inverse = 1.0 / tl.sqrt(variance + 1e-5)
    scale = tl.load(weight + at).to(tl.float64) * inverse
    tl.store(norm + pair, scale.to(tl.float32))
    shift = tl.load(bias + at).to(tl.float64) - mean * scale
    tl.store(norm + pair + L, shift.to(tl.float32))
    tl.store(statistics + pair, mean)
    tl.store(statistics + pair + L, inverse)


@triton.jit(do_not_specialize=["count"])
def forward_norm(
    sums, count, weight, bias, running_mean, running_variance, norm, statistics,
    ROWS: tl.constexpr, C: tl.constexpr, S: tl.constexpr, L: tl.constexpr,
):  # fmt: skip
    """From partial sums (P, ROWS, 2 C, L) of x, then of x^2, over `count` values."""
    pack, c = tl.program_id(0).to(tl.int64), tl.program_id(1)
    lane = tl.arange(0, L)
    total = total_of(sums + (pack * ROWS * (2 * C) + c) * L, ROWS, 2 * C, S, L)
    squares = total_of(sums + (pack * ROWS * (2 * C) + C + c) * L, ROWS, 2 * C, S, L)
    at = pack * C + c
    batch_norm(
        total, squares, count, at * L + lane, at * (2 * L) + lane,
        weight, bias, running_mean, running_variance, norm, statistics, L,
    )  # fmt: skip


@triton.jit(do_not_specialize=["count"])
def backward_norm(
    sums, count, norm, statistics, chain, weight, bias, weight_momentum, bias_momentum,
    lr, momentum,
    ROWS: tl.constexpr, C: tl.constexpr, S: tl.constexpr, L: tl.constexpr,
):  # fmt: skip
    """From partial sums (P, ROWS, 2 C, L) of dz, then of dz * x: chain; SGD on weight and bias."""
    pack, c = tl.program_id(0).to(tl.int64), tl.program_id(1)
    lane = tl.arange(0, L)
    total = total_of(sums + (pack * ROWS * (2 * C) + c) * L, ROWS, 2 * C, S, L)
    product = total_of(sums + (pack * ROWS * (2 * C) + C + c) * L, ROWS, 2 * C, S, L)
    at = pack * C + c
    pair = at * (2 * L) + lane
    mean, inverse = tl.load(statistics + pair), tl.load(statistics + pair + L)
    scale = tl.load(norm + pair)
    count = count.to(tl.float64)
    projection = (product - mean * total) * inverse  # on the normalised x
    along = -scale.to(tl.float64) * inverse * projection / count
    constant = -along * mean - scale.to(tl.float64) * total / count
    triple = chain + at * (3 * L) + lane
    tl.store(triple, scale)
    tl.store(triple + L, along.to(tl.float32))
    tl.store(triple + 2 * L, constant.to(tl.float32))
    at = at * L + lane
    moved(weight + at, weight_momentum + at, projection, lr, momentum)
    moved(bias + at, bias_momentum + at, total, lr, momentum)


@triton.jit
def descend(
    weights, momenta, sums, lr, momentum,
    ROWS: tl.constexpr, E: tl.constexpr, S: tl.constexpr, R: tl.constexpr, L: tl.constexpr,
):  # fmt: skip
    """SGD on R of a tensor's weights (P, E, L) from partial sums (P, ROWS, E, L) of gradients."""
    e = tl.program_id(0) * R + tl.arange(0, R)[:, None]
    pack = tl.program_id(1).to(tl.int64)
    row, lane = tl.arange(0, S)[None, :, None], tl.arange(0, L)[None, :]
    total = tl.full((R, S, L), 0.0, tl.float64)
    for first in range(0, ROWS, S):
        there = (e < E)[:, :, None] & (first + row < ROWS)
        at = ((pack * ROWS + first + row) * E + e[:, :, None]) * L + lane[:, None, :]
        total += tl.load(sums + at, mask=there, other=0.0).to(tl.float64)
    at = (pack * E + e) * L + lane
    velocity = momentum * tl.load(momenta + at, mask=e < E, other=0.0)
    velocity += tl.sum(total, 1).to(tl.float32)
    tl.store(momenta + at, velocity, mask=e < E)
    weight = tl.load(weights + at, mask=e < E, other=0.0)
    tl.store(weights + at, weight - lr * velocity, mask=e < E)
