"""The latter block, the loss, and their gradients, at the 7 x 7 positions that it reads.

Maps y (P, 6, images * 49, L) and third (P, 12, images * 49, L) are the block's output and the
latter convolution's. Rows are stretches of TILE positions, a divisor of 7.
"""

import triton
import triton.language as tl

from kt.ensemble.cuda.norm import moved


@triton.jit(do_not_specialize=["images"])
def latter_forward(
    h, second, norm, w, y, third, sums, images,
    WHOLE: tl.constexpr, TILE: tl.constexpr, R: tl.constexpr, L: tl.constexpr,
):  # fmt: skip
    """y = relu(second's batch norm + h), third, and each row's sums of third and third^2.

    `second` is (P, 6, images * 196, L) if WHOLE, else known at the 7 x 7 positions alone.
    """
    pack, lane = tl.program_id(1).to(tl.int64), tl.arange(0, L)[None, :]
    q = tl.program_id(0) * R + tl.arange(0, R)[:, None]
    rows = images * (49 // TILE)
    exists = q < rows
    inside = (q // (49 // TILE) * 14 + q // (7 // TILE) % 7 * 2) * 14 + q % (7 // TILE) * (2 * TILE)
    start = pack * 6 * images
    place = (start * 49 + q * TILE) * L + lane
    whole = (start * 196 + inside) * L + lane
    norm += pack * (12 * L) + lane + 0 * q
    w += pack * (72 * L) + lane + 0 * q
    ys = ()
    for i in tl.static_range(6):
        scale, shift = tl.load(norm + 2 * i * L), tl.load(norm + (2 * i + 1) * L)
        for c in tl.static_range(TILE):
            at = whole + (i * images * 196 + 2 * c) * L
            value = tl.load(h + at, mask=exists, other=0.0)
            if not WHOLE:
                at = place + (i * images * 49 + c) * L
            value += scale * tl.load(second + at, mask=exists, other=0.0) + shift
            value = tl.where(exists, tl.maximum(value, 0.0), 0.0)
            tl.store(y + place + (i * images * 49 + c) * L, value, mask=exists)
            ys = ys + (value,)
    third += (pack * 12 * images * 49 + q * TILE) * L + lane
    sums += (pack * 24 * rows + q) * L + lane
    for o in range(12):
        taps = ()
        for i in tl.static_range(6):
            taps = taps + (tl.load(w + (o * 6 + i) * L),)
        total = tl.zeros((R, L), tl.float32)
        squares = tl.zeros((R, L), tl.float32)
        for c in tl.static_range(TILE):
            value = taps[0] * ys[c]
            for i in tl.static_range(1, 6):
                value += taps[i] * ys[i * TILE + c]
            tl.store(third + (o * images * 49 + c) * L, value, mask=exists)
            total += value
            squares += value * value
        tl.store(sums + o * rows * L, total, mask=exists)
        tl.store(sums + (12 + o) * rows * L, squares, mask=exists)


@triton.jit(do_not_specialize=["images"])
def scores(
    third, norm, w, parts, images, TILE: tl.constexpr, R: tl.constexpr, L: tl.constexpr
):  # fmt: skip
    """Parts of the logits, (P, 10, (49 / TILE) * images, L): one for each stretch of positions.

    Neighbouring rows are the same stretch in other images: they share the linear layer's weights.
    """
    pack, lane = tl.program_id(1).to(tl.int64), tl.arange(0, L)[None, :]
    q = tl.program_id(0) * R + tl.arange(0, R)[:, None]
    rows = images * (49 // TILE)
    exists = q < rows
    first = q // images * TILE
    third += (pack * 12 * images * 49 + q % images * 49 + first) * L + lane
    w += (pack * 5880 + first) * L + lane
    norm += pack * (24 * L) + lane + 0 * q
    acc = (tl.zeros((R, L), tl.float32),) * 10
    for c in range(12):
        scale, shift = tl.load(norm + 2 * c * L), tl.load(norm + (2 * c + 1) * L)
        for p in tl.static_range(TILE):
            value = tl.load(third + (c * images * 49 + p) * L, mask=exists, other=0.0)
            value = tl.maximum(scale * value + shift, 0.0)
            new = ()
            for o in tl.static_range(10):
                at = w + (o * 588 + c * 49 + p) * L
                new = new + (acc[o] + tl.load(at, mask=exists, other=0.0) * value,)
            acc = new
    for o in tl.static_range(10):
        at = parts + ((pack * 10 + o) * rows + q) * L + lane
        tl.store(at, acc[o], mask=exists)


@triton.jit(do_not_specialize=["images"])
def loss(
    parts, bias, labels, dlogits, correct, images,
    SEGMENTS: tl.constexpr, TRAIN: tl.constexpr, R: tl.constexpr, L: tl.constexpr,
):  # fmt: skip
    """With TRAIN the gradient of the mean cross-entropy, dlogits (P, 10, images, L).

    Else whether each image is classified correctly, correct (P, images, L) int32.
    """
    pack, lane = tl.program_id(1).to(tl.int64), tl.arange(0, L)[None, :]
    q = tl.program_id(0) * R + tl.arange(0, R)[:, None]
    exists = q < images
    label = tl.load(labels + q + 0 * lane, mask=exists, other=0).to(tl.int32)
    logits = ()
    for o in tl.static_range(10):
        value = tl.load(bias + (pack * 10 + o) * L + lane + 0 * q)
        for s in tl.static_range(SEGMENTS):
            at = parts + (((pack * 10 + o) * SEGMENTS + s) * images + q) * L + lane
            value += tl.load(at, mask=exists, other=0.0)
        logits = logits + (value,)
    top = logits[0]
    winner = tl.zeros((R, L), tl.int32)
    for o in tl.static_range(1, 10):
        winner = tl.where(logits[o] > top, o, winner)
        top = tl.maximum(logits[o], top)
    if TRAIN:
        total = tl.zeros((R, L), tl.float32)
        for o in tl.static_range(10):
            total += tl.exp(logits[o] - top)
        scale = 1.0 / (total * images)
        for o in tl.static_range(10):
            value = tl.exp(logits[o] - top) * scale
            value = tl.where(label == o, value - 1.0 / images, value)
            tl.store(dlogits + ((pack * 10 + o) * images + q) * L + lane, value, mask=exists)
    else:
        at = correct + (pack * images + q) * L + lane
        tl.store(at, (winner == label).to(tl.int32), mask=exists)


@triton.jit(do_not_specialize=["images"])
def linear_backward(
    dlogits, third, norm, w, momenta, dthird, sums, images, lr, momentum,
    CHANNELS: tl.constexpr, TRAINED: tl.constexpr, R: tl.constexpr, L: tl.constexpr,
):  # fmt: skip
    """dthird (as third): the gradient of the latter batch norm's output.

    A row is one position of CHANNELS channels. It goes through all images, so that with TRAINED it
    takes the step of SGD on its linear weights, and leaves its sums of dthird and dthird * third.
    """
    pack, lane = tl.program_id(1).to(tl.int64), tl.arange(0, L)[None, :]
    q = tl.program_id(0) * R + tl.arange(0, R)[:, None]
    exists = q < 12 // CHANNELS * 49
    first, p = q // 49 * CHANNELS, q % 49
    place = (pack * 5880 + first * 49 + p) * L + lane
    weights = ()
    norms = ()
    for c in tl.static_range(CHANNELS):
        at = norm + (pack * 12 + first + c) * (2 * L) + lane
        scale = tl.load(at, mask=exists, other=0.0)
        norms = norms + (scale, tl.load(at + L, mask=exists, other=0.0))
        for o in tl.static_range(10):
            at = w + place + (o * 588 + c * 49) * L
            weights = weights + (tl.load(at, mask=exists, other=0.0),)
    zero = tl.zeros((R, L), tl.float32)
    acc = (zero,) * (10 * CHANNELS)
    totals = (zero,) * (2 * CHANNELS)
    at = ((pack * 12 + first) * images * 49 + p) * L + lane
    dlogits += pack * 10 * images * L + lane + 0 * q
    for image in range(images):
        d = ()
        for o in tl.static_range(10):
            d = d + (tl.load(dlogits + (o * images + image) * L),)
        new = ()
        new_totals = ()
        for c in tl.static_range(CHANNELS):
            here = at + (c * images + image) * (49 * L)
            value = tl.load(third + here, mask=exists, other=0.0)
            feature = tl.maximum(norms[2 * c] * value + norms[2 * c + 1], 0.0)
            gradient = d[0] * weights[c * 10]
            for o in tl.static_range(1, 10):
                gradient += d[o] * weights[c * 10 + o]
            gradient = tl.where(feature > 0, gradient, 0.0)
            tl.store(dthird + here, gradient, mask=exists)
            new_totals = new_totals + (totals[2 * c] + gradient,)
            new_totals = new_totals + (totals[2 * c + 1] + gradient * value,)
            for o in tl.static_range(10):
                new = new + (acc[c * 10 + o] + d[o] * feature,)
        acc = new
        totals = new_totals
    if TRAINED:
        sums += ((pack * 24 + first) * 49 + p) * L + lane
        for c in tl.static_range(CHANNELS):
            tl.store(sums + c * (49 * L), totals[2 * c], mask=exists)
            tl.store(sums + (12 + c) * (49 * L), totals[2 * c + 1], mask=exists)
            for o in tl.static_range(10):
                at = place + (o * 588 + c * 49) * L
                velocity = momentum * tl.load(momenta + at, mask=exists, other=0.0)
                velocity += acc[c * 10 + o]
                tl.store(momenta + at, velocity, mask=exists)
                tl.store(w + at, weights[c * 10 + o] - lr * velocity, mask=exists)


@triton.jit
def _through(dthird, third, chain, exists, TILE: tl.constexpr, TRAINED: tl.constexpr, L):
    """The gradient of TILE of the latter convolution's outputs."""
    values = ()
    for c in tl.static_range(TILE):
        value = tl.load(chain) * tl.load(dthird + c * L, mask=exists, other=0.0)
        if TRAINED:
            value += tl.load(chain + L) * tl.load(third + c * L, mask=exists, other=0.0)
            value = tl.where(exists, value + tl.load(chain + 2 * L), 0.0)
        values = values + (value,)
    return values


@triton.jit(do_not_specialize=["images"])
def latter_input_gradient(
    dthird, third, chain, w, y, second, dy, sums, images,
    TILE: tl.constexpr, TRAINED: tl.constexpr, WHOLE: tl.constexpr, R: tl.constexpr,
    L: tl.constexpr,
):  # fmt: skip
    """dy (as y): the gradient before the block's last ReLU; its sums, and those times `second`."""
    pack, lane = tl.program_id(1).to(tl.int64), tl.arange(0, L)[None, :]
    q = tl.program_id(0) * R + tl.arange(0, R)[:, None]
    rows = images * (49 // TILE)
    exists = q < rows
    place = (pack * 12 * images * 49 + q * TILE) * L + lane
    chain += pack * (36 * L) + lane + 0 * q
    w += pack * (72 * L) + lane + 0 * q
    acc = (tl.zeros((R, L), tl.float32),) * (6 * TILE)
    for o in range(12):
        at = place + o * images * (49 * L)
        d = _through(dthird + at, third + at, chain + o * (3 * L), exists, TILE, TRAINED, L)
        new = ()
        for i in tl.static_range(6):
            tap = tl.load(w + (o * 6 + i) * L)
            for c in tl.static_range(TILE):
                new = new + (acc[i * TILE + c] + tap * d[c],)
        acc = new
    place = (pack * 6 * images * 49 + q * TILE) * L + lane
    inside = (q // (49 // TILE) * 14 + q // (7 // TILE) % 7 * 2) * 14 + q % (7 // TILE) * (2 * TILE)
    second += (pack * 6 * images * 196 + inside) * L + lane
    sums += (pack * 12 * rows + q) * L + lane
    for i in tl.static_range(6):
        total = tl.zeros((R, L), tl.float32)
        along = tl.zeros((R, L), tl.float32)
        for c in tl.static_range(TILE):
            at = place + (i * images * 49 + c) * L
            value = tl.where(tl.load(y + at, mask=exists, other=0.0) > 0, acc[i * TILE + c], 0.0)
            tl.store(dy + at, value, mask=exists)
            if WHOLE:
                output = second + (i * images * 196 + 2 * c) * L
                total += value
                along += value * tl.load(output, mask=exists, other=0.0)
        if WHOLE:
            tl.store(sums + i * rows * L, total, mask=exists)
            tl.store(sums + (6 + i) * rows * L, along, mask=exists)


@triton.jit(do_not_specialize=["images", "chunks"])
def latter_weight_gradient(
    dthird, third, chain, y, sums, images, chunks,
    OUTS: tl.constexpr, TILE: tl.constexpr, R: tl.constexpr, L: tl.constexpr,
):  # fmt: skip
    """Partial sums of w's gradient, (P, 72, programs * R, L): OUTS output channels a program."""
    pack, lane = tl.program_id(1).to(tl.int64), tl.arange(0, L)[None, :]
    first = tl.program_id(2) * OUTS
    acc = (tl.zeros((R, L), tl.float32),) * (OUTS * 6)
    for chunk in range(chunks):
        q = (tl.program_id(0) * chunks + chunk) * R + tl.arange(0, R)[:, None]
        exists = q < images * (49 // TILE)
        ys = ()
        for k in tl.static_range(6 * TILE):
            at = (pack * 6 + k // TILE) * images * 49 + q * TILE + k % TILE
            ys = ys + (tl.load(y + at * L + lane, mask=exists, other=0.0),)
        new = ()
        for o in tl.static_range(OUTS):
            at = (((pack * 12 + first + o) * images) * 49 + q * TILE) * L + lane
            tie = chain + (pack * 12 + first + o) * (3 * L) + lane + 0 * q
            d = _through(dthird + at, third + at, tie, exists, TILE, True, L)
            for i in tl.static_range(6):
                value = acc[o * 6 + i]
                for c in tl.static_range(TILE):
                    value += d[c] * ys[i * TILE + c]
                new = new + (value,)
        acc = new
    rows = tl.num_programs(0) * R
    q = tl.program_id(0) * R + tl.arange(0, R)[:, None]
    sums += ((pack * 72 + first * 6) * rows + q) * L + lane
    for k in tl.static_range(OUTS * 6):
        tl.store(sums + k * rows * L, acc[k])
