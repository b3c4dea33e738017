"""The latter block, the loss, and their gradients, at the 7 x 7 positions that it reads.

Maps y (P, images, 6, 49, L) and third (P, images, 12, 49, L) are the block's output and the
latter convolution's. Rows are stretches of TILE positions, a divisor of 7.
"""

import triton
import triton.language as tl


@triton.jit
def _places(q, TILE: tl.constexpr):
    """Image, row number times TILE, and where the first position lies in a 14 x 14 map.

    In maps of C channels a row begins at image * (C - 1) * 49 + its number times TILE.
    """
    row, segment = q // (7 // TILE) % 7, q % (7 // TILE)
    return q // (49 // TILE), q * TILE, row * 28 + segment * (2 * TILE)


@triton.jit(do_not_specialize=["images"])
def latter_forward(
    h, second, norm, w, y, third, sums, images,
    WHOLE: tl.constexpr, TILE: tl.constexpr, R: tl.constexpr, L: tl.constexpr,
):  # fmt: skip
    """y = relu(second's batch norm + h), third, and each row's sums of third and third^2.

    `second` is (P, images, 6, 196, L) if WHOLE, else known at the 7 x 7 positions alone.
    """
    pack, lane = tl.program_id(1).to(tl.int64), tl.arange(0, L)[None, :]
    q = tl.program_id(0) * R + tl.arange(0, R)[:, None]
    rows = images * (49 // TILE)
    exists = q < rows
    image, place, whole = _places(q, TILE)
    y += pack * images * (6 * 49 * L) + (image * (5 * 49) + place) * L + lane
    h += pack * images * (6 * 196 * L) + (image * (6 * 196) + whole) * L + lane
    if WHOLE:
        second += pack * images * (6 * 196 * L) + (image * (6 * 196) + whole) * L + lane
    else:
        second += pack * images * (6 * 49 * L) + (image * (5 * 49) + place) * L + lane
    norm += pack * (12 * L) + lane + 0 * q
    w += pack * (72 * L) + lane + 0 * q
    ys = ()
    for i in tl.static_range(6):
        scale, shift = tl.load(norm + 2 * i * L), tl.load(norm + (2 * i + 1) * L)
        for c in tl.static_range(TILE):
            value = tl.load(h + (i * 196 + 2 * c) * L, mask=exists, other=0.0)
            at = (i * 196 + 2 * c) * L if WHOLE else (i * 49 + c) * L
            value += scale * tl.load(second + at, mask=exists, other=0.0) + shift
            value = tl.where(exists, tl.maximum(value, 0.0), 0.0)
            tl.store(y + (i * 49 + c) * L, value, mask=exists)
            ys = ys + (value,)
    third += pack * images * (12 * 49 * L) + (image * (11 * 49) + place) * L + lane
    sums += (pack * rows + q) * (24 * L) + lane
    for o in range(12):
        taps = ()
        for i in tl.static_range(6):
            taps = taps + (tl.load(w + (o * 6 + i) * L),)
        total = tl.full((R, L), 0.0, tl.float32)
        squares = tl.full((R, L), 0.0, tl.float32)
        for c in tl.static_range(TILE):
            value = taps[0] * ys[c]
            for i in tl.static_range(1, 6):
                value += taps[i] * ys[i * TILE + c]
            tl.store(third + (o * 49 + c) * L, value, mask=exists)
            total += value
            squares += value * value
        tl.store(sums + o * L, total, mask=exists)
        tl.store(sums + (12 + o) * L, squares, mask=exists)


@triton.jit(do_not_specialize=["images"])
def scores(
    third, norm, w, parts, images, TILE: tl.constexpr, R: tl.constexpr, L: tl.constexpr
):  # fmt: skip
    """Parts of the logits, (P, (49 / TILE) * images, 10, L): one for each stretch of positions.

    Neighbouring rows are the same stretch in other images: they share the linear layer's weights.
    """
    pack, lane = tl.program_id(1).to(tl.int64), tl.arange(0, L)[None, :]
    q = tl.program_id(0) * R + tl.arange(0, R)[:, None]
    rows = images * (49 // TILE)
    exists = q < rows
    first = q // images * TILE
    third += pack * images * (588 * L) + (q % images * 588 + first) * L + lane
    w += (pack * 5880 + first) * L + lane
    norm += pack * (24 * L) + lane + 0 * q
    acc = (tl.full((R, L), 0.0, tl.float32),) * 10
    for c in range(12):
        scale, shift = tl.load(norm + 2 * c * L), tl.load(norm + (2 * c + 1) * L)
        for p in tl.static_range(TILE):
            value = tl.load(third + (c * 49 + p) * L, mask=exists, other=0.0)
            value = tl.maximum(scale * value + shift, 0.0)
            new = ()
            for o in tl.static_range(10):
                at = w + (o * 588 + c * 49 + p) * L
                new = new + (acc[o] + tl.load(at, mask=exists, other=0.0) * value,)
            acc = new
    parts += (pack * rows + q) * (10 * L) + lane
    for o in tl.static_range(10):
        tl.store(parts + o * L, acc[o], mask=exists)


@triton.jit(do_not_specialize=["images"])
def loss(
    parts, bias, labels, dlogits, images,
    SEGMENTS: tl.constexpr, TRAIN: tl.constexpr, R: tl.constexpr, L: tl.constexpr,
):  # fmt: skip
    """With TRAIN the gradient of the mean cross-entropy, else the logits: (P, images, 10, L)."""
    pack, lane = tl.program_id(1).to(tl.int64), tl.arange(0, L)[None, :]
    q = tl.program_id(0) * R + tl.arange(0, R)[:, None]
    exists = q < images
    label = tl.load(labels + q + 0 * lane, mask=exists, other=0).to(tl.int32)
    logits = ()
    bias += pack * (10 * L) + lane + 0 * q
    for o in tl.static_range(10):
        logits = logits + (tl.load(bias + o * L),)
    parts += (pack * images * SEGMENTS + q) * (10 * L) + lane
    for _ in range(SEGMENTS):
        new = ()
        for o in tl.static_range(10):
            new = new + (logits[o] + tl.load(parts + o * L, mask=exists, other=0.0),)
        logits = new
        parts += images * (10 * L)
    dlogits += (pack * images + q) * (10 * L) + lane
    if TRAIN:
        top = logits[0]
        for o in tl.static_range(1, 10):
            top = tl.maximum(logits[o], top)
        total = tl.full((R, L), 0.0, tl.float32)
        for o in tl.static_range(10):
            total += tl.exp(logits[o] - top)
        scale = 1.0 / (total * images)
        for o in tl.static_range(10):
            value = tl.exp(logits[o] - top) * scale
            value = tl.where(label == o, value - 1.0 / images, value)
            tl.store(dlogits + o * L, value, mask=exists)
    else:
        for o in tl.static_range(10):
            tl.store(dlogits + o * L, logits[o], mask=exists)


@triton.jit
def linear_backward(
    dlogits, third, norm, w, momenta, dthird, sums, lr, momentum,
    IMAGES: tl.constexpr, CHANNELS: tl.constexpr, TRAINED: tl.constexpr, R: tl.constexpr,
    L: tl.constexpr,
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
    zero = tl.full((R, L), 0.0, tl.float32)
    acc = (zero,) * (10 * CHANNELS)
    totals = (zero,) * (2 * CHANNELS)
    third += pack * IMAGES * (588 * L) + (first * 49 + p) * L + lane
    dthird += pack * IMAGES * (588 * L) + (first * 49 + p) * L + lane
    dlogits += pack * IMAGES * (10 * L) + lane + 0 * q
    for _ in range(IMAGES):
        d = ()
        for o in tl.static_range(10):
            d = d + (tl.load(dlogits + o * L),)
        new = ()
        new_totals = ()
        for c in tl.static_range(CHANNELS):
            value = tl.load(third + c * (49 * L), mask=exists, other=0.0)
            feature = tl.maximum(norms[2 * c] * value + norms[2 * c + 1], 0.0)
            gradient = d[0] * weights[c * 10]
            for o in tl.static_range(1, 10):
                gradient += d[o] * weights[c * 10 + o]
            gradient = tl.where(feature > 0, gradient, 0.0)
            tl.store(dthird + c * (49 * L), gradient, mask=exists)
            new_totals = new_totals + (totals[2 * c] + gradient,)
            new_totals = new_totals + (totals[2 * c + 1] + gradient * value,)
            for o in tl.static_range(10):
                new = new + (acc[c * 10 + o] + d[o] * feature,)
        acc = new
        totals = new_totals
        third += 588 * L
        dthird += 588 * L
        dlogits += 10 * L
    if TRAINED:
        sums += ((pack * 49 + p) * 24 + first) * L + lane
        for c in tl.static_range(CHANNELS):
            tl.store(sums + c * L, totals[2 * c], mask=exists)
            tl.store(sums + (12 + c) * L, totals[2 * c + 1], mask=exists)
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
    image, place, whole = _places(q, TILE)
    start = pack * images * (12 * 49 * L) + (image * (11 * 49) + place) * L + lane
    dthird += start
    third += start
    chain += pack * (36 * L) + lane + 0 * q
    w += pack * (72 * L) + lane + 0 * q
    acc = (tl.full((R, L), 0.0, tl.float32),) * (6 * TILE)
    for o in range(12):
        d = _through(
            dthird + o * (49 * L), third + o * (49 * L), chain + o * (3 * L), exists, TILE,
            TRAINED, L,
        )  # fmt: skip
        new = ()
        for i in tl.static_range(6):
            tap = tl.load(w + (o * 6 + i) * L)
            for c in tl.static_range(TILE):
                new = new + (acc[i * TILE + c] + tap * d[c],)
        acc = new
    start = pack * images * (6 * 49 * L) + (image * (5 * 49) + place) * L + lane
    y += start
    dy += start
    second += pack * images * (6 * 196 * L) + (image * (6 * 196) + whole) * L + lane
    sums += (pack * rows + q) * (12 * L) + lane
    for i in tl.static_range(6):
        total = tl.full((R, L), 0.0, tl.float32)
        along = tl.full((R, L), 0.0, tl.float32)
        for c in tl.static_range(TILE):
            at = (i * 49 + c) * L
            value = tl.where(tl.load(y + at, mask=exists, other=0.0) > 0, acc[i * TILE + c], 0.0)
            tl.store(dy + at, value, mask=exists)
            if WHOLE:
                output = second + (i * 196 + 2 * c) * L
                total += value
                along += value * tl.load(output, mask=exists, other=0.0)
        if WHOLE:
            tl.store(sums + i * L, total, mask=exists)
            tl.store(sums + (6 + i) * L, along, mask=exists)


@triton.jit(do_not_specialize=["images"])
def latter_weight_gradient(
    dthird, third, chain, y, sums, images,
    CHUNKS: tl.constexpr, OUTS: tl.constexpr, TILE: tl.constexpr, R: tl.constexpr, L: tl.constexpr,
):  # fmt: skip
    """Partial sums of w's gradient, (P, programs * R, 72, L): OUTS output channels a program."""
    pack, lane = tl.program_id(1).to(tl.int64), tl.arange(0, L)[None, :]
    first = tl.program_id(2) * OUTS
    chain += (pack * 12 + first) * (3 * L) + lane
    acc = (tl.full((R, L), 0.0, tl.float32),) * (OUTS * 6)
    for chunk in range(CHUNKS):
        q = (tl.program_id(0) * CHUNKS + chunk) * R + tl.arange(0, R)[:, None]
        exists = q < images * (49 // TILE)
        image, place, _ = _places(q, TILE)
        at = y + pack * images * (6 * 49 * L) + (image * (5 * 49) + place) * L + lane
        ys = ()
        for k in tl.static_range(6 * TILE):
            here = at + (k // TILE * 49 + k % TILE) * L
            ys = ys + (tl.load(here, mask=exists, other=0.0),)
        at = pack * images * (588 * L) + (image * (11 * 49) + place + first * 49) * L + lane
        at_dthird, at_third = dthird + at, third + at
        new = ()
        for o in tl.static_range(OUTS):
            at = o * (49 * L)
            tie = chain + o * (3 * L) + 0 * q
            d = _through(at_dthird + at, at_third + at, tie, exists, TILE, True, L)
            for i in tl.static_range(6):
                value = acc[o * 6 + i]
                for c in tl.static_range(TILE):
                    value += d[c] * ys[i * TILE + c]
                new = new + (value,)
        acc = new
    rows = tl.num_programs(0) * R
    q = tl.program_id(0) * R + tl.arange(0, R)[:, None]
    sums += (pack * rows + q) * (72 * L) + first * (6 * L) + lane
    for k in tl.static_range(OUTS * 6):
        tl.store(sums + k * L, acc[k])
