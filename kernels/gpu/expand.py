"""Packed rows to a dense tile in registers: what unpacking and products have in common.

Two roads. Stored 16-bit values of the four patterns that hardware is made for are spread in registers
(`kernels.gpu.spread`). For all others, an element loads its value: its rank, the number of kept ones before it in its
group, says from where.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from kernels.gpu.bits import about, ones_of
from kernels.gpu.codes import read_field, read_masks
from kernels.gpu.spread import spread
from kernels.stored.rows import STEP_ELEMS
from nmsim.pattern import Pattern


@triton.jit
def masks_of(
    metadata_row: tl.tensor,
    unit: tl.tensor,
    row_bytes: tl.tensor,
    stored: tl.tensor,
    table: tl.tensor,
    N: tl.constexpr,
    M: tl.constexpr,
    ENCODING: tl.constexpr,
    CODE_BITS: tl.constexpr,
    POSITION_BITS: tl.constexpr,
    TOGETHER: tl.constexpr = 1,
) -> tl.tensor:
    """Decode to words whose bit i is set where element i is kept; rows [R, 1], units [1, U] -> uint32 [R, U].

    A unit is TOGETHER groups. Codes that make whole machine words are read as such, for rows begin where they may be. Of
    units that are not stored nothing is kept.
    """
    WIDTH: tl.constexpr = CODE_BITS * TOGETHER
    if ENCODING == "index" and WIDTH == 80 and POSITION_BITS == 5:
        at = metadata_row.to(tl.pointer_type(tl.uint16)) + unit * 5
        low = tl.load(at, mask=stored, other=0).to(tl.uint32)
        low |= tl.load(at + 1, mask=stored, other=0).to(tl.uint32) << 16
        middle = tl.load(at + 2, mask=stored, other=0).to(tl.uint32)
        late = tl.load(at + 3, mask=stored, other=0).to(tl.uint32)
        high = late | (tl.load(at + 4, mask=stored, other=0).to(tl.uint32) << 16)
        middle |= late << 16
        word = low * 0
        for i in tl.static_range(
            N
        ):  # bits 5 i and on, of 32 from bit 0, 32 or 48 on, or on both sides of bit 32
            if i < 6:
                position = low >> (5 * i)
            elif i == 6:
                position = (low >> 30) | (middle << 2)
            elif i < 12:
                position = middle >> (5 * i - 32)
            else:
                position = high >> (5 * i - 48)
            word |= (word * 0 + 1) << (position & 31)
    elif ENCODING == "combinatorial" or WIDTH == 0 or WIDTH > 32:
        word = unit.to(tl.uint32) * 0
        for i in tl.static_range(TOGETHER):
            group = unit * TOGETHER + i
            one = read_masks(
                metadata_row, group, row_bytes, stored, table, N, M, ENCODING, CODE_BITS, POSITION_BITS
            )
            word |= one << (M * i)
    else:
        if WIDTH == 8 or WIDTH == 16 or WIDTH == 32:
            WORD: tl.constexpr = tl.uint8 if WIDTH == 8 else (tl.uint16 if WIDTH == 16 else tl.uint32)
            code = tl.load(metadata_row.to(tl.pointer_type(WORD)) + unit, mask=stored, other=0).to(tl.uint32)
        else:
            code = read_field(metadata_row, unit * WIDTH, row_bytes, stored, WIDTH)
        word = code
        if ENCODING == "index":
            word = code * 0
            for i in tl.static_range(N * TOGETHER):
                position = (code >> (i * POSITION_BITS)) & ((1 << POSITION_BITS) - 1)
                word |= (word * 0 + (1 << (i // N * M))) << position
    return tl.where(stored, word, 0)


@triton.jit
def expanded(
    values_row: tl.tensor,
    word: tl.tensor,
    group: tl.tensor,
    N: tl.constexpr,
    ROWS: tl.constexpr,
    GROUPS: tl.constexpr,
    LANES: tl.constexpr,
) -> tl.tensor:
    """Make a dense tile: rows of values [R, 1], masks uint32 [R, G], groups [1, G] -> values [R, G * LANES], or zeros.

    Ranks of up to eight neighbours come from one product: bits spread to nibbles, times 0x11111111, are running sums.
    """
    PART: tl.constexpr = min(LANES, 8)
    PARTS: tl.constexpr = LANES // PART
    first = group * N + word.to(tl.int32) * 0
    bits = word
    if PARTS > 1:
        down = (tl.arange(0, PARTS) * PART).to(tl.uint32)[None, None, :]
        ones = tl.full([1, 1, PARTS], 1, tl.uint32)
        bits = tl.reshape((word[:, :, None] >> down) & 0xFF, [ROWS, GROUPS * PARTS])
        before = ones_of(word[:, :, None] & ((ones << down) - 1))
        first = tl.reshape(first[:, :, None] + before, [ROWS, GROUPS * PARTS])
    spread = (bits | (bits << 12)) & 0x000F000F
    spread = (spread | (spread << 6)) & 0x03030303
    spread = (spread | (spread << 3)) & 0x11111111
    rank = (spread * 0x11111111) << 4
    lane = tl.arange(0, PART).to(tl.uint32)[None, None, :]
    place = first[:, :, None] + ((rank[:, :, None] >> (4 * lane)) & 15).to(tl.int32)
    # A code that is none, which keeps more than N, finds values of its own group, none beyond the last.
    last = tl.reshape(
        (group * N + (N - 1))[:, :, None] + tl.zeros([1, 1, PARTS], tl.int32), [1, GROUPS * PARTS]
    )
    place = tl.minimum(place, last[:, :, None])
    kept = ((bits[:, :, None] >> lane) & 1) != 0
    place = tl.reshape(place, [ROWS, GROUPS * LANES])
    return tl.load(values_row + place, mask=tl.reshape(kept, [ROWS, GROUPS * LANES]), other=0)


@triton.jit
def columns(first: tl.tensor, M: tl.constexpr, GROUPS: tl.constexpr, LANES: tl.constexpr) -> tl.tensor:
    """Say where the elements of a tile belong, from a group on: int32 [G * LANES], -1 for lanes beyond M."""
    element = tl.arange(0, GROUPS * LANES)
    column = first * M + element  # in a form in which the compiler sees neighbours
    if LANES != M:
        column = tl.where(element % LANES < M, (first + element // LANES) * M + element % LANES, -1)
    return column


@triton.jit
def dense_tile(
    values: tl.tensor,
    metadata: tl.tensor,
    table: tl.tensor,
    row: tl.tensor,
    is_row: tl.tensor,
    step: tl.tensor,
    n_groups: tl.tensor,
    row_bytes: tl.tensor,
    N: tl.constexpr,
    M: tl.constexpr,
    LANES: tl.constexpr,
    GROUPS: tl.constexpr,
    ENCODING: tl.constexpr,
    CODE_BITS: tl.constexpr,
    POSITION_BITS: tl.constexpr,
    UNIT: tl.constexpr,
    ROWS: tl.constexpr,
) -> tl.tensor:
    """Make a dense tile of rows [R] in GROUPS groups, as bits: -> [R, G * LANES], zeros beyond what is stored."""
    row = row.to(tl.int64)[:, None]
    is_row = is_row[:, None]
    TOGETHER: tl.constexpr = UNIT // M if UNIT > 0 else 1
    UNITS: tl.constexpr = GROUPS // TOGETHER
    unit = (step * UNITS + tl.arange(0, UNITS))[None, :]
    units = n_groups // TOGETHER
    word = masks_of(
        metadata + row * row_bytes, unit, row_bytes, is_row & (unit < units), table,
        N, M, ENCODING, CODE_BITS, POSITION_BITS, TOGETHER,
    )  # fmt: skip
    if UNIT > 0:
        pairs = units * (UNIT // 4)
        pairs_row = values.to(tl.pointer_type(tl.int32)) + row * pairs
        tile = spread(pairs_row, word, step * UNITS, is_row, pairs, ROWS, UNITS, UNIT)
    else:
        tile = expanded(values + row * n_groups * N, word, unit, N, ROWS, GROUPS, LANES)
    return tile


def tile_constants(
    pattern: Pattern, encoding: str, k: int, dtype: torch.dtype, step_bytes: int
) -> dict[str, Any]:
    """Name the constants of `dense_tile`, with steps of so many bytes of a row, were it dense; but for the rows."""
    codes = about(pattern, encoding, k)
    return codes | {
        "GROUPS": step_bytes // dtype.itemsize // codes["LANES"],
        "UNIT": unit_elems(pattern, dtype),
    }


def step_bytes(pattern: Pattern, dtype: torch.dtype) -> int:
    """Choose how many bytes a row of a product's step would have, were it dense: with more, registers spill (sm_90)."""
    return 256 if unit_elems(pattern, dtype) else 128


def unit_elems(pattern: Pattern, dtype: torch.dtype) -> int:
    """Count the elements of a unit that is spread; 0 where values are gathered."""
    return STEP_ELEMS.get(pattern, 0) if dtype.itemsize == 2 else 0
