"""Combinatorial: the code of a mask is its rank among all M-bit integers with N ones, in numeric order.

Up to M = 16 a mask is split in two bytes whose contributions are looked up and added, and decoding is one table
lookup. Up to M = 64 the same is done byte by byte from the top. At each byte the code is split into two numbers: the
masks below that byte's value, and a remainder. Up to M = 32 decoding splits a code once, at its upper 16 bits.
Beyond M = 64, codes exceed a machine word and Python integers are used.
"""

import bisect
import functools
import math
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nmsim import words
from nmsim.encodings.base import Encoding, EncodingSpec, Kernel
from nmsim.errors import brief
from nmsim.pattern import MAX_M, Pattern
from nmsim.support.jit import njit
from nmsim.units import ceil_div
from nmsim.words import BYTE, MACHINE_WORD, popcount

TABLE_MAX_M = 16
HALVES_MAX_M = 32
FAST_MAX_M = 64
GUIDE_BITS = 12
HALF_GUIDE_BITS = 17
"""Bits of a code that name a high half at or before the right one. Cells are small enough that one step reaches most."""
BLOCK = 2048
"""Codes checked, then decoded, while they are in the first-level cache."""


class Combinatorial(Encoding):
    """ceil(log2 C(M, N)) bits per group: the fewest of any fixed-width code."""

    spec = EncodingSpec(
        name="combinatorial",
        title="rank of the mask in numeric order",
        bits_formula="ceil(log2 C(M, N))",
        code_definition=(
            "The code is the number of smaller M-bit integers that also have N ones. With kept positions "
            "p_0 < p_1 < ... it equals C(p_0, 1) + C(p_1, 2) + ... + C(p_{N-1}, N)."
        ),
        decoding=(
            "For j = N-1 down to 0: p_j is the greatest p with C(p, j+1) <= code; subtract C(p_j, j+1). "
            "A code of C(M, N) or more is rejected."
        ),
        fixed_width=True,
        parameter="",
        detects="a flip that makes the code C(M, N) or more; every other flip gives another legal mask",
        source="combinatorial number system, D. E. Knuth, TAOCP 7.2.1.3; bits per element as in arXiv 2507.03052",
    )

    def code_bits(self, pattern: Pattern) -> int:
        """ceil(log2 C(M, N)), in exact integers."""
        return (pattern.configurations - 1).bit_length()

    def encoder(self, pattern: Pattern) -> Kernel:
        if pattern.m <= TABLE_MAX_M:
            return partial(_encode_two_bytes, *_two_byte_tables(pattern), pattern.n)
        if pattern.m <= FAST_MAX_M:
            return partial(_byte_encoder(_levels(pattern)), _byte_tables(pattern).below, pattern.n)
        return partial(_encode_plain, pattern)

    def decoder(self, pattern: Pattern) -> Kernel:
        if pattern.m <= TABLE_MAX_M:
            return partial(_decode_table, _mask_table(pattern))
        if pattern.m <= HALVES_MAX_M:
            tables, size = _half_tables(pattern), np.uint32(pattern.configurations)
            return partial(_decode_halves, *tables, np.uint32(pattern.n), size)
        if pattern.m <= FAST_MAX_M:
            decode = _byte_decoder(_levels(pattern))
            return partial(decode, *_byte_tables(pattern), pattern.n, np.uint64(pattern.configurations))
        return partial(_decode_plain, pattern)

    def _legal_codes(self, pattern: Pattern) -> str:
        return f"0 <= code < C({pattern.m}, {pattern.n}) = {brief(pattern.configurations)}"


@functools.cache
def _masks_in_order(bits: int, ones: int) -> NDArray[Any]:
    """All `bits`-bit integers with `ones` ones, ascending."""
    every = np.arange(1 << bits, dtype=np.uint64)
    return np.extract(np.bitwise_count(every) == ones, every)


@functools.cache
def _mask_table(pattern: Pattern) -> NDArray[Any]:
    """Code -> mask."""
    return _masks_in_order(pattern.m, pattern.n).astype(words.word_dtype(pattern.m))


