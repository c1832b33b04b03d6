"""Hopper, Blackwell and the linear order: atoms of rows x K that repeat along the rows first, then along K.

From CUTLASS `include/cutlass/gemm/collective/builders/`: `sm90_sparse_config.inl` (atom 64 rows x the
kernel's K tile) and `sm1xx_sparse_config.inl` (atom 128 rows x 16 bytes of metadata). Both pad rows and K to
whole atoms. All orders keep four consecutive groups of a row together, so a word here
is 16 bits.
"""

from dataclasses import dataclass

from nmsim.layouts.order import WordOrder
from nmsim.units import ceil_div

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
