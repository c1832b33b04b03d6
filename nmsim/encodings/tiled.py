"""Tiled: a code as short as the rank of the mask, but in an order that decodes without a carry.

`tiles` says how codes are cut into tiles. Up to M = 16 two tables of all codes and all masks follow from that. Beyond, a code
is split into numbers of halves until 16 bits are left, which a table holds.
"""

import functools
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nmsim import words
from nmsim.encodings import tiles
from nmsim.encodings.base import Encoding, EncodingSpec, Kernel
from nmsim.pattern import Pattern
from nmsim.support.jit import njit
from nmsim.words import popcount

TABLE_MAX_M = 16
NO_CODE = 0xFFFF
"""In a table of codes of at most 16 bits: no mask. The longest code of M = 16 has 14 bits."""
NO_NUMBER = 0xFFFFFFFFFFFFFFFF
"""Above every number of a half."""


class Tiled(Encoding):
    """ceil(log2 C(M, N)) bits per group: fields of a code are numbers of halves, down to single bits."""

    spec = EncodingSpec(
        name="tiled",
        title="tiles of pairs of halves",
        bits_formula="ceil(log2 C(M, N))",
        code_definition=(
            "M is a power of two, at most 64. Masks are classed by the ones of their upper half. The pairs of numbers of "
            "the two halves are cut into tiles of 2^b codes, the largest first. A half's number is found in the same way, "
            "and a mask of more than M/2 ones has the code of its complement. The page on the tiled code has the tables "
            "and the rule that makes them."
        ),
        decoding=(
            "The upper bits of a code name its tile. The others are dealt to the numbers of the halves by turns, the lowest "
            "bit to the lower half. A code, or a number of a half, that lies in no tile is rejected."
        ),
        fixed_width=True,
        parameter="",
        detects="a flip that makes a code or a number of a half lie in no tile; every other flip gives another legal mask",
        source=(
            "this project; enumeration by halves as in Schalkwijk, IEEE Trans. Inf. Theory 18(3), 1972, and sizes of few "
            "significant bits as in quantised indexing, Tomic, US 7,161,507"
        ),
    )

    def code_bits(self, pattern: Pattern) -> int:
        """ceil(log2 C(M, N)), in exact integers.

        Raises
        ------
        EncodingError
            M is no power of two, or more than 64.
        """
        tiles.check(pattern)
        return (pattern.configurations - 1).bit_length()

    def supports(self, pattern: Pattern) -> bool:
        """M is a power of two, at most 64."""
        return tiles.supports(pattern)

    def encoder(self, pattern: Pattern) -> Kernel:
        tiles.check(pattern)
        if pattern.m <= TABLE_MAX_M:
            return partial(_encode_table, _code_table(pattern))
        return partial(_encode_halves, _tables(pattern), pattern.m, pattern.n)

    def decoder(self, pattern: Pattern) -> Kernel:
        tiles.check(pattern)
        if pattern.m <= TABLE_MAX_M:
            return partial(_decode_table, _mask_table(pattern))
        return partial(_decode_halves, _tables(pattern), pattern.m, pattern.n)

    def _legal_codes(self, pattern: Pattern) -> str:
        return f"a code in one of the tiles of {pattern}, with both halves' numbers in theirs"