@functools.cache
def _two_byte_tables(pattern: Pattern) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """High byte -> its ones << 16 | masks below it; low byte -> its ones << 16 | rank among its like.

    The sum of both is N << 16 | code for a legal mask, and has another upper half for any other.
    """
    ones = np.bitwise_count(np.arange(BYTE, dtype=np.uint32)).astype(np.uint32)
    high = np.zeros(BYTE, np.uint32)
    low = np.zeros(BYTE, np.uint32)
    below = 0
    seen = [0] * 9
    for byte in range(BYTE):
        count = int(ones[byte])
        high[byte] = count << 16 | below
        low[byte] = count << 16 | seen[count]
        seen[count] += 1
        if count <= pattern.n:
            below += math.comb(8, pattern.n - count)
    return high, low


def _levels(pattern: Pattern) -> int:
    """Bytes of a mask."""
    return ceil_div(pattern.m, 8)


class ByteTables(NamedTuple):
    """What byte-by-byte coding looks up; level j is byte j of the mask, k the ones at levels 0 to j.

    below : unsigned [levels * (N + 1) * 257]
        At (j * (N + 1) + k) * 257 + b: how many masks of levels 0 to j with k ones have a byte j less than b.
    guide : uint8 [cells]
        From start on, at remainder >> shift: a byte at or before the right one.
    place : uint64 [levels * (N + 1)]
        start << 8 | shift of each j and k.
    low_masks : uint16 [65536]
        16-bit integers sorted by their number of ones, then by value.
    low_start : uint64 [18]
        Where each number of ones begins in `low_masks`.
    """

    below: NDArray[np.unsignedinteger[Any]]
    guide: NDArray[np.uint8]
    place: NDArray[np.uint64]
    low_masks: NDArray[np.uint16]
    low_start: NDArray[np.uint64]


class _Level(NamedTuple):
    """One byte j of masks with k ones at levels 0 to j: its rows of `ByteTables`, and the shift of its guide."""

    below: NDArray[np.uint64]
    guide: NDArray[np.uint8]
    shift: int


@functools.cache
def _level(j: int, k: int) -> _Level:
    """Rows of one j and k. They do not depend on the pattern, so that at most 8 * 65 of them are ever made."""
    edges = [0]
    for byte in range(BYTE):
        ones = byte.bit_count()
        edges.append(edges[-1] + (math.comb(8 * j, k - ones) if ones <= k else 0))
    row = np.array([min(edge, MACHINE_WORD) for edge in edges], np.uint64)
    if j < 2:
        # The two lowest bytes need no guide: one table of 16-bit masks decodes them.
        return _Level(row, np.zeros(0, np.uint8), 0)
    shift = max(0, int(row[-1]).bit_length() - GUIDE_BITS)
    cells = np.arange((int(row[-1]) >> shift) + 1, dtype=np.uint64) << np.uint64(shift)
    guide = np.clip(np.searchsorted(row, cells, side="right") - 1, 0, BYTE - 1).astype(np.uint8)
    return _Level(row, guide, shift)


@functools.cache
def _low_masks() -> tuple[NDArray[np.uint16], NDArray[np.uint64]]:
    """`low_masks` and `low_start` of `ByteTables`."""
    every = np.arange(1 << 16, dtype=np.uint16)
    ones_of = np.bitwise_count(every)
    starts = np.concatenate(([0], np.cumsum(np.bincount(ones_of, minlength=17)))).astype(np.uint64)
    return every[np.argsort(ones_of, kind="stable")], starts


@functools.lru_cache(maxsize=16)
def _byte_tables(pattern: Pattern) -> ByteTables:
    made = [_level(j, k) for j in range(_levels(pattern)) for k in range(pattern.n + 1)]
    entries = np.concatenate([level.below for level in made])
    starts = np.cumsum([0, *(len(level.guide) for level in made[:-1])])
    low_masks, low_start = _low_masks()
    return ByteTables(
        below=entries.astype(np.uint32) if pattern.m <= 32 else entries,
        guide=np.concatenate([level.guide for level in made]),
        place=np.array(
            [int(start) << 8 | level.shift for start, level in zip(starts, made, strict=True)], np.uint64
        ),
        low_masks=low_masks,
        low_start=low_start,
    )


