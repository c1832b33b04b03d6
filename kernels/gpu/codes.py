"""Codes of packed rows on the device: fields of bits read from a row's stream, codes as masks, and codes written."""

import triton
import triton.language as tl


@triton.jit
def read_field(
    row: tl.tensor, start: tl.tensor, row_bytes: tl.tensor, mask: tl.tensor, WIDTH: tl.constexpr
) -> tl.tensor:
    """Read so many bits of a row's stream, from a bit on, lowest first."""
    BYTES: tl.constexpr = WIDTH // 8 if WIDTH % 8 == 0 else (1 if 8 % WIDTH == 0 else (WIDTH + 6) // 8 + 1)
    first = start // 8
    off = start % 8
    word = (off * 0).to(tl.uint32)
    for i in tl.static_range(BYTES):
        byte = tl.load(row + first + i, mask=mask & (first + i < row_bytes), other=0).to(tl.uint32)
        if i == 0:
            word |= byte >> off.to(tl.uint32)
        elif i < 4:
            word |= byte << (8 * i - off).to(tl.uint32)
        else:
            word |= tl.where(off > 0, byte << tl.minimum(8 * i - off, 31).to(tl.uint32), 0)
    if WIDTH < 32:
        word &= (1 << WIDTH) - 1
    return word


@triton.jit
def read_masks(
    row: tl.tensor,
    group: tl.tensor,
    row_bytes: tl.tensor,
    mask: tl.tensor,
    table: tl.tensor,
    N: tl.constexpr,
    M: tl.constexpr,
    ENCODING: tl.constexpr,
    CODE_BITS: tl.constexpr,
    POSITION_BITS: tl.constexpr,
) -> tl.tensor:
    """Decode groups to words whose bit i is set where element i is kept; rows [T, 1], groups [1, G] -> uint32 [T, G]."""
    start = group * CODE_BITS
    if ENCODING == "bitmask":
        word = read_field(row, start, row_bytes, mask, M)
    elif CODE_BITS == 0:
        word = mask.to(tl.uint32) * ((1 << M) - 1)
    elif ENCODING == "index":
        word = mask.to(tl.uint32) * 0
        for i in range(N):
            position = read_field(row, start + i * POSITION_BITS, row_bytes, mask, POSITION_BITS)
            word |= (position * 0 + 1) << position
    else:
        code = read_field(row, start, row_bytes, mask, CODE_BITS)
        word = code * 0
        missing = word.to(tl.int32) + N
        for i in range(M):
            position = M - 1 - i
            below = tl.load(table + position * (N + 1) + missing).to(tl.uint32)
            taken = (missing > 0) & (code >= below)
            code -= tl.where(taken, below, 0)
            missing -= taken.to(tl.int32)
            word |= taken.to(tl.uint32) << position
    return word


@triton.jit
def store_codes(
    metadata_row: tl.tensor,
    group: tl.tensor,
    keep: tl.tensor,
    slot: tl.tensor,
    table: tl.tensor,
    first: tl.tensor,
    n_groups: tl.tensor,
    N: tl.constexpr,
    LANES: tl.constexpr,
    GROUPS: tl.constexpr,
    ENCODING: tl.constexpr,
    CODE_BITS: tl.constexpr,
    POSITION_BITS: tl.constexpr,
    UNIT_GROUPS: tl.constexpr,
) -> None:
    """Write the codes of a tile, a unit of groups that makes whole bytes after the other.

    Each kept element adds its part to the stream: a one, its position, or C(position, slot + 1).
    """
    lane = tl.arange(0, LANES)[None, :]
    start = ((group % UNIT_GROUPS) * CODE_BITS)[:, None]
    if ENCODING == "bitmask":
        field = tl.full([GROUPS, LANES], 1, tl.uint32)
        start = start + lane
    elif ENCODING == "index":
        field = (lane + 0 * slot).to(tl.uint32)
        start = start + slot * POSITION_BITS
    else:
        field = tl.load(table + lane * (N + 1) + slot + 1, mask=keep, other=0).to(tl.uint32)
        start = start + 0 * slot
    unit_bytes: tl.constexpr = UNIT_GROUPS * CODE_BITS // 8
    unit = first // UNIT_GROUPS + tl.arange(0, GROUPS // UNIT_GROUPS)
    byte = tl.arange(0, 4)[None, :]
    for chunk in range((unit_bytes + 3) // 4):
        shift = start - 32 * chunk
        upward = tl.minimum(tl.maximum(shift, 0), 31).to(tl.uint32)
        downward = tl.minimum(tl.maximum(-shift, 0), 31).to(tl.uint32)
        part = tl.where(keep & (shift < 32), (field << upward) >> downward, 0)
        word = tl.sum(part.to(tl.uint32), axis=1)
        word = tl.sum(tl.reshape(word, [GROUPS // UNIT_GROUPS, UNIT_GROUPS]), axis=1)
        tl.store(
            metadata_row + unit[:, None] * unit_bytes + 4 * chunk + byte,
            ((word[:, None] >> (8 * byte).to(tl.uint32)) & 0xFF).to(tl.uint8),
            mask=(4 * chunk + byte < unit_bytes) & (unit * UNIT_GROUPS < n_groups)[:, None],
        )
