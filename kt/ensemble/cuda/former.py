"""The former block on images that all networks share, and its gradient.

Images are (B, 32, 32): two zero pixels around each. The convolution is linear in the 3x3 patches,
so its batch statistics, and batch norm's part of its weights' gradient, follow in closed form from
the patches' moments over the batch: float64, [9] sums and [9][9] sums of products.
"""

import triton
import triton.language as tl

from kt.ensemble.cuda.norm import batch_norm, moved, total_of


@triton.jit(do_not_specialize=["images"])
def former_norm(
    w, weight, bias, running_mean, running_variance, moments, norm, statistics, images,
    L: tl.constexpr,
):  # fmt: skip
    """The former batch norm of one channel: see `kt.ensemble.cuda.norm.forward_norm`."""
    pack, o, lane = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.arange(0, L)
    taps = w + (pack * 54 + o * 9) * L + lane
    total = tl.full((L,), 0.0, tl.float64)
    squares = tl.full((L,), 0.0, tl.float64)
    values = ()
    for t in tl.static_range(9):
        values = values + (tl.load(taps + t * L).to(tl.float64),)
    for s in tl.static_range(9):
        along = tl.full((L,), 0.0, tl.float64)
        for t in tl.static_range(9):
            along += tl.load(moments + 9 + s * 9 + t) * values[t]
        total += tl.load(moments + s) * values[s]
        squares += along * values[s]
    batch_norm(
        total, squares, images * 784, (pack * 6 + o) * L + lane, (pack * 6 + o) * (2 * L) + lane,
        weight, bias, running_mean, running_variance, norm, statistics, L,
    )  # fmt: skip


@triton.jit
def _pixels(images, q, exists, TILE: tl.constexpr, L: tl.constexpr, TOP: tl.constexpr):
    """Pixels around TILE pooled positions, from TOP rows and columns after the corner of the 5x5
    pixels below the first to the corner opposite, row by row."""
    SEGMENTS: tl.constexpr = 14 // TILE
    image, row, segment = q // (14 * SEGMENTS), q // SEGMENTS % 14, q % SEGMENTS
    at = images + (image * 32 + 2 * row) * 32 + segment * (2 * TILE)
    at += tl.full((1, L), 0, tl.int32)
    pixels = ()
    for r in tl.static_range(TOP, 5):
        for c in tl.static_range(TOP, 2 * TILE + 3):
            pixels = pixels + (tl.load(at + (r * 32 + c), mask=exists, other=0.0),)
    return pixels


