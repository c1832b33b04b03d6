"""What real masks make of the blocks of a product: bytes, steps of the array, groups, columns in use. Counted, not derived.

The simulator's side of what `hwmodels.tensorcore.services` derives from the pattern alone. They share no arithmetic.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nmsim import mask, packing
from nmsim.errors import RowError
from nmsim.format import SparseFormat
from nmsim.support.jit import njit

Integers = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Cut:
    """Where rows and K are cut: a tile has `tile` rows, a block `depth` elements along K."""

    rows: int
    K: int
    tile: int
    depth: int

    @property
    def row_starts(self) -> Integers:
        """First row of each tile."""
        return np.arange(0, self.rows, self.tile, dtype=np.int64)

    @property
    def k_starts(self) -> Integers:
        """First element along K of each block."""
        return np.arange(0, self.K, self.depth, dtype=np.int64)

    @property
    def bounds(self) -> tuple[Integers, Integers]:
        """Starts of tiles and of blocks, each with its end."""
        return np.append(self.row_starts, self.rows), np.append(self.k_starts, self.K)

    @property
    def tile_rows(self) -> Integers:
        """Rows of each tile; the last may have fewer."""
        return np.diff(self.bounds[0])

    @property
    def block_k(self) -> Integers:
        """Elements along K of each block."""
        return np.diff(self.bounds[1])


def in_accesses(size_bytes: Any, access_bytes: int) -> Any:
    """Round bytes up to whole accesses."""
    return -(-size_bytes // access_bytes) * access_bytes


def dense_bytes(cut: Cut, value_bits: int, access_bytes: int) -> Integers:
    """Count the bytes of the blocks of a dense operand: int64 [tiles, blocks]."""
    bits = np.multiply.outer(cut.tile_rows, cut.block_k) * value_bits
    return in_accesses(-(-bits // 8), access_bytes).astype(np.int64)


def group_counts(cut: Cut, m: int) -> Integers:
    """Count the groups of the blocks: int64 [tiles, blocks]."""
    starts = np.array([len(range(0, k, m)) for k in cut.block_k.tolist()], np.int64)
    return np.multiply.outer(cut.tile_rows, starts)


def packed_bits(kept: BoolArray, cut: Cut, format: SparseFormat) -> tuple[Integers, Integers]:
    """Count the bits of values (in elements) and of metadata of the blocks of a sparse operand.

    Parameters
    ----------
    kept : bool array [rows, K]
        At most N of every M.
    cut : Cut
        `depth` is a multiple of M.
    format : SparseFormat

    Returns
    -------
    tuple of int64 array [tiles, blocks]
        Values stored, and metadata bits. Codes of different lengths are counted one by one.

    Raises
    ------
    PatternError
        A group keeps more than N.
    RowError
        The depth is no multiple of M.
    """
    pattern, how = format.pattern, format.encoding
    if cut.depth % pattern.m:
        raise RowError(
            f"blocks of {cut.depth} elements: expected a multiple of {pattern.m}, the group of {pattern}"
        )
    groups = group_counts(cut, pattern.m)
    whole = mask.complete(kept, pattern)
    if how.expected_bits_per_group(pattern) == how.bits_per_group(pattern):
        codes = -(-groups // how.groups_per_code(pattern))
        bits = packing.stream_bits(codes, how.code_bits(pattern), format.packing)
    else:
        codes = how.encode(mask.to_words(whole, pattern), pattern)
        lengths = how.code_lengths(codes, pattern)
        assert lengths is not None
        per_row = np.asarray(lengths, np.int64).reshape(cut.rows, -1)
        by_tile = np.add.reduceat(per_row, cut.row_starts, axis=0)
        bits = np.add.reduceat(by_tile, cut.k_starts // pattern.m, axis=1)
    # Places that fill the last group of a row are stored too.
    return kept_counts(whole, replace(cut, K=whole.shape[1])), np.asarray(bits, np.int64)


def unstructured_bits(kept: BoolArray, cut: Cut) -> tuple[Integers, Integers]:
    """Count values and metadata bits of blocks that keep any number anywhere: a bitmask marks them."""
    return kept_counts(kept, cut), np.multiply.outer(cut.tile_rows, cut.block_k)


def kept_counts(kept: BoolArray, cut: Cut) -> Integers:
    """Count the kept elements of the blocks: int64 [tiles, blocks]."""
    counts = np.zeros((len(cut.row_starts), len(cut.k_starts)), np.int64)
    _count_kept(kept.view(np.uint8), *cut.bounds, counts)
    return counts


@njit(cache=True, nogil=True)
def _count_kept(kept: Any, rows: Any, ks: Any, counts: Any) -> None:
    for tile in range(len(rows) - 1):
        for row in range(rows[tile], rows[tile + 1]):
            for block in range(len(ks) - 1):
                count = 0
                for k in range(ks[block], ks[block + 1]):
                    count += kept[row, k]
                counts[tile, block] += count


def used_columns(kept: BoolArray, cut: Cut) -> Integers:
    """Count the columns along K that a row of the tile keeps: int64 [tiles, blocks]."""
    used = np.logical_or.reduceat(kept, cut.row_starts, axis=0)
    return np.add.reduceat(used, cut.k_starts, axis=1, dtype=np.int64)


def array_steps(
    kept: BoolArray, cut: Cut, array_rows: int, window: int, lanes: int, banks: int
) -> tuple[Integers, Integers]:
    """Count the cycles in which the strips of a tile walk through its blocks, all rows of a strip window by window.

    Parameters
    ----------
    kept : bool array [rows, K]
    cut : Cut
    array_rows : int
        Rows of a strip.
    window : int
        Elements along K that a row is offered at a time.
    lanes : int
        Kept elements of a row that the array multiplies in a cycle.
    banks : int
        Banks of a window, element by element; each gives a row one element per cycle; 0: no conflicts.

    Returns
    -------
    tuple of int64 array [tiles, blocks]
        Cycles of the multipliers, and of the select network.
    """
    shape = (len(cut.row_starts), len(cut.k_starts))
    steps, selects = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    _count_steps(kept.view(np.uint8), *cut.bounds, array_rows, window, lanes, banks, steps, selects)
    return steps, selects


@njit(cache=True, nogil=True)
def _count_steps(
    kept: Any,
    rows: Any,
    ks: Any,
    array_rows: int,
    window: int,
    lanes: int,
    banks: int,
    steps: Any,
    selects: Any,
) -> None:
    in_bank = np.zeros(max(banks, 1), np.int64)
    for tile in range(len(rows) - 1):
        for block in range(len(ks) - 1):
            for strip in range(rows[tile], rows[tile + 1], array_rows):
                strip_end = min(strip + array_rows, rows[tile + 1])
                for start in range(ks[block], ks[block + 1], window):
                    end = min(start + window, ks[block + 1])
                    most, crowd = 1, 1
                    for row in range(strip, strip_end):
                        count = 0
                        for k in range(start, end):
                            count += kept[row, k]
                        most = max(most, (count + lanes - 1) // lanes)
                        if banks > 0:
                            in_bank[:] = 0
                            for k in range(start, end):
                                in_bank[(k - start) % banks] += kept[row, k]
                            crowd = max(crowd, in_bank.max())
                    steps[tile, block] += most
                    selects[tile, block] += max(most, crowd)


def matched_steps(
    kept: BoolArray,
    other: BoolArray,
    cut: Cut,
    other_cut: Cut,
    array: tuple[int, int],
    window: int,
    lanes: int,
) -> tuple[NDArray[np.int32], int]:
    """Count the cycles of a dual-sided array: only pairs that both operands keep are multiplied.

    Every multiplier of a strip waits, window by window, for the one with the most pairs.

    Parameters
    ----------
    kept, other : bool array [rows, K], [columns, K]
    cut, other_cut : Cut
    array : (rows, columns) of the array
    window : int
        Elements along K over which multipliers may run ahead of each other.
    lanes : int
        Pairs that a multiplier takes in a cycle.

    Returns
    -------
    tuple of int32 array [row tiles, column tiles, blocks] and int
        Cycles, and the pairs multiplied.
    """
    shape = (len(cut.row_starts), len(other_cut.row_starts), len(cut.k_starts))
    steps = np.zeros(shape, np.int32)
    (rows, ks), cols = cut.bounds, other_cut.bounds[0]
    pairs = _count_matches(_words(kept), _words(other), rows, cols, ks, *array, window, lanes, steps)
    return steps, int(pairs)


def _words(kept: BoolArray) -> NDArray[np.uint64]:
    """Rows as 64-bit words, zeros behind the end."""
    rows, k = kept.shape
    padded = np.zeros((rows, -(-k // 64) * 64), np.bool_)
    padded[:, :k] = kept
    return np.packbits(padded, axis=1, bitorder="little").view(np.uint64)


@njit(cache=True, inline="always")
def _ones(word: Any) -> Any:
    word = word - ((word >> np.uint64(1)) & np.uint64(0x5555555555555555))
    word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (word * np.uint64(0x0101010101010101)) >> np.uint64(56)


@njit(cache=True, nogil=True)
def _count_matches(
    a: Any, b: Any, rows: Any, cols: Any, ks: Any, array_rows: int, array_cols: int, window: int, lanes: int,
    steps: Any,
) -> int:  # fmt: skip
    pairs: Any = 0
    for i in range(len(rows) - 1):
        for j in range(len(cols) - 1):
            for block in range(len(ks) - 1):
                total: Any = 0
                for row_strip in range(rows[i], rows[i + 1], array_rows):
                    row_end = min(row_strip + array_rows, rows[i + 1])
                    for col_strip in range(cols[j], cols[j + 1], array_cols):
                        col_end = min(col_strip + array_cols, cols[j + 1])
                        for start in range(ks[block], ks[block + 1], window):
                            end = min(start + window, ks[block + 1])
                            most: Any = 1
                            for row in range(row_strip, row_end):
                                for col in range(col_strip, col_end):
                                    found: Any = 0
                                    for word in range(start // 64, (end + 63) // 64):
                                        both = a[row, word] & b[col, word]
                                        low, high = start - word * 64, end - word * 64
                                        if low > 0:
                                            both = (both >> np.uint64(low)) << np.uint64(low)
                                        if high < 64:
                                            both = both & ((np.uint64(1) << np.uint64(high)) - np.uint64(1))
                                        found += np.int64(_ones(both))
                                    pairs += found
                                    # All lanes of a window wait for the pair of row and column with the most matches.
                                    most = max(most, (found + lanes - 1) // lanes)
                            total += most
                steps[i, j, block] = total
    return pairs
