"""3x3 convolutions between 14 x 14 maps, zero-padded, and their gradients.

With STEP 2 only every other row and column of the output is computed: the 7 x 7 positions that
the latter block reads. x is taken as relu(scale * x + shift) where AFFINE, the batch norm and ReLU
before the convolution. The gradient d of a convolution's output is that of the batch norm after
it, d = slope * g + along * output + constant; without TRAINED, along and constant are zero. With
SPARSE, g is known at the 7 x 7 positions, and zero elsewhere.
"""

import triton
import triton.language as tl


@triton.jit
def _places(block, images, STEP: tl.constexpr, TILE: tl.constexpr, R: tl.constexpr):
    """Row number, whether it exists, image, and where its first position lies in a 14 x 14 map."""
    ROWS: tl.constexpr = 14 // STEP
    SEGMENTS: tl.constexpr = ROWS // TILE
    q = block * R + tl.arange(0, R)[:, None]
    image = q // (ROWS * SEGMENTS)
    return q, image < images, image, q // SEGMENTS % ROWS * STEP, q % SEGMENTS * (TILE * STEP)


@triton.jit
def _window(
    x, norm, there, column,
    FIRST: tl.constexpr, LAST: tl.constexpr, WIDTH: tl.constexpr, STEP: tl.constexpr,
    AFFINE: tl.constexpr, L: tl.constexpr,
):  # fmt: skip
    """The FIRST-th to LAST-th of the WIDTH values at x, zero outside the map."""
    if AFFINE:  # zero for rows outside, which makes their values zero
        scale = tl.load(norm, mask=there, other=0.0)
        shift = tl.load(norm + L, mask=there, other=0.0)
    values = ()
    for j in tl.static_range(FIRST, LAST):
        inside = there
        if j == 0:
            inside = there & (column > 0)
        if j == WIDTH - 1 and FIRST == 0 and STEP == 1:
            inside = there & (column + (WIDTH - 2) < 14)
        value = tl.load(x + j * L, mask=inside, other=0.0)
        if AFFINE:
            value = tl.maximum(scale * value + shift, 0.0)
            if FIRST == 0:
                value = tl.where(inside, value, 0.0)
        values = values + (value,)
    return values


@triton.jit
def _gradient(
    g, x, chain, there, even, column,
    FIRST: tl.constexpr, LAST: tl.constexpr, WIDTH: tl.constexpr, BEFORE: tl.constexpr,
    SPARSE: tl.constexpr, TRAINED: tl.constexpr, L: tl.constexpr,
):  # fmt: skip
    """d at FIRST to LAST of the columns that begin BEFORE an even one; `even` tells of its row."""
    slope = tl.load(chain, mask=there, other=0.0)
    if TRAINED:
        along = tl.load(chain + L, mask=there, other=0.0)
        constant = tl.load(chain + 2 * L, mask=there, other=0.0)
    values = ()
    for j in tl.static_range(FIRST, LAST):
        inside = there
        if j == 0 and BEFORE == 1:
            inside = there & (column > 0)
        if j == WIDTH - 1 and FIRST == 0 and BEFORE == 1:
            inside = there & (column + (WIDTH - 2) < 14)
        value = tl.full(slope.shape, 0.0, tl.float32)
        if TRAINED:
            value = along * tl.load(x + j * L, mask=inside, other=0.0) + constant
            if BEFORE == 1 and FIRST == 0:
                value = tl.where(inside, value, 0.0)
        if not SPARSE:
            value += slope * tl.load(g + j * L, mask=inside, other=0.0)
        elif (j - BEFORE) % 2 == 0:
            at = g + (j - BEFORE) // 2 * L
            value += slope * tl.load(at, mask=inside & even, other=0.0)
        values = values + (value,)
    return values


