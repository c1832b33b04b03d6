"""Packed rows to a dense tile in registers: what decompressing and products have in common.

There are two methods. `spread` serves stored 16-bit values of 2:4, 4:8, 8:16 and 16:32. A thread takes a unit, 16 or 32
elements of which half are kept, as a queue of 32-bit words that hold two values each. Two elements at a time are taken from
its head, and the queue moves on by as many values: shifts and one choice, no load. `expanded` serves all others. Each element
loads its value from its rank, the number of kept elements before it in its group.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from kernels.gpu.bits import about, ones_of
from kernels.gpu.codes import read_field, read_masks
from kernels.stored.rows import STEP_ELEMS
from nmsim.format import SparseFormat
from nmsim.pattern import Pattern


@triton.jit
def moved(low: tl.tensor, high: tl.tensor, bits: tl.tensor) -> tl.tensor:
    """Take 32 bits of a pair of words, from one of the lowest 33 on."""
    return (((high.to(tl.uint64) << 32) | low.to(tl.uint64)) >> bits.to(tl.uint64)).to(tl.uint32)


@triton.jit
def moved_on(queue: tl.tuple, new: tl.tensor, bits: tl.tensor) -> tuple[tl.tensor, ...]:
    """Move a queue of eight words on by up to 32 bits, which a new one brings behind the last."""
    return (
        moved(queue[0], queue[1], bits),
        moved(queue[1], queue[2], bits),
        moved(queue[2], queue[3], bits),
        moved(queue[3], queue[4], bits),
        moved(queue[4], queue[5], bits),
        moved(queue[5], queue[6], bits),
        moved(queue[6], queue[7], bits),
        moved(queue[7], new, bits),
    )


@triton.jit
def _two(word: tl.tensor, queue: tl.tensor, AT: tl.constexpr) -> tl.tensor:
    """Take two elements: -> int16 [R, U, 2], and the queue that is left."""
    pairs = word - ((word >> 1) & 0x55555555)  # how many of each two are kept
    if AT < 4:
        skip, by = (word << (4 - AT)) ^ 16, pairs << (4 - AT)
    else:
        skip, by = (word >> (AT - 4)) ^ 16, pairs >> (AT - 4)
    both = queue[0] << (skip & 16)
    both = tl.where((word & (2 << AT)) != 0, both, both & 0xFFFF)
    by &= 48
    left = moved_on(queue, queue[7] * 0, by)
    return tl.join(both.to(tl.int16), (both >> 16).to(tl.int16)), left


@triton.jit
def _in_turn(
    one: tl.tensor, other: tl.tensor, ROWS: tl.constexpr, UNITS: tl.constexpr, LENGTH: tl.constexpr
) -> tl.tensor:
    """Put elements behind each other: two of [R, U, L] -> [R, U, 2 L]."""
    return tl.reshape(tl.permute(tl.join(one, other), (0, 1, 3, 2)), [ROWS, UNITS, 2 * LENGTH])


@triton.jit
def _eight(
    word: tl.tensor, queue: tl.tensor, AT: tl.constexpr, ROWS: tl.constexpr, UNITS: tl.constexpr
) -> tl.tensor:
    a, queue = _two(word, queue, AT)
    b, queue = _two(word, queue, AT + 2)
    c, queue = _two(word, queue, AT + 4)
    d, queue = _two(word, queue, AT + 6)
    ab = _in_turn(a, b, ROWS, UNITS, 2)
    cd = _in_turn(c, d, ROWS, UNITS, 2)
    return _in_turn(ab, cd, ROWS, UNITS, 4), queue


@triton.jit
def spread(
    pairs: tl.tensor, word: tl.tensor, count: tl.tensor,
    ROWS: tl.constexpr, UNITS: tl.constexpr, UNIT: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Make a dense tile: pairs of values uint32 [R, U * UNIT // 4], masks uint32 [R, U] -> int16 [R, U * UNIT].

    Masks must be 0 for missing rows and units. `count` is any number of a launch that is not negative.
    """
    PAIRS: tl.constexpr = UNIT // 4
    if PAIRS == 8:
        pairs = tl.reshape(pairs, [ROWS, UNITS, 2, 2, 2])
        even, odd = tl.split(pairs)
        q04, q26 = tl.split(even)
        q15, q37 = tl.split(odd)
        q0, q4 = tl.split(q04)
        q2, q6 = tl.split(q26)
        q1, q5 = tl.split(q15)
        q3, q7 = tl.split(q37)
    else:
        even, odd = tl.split(tl.reshape(pairs, [ROWS, UNITS, 2, 2]))
        q0, q2 = tl.split(even)
        q1, q3 = tl.split(odd)
        q4 = tl.zeros([ROWS, UNITS], tl.uint32)
        q5, q6, q7 = q4, q4, q4
    # This adds zero, which the compiler cannot know. So it brings masks once to the threads that hold the values. Else it
    # passes on each shift made of them (Triton 3.6: 30 words per unit through shared memory).
    word |= q0 & (count >> 31).to(tl.uint32)
    queue = (q0, q1, q2, q3, q4, q5, q6, q7)
    a, queue = _eight(word, queue, 0, ROWS, UNITS)
    b, queue = _eight(word, queue, 8, ROWS, UNITS)
    tile = _in_turn(a, b, ROWS, UNITS, 8)
    if UNIT == 32:
        c, queue = _eight(word, queue, 16, ROWS, UNITS)
        d, queue = _eight(word, queue, 24, ROWS, UNITS)
        tile = _in_turn(tile, _in_turn(c, d, ROWS, UNITS, 8), ROWS, UNITS, 16)
    return tl.reshape(tile, [ROWS, UNITS * UNIT])


