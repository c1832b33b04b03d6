"""Elements of a unit scored, chosen and moved together, in the registers of one thread: for 2:4, 4:8, 8:16 and 16:32.

A thread takes a unit, 16 or 32 elements. Halves of a group are sorted by Batcher's odd-even merges, which need no branch and
no other thread. The N-th largest rank of the group is then the least of N maxima, and every rank not below it is kept.
Scores may be equal: if more than N ranks are not below the least one, those equal to it are kept from the first on.

Kept values enter a queue of 32-bit words from above, two elements at a time. As half of all are kept, the queue is full at
the end of the unit. Positions, fields of fewer bits, pass through a queue of their own.

Source
------
K. E. Batcher, Sorting networks and their applications, AFIPS Spring Joint Computer Conference 1968.
"""

from typing import Any

import triton
import triton.language as tl
from triton.runtime.jit import constexpr_function

from kernels.gpu.bits import as_bits, as_float, ones_of
from kernels.gpu.expand import moved_on


@triton.jit
def scored(
    x_row: tl.tensor, vector: tl.tensor, shift: tl.tensor, eta: tl.tensor, column: tl.tensor,
    inside: tl.tensor, lane: tl.tensor,
    KIND: tl.constexpr, SHIFT: tl.constexpr, HAS_VECTOR: tl.constexpr, UNIQUE: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:  # fmt: skip
    """Read elements: -> shifted, in float32; the bits to store; a rank. Beyond the row's end ranks are below all inside.

    Ranks of a group differ if they are to be UNIQUE, and if nothing is computed from 16-bit values. Else equal scores have
    equal ranks.
    """
    raw = tl.load(x_row + column, mask=inside, other=0)
    number = as_float(raw, KIND)
    if SHIFT == "vector":
        number = tl.where(inside, number - tl.load(shift + column, mask=inside, other=0), 0.0)
    elif SHIFT != "none":
        number = tl.where(inside, number - eta, 0.0)

    SCORED: tl.constexpr = SHIFT != "none" or HAS_VECTOR or KIND == "float32"
    if not SCORED:
        # Fifteen bits of magnitude on top of a lane's six: few operations, and they fit 32 bits.
        rank = ((raw.to(tl.int32) << 16) & 0x7FFF0000) | (63 - lane)
    else:
        if SHIFT == "none" and not HAS_VECTOR:
            magnitude = raw & 0x7FFFFFFF
        else:
            score = number
            if HAS_VECTOR:
                score = number * tl.load(vector + column, mask=inside, other=0)
            magnitude = score.to(tl.int32, bitcast=True) & 0x7FFFFFFF
            magnitude = tl.where(score != score, 0x7FFFFFFF, magnitude)
        rank = (magnitude.to(tl.int64) << 6) | (63 - lane) if UNIQUE else magnitude
    rank = tl.where(inside, rank, 31 - lane if UNIQUE or not SCORED else -1)
    stored = raw if SHIFT == "none" else as_bits(number, KIND)
    return number, stored, rank


@triton.jit
def eight(tile: tl.tensor, LINES: tl.constexpr) -> tuple[tl.tensor, ...]:
    """Take eight columns apart: [L, 8] -> eight of [L]."""
    even, odd = tl.split(tl.reshape(tile, [LINES, 2, 2, 2]))
    a04, a26 = tl.split(even)
    a15, a37 = tl.split(odd)
    a0, a4 = tl.split(a04)
    a2, a6 = tl.split(a26)
    a1, a5 = tl.split(a15)
    a3, a7 = tl.split(a37)
    return a0, a1, a2, a3, a4, a5, a6, a7


@triton.jit
def most(a: tl.tensor, b: tl.tensor) -> tl.tensor:
    """Take the greater rank; of words of uint32, the greater of each of their two 16-bit ranks."""
    if a.dtype == tl.uint32:
        greater = tl.inline_asm_elementwise(
            "max.u16x2 $0, $1, $2;", "=r,r,r", [a, b], dtype=tl.uint32, is_pure=True, pack=1
        )
    else:
        greater = tl.maximum(a, b)
    return greater


@triton.jit
def lesser(a: tl.tensor, b: tl.tensor) -> tl.tensor:
    """Take the lesser rank, as `most` takes the greater."""
    if a.dtype == tl.uint32:
        smaller = tl.inline_asm_elementwise(
            "min.u16x2 $0, $1, $2;", "=r,r,r", [a, b], dtype=tl.uint32, is_pure=True, pack=1
        )
    else:
        smaller = tl.minimum(a, b)
    return smaller


@triton.jit
def _merge_2(a: tl.tuple, b: tl.tuple) -> tuple[tl.tensor, ...]:
    """Merge two falling pairs."""
    low = lesser(a[0], b[0])
    high = most(a[1], b[1])
    return most(a[0], b[0]), most(low, high), lesser(low, high), lesser(a[1], b[1])


@triton.jit
def _merge_4(a: tl.tuple, b: tl.tuple) -> tuple[tl.tensor, ...]:
    """Merge two falling rows of four."""
    e = _merge_2((a[0], a[2]), (b[0], b[2]))
    o = _merge_2((a[1], a[3]), (b[1], b[3]))
    return (
        e[0], most(o[0], e[1]), lesser(o[0], e[1]), most(o[1], e[2]), lesser(o[1], e[2]),
        most(o[2], e[3]), lesser(o[2], e[3]), o[3],
    )  # fmt: skip


@triton.jit
def merge_8(a: tl.tuple, b: tl.tuple) -> tuple[tl.tensor, ...]:
    """Merge two falling rows of eight."""
    e = _merge_4((a[0], a[2], a[4], a[6]), (b[0], b[2], b[4], b[6]))
    o = _merge_4((a[1], a[3], a[5], a[7]), (b[1], b[3], b[5], b[7]))
    return (
        e[0], most(o[0], e[1]), lesser(o[0], e[1]), most(o[1], e[2]), lesser(o[1], e[2]),
        most(o[2], e[3]), lesser(o[2], e[3]), most(o[3], e[4]), lesser(o[3], e[4]),
        most(o[4], e[5]), lesser(o[4], e[5]), most(o[5], e[6]), lesser(o[5], e[6]),
        most(o[6], e[7]), lesser(o[6], e[7]), o[7],
    )  # fmt: skip


@triton.jit
def sorted_4(a: tl.tensor, b: tl.tensor, c: tl.tensor, d: tl.tensor) -> Any:
    """Sort four ranks, the greatest first."""
    return _merge_2((most(a, b), lesser(a, b)), (most(c, d), lesser(c, d)))


@triton.jit
def sorted_8(
    a: tl.tensor, b: tl.tensor, c: tl.tensor, d: tl.tensor,
    e: tl.tensor, f: tl.tensor, g: tl.tensor, h: tl.tensor,
) -> Any:  # fmt: skip
    """Sort eight ranks, the greatest first."""
    return _merge_4(sorted_4(a, b, c, d), sorted_4(e, f, g, h))


@triton.jit
def _nth(a: tl.tuple, b: tl.tuple, N: tl.constexpr) -> tl.tensor:
    """Find the N-th largest of two falling rows of N."""
    least = most(a[0], b[N - 1])
    for i in tl.static_range(1, N):
        least = lesser(least, most(a[i], b[N - 1 - i]))
    return least


@triton.jit
def _kept(
    ranks: tl.tuple, least: tl.tensor, FIRST: tl.constexpr, COUNT: tl.constexpr, TIES: tl.constexpr
) -> tl.tensor:
    """Set bit i where rank i is not below the least one, or where it is that one, of so many from one on."""
    word = least.to(tl.uint32) * 0
    for i in tl.static_range(COUNT):
        rank = ranks[FIRST + i]
        word |= (rank == least if TIES else rank >= least).to(tl.uint32) << (FIRST + i)
    return word


@triton.jit
def _eight_chosen(a: tl.tuple, M: tl.constexpr, TIES: tl.constexpr) -> tl.tensor:
    """Choose half of each group of four, or of one of eight."""
    if M == 4:
        x = _nth(
            (most(a[0], a[1]), lesser(a[0], a[1])),
            (most(a[2], a[3]), lesser(a[2], a[3])),
            2,
        )
        y = _nth(
            (most(a[4], a[5]), lesser(a[4], a[5])),
            (most(a[6], a[7]), lesser(a[6], a[7])),
            2,
        )
        word = _kept(a, x, 0, 4, TIES) | _kept(a, y, 4, 4, TIES)
    else:
        least = _nth(sorted_4(a[0], a[1], a[2], a[3]), sorted_4(a[4], a[5], a[6], a[7]), 4)
        word = _kept(a, least, 0, 8, TIES)
    return word


@triton.jit
def chosen_16(a: tl.tuple, b: tl.tuple, M: tl.constexpr, TIES: tl.constexpr = False) -> tl.tensor:
    """Choose among 16 ranks, twice eight, those not below the largest half's least in each group: uint32 [L], a bit each.

    If no two are equal, these are half. With TIES, choose those that are that least one.
    """
    if M == 16:
        least = _nth(sorted_8(*a), sorted_8(*b), 8)
        word = _kept(a, least, 0, 8, TIES) | (_kept(b, least, 0, 8, TIES) << 8)
    else:
        word = _eight_chosen(a, M, TIES) | (_eight_chosen(b, M, TIES) << 8)
    return word


@triton.jit
def chosen_32(a: tl.tuple, b: tl.tuple, c: tl.tuple, d: tl.tuple, TIES: tl.constexpr = False) -> tl.tensor:
    """Choose among 32 ranks, four times eight, as `chosen_16` does in groups of 32."""
    least = _nth(merge_8(sorted_8(*a), sorted_8(*b)), merge_8(sorted_8(*c), sorted_8(*d)), 16)
    low = _kept(a, least, 0, 8, TIES) | (_kept(b, least, 0, 8, TIES) << 8)
    return low | (_kept(c, least, 0, 8, TIES) << 16) | (_kept(d, least, 0, 8, TIES) << 24)


@triton.jit
def filled(
    word: tl.tensor, free: tl.tensor, N: tl.constexpr, M: tl.constexpr, UNIT: tl.constexpr
) -> tuple[tl.tensor, tl.tensor]:
    """Add the lowest free elements to groups that keep fewer than N: -> masks, and the most that a group kept before."""
    FULL: tl.constexpr = 0xFFFFFFFF if M == 32 else (1 << M) - 1
    found = word * 0
    most = ones_of(found)
    for group in tl.static_range(UNIT // M):
        kept = (word >> (group * M)) & FULL
        left = (free >> (group * M)) & FULL
        count = ones_of(kept)
        most = tl.maximum(most, count)
        for i in tl.static_range(N):
            lowest = left & (0 - left)
            kept |= tl.where(count + i < N, lowest, 0)
            left ^= lowest
        found |= kept << (group * M)
    return found, most


@constexpr_function
def _assembles() -> bool:
    return not triton.knobs.runtime.interpret


@triton.jit
def four_pairs(raw: tl.tensor, LINES: tl.constexpr) -> tuple[tl.tensor, ...]:
    """Take eight 16-bit columns apart by twos: int16 [L, 8] -> four of uint32 [L]."""
    even, odd = tl.split(tl.reshape(raw, [LINES, 4, 2]))
    if _assembles():
        # Two elements that were loaded as one word: the compiler sees that they are one, as it does not in shifts.
        both = tl.inline_asm_elementwise(
            "mov.b32 $0, {$1, $2};", "=r,h,h", [even, odd], dtype=tl.uint32, is_pure=True, pack=1
        )
    else:
        both = (even.to(tl.uint32) & 0xFFFF) | (odd.to(tl.uint32) << 16)
    even, odd = tl.split(tl.reshape(both, [LINES, 2, 2]))
    a, c = tl.split(even)
    b, d = tl.split(odd)
    return a, b, c, d


@triton.jit
def _counts(word: tl.tensor) -> tl.tensor:
    """Count the ones of each two bits."""
    return word - ((word >> 1) & 0x55555555)


@triton.jit
def _two(pair: tl.tensor, word: tl.tensor, counts: tl.tensor, queue: tl.tuple, AT: tl.constexpr) -> Any:
    """Let two values in, of which two bits of a word say which."""
    if AT < 4:
        by, skip = counts << (4 - AT), word << (4 - AT)
    else:
        by, skip = counts >> (AT - 4), word >> (AT - 4)
    return moved_on(queue, pair >> ((skip & 16) ^ 16), by & 48)


@triton.jit
def _eight(pairs: tl.tuple, word: tl.tensor, counts: tl.tensor, queue: tl.tuple, AT: tl.constexpr) -> Any:
    """Let eight values in, of which eight bits of a word say which."""
    queue = _two(pairs[0], word, counts, queue, AT)
    queue = _two(pairs[1], word, counts, queue, AT + 2)
    queue = _two(pairs[2], word, counts, queue, AT + 4)
    return _two(pairs[3], word, counts, queue, AT + 6)


@triton.jit
def squeezed_16(a: tl.tuple, b: tl.tuple, word: tl.tensor, LINES: tl.constexpr) -> tl.tensor:
    """Keep the values of set bits, 8 of 16: twice four pairs and uint32 [L] -> pairs of values uint32 [L, 4]."""
    none, counts = word * 0, _counts(word)
    queue = (none, none, none, none, none, none, none, none)
    queue = _eight(b, word, counts, _eight(a, word, counts, queue, 0), 8)
    return tl.reshape(tl.join(tl.join(queue[4], queue[6]), tl.join(queue[5], queue[7])), [LINES, 4])


@triton.jit
def squeezed_32(
    a: tl.tuple, b: tl.tuple, c: tl.tuple, d: tl.tuple, word: tl.tensor, LINES: tl.constexpr
) -> tl.tensor:
    """Keep the values of set bits, 16 of 32: four times four pairs and uint32 [L] -> pairs of values uint32 [L, 8]."""
    none, counts = word * 0, _counts(word)
    queue = (none, none, none, none, none, none, none, none)
    queue = _eight(b, word, counts, _eight(a, word, counts, queue, 0), 8)
    queue = _eight(d, word, counts, _eight(c, word, counts, queue, 16), 24)
    even = tl.join(tl.join(queue[0], queue[4]), tl.join(queue[2], queue[6]))
    odd = tl.join(tl.join(queue[1], queue[5]), tl.join(queue[3], queue[7]))
    return tl.reshape(tl.join(even, odd), [LINES, 8])


@triton.jit
def squeezed_positions(
    word: tl.tensor, M: tl.constexpr, UNIT: tl.constexpr, BITS: tl.constexpr
) -> tuple[tl.tensor, ...]:
    """Find where in its group each kept element of a unit is: fields of so many bits, the first lowest, in three words.

    The fields end with the last word: of three words, those of `UNIT // 2 * BITS` bits are the highest.
    """
    none, counts = word * 0, _counts(word)
    queue = (none, none, none, none, none, none, none, none)
    for i in tl.static_range(UNIT // 2):
        # Both positions, or the second one alone: a product, since shifts are what the loop has too many of.
        second = 2 * i % M + 1
        new = ((word >> (2 * i)) & 1) * (second - 1 + (second << BITS) - second) + second
        queue = moved_on(queue, new, ((counts >> (2 * i)) & 3) * BITS)
    return queue[5], queue[6], queue[7]
