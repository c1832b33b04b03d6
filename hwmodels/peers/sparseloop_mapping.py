"""How Sparseloop's study maps a product onto its tensor core, and what the best mapping reads from each level.

The core has 4 subpartitions of 16 rows by 16 columns of int8 MACs. Rows take M, columns take the kept values of a span of
K. A register file holds 16 x 128 sums per subpartition. So at most 128 columns of N pass before A is read again. Tiles of
A and B stay in 256 Ki words of shared memory with all of their K. An operand without metadata may be streamed through it
instead, and is then read from DRAM each time.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from nmsim.errors import SpecError
from nmsim.units import ceil_div

ARRAY_ROWS, ARRAY_COLUMNS, SUBPARTITIONS = 16, 16, 4
MACS = ARRAY_ROWS * ARRAY_COLUMNS * SUBPARTITIONS
SPAN_LIMIT = 64
"""Most elements of K that the columns select from."""
SUMS_PER_ROW = 128
WORD_BITS = 8
SMEM_WORDS = 262_144
SMEM_WORDS_PER_CYCLE, DRAM_WORDS_PER_CYCLE = 42, 32
LARGEST_TILE = 8
"""Most times that a tile of shared memory holds what the array works on at once, along M and along N."""


def ceil_times(count: int, ratio: Fraction) -> int:
    """Multiply by a ratio and round up.

    Examples
    --------
    >>> ceil_times(10, Fraction(1, 4))
    3
    """
    return ceil_div(count * ratio.numerator, ratio.denominator)


@dataclass(frozen=True)
class Reads:
    """What is read from one level of memory over the whole product.

    Parameters
    ----------
    a_elems, b_elems : int
        Elements of the weights and of the other operand, as stored.
    a_metadata_bits, b_metadata_bits : int
    """

    a_elems: int
    a_metadata_bits: int
    b_elems: int
    b_metadata_bits: int

    @property
    def bits(self) -> int:
        """All bits read."""
        return WORD_BITS * (self.a_elems + self.b_elems) + self.a_metadata_bits + self.b_metadata_bits


class Operands(NamedTuple):
    """The two operands as stored; A has M x K elements and B has K x N before compression."""

    M: int
    K: int
    N: int
    a_density: Fraction
    a_bits_per_value: Fraction
    b_elems: int
    b_metadata_bits: int

    def reads(self, a_passes: int, b_passes: int) -> Reads:
        """Count what so many passes over A and over B read."""
        a_elems = ceil_times(self.M * self.K * a_passes, self.a_density)
        return Reads(
            a_elems,
            ceil_times(a_elems, self.a_bits_per_value),
            self.b_elems * b_passes,
            self.b_metadata_bits * b_passes,
        )

    def tile_words(self, rows: int, columns: int, stream_a: bool, stream_b: bool) -> int:
        """Count the words of shared memory that a tile of each takes; a compressed B may turn out dense."""
        a = 0 if stream_a else ceil_times(min(rows, self.M) * self.K, self.a_density)
        return a + (0 if stream_b else min(columns, self.N) * self.K)


class Mapped(NamedTuple):
    """A mapping: how often M fills the rows of the array, and what is read from each level."""

    row_passes: int
    smem: Reads
    dram: Reads


def best_mapping(operands: Operands, span: int) -> Mapped:
    """Find the mapping with the fewest cycles, then the fewest bits from DRAM, then from shared memory.

    Parameters
    ----------
    operands : Operands
    span : int
        Elements of K that the columns take at once.

    Raises
    ------
    SpecError
        No tile with all of K fits the shared memory.

    Source
    ------
    Constraints and sizes: Sparseloop MICRO'22 artifact, fig15_stc_related_setup: `FlexibleGH-Ms-constraints.yaml`,
    `STC_flexible-RF2x-24-bandwidth-RLE.yaml`, `sweep.py`. Its mapper takes exact factors of M and N only; here the last
    tile may be partly empty.
    """
    best: tuple[tuple[int, int, int], Mapped] | None = None
    for mapped in _mappings(operands):
        cycles = max(
            mapped.row_passes * operands.N * ceil_div(operands.K, span),
            ceil_div(mapped.smem.bits, SMEM_WORDS_PER_CYCLE * WORD_BITS),
            ceil_div(mapped.dram.bits, DRAM_WORDS_PER_CYCLE * WORD_BITS),
        )
        rank = cycles, mapped.dram.bits, mapped.smem.bits
        if best is None or rank < best[0]:
            best = rank, mapped
    if best is None:
        raise SpecError(
            f"layer M{operands.M}-K{operands.K}-N{operands.N}: K={operands.K} is too long. A tile of all of K must fit "
            f"{SMEM_WORDS} words of shared memory"
        )
    return best[1]


def _mappings(operands: Operands) -> Iterator[Mapped]:
    may_stream_a, may_stream_b = not operands.a_bits_per_value, not operands.b_metadata_bits
    may_stream = [(a, b) for a in (False, may_stream_a) for b in (False, may_stream_b)]
    for subpartitions in range(1, SUBPARTITIONS + 1):
        rows = subpartitions * ARRAY_ROWS
        row_passes = ceil_div(operands.M, rows)
        columns = SUMS_PER_ROW
        while columns:
            column_passes = ceil_div(operands.N, columns)
            smem = operands.reads(column_passes, row_passes)
            for stream_a, stream_b in dict.fromkeys(may_stream):
                for a_passes, b_passes in _dram_passes(operands, rows, columns, stream_a, stream_b):
                    dram = operands.reads(
                        column_passes if stream_a else a_passes, row_passes if stream_b else b_passes
                    )
                    yield Mapped(row_passes, smem, dram)
            columns //= 2


def _dram_passes(
    operands: Operands, rows: int, columns: int, stream_a: bool, stream_b: bool
) -> Iterator[tuple[int, int]]:
    """Passes over A and over B from DRAM, for tiles as large as fit and either loop outside."""
    for column_tile in range(1, LARGEST_TILE + 1):
        fitting = (
            row_tile
            for row_tile in range(LARGEST_TILE, 0, -1)
            if operands.tile_words(rows * row_tile, columns * column_tile, stream_a, stream_b) <= SMEM_WORDS
        )
        row_tile = next(fitting, 0)
        if not row_tile:
            return
        row_tiles = ceil_div(operands.M, rows * row_tile)
        column_tiles = ceil_div(operands.N, columns * column_tile)
        yield 1, row_tiles if column_tiles > 1 else 1
        yield column_tiles if row_tiles > 1 else 1, 1