@triton.jit(do_not_specialize=["count"])
def former_forward(
    images, w, norm, h, routes, count,
    TILE: tl.constexpr, ROUTES: tl.constexpr, R: tl.constexpr, L: tl.constexpr,
):  # fmt: skip
    """Convolution, batch norm, ReLU, max-pool: h (P, count, 6, 196, L).

    With ROUTES, `routes` (int8, as h) tells which of the 3x3 pooled values is the maximum: the
    first of equal ones, as in PyTorch.
    """
    WIDTH: tl.constexpr = 2 * TILE + 3
    COLUMNS: tl.constexpr = 2 * TILE + 1
    pack, lane = tl.program_id(1).to(tl.int64), tl.arange(0, L)[None, :]
    q = tl.program_id(0) * R + tl.arange(0, R)[:, None]
    exists = q < count * (196 // TILE)
    pixels = _pixels(images, q, exists, TILE, L, 0)
    above = q // (14 // TILE) % 14 > 0  # whether the pooled row before the first exists
    left = q % (14 // TILE) > 0
    lowest = float("-inf")
    w += pack * (54 * L) + lane + 0 * q
    norm += pack * (12 * L) + lane + 0 * q
    image = q // (196 // TILE)
    place = pack * count * (6 * 196 * L) + (image * (5 * 196) + q * TILE) * L + lane
    h += place
    routes += place
    for o in range(6):
        scale, shift = tl.load(norm + 2 * o * L), tl.load(norm + (2 * o + 1) * L)
        taps = ()
        for k in tl.static_range(9):
            taps = taps + (scale * tl.load(w + (o * 9 + k) * L),)
        values = ()
        for r in tl.static_range(3):
            for c in tl.static_range(COLUMNS):
                value = shift
                for k in tl.static_range(9):
                    value += taps[k] * pixels[(r + k // 3) * WIDTH + c + k % 3]
                if r == 0:
                    value = tl.where(above, value, lowest)
                if c == 0:
                    value = tl.where(left, value, lowest)
                values = values + (value,)
        for c in tl.static_range(TILE):
            best = values[2 * c]
            route = tl.full((R, L), 0, tl.int32)
            for k in tl.static_range(1, 9):
                value = values[k // 3 * COLUMNS + 2 * c + k % 3]
                if ROUTES:
                    route = tl.where(value > best, k, route)
                best = tl.maximum(value, best)
            at = (o * 196 + c) * L
            tl.store(h + at, tl.maximum(best, 0.0), mask=exists)
            if ROUTES:
                tl.store(routes + at, route.to(tl.int8), mask=exists)


@triton.jit(do_not_specialize=["count"])
def former_backward(
    images, dh, routes, sums, count,
    CHUNKS: tl.constexpr, TILE: tl.constexpr, R: tl.constexpr, L: tl.constexpr,
):  # fmt: skip
    """Partial sums of the pooled values' gradient times each patch pixel, (P, programs * R, 54, L).

    dh (P, count, 6, 196, L) is the gradient of h, zero where h is. A pixel of the convolution's
    output gets its gradient from the up to four windows whose maximum it is.
    """
    WIDTH: tl.constexpr = 2 * TILE + 2
    SEGMENTS: tl.constexpr = 14 // TILE
    pack, lane = tl.program_id(1).to(tl.int64), tl.arange(0, L)[None, :]
    dh += pack * count * (6 * 196 * L) + lane
    routes += pack * count * (6 * 196 * L) + lane
    zero = tl.full((R, L), 0.0, tl.float32)
    acc = (zero,) * 54
    for chunk in range(CHUNKS):
        q = (tl.program_id(0) * CHUNKS + chunk) * R + tl.arange(0, R)[:, None]
        exists = q < count * (196 // TILE)
        pixels = _pixels(images, q, exists, TILE, L, 1)
        below = exists & (q // SEGMENTS % 14 < 13)
        right = q % SEGMENTS < SEGMENTS - 1
        place = (q // (196 // TILE) * (5 * 196) + q * TILE) * L
        at_dh, at_routes = dh + place, routes + place
        new = ()
        for o in tl.static_range(6):
            d = ()
            route = ()
            for r in tl.static_range(2):
                there = below if r == 1 else exists
                for c in tl.static_range(TILE + 1):
                    seen = there & right if c == TILE else there
                    at = (o * 196 + r * 14 + c) * L
                    d = d + (tl.load(at_dh + at, mask=seen, other=0.0),)
                    route = route + (tl.load(at_routes + at, mask=seen, other=0).to(tl.int32),)
            dz = ()  # of the convolution's output, two rows of 2 * TILE pixels
            for y in tl.static_range(2):
                for x in tl.static_range(2 * TILE):
                    value = zero
                    for r in tl.static_range(y + 1):
                        for c in tl.static_range(x // 2, x // 2 + x % 2 + 1):
                            here = route[r * (TILE + 1) + c]
                            hit = here == (y + 1 - 2 * r) * 3 + x + 1 - 2 * c
                            value += tl.where(hit, d[r * (TILE + 1) + c], 0.0)
                    dz = dz + (value,)
            for k in tl.static_range(9):
                value = acc[o * 9 + k]
                for y in tl.static_range(2):
                    for x in tl.static_range(2 * TILE):
                        pixel = pixels[(y + k // 3) * WIDTH + x + k % 3]
                        value += dz[y * (2 * TILE) + x] * pixel
                new = new + (value,)
        acc = new
    rows = tl.num_programs(0) * R
    q = tl.program_id(0) * R + tl.arange(0, R)[:, None]
    sums += (pack * rows + q) * (54 * L) + lane
    for k in tl.static_range(54):
        tl.store(sums + k * L, acc[k])


@triton.jit(do_not_specialize=["images"])
def former_update(
    w, weight, bias, w_momentum, weight_momentum, bias_momentum, moments, norm, statistics,
    sums, patches, images, lr, momentum,
    ROWS: tl.constexpr, PATCH_ROWS: tl.constexpr, S: tl.constexpr, L: tl.constexpr,
):  # fmt: skip
    """SGD on the former block's weights, one channel.

    `sums` (P, ROWS, 12, L) begins with the gradient's, `patches` (P, PATCH_ROWS, 54, L) are those
    of `former_backward`.
    """
    pack, o, lane = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.arange(0, L)
    total = total_of(sums + (pack * ROWS * 12 + o) * L, ROWS, 12, S, L)
    at = (pack * 6 + o) * (2 * L) + lane
    mean, inverse = tl.load(statistics + at), tl.load(statistics + at + L)
    scale = tl.load(norm + at).to(tl.float64)
    at = (pack * 54 + o * 9) * L + lane
    taps = ()
    sums_of_patches = ()
    product = tl.full((L,), 0.0, tl.float64)  # of the gradient and the convolution's output
    for t in tl.static_range(9):
        part = patches + (pack * PATCH_ROWS * 54 + o * 9 + t) * L
        part = total_of(part, PATCH_ROWS, 54, S, L)
        sums_of_patches = sums_of_patches + (part,)
        taps = taps + (tl.load(w + at + t * L).to(tl.float64),)
        product += taps[t] * part
    pixels = (images * 784).to(tl.float64)
    projection = (product - mean * total) * inverse
    along = -scale * inverse * projection / pixels
    constant = -along * mean - scale * total / pixels
    gradients = ()
    for t in tl.static_range(9):
        # The sum of the convolution's output times pixel t.
        outputs = tl.full((L,), 0.0, tl.float64)
        for s in tl.static_range(9):
            outputs += tl.load(moments + 9 + s * 9 + t) * taps[s]
        gradient = scale * sums_of_patches[t] + along * outputs
        gradients = gradients + (gradient + constant * tl.load(moments + t),)
    for t in tl.static_range(9):
        moved(w + at + t * L, w_momentum + at + t * L, gradients[t], lr, momentum)
    at = (pack * 6 + o) * L + lane
    moved(weight + at, weight_momentum + at, projection, lr, momentum)
    moved(bias + at, bias_momentum + at, total, lr, momentum)