@triton.jit(do_not_specialize=["images"])
def convolve(
    x, w, norm, out, sums, images,
    IN: tl.constexpr, OUT: tl.constexpr, STEP: tl.constexpr, TILE: tl.constexpr,
    AFFINE: tl.constexpr, SUMS: tl.constexpr, R: tl.constexpr, L: tl.constexpr,
):  # fmt: skip
    """out (P, images, OUT, (14 / STEP)^2, L), and with SUMS each row's sums of out and out^2."""
    AREA: tl.constexpr = (14 // STEP) * (14 // STEP)
    WIDTH: tl.constexpr = STEP * (TILE - 1) + 3
    WHOLE: tl.constexpr = STEP * TILE == 14  # a tile is a whole row: its borders are known
    FIRST: tl.constexpr = 1 if WHOLE else 0
    LAST: tl.constexpr = WIDTH - 1 if WHOLE and STEP == 1 else WIDTH
    pack, lane = tl.program_id(1).to(tl.int64), tl.arange(0, L)[None, :]
    q, exists, image, row, column = _places(tl.program_id(0), images, STEP, TILE, R)
    x += pack * images * (IN * 196 * L)
    x += (image * (IN * 196) + (row - 1) * 14 + column - 1) * L + lane
    w += pack * (OUT * IN * 9 * L) + lane + 0 * q
    norm += pack * (IN * 2 * L) + lane + 0 * q
    zero = tl.full((R, L), 0.0, tl.float32)
    acc = (zero,) * (OUT * TILE)
    for i in range(IN):
        for kh in range(3):
            there = exists & (row + kh >= 1) & (row + kh <= 14)
            source = x + (i * 196 + kh * 14) * L
            values = _window(
                source, norm + i * (2 * L), there, column, FIRST, LAST, WIDTH, STEP, AFFINE, L
            )
            new = ()
            for o in tl.static_range(OUT):
                taps = w + (o * IN * 9 + i * 9 + kh * 3) * L
                taps = (tl.load(taps), tl.load(taps + L), tl.load(taps + 2 * L))
                for c in tl.static_range(TILE):
                    value = acc[o * TILE + c]
                    for kw in tl.static_range(3):
                        if c * STEP + kw >= FIRST and c * STEP + kw < LAST:
                            value += taps[kw] * values[c * STEP + kw - FIRST]
                    new = new + (value,)
            acc = new
    out += pack * images * (OUT * AREA * L) + (image * ((OUT - 1) * AREA) + q * TILE) * L + lane
    sums += pack * images * (AREA // TILE * 2 * OUT * L) + q * (2 * OUT * L) + lane
    for o in tl.static_range(OUT):
        total, squares = zero, zero
        for c in tl.static_range(TILE):
            value = acc[o * TILE + c]
            tl.store(out + (o * AREA + c) * L, value, mask=exists)
            total += value
            squares += value * value
        if SUMS:
            tl.store(sums + o * L, total, mask=exists)
            tl.store(sums + (OUT + o) * L, squares, mask=exists)


@triton.jit(do_not_specialize=["images"])
def input_gradient(
    g, x, chain, w, gate, gate_norm, skip, out, sums, images,
    IN: tl.constexpr, OUT: tl.constexpr, TILE: tl.constexpr, SPARSE: tl.constexpr,
    TRAINED: tl.constexpr, SKIP: tl.constexpr, R: tl.constexpr, L: tl.constexpr,
):  # fmt: skip
    """The gradient before the ReLU that the convolution reads, (P, images, IN, 196, L).

    x is the convolution's output; `gate` (with gate_norm) what went through that ReLU. With SKIP,
    `skip` (P, images, IN, 49, L) is a further gradient after the ReLU. Each row's sums of the
    result and of the result times `gate` go to `sums`. TILE is even.
    """
    WIDTH: tl.constexpr = TILE + 2
    FIRST: tl.constexpr = 1 if TILE == 14 else 0
    LAST: tl.constexpr = WIDTH - FIRST
    DENSE: tl.constexpr = TRAINED or not SPARSE
    pack, lane = tl.program_id(1).to(tl.int64), tl.arange(0, L)[None, :]
    q, exists, image, row, column = _places(tl.program_id(0), images, 1, TILE, R)
    AREA: tl.constexpr = 49 if SPARSE else 196
    g += pack * images * (OUT * AREA * L) + image * (OUT * AREA * L) + lane
    x += pack * images * (OUT * 196 * L)
    x += (image * (OUT * 196) + (row - 1) * 14 + column - 1) * L + lane
    w += pack * (OUT * IN * 9 * L) + lane + 0 * q
    chain += pack * (OUT * 3 * L) + lane + 0 * q
    zero = tl.full((R, L), 0.0, tl.float32)
    acc = (zero,) * (IN * TILE)
    for o in range(OUT):
        for kh in range(3):
            at = row + kh - 1
            there = exists & (at >= 0) & (at < 14)
            if SPARSE:
                source = g + (o * 49 + at // 2 * 7 + column // 2) * L
            else:
                source = g + (o * 196 + at * 14 + column - 1) * L
            values = _gradient(
                source, x + (o * 196 + kh * 14) * L, chain + o * (3 * L),
                there, at % 2 == 0, column, FIRST, LAST, WIDTH, 1, SPARSE, TRAINED, L,
            )  # fmt: skip
            new = ()
            for i in tl.static_range(IN):
                taps = w + (o * IN * 9 + i * 9 + (2 - kh) * 3) * L
                taps = (tl.load(taps + 2 * L), tl.load(taps + L), tl.load(taps))
                for c in tl.static_range(TILE):
                    value = acc[i * TILE + c]
                    for kw in tl.static_range(3):
                        if c + kw >= FIRST and c + kw < LAST and (DENSE or (c + kw) % 2 == 1):
                            value += taps[kw] * values[c + kw - FIRST]
                    new = new + (value,)
            acc = new
    place = pack * images * (IN * 196 * L) + (image * ((IN - 1) * 196) + q * TILE) * L + lane
    gate += place
    out += place
    gate_norm += pack * (IN * 2 * L) + lane + 0 * q
    skip += pack * images * (IN * 49 * L)
    skip += (image * (IN * 49) + row // 2 * 7 + column // 2) * L + lane
    sums += pack * images * (196 // TILE * 2 * IN * L) + q * (2 * IN * L) + lane
    for i in tl.static_range(IN):
        scale, shift = tl.load(gate_norm + 2 * i * L), tl.load(gate_norm + (2 * i + 1) * L)
        total, along = zero, zero
        for c in tl.static_range(TILE):
            value = acc[i * TILE + c]
            if SKIP and c % 2 == 0:
                further = skip + (i * 49 + c // 2) * L
                value += tl.load(further, mask=exists & (row % 2 == 0), other=0.0)
            before = tl.load(gate + (i * 196 + c) * L, mask=exists, other=0.0)
            value = tl.where(scale * before + shift > 0, value, 0.0)
            tl.store(out + (i * 196 + c) * L, value, mask=exists)
            total += value
            along += value * before
        tl.store(sums + i * L, total, mask=exists)
        tl.store(sums + (IN + i) * L, along, mask=exists)


@triton.jit(do_not_specialize=["images"])
def weight_gradient(
    x, norm, g, output, chain, sums, images,
    CHUNKS: tl.constexpr, IN: tl.constexpr, OUT: tl.constexpr, STEP: tl.constexpr,
    TILE: tl.constexpr, AFFINE: tl.constexpr, SPARSE: tl.constexpr, TRAINED: tl.constexpr,
    R: tl.constexpr, L: tl.constexpr,
):  # fmt: skip
    """Partial sums of w's gradient, (P, programs * R, OUT * IN * 9, L): one input channel each.

    A program goes through CHUNKS blocks of rows. With STEP 2 the gradient is that of the 7 x 7
    positions alone; with STEP 1, TILE is even.
    """
    WIDTH: tl.constexpr = STEP * (TILE - 1) + 3
    WHOLE: tl.constexpr = STEP * TILE == 14
    FIRST: tl.constexpr = 1 if WHOLE else 0
    LAST: tl.constexpr = WIDTH - 1 if WHOLE and STEP == 1 else WIDTH
    COUNT: tl.constexpr = LAST - FIRST
    AREA: tl.constexpr = 49 if SPARSE else 196
    pack, i, lane = tl.program_id(1).to(tl.int64), tl.program_id(2), tl.arange(0, L)[None, :]
    x += pack * images * (IN * 196 * L) + i * (196 * L) + lane
    g += pack * images * (OUT * AREA * L) + lane
    output += pack * images * (OUT * 196 * L) + lane
    norm += (pack * IN + i) * (2 * L) + lane
    chain += pack * (OUT * 3 * L) + lane
    zero = tl.full((R, L), 0.0, tl.float32)
    acc = (zero,) * (OUT * 9)
    for chunk in range(CHUNKS):
        block = tl.program_id(0) * CHUNKS + chunk
        q, exists, image, row, column = _places(block, images, STEP, TILE, R)
        values = ()
        for kh in tl.static_range(3):
            there = exists & (row + kh >= 1) & (row + kh <= 14)
            source = x + (image * (IN * 196) + (row + kh - 1) * 14 + column - 1) * L
            values = values + _window(
                source, norm + 0 * q, there, column, FIRST, LAST, WIDTH, STEP, AFFINE, L
            )
        place = image * (OUT * 196) + row * 14 + column
        read = place
        if SPARSE:
            read = image * (OUT * 49) + row // 2 * 7 + column // 2
        at_g, at_output, at_chain = g + read * L, output + place * L, chain + 0 * q
        new = ()
        for o in tl.static_range(OUT):
            d = _gradient(
                at_g + o * (AREA * L), at_output + o * (196 * L), at_chain + o * (3 * L),
                exists, row % 2 == 0, column,
                0, TILE, TILE, 0, SPARSE and STEP == 1, TRAINED, L,
            )  # fmt: skip
            for k in tl.static_range(9):
                value = acc[o * 9 + k]
                for c in tl.static_range(TILE):
                    if c * STEP + k % 3 >= FIRST and c * STEP + k % 3 < LAST:
                        value += d[c] * values[k // 3 * COUNT + c * STEP + k % 3 - FIRST]
                new = new + (value,)
        acc = new
    rows = tl.num_programs(0) * R
    q = tl.program_id(0) * R + tl.arange(0, R)[:, None]
    sums += (pack * rows + q) * (OUT * IN * 9 * L) + i * (9 * L) + lane
    for o in tl.static_range(OUT):
        for k in tl.static_range(9):
            tl.store(sums + (o * IN * 9 + k) * L, acc[o * 9 + k])