def _masks_of(
    plan: tiles.Plan, m: int, ones: int, known: dict[tuple[int, int], NDArray[Any]]
) -> NDArray[Any]:
    """Number -> mask of a block of at most 16 bits; all ones if no mask has the number."""
    if (m, ones) in known:
        return known[m, ones]
    illegal = (1 << m) - 1
    block = plan.block(m, ones)
    # Parents round a room up to a power of two at most.
    table = np.full(tiles.rounded_up(block.room, 1), illegal, np.uint64)
    if m == 1:
        table[0] = 0
    for tile in block.tiles:
        at = np.arange(tile.first, tile.first + (1 << tile.bits))
        found = []
        for ones_of_half, chunk, places in (
            (tile.upper_ones, tile.upper, tile.upper_places),
            (tile.lower_ones, tile.lower, tile.lower_places),
        ):
            number = chunk.first + sum((at >> place & 1) << i for i, place in enumerate(places))
            of_half = _masks_of(plan, m // 2, min(ones_of_half, m // 2 - ones_of_half), known)[number]
            bad = of_half == (1 << m // 2) - 1
            flipped = of_half ^ np.uint64((1 << m // 2) - 1) if 2 * ones_of_half > m // 2 else of_half
            found.append((bad, flipped))
        (bad_upper, upper), (bad_lower, lower) = found
        table[at] = np.where(bad_upper | bad_lower, np.uint64(illegal), upper << np.uint64(m // 2) | lower)
    known[m, ones] = table
    return table


@functools.cache
def _mask_table(pattern: Pattern) -> NDArray[Any]:
    """Code -> mask, M <= 16; 0, which no legal mask is, if no mask has the code."""
    plan = tiles.plan(pattern)
    table = _masks_of(plan, pattern.m, plan.ones, {})
    full = np.uint64((1 << pattern.m) - 1)
    legal = table != full
    masks = table ^ full if plan.ones < pattern.n else table
    return np.where(legal, masks, 0).astype(words.word_dtype(pattern.m))


@functools.cache
def _code_table(pattern: Pattern) -> NDArray[np.uint16]:
    """Mask -> code, M <= 16, or `NO_CODE`; with an entry for every integer of the masks' dtype."""
    masks = _mask_table(pattern)
    table = np.full(1 << (8 * words.word_dtype(pattern.m).itemsize), NO_CODE, np.uint16)
    codes = np.flatnonzero(masks)
    table[masks[codes]] = codes
    return table


@njit(cache=True, nogil=True)
def _encode_table(table, masks, codes):  # type: ignore[no-untyped-def]
    """Masks [G] -> codes [G], M <= 16."""
    wrong = False
    for i in range(masks.size):
        code = table[masks[i]]
        codes[i] = code
        wrong |= code == NO_CODE
    if wrong:
        for i in range(masks.size):
            if table[masks[i]] == NO_CODE:
                return i
    return -1


@njit(cache=True, nogil=True)
def _decode_table(table, codes, masks):  # type: ignore[no-untyped-def]
    """Codes [G] -> masks [G], M <= 16."""
    size = np.uint32(table.size)
    wrong = False
    for i in range(codes.size):
        code = np.uint32(codes[i])
        # A code beyond the table is as illegal as one whose entry is 0.
        mask = table[code] if code < size else table.dtype.type(0)
        masks[i] = mask
        wrong |= mask == 0
    if wrong:
        for i in range(codes.size):
            if codes[i] >= size or table[codes[i]] == 0:
                return i
    return -1


class Tables(NamedTuple):
    """A plan as arrays, M = 32 or 64. Blocks of 32 bits have their ones as number, that of 64 bits has number 17.

    first : uint64 [tiles]
        Tiles of all blocks, one block after the other.
    upper_first, lower_first : uint64 [tiles]
        First numbers of the halves' chunks.
    fields : uint8 [tiles, 4]
        Bits of the upper and of the lower field, ones of the upper and of the lower half.
    block_start, block_used : [18 + 1], uint64 [18]
        Tiles of each block from its start on; numbers of all its tiles.
    class_start, class_end : [18, 65]
        Of each block and number of ones of the upper half: its tiles in `in_class`.
    in_class : [tiles]
        Tiles, one class after the other.
    masks, masks_start : uint16 [entries], [9 + 1]
        Number -> mask of 16 bits, for each number of ones up to 8; 0xFFFF if no mask has the number.
    numbers : uint16 [65536]
        Mask of 16 bits, or its complement if it has more than 8 ones -> its number.
    """

    first: NDArray[np.uint64]
    upper_first: NDArray[np.uint64]
    lower_first: NDArray[np.uint64]
    fields: NDArray[np.uint8]
    block_start: NDArray[np.int64]
    block_used: NDArray[np.uint64]
    class_start: NDArray[np.int64]
    class_end: NDArray[np.int64]
    in_class: NDArray[np.int64]
    masks: NDArray[np.uint16]
    masks_start: NDArray[np.int64]
    numbers: NDArray[np.uint16]


WHOLE_64 = 17
BLOCKS = 18


@functools.lru_cache(maxsize=16)
def _tables(pattern: Pattern) -> Tables:
    """Lay the plan out for compiled code."""
    plan = tiles.plan(pattern)
    numbered = {(WHOLE_64 if m == 64 else ones): block for (m, ones), block in plan.blocks.items() if m >= 32}
    blocks = [numbered.get(i) for i in range(BLOCKS)]
    flat = [tile for block in blocks if block for tile in block.tiles]
    starts = np.cumsum([0, *(len(block.tiles) if block else 0 for block in blocks)])
    class_start, class_end = np.zeros((BLOCKS, 65), np.int64), np.zeros((BLOCKS, 65), np.int64)
    in_class: list[int] = []
    for i, block in enumerate(blocks):
        for a in range(65):
            class_start[i, a] = len(in_class)
            if block:
                in_class += [int(starts[i]) + t for t, tile in enumerate(block.tiles) if tile.upper_ones == a]
            class_end[i, a] = len(in_class)
    # Blocks of 16 bits are one look-up in compiled code, so their tiles need no rows of their own.
    made: dict[tuple[int, int], NDArray[Any]] = {}
    by_ones = [
        _masks_of(plan, 16, ones, made) if (16, ones) in plan.blocks else np.zeros(0, np.uint64)
        for ones in range(9)
    ]
    numbers = np.zeros(1 << 16, np.uint16)
    for ones, table in enumerate(by_ones):
        legal = np.flatnonzero(table != 0xFFFF)
        numbers[table[legal]] = legal
        if ones < 8:
            numbers[table[legal] ^ np.uint64(0xFFFF)] = legal
    return Tables(
        first=np.array([tile.first for tile in flat], np.uint64),
        upper_first=np.array([tile.upper.first for tile in flat], np.uint64),
        lower_first=np.array([tile.lower.first for tile in flat], np.uint64),
        fields=np.array(
            [(tile.upper.bits, tile.lower.bits, tile.upper_ones, tile.lower_ones) for tile in flat], np.uint8
        ),
        block_start=starts.astype(np.int64),
        block_used=np.array([block.used if block else 0 for block in blocks], np.uint64),
        class_start=class_start,
        class_end=class_end,
        in_class=np.array(in_class, np.int64),
        masks=np.concatenate(by_ones).astype(np.uint16),
        masks_start=np.cumsum([0, *map(len, by_ones)]).astype(np.int64),
        numbers=numbers,
    )


@njit(inline="always")
def _gathered(x):  # type: ignore[no-untyped-def]
    """Bits 0, 2, 4 ... of a uint64 side by side."""
    x &= np.uint64(0x5555555555555555)
    x = (x | (x >> np.uint64(1))) & np.uint64(0x3333333333333333)
    x = (x | (x >> np.uint64(2))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    x = (x | (x >> np.uint64(4))) & np.uint64(0x00FF00FF00FF00FF)
    x = (x | (x >> np.uint64(8))) & np.uint64(0x0000FFFF0000FFFF)
    return (x | (x >> np.uint64(16))) & np.uint64(0x00000000FFFFFFFF)


@njit(inline="always")
def _spread(x):  # type: ignore[no-untyped-def]
    """The low 32 bits of a uint64 at places 0, 2, 4 ..."""
    x &= np.uint64(0x00000000FFFFFFFF)
    x = (x | (x << np.uint64(16))) & np.uint64(0x0000FFFF0000FFFF)
    x = (x | (x << np.uint64(8))) & np.uint64(0x00FF00FF00FF00FF)
    x = (x | (x << np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    x = (x | (x << np.uint64(2))) & np.uint64(0x3333333333333333)
    return (x | (x << np.uint64(1))) & np.uint64(0x5555555555555555)


@njit(inline="always")
def _split(tables, block, number):  # type: ignore[no-untyped-def]
    """Number of a block -> its tile (-1: none), and the numbers of its halves."""
    if number >= tables.block_used[block]:
        return np.int64(-1), np.uint64(0), np.uint64(0)
    # Most numbers lie in the first few tiles.
    tile, last = tables.block_start[block], tables.block_start[block + 1] - 1
    while tile < last and tables.first[tile + 1] <= number:
        tile += 1
    field = number - tables.first[tile]
    upper_bits, lower_bits = np.uint64(tables.fields[tile, 0]), np.uint64(tables.fields[tile, 1])
    both = min(upper_bits, lower_bits)
    dealt = field & ((np.uint64(1) << (both + both)) - np.uint64(1))
    rest = (field >> (both + both)) << both
    upper, lower = _gathered(dealt >> np.uint64(1)), _gathered(dealt)
    if upper_bits > lower_bits:
        upper |= rest
    else:
        lower |= rest
    return tile, tables.upper_first[tile] + upper, tables.lower_first[tile] + lower


@njit(inline="always")
def _joined(tables, block, upper_ones, upper, lower):  # type: ignore[no-untyped-def]
    """Numbers of two halves -> the number of the block."""
    for i in range(tables.class_start[block, upper_ones], tables.class_end[block, upper_ones]):
        tile = tables.in_class[i]
        upper_bits, lower_bits = np.uint64(tables.fields[tile, 0]), np.uint64(tables.fields[tile, 1])
        # Differences of unsigned numbers wrap, so that a number before its chunk is far behind it.
        u, v = upper - tables.upper_first[tile], lower - tables.lower_first[tile]
        if (u >> upper_bits) == 0 and (v >> lower_bits) == 0:
            both = min(upper_bits, lower_bits)
            low = (np.uint64(1) << both) - np.uint64(1)
            rest = (u if upper_bits > lower_bits else v) >> both
            dealt = (_spread(u & low) << np.uint64(1)) | _spread(v & low)
            return tables.first[tile] + (dealt | (rest << (both + both)))
    return np.uint64(NO_NUMBER)


@njit(inline="always")
def _mask_of_16(tables, ones, number):  # type: ignore[no-untyped-def]
    """Number -> mask of 16 bits with so many ones; all ones if there is none."""
    flip = ones > 8
    row = 16 - ones if flip else ones
    at = tables.masks_start[row] + np.int64(number)
    mask = np.uint64(tables.masks[at]) if at < tables.masks_start[row + 1] else np.uint64(0xFFFF)
    if mask == np.uint64(0xFFFF):
        return np.uint64(NO_NUMBER)
    return mask ^ np.uint64(0xFFFF) if flip else mask


@njit(nogil=True)
def _mask_of_32(tables, ones, number):  # type: ignore[no-untyped-def]
    """Number -> mask of 32 bits with so many ones, or `NO_NUMBER`."""
    flip = ones > 16
    tile, upper, lower = _split(tables, 32 - ones if flip else ones, number)
    if tile < 0:
        return np.uint64(NO_NUMBER)
    high = _mask_of_16(tables, np.int64(tables.fields[tile, 2]), upper)
    low = _mask_of_16(tables, np.int64(tables.fields[tile, 3]), lower)
    if high == np.uint64(NO_NUMBER) or low == np.uint64(NO_NUMBER):
        return np.uint64(NO_NUMBER)
    mask = (high << np.uint64(16)) | low
    return mask ^ np.uint64(0xFFFFFFFF) if flip else mask


@njit(nogil=True)
def _number_of_32(tables, mask):  # type: ignore[no-untyped-def]
    """Mask of 32 bits -> its number, or that of its complement if it has more than 16 ones."""
    if popcount(mask) > np.uint64(16):
        mask ^= np.uint64(0xFFFFFFFF)
    high, low = mask >> np.uint64(16), mask & np.uint64(0xFFFF)
    upper_ones = np.int64(popcount(high))
    upper, lower = np.uint64(tables.numbers[high]), np.uint64(tables.numbers[low])
    return _joined(tables, np.int64(popcount(mask)), upper_ones, upper, lower)


@njit(cache=True, nogil=True)
def _decode_halves(tables, m, n, codes, masks):  # type: ignore[no-untyped-def]
    """Codes [G] -> masks [G], M = 32 or 64."""
    flip = 2 * n > m
    for i in range(codes.size):
        code = np.uint64(codes[i])
        if m == 32:
            mask = _mask_of_32(tables, n, code)
            if mask == np.uint64(NO_NUMBER):
                return i
        else:
            tile, upper, lower = _split(tables, WHOLE_64, code)
            if tile < 0:
                return i
            high = _mask_of_32(tables, np.int64(tables.fields[tile, 2]), upper)
            low = _mask_of_32(tables, np.int64(tables.fields[tile, 3]), lower)
            if high == np.uint64(NO_NUMBER) or low == np.uint64(NO_NUMBER):
                return i
            mask = (high << np.uint64(32)) | low
            if flip:
                mask = ~mask
        masks[i] = mask
    return -1


@njit(cache=True, nogil=True)
def _encode_halves(tables, m, n, masks, codes):  # type: ignore[no-untyped-def]
    """Masks [G] -> codes [G], M = 32 or 64."""
    flip = 2 * n > m
    for i in range(masks.size):
        mask = np.uint64(masks[i])
        if popcount(mask) != np.uint64(n):
            return i
        if m == 32:
            codes[i] = _number_of_32(tables, mask)
        else:
            if flip:
                mask = ~mask
            high, low = mask >> np.uint64(32), mask & np.uint64(0xFFFFFFFF)
            upper, lower = _number_of_32(tables, high), _number_of_32(tables, low)
            codes[i] = _joined(tables, WHOLE_64, np.int64(popcount(high)), upper, lower)
    return -1
