"""Stored 16-bit values of half-dense patterns to a dense tile, in registers: for 2:4, 4:8, 8:16 and 16:32.

A thread takes a unit, 16 or 32 elements of which half are kept, as a queue of 32-bit words that hold two values each. Two
elements at a time are taken from its head, and by as many values the queue moves on: shifts and one choice, no load.
`kernels.gpu.expand` does the same for any pattern, with a load for every element.
"""

import triton
import triton.language as tl


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
    pairs_row: tl.tensor,
    word: tl.tensor,
    unit: tl.tensor,
    is_row: tl.tensor,
    n_pairs: tl.tensor,
    ROWS: tl.constexpr,
    UNITS: tl.constexpr,
    UNIT: tl.constexpr,
) -> tl.tensor:
    """Make a dense tile: rows of pairs of values int32 [R, 1], masks uint32 [R, U] -> int16 [R, U * UNIT].

    The first of the U units is `unit`. Of rows that are none, and of units beyond the `n_pairs` of a row, masks must be 0.
    """
    PAIRS: tl.constexpr = UNIT // 4
    place = unit * PAIRS + tl.arange(0, UNITS * PAIRS)[None, :]
    pairs = tl.load(pairs_row + place, mask=is_row & (place < n_pairs), other=0).to(tl.uint32, bitcast=True)
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
    # Zero, which the compiler cannot know: so it brings masks to the threads that hold the values, once, and does not
    # hand on each shift that is made of them (Triton 3.6: 30 words a unit through shared memory).
    word |= q0 & (n_pairs >> 31).to(tl.uint32)
    queue = (q0, q1, q2, q3, q4, q5, q6, q7)
    a, queue = _eight(word, queue, 0, ROWS, UNITS)
    b, queue = _eight(word, queue, 8, ROWS, UNITS)
    tile = _in_turn(a, b, ROWS, UNITS, 8)
    if UNIT == 32:
        c, queue = _eight(word, queue, 16, ROWS, UNITS)
        d, queue = _eight(word, queue, 24, ROWS, UNITS)
        tile = _in_turn(tile, _in_turn(c, d, ROWS, UNITS, 8), ROWS, UNITS, 16)
    return tl.reshape(tile, [ROWS, UNITS * UNIT])
