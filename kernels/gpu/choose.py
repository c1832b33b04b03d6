"""The N largest of every M = 2 N ranks, chosen in registers: for 2:4, 4:8, 8:16 and 16:32.

A thread takes a unit, 16 or 32 elements. Halves of a group are sorted by Batcher's odd-even merges, which need no branch and
no other thread; the N-th largest rank of the group is then the least of N maxima, and what is not below it is kept.
Scores may be equal; where more than N are not below the least one, those equal to it are kept from the first on.

Source
------
K. E. Batcher, Sorting networks and their applications, AFIPS Spring Joint Computer Conference 1968.
"""

from typing import Any

import triton
import triton.language as tl

from kernels.gpu.bits import ones_of


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
def _merge_2(a: tl.tuple, b: tl.tuple) -> tuple[tl.tensor, ...]:
    """Merge two falling pairs."""
    low = tl.minimum(a[0], b[0])
    high = tl.maximum(a[1], b[1])
    return tl.maximum(a[0], b[0]), tl.maximum(low, high), tl.minimum(low, high), tl.minimum(a[1], b[1])


@triton.jit
def _merge_4(a: tl.tuple, b: tl.tuple) -> tuple[tl.tensor, ...]:
    """Merge two falling rows of four."""
    e = _merge_2((a[0], a[2]), (b[0], b[2]))
    o = _merge_2((a[1], a[3]), (b[1], b[3]))
    return (
        e[0], tl.maximum(o[0], e[1]), tl.minimum(o[0], e[1]), tl.maximum(o[1], e[2]), tl.minimum(o[1], e[2]),
        tl.maximum(o[2], e[3]), tl.minimum(o[2], e[3]), o[3],
    )  # fmt: skip


@triton.jit
def _merge_8(a: tl.tuple, b: tl.tuple) -> tuple[tl.tensor, ...]:
    """Merge two falling rows of eight."""
    e = _merge_4((a[0], a[2], a[4], a[6]), (b[0], b[2], b[4], b[6]))
    o = _merge_4((a[1], a[3], a[5], a[7]), (b[1], b[3], b[5], b[7]))
    return (
        e[0], tl.maximum(o[0], e[1]), tl.minimum(o[0], e[1]), tl.maximum(o[1], e[2]), tl.minimum(o[1], e[2]),
        tl.maximum(o[2], e[3]), tl.minimum(o[2], e[3]), tl.maximum(o[3], e[4]), tl.minimum(o[3], e[4]),
        tl.maximum(o[4], e[5]), tl.minimum(o[4], e[5]), tl.maximum(o[5], e[6]), tl.minimum(o[5], e[6]),
        tl.maximum(o[6], e[7]), tl.minimum(o[6], e[7]), o[7],
    )  # fmt: skip


@triton.jit
def _sorted_4(a: tl.tensor, b: tl.tensor, c: tl.tensor, d: tl.tensor) -> Any:
    return _merge_2((tl.maximum(a, b), tl.minimum(a, b)), (tl.maximum(c, d), tl.minimum(c, d)))


@triton.jit
def _sorted_8(a: tl.tuple) -> Any:
    return _merge_4(_sorted_4(a[0], a[1], a[2], a[3]), _sorted_4(a[4], a[5], a[6], a[7]))


@triton.jit
def _nth(a: tl.tuple, b: tl.tuple, N: tl.constexpr) -> tl.tensor:
    """Find the N-th largest of two falling rows of N."""
    least = tl.maximum(a[0], b[N - 1])
    for i in tl.static_range(1, N):
        least = tl.minimum(least, tl.maximum(a[i], b[N - 1 - i]))
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
            (tl.maximum(a[0], a[1]), tl.minimum(a[0], a[1])),
            (tl.maximum(a[2], a[3]), tl.minimum(a[2], a[3])),
            2,
        )
        y = _nth(
            (tl.maximum(a[4], a[5]), tl.minimum(a[4], a[5])),
            (tl.maximum(a[6], a[7]), tl.minimum(a[6], a[7])),
            2,
        )
        word = _kept(a, x, 0, 4, TIES) | _kept(a, y, 4, 4, TIES)
    else:
        least = _nth(_sorted_4(a[0], a[1], a[2], a[3]), _sorted_4(a[4], a[5], a[6], a[7]), 4)
        word = _kept(a, least, 0, 8, TIES)
    return word


@triton.jit
def chosen_16(a: tl.tuple, b: tl.tuple, M: tl.constexpr, TIES: tl.constexpr = False) -> tl.tensor:
    """Choose among 16 ranks, twice eight, those not below the largest half's least in each group: uint32 [L], a bit each.

    Where no two are equal these are half. With TIES, choose those that are that least one.
    """
    if M == 16:
        least = _nth(_sorted_8(a), _sorted_8(b), 8)
        word = _kept(a, least, 0, 8, TIES) | (_kept(b, least, 0, 8, TIES) << 8)
    else:
        word = _eight_chosen(a, M, TIES) | (_eight_chosen(b, M, TIES) << 8)
    return word


@triton.jit
def chosen_32(a: tl.tuple, b: tl.tuple, c: tl.tuple, d: tl.tuple, TIES: tl.constexpr = False) -> tl.tensor:
    """Choose among 32 ranks, four times eight, as `chosen_16` does in groups of 32."""
    least = _nth(_merge_8(_sorted_8(a), _sorted_8(b)), _merge_8(_sorted_8(c), _sorted_8(d)), 16)
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