@njit(cache=True, nogil=True)
def _encode_two_bytes(high, low, n, masks, codes):  # type: ignore[no-untyped-def]
    """Masks [G] -> codes [G], M <= 16."""
    wrong = np.uint32(0)
    expected = np.uint32(n)
    for i in range(masks.size):
        mask = np.uint32(masks[i])
        total = high[mask >> np.uint32(8)] + low[mask & np.uint32(255)]
        codes[i] = total & np.uint32(0xFFFF)
        wrong |= (total >> np.uint32(16)) ^ expected
    if wrong == 0:
        return -1
    for i in range(masks.size):
        mask = np.uint32(masks[i])
        if (high[mask >> np.uint32(8)] + low[mask & np.uint32(255)]) >> np.uint32(16) != expected:
            return i
    return -1


@njit(cache=True, nogil=True)
def _decode_table(table, codes, masks):  # type: ignore[no-untyped-def]
    """Codes [G] -> masks [G], M <= 16.

    All codes of a block are compared first, on vector lanes. So no lookup needs a comparison of its own.
    """
    for low in range(0, codes.size, BLOCK):
        some_codes, some_masks = codes[low : low + BLOCK], masks[low : low + BLOCK]
        largest = some_codes[0]
        for i in range(some_codes.size):
            largest = max(largest, some_codes[i])
        if largest >= table.size:
            for i in range(some_codes.size):
                if some_codes[i] >= table.size:
                    return low + i
        for i in range(some_codes.size):
            some_masks[i] = table[some_codes[i]]
    return -1


@functools.cache
def _byte_encoder(levels: int) -> Any:
    """A kernel with the number of bytes as a constant, so that its inner loop unrolls."""
    eight, byte_mask, row = np.uint64(8), np.uint64(BYTE - 1), np.uint64(BYTE + 1)

    @njit(cache=True, nogil=True)
    def encode(below, n, masks, codes):  # type: ignore[no-untyped-def]
        """Masks [G] -> codes [G], M <= 64."""
        ones_wanted, per_level = np.uint64(n), np.uint64(n + 1)
        for i in range(masks.size):
            mask = np.uint64(masks[i])
            if popcount(mask) != ones_wanted:
                return i
            code = np.uint64(0)
            for j in range(levels):
                level = np.uint64(j)
                byte = (mask >> (eight * level)) & byte_mask
                above = (mask >> (eight * level)) >> eight
                k = ones_wanted - popcount(above)
                code += below[(level * per_level + k) * row + byte]
            codes[i] = code
        return -1

    return encode


class HalfTables(NamedTuple):
    """What decoding by 16-bit halves looks up. They take half a megabyte for 16:32.

    below : uint32 [highest half + 2]
        How many masks have a smaller high half.
    guide : uint16 [cells]
        At code >> shift: a high half at or before the right one.
    shift : uint32
    low_masks : uint16 [65536]
        As in `ByteTables`.
    low_start : uint32 [18]
        As in `ByteTables`.
    """

    below: NDArray[np.uint32]
    guide: NDArray[np.uint16]
    shift: np.uint32
    low_masks: NDArray[np.uint16]
    low_start: NDArray[np.uint32]


@functools.lru_cache(maxsize=16)
def _half_tables(pattern: Pattern) -> HalfTables:
    of_ones = np.array(
        [math.comb(16, pattern.n - ones) if ones <= pattern.n else 0 for ones in range(17)], np.uint64
    )
    halves = np.bitwise_count(np.arange(1 << (pattern.m - 16), dtype=np.uint16))
    below = np.concatenate(([0], np.cumsum(of_ones[halves]))).astype(np.uint64)
    shift = max(0, pattern.configurations.bit_length() - HALF_GUIDE_BITS)
    cells = np.arange((pattern.configurations >> shift) + 1, dtype=np.uint64) << np.uint64(shift)
    guide = np.clip(np.searchsorted(below, cells, side="right") - 1, 0, len(halves) - 1)
    low_masks, low_start = _low_masks()
    return HalfTables(
        below.astype(np.uint32),
        guide.astype(np.uint16),
        np.uint32(shift),
        low_masks,
        low_start.astype(np.uint32),
    )


