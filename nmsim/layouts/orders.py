"""The orders of words in memory: each is a reshape and a transpose, and therefore always a permutation.

**Ampere** (sm80): the order of CUTLASS 2.x sparse kernels, which is the one PyTorch's CUTLASS backend stores.
CUTLASS writes it as a loop (`tools/util/include/cutlass/util/host_reorder.h`, `reorder_meta`), stored
`ColumnMajorInterleaved<2>`. With word row m and word column c, and (G, I) = (32, 4) for 16-bit words or
(16, 2) for 32-bit ones:

    r = m // G * G + m % 8 * I + m % G // 8
    swap the lowest bits of r and c
    memory word = c // 2 * 2 * rows + 2 * r + c % 2

Every term is a digit of m or c, so the whole is one transpose of digits.

**Hopper, Blackwell and the linear order**: atoms of rows x K that repeat along the rows first, then along K.
From CUTLASS `include/cutlass/gemm/collective/builders/`: `sm90_sparse_config.inl` (atom 64 rows x the
kernel's K tile) and `sm1xx_sparse_config.inl` (atom 128 rows x 16 bytes of metadata). Both pad rows and K to
whole atoms. All orders keep four consecutive groups of a row together, so a word of an atom is 16 bits.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nmsim.units import ceil_div


@dataclass(frozen=True)
class WordOrder:
    """Where each word of a row-major [rows, columns] array of words lies in memory.

    Parameters
    ----------
    word : str
        numpy type of a word. It fixes how many nibbles travel together.
    row_split, column_split : tuple of int
        Factors of rows and columns, slowest first. The digits of (row, column) in these mixed radices are the
        axes 0, 1, 2, ... of the transpose.
    memory_axes : tuple of int
        The same axes in the order of memory, slowest first.
    """

    word: str
    row_split: tuple[int, ...]
    column_split: tuple[int, ...]
    memory_axes: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of words."""
        return math.prod(self.row_split), math.prod(self.column_split)

    def scatter(self, words: NDArray[Any]) -> NDArray[Any]:
        """Put row-major words in the order of memory: [rows, columns] to [rows * columns]."""
        split = words.reshape(self.row_split + self.column_split)
        return np.ascontiguousarray(split.transpose(self.memory_axes)).reshape(-1)

    def gather(self, memory: NDArray[Any]) -> NDArray[Any]:
        """Undo `scatter`: [rows * columns] to [rows, columns]."""
        split = self.row_split + self.column_split
        in_memory = memory.reshape([split[axis] for axis in self.memory_axes])
        row_major = in_memory.transpose(np.argsort(self.memory_axes))
        return np.ascontiguousarray(row_major).reshape(self.shape)

    def offsets(self) -> NDArray[np.int64]:
        """Tabulate each word's position in memory, counted in words: int64 [rows, columns]."""
        return self.gather(np.arange(math.prod(self.shape), dtype=np.int64))


SM80_COLUMN_MULTIPLE = 2
"""Words of a row come in pairs; the stored order is undefined for an odd count."""

SM80_WORD_TYPE = {8: "i4", 16: "i2", 32: "i2"}
"""Bits of a value -> type of a metadata word of Ampere: the numpy name of torch's dtype."""

SM80_ROW_MULTIPLE = {8: 16, 16: 32, 32: 32}
"""Bits of a value -> rows that the order of Ampere permutes together."""


def sm80_order(rows: int, columns: int, value_bits: int) -> WordOrder:
    """Lay out rows x columns metadata words; `rows` and `columns` are multiples as checked by the caller."""
    if value_bits == 8:
        # axes: 0 row block, 1 m // 8 % 2, 2 m % 8 | 3 c // 2, 4 c % 2
        return WordOrder(
            word=SM80_WORD_TYPE[value_bits],
            row_split=(rows // 16, 2, 8),
            column_split=(columns // 2, 2),
            memory_axes=(3, 0, 2, 4, 1),
        )
    # axes: 0 row block, 1 m // 16 % 2, 2 m // 8 % 2, 3 m % 8 | 4 c // 2, 5 c % 2
    return WordOrder(
        word=SM80_WORD_TYPE[value_bits],
        row_split=(rows // 32, 2, 2, 8),
        column_split=(columns // 2, 2),
        memory_axes=(4, 0, 3, 1, 5, 2),
    )


WORD_GROUPS = 4
"""Groups in a 16-bit word, which no order takes apart."""

DEFAULT_TILE_K = 128
MAX_TILE_K = 128
"""CUTLASS's Hopper builder takes min(K tile, 128) as the atom's K (`sm90_sparse_gmma_builder.inl`)."""


@dataclass(frozen=True)
class Atom:
    """The repeating block of an order: `rows` x `k_elems` elements."""

    rows: int
    k_elems: int
    interleaved: bool

    def word_order(self, padded_rows: int, padded_k: int, group_elems: int) -> WordOrder:
        """Lay out the words of a matrix of whole atoms."""
        atom_columns = self.k_elems // (group_elems * WORD_GROUPS)
        atoms_m, atoms_k = padded_rows // self.rows, padded_k // self.k_elems
        if not self.interleaved:
            # axes: 0 atom, 1 row of the atom | 2 atom, 3 word of the atom
            return WordOrder("<u2", (atoms_m, self.rows), (atoms_k, atom_columns), (2, 0, 1, 3))
        # axes: 0 atom, 1 m // 16, 2 m // 8 % 2, 3 m % 8 | 4 atom, 5 c // 2, 6 c % 2  (inside the atom)
        return WordOrder(
            word="<u2",
            row_split=(atoms_m, self.rows // 16, 2, 8),
            column_split=(atoms_k, atom_columns // 2, 2),
            memory_axes=(4, 0, 1, 6, 3, 5, 2),
        )


def k_block(value_bits: int) -> int:
    """K elements that one Hopper sparse instruction takes: the atom's K is a multiple of it."""
    return 512 // value_bits


def sm90_atom(value_bits: int, tile_k: int) -> Atom:
    """Give Hopper's atom for a kernel with this K tile."""
    return Atom(rows=64, k_elems=tile_k, interleaved=value_bits != 8)


def sm100_atom(value_bits: int) -> Atom:
    """Give Blackwell's atom."""
    return Atom(rows=128, k_elems=64 if value_bits == 32 else 128, interleaved=value_bits != 8)


def linear_atom(k: int, group_elems: int) -> Atom:
    """Give the atom of the plain order: one whole row, filled up to whole words."""
    word_elems = group_elems * WORD_GROUPS
    return Atom(rows=1, k_elems=ceil_div(k, word_elems) * word_elems, interleaved=False)