@triton.jit
def masks_of(
    metadata_row: tl.tensor, unit: tl.tensor, row_bytes: tl.tensor, stored: tl.tensor, table: tl.tensor,
    N: tl.constexpr, M: tl.constexpr, ENCODING: tl.constexpr, CODE_BITS: tl.constexpr,
    POSITION_BITS: tl.constexpr, TOGETHER: tl.constexpr = 1,
) -> tl.tensor:  # fmt: skip
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
    values_row: tl.tensor, word: tl.tensor, group: tl.tensor,
    N: tl.constexpr, ROWS: tl.constexpr, GROUPS: tl.constexpr, LANES: tl.constexpr,
) -> tl.tensor:  # fmt: skip
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
    nibbles = (bits | (bits << 12)) & 0x000F000F
    nibbles = (nibbles | (nibbles << 6)) & 0x03030303
    nibbles = (nibbles | (nibbles << 3)) & 0x11111111
    rank = (nibbles * 0x11111111) << 4
    lane = tl.arange(0, PART).to(tl.uint32)[None, None, :]
    place = first[:, :, None] + ((rank[:, :, None] >> (4 * lane)) & 15).to(tl.int32)
    # An invalid code that keeps more than N reads values of its own group, never beyond the last.
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
    values: tl.tensor, metadata: tl.tensor, table: tl.tensor, row: tl.tensor, is_row: tl.tensor,
    step: tl.tensor, n_groups: tl.tensor, row_bytes: tl.tensor,
    N: tl.constexpr, M: tl.constexpr, LANES: tl.constexpr, GROUPS: tl.constexpr, ENCODING: tl.constexpr,
    CODE_BITS: tl.constexpr, POSITION_BITS: tl.constexpr, UNIT: tl.constexpr, ROWS: tl.constexpr,
) -> tl.tensor:  # fmt: skip
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
        n_pairs = units * (UNIT // 4)
        place = step * UNITS * (UNIT // 4) + tl.arange(0, UNITS * (UNIT // 4))[None, :]
        pairs_row = values.to(tl.pointer_type(tl.uint32)) + row * n_pairs
        pairs = tl.load(pairs_row + place, mask=is_row & (place < n_pairs), other=0)
        tile = spread(pairs, word, n_pairs, ROWS, UNITS, UNIT)
    else:
        tile = expanded(values + row * n_groups * N, word, unit, N, ROWS, GROUPS, LANES)
    return tile


def tile_constants(format: SparseFormat, k: int, dtype: torch.dtype, step_bytes: int) -> dict[str, Any]:
    """Name the constants of `dense_tile` except the rows. A step has so many bytes of a dense row."""
    codes = about(format, k)
    return codes | {
        "GROUPS": step_bytes // dtype.itemsize // codes["LANES"],
        "UNIT": unit_elems(format.pattern, dtype),
    }


def step_bytes(pattern: Pattern, dtype: torch.dtype) -> int:
    """Choose how many bytes of a dense row one step covers: with more, registers spill (sm_90)."""
    return 256 if unit_elems(pattern, dtype) else 128


def unit_elems(pattern: Pattern, dtype: torch.dtype) -> int:
    """Count the elements of a unit that is spread; 0 if values are gathered."""
    return STEP_ELEMS.get(pattern, 0) if dtype.itemsize == 2 else 0