@njit(cache=True, nogil=True)
def _decode_halves(below, guide, shift, low_masks, low_start, n, size, codes, masks):  # type: ignore[no-untyped-def]
    """Codes [G] -> masks [G], 16 < M <= 32.

    One step is made without a branch. The loop behind it is seldom entered, so that the processor foresees its branch.
    """
    one, sixteen = np.uint32(1), np.uint32(16)
    for low in range(0, codes.size, BLOCK):
        some_codes, some_masks = codes[low : low + BLOCK], masks[low : low + BLOCK]
        largest = some_codes[0]
        for i in range(some_codes.size):
            largest = max(largest, some_codes[i])
        if largest >= size:
            for i in range(some_codes.size):
                if some_codes[i] >= size:
                    return low + i
        for i in range(some_codes.size):
            code = np.uint32(some_codes[i])
            high = np.uint32(guide[code >> shift])
            high = np.uint32(high + np.uint32(below[np.uint32(high + one)] <= code))
            while below[np.uint32(high + one)] <= code:
                high = np.uint32(high + one)
            rest = np.uint32(code - below[high])
            ones = np.uint32(n - np.uint32(popcount(np.uint64(high))))
            some_masks[i] = np.uint32(high << sixteen) | np.uint32(
                low_masks[np.uint32(low_start[ones] + rest)]
            )
    return -1


@functools.cache
def _byte_decoder(levels: int) -> Any:
    """A kernel with the number of bytes as a constant: the guide points near a byte, a step or two reach it."""
    one, eight, row, shift_mask = np.uint64(1), np.uint64(8), np.uint64(BYTE + 1), np.uint64(63)

    @njit(cache=True, nogil=True)
    def decode(below, guide, place, low_masks, low_start, n, size, codes, masks):  # type: ignore[no-untyped-def]
        """Codes [G] -> masks [G], 32 < M <= 64."""
        ones_wanted, per_level = np.uint64(n), np.uint64(n + 1)
        for i in range(codes.size):
            rest = np.uint64(codes[i])
            if rest >= size:
                return i
            mask = np.uint64(0)
            k = ones_wanted
            for down in range(levels - 2):
                level = np.uint64(levels - 1 - down)
                at = level * per_level + k
                byte = np.uint64(guide[(place[at] >> eight) + (rest >> (place[at] & shift_mask))])
                start = at * row
                # The guide is rounded down, so the wanted byte is at the guide's or a few steps above it.
                while np.uint64(below[start + byte + one]) <= rest:
                    byte += one
                rest -= np.uint64(below[start + byte])
                k -= popcount(byte)
                mask |= byte << (eight * level)
            masks[i] = mask | np.uint64(low_masks[low_start[k] + rest])
        return -1

    return decode


@functools.cache
def _binomials(ones: int) -> list[int]:
    """C(p, ones) for every position p of a group; at most `MAX_M` such lists exist."""
    return [math.comb(position, ones) for position in range(MAX_M)]


def _encode_plain(pattern: Pattern, masks: words.Words, codes: words.Words) -> int:
    """Masks [G, W] -> codes, any M: sum of C(p_j, j + 1) in Python integers."""
    limit = 1 << pattern.m
    below = [_binomials(ones) for ones in range(1, pattern.n + 1)]
    for i in range(len(masks)):
        mask = words.integer_at(masks, i)
        if mask.bit_count() != pattern.n or mask >= limit:
            return i
        code, seen = 0, 0
        while mask:
            bit = mask & -mask
            code += below[seen][bit.bit_length() - 1]
            seen += 1
            mask ^= bit
        words.put(codes, i, code)
    return -1


def _decode_plain(pattern: Pattern, codes: words.Words, masks: words.Words) -> int:
    """Codes -> masks [G, W], any M: the greatest binomial that fits, from the top position down."""
    size = pattern.configurations
    below = [_binomials(ones) for ones in range(1, pattern.n + 1)]
    for i in range(len(codes)):
        rest = words.integer_at(codes, i)
        if rest >= size:
            return i
        mask, position = 0, pattern.m
        for left in range(pattern.n - 1, -1, -1):
            position = bisect.bisect_right(below[left], rest, 0, position) - 1
            rest -= below[left][position]
            mask |= 1 << position
        words.put(masks, i, mask)
    return -1
