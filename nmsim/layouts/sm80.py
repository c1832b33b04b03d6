"""Ampere: the order of CUTLASS 2.x sparse kernels, which is the one PyTorch's CUTLASS backend stores.

CUTLASS writes it as a loop (`tools/util/include/cutlass/util/host_reorder.h`, `reorder_meta`), stored
`ColumnMajorInterleaved<2>`. With word row m and word column c, and (G, I) = (32, 4) for 16-bit words or
(16, 2) for 32-bit ones:

    r = m // G * G + m % 8 * I + m % G // 8
    swap the lowest bits of r and c
    memory word = c // 2 * 2 * rows + 2 * r + c % 2

Every term is a digit of m or c, so the whole is one transpose of digits.
"""

from nmsim.layouts.order import WordOrder

COLUMN_MULTIPLE = 2
"""Words of a row come in pairs; the stored order is undefined for an odd count."""

_WORD_OF_VALUE_BITS = {8: "i4", 16: "i2", 32: "i2"}


def row_multiple(value_bits: int) -> int:
    """Rows that the order permutes together."""
    return 16 if value_bits == 8 else 32


def word_type(value_bits: int) -> str:
    """Type of a metadata word: the numpy name of torch's dtype."""
    return _WORD_OF_VALUE_BITS[value_bits]


def word_order(rows: int, columns: int, value_bits: int) -> WordOrder:
    """Lay out rows x columns metadata words; `rows` and `columns` are multiples as checked by the caller."""
    if value_bits == 8:
        # axes: 0 row block, 1 m // 8 % 2, 2 m % 8 | 3 c // 2, 4 c % 2
        return WordOrder(
            word=word_type(value_bits),
            row_split=(rows // 16, 2, 8),
            column_split=(columns // 2, 2),
            memory_axes=(3, 0, 2, 4, 1),
        )
    # axes: 0 row block, 1 m // 16 % 2, 2 m // 8 % 2, 3 m % 8 | 4 c // 2, 5 c % 2
    return WordOrder(
        word=word_type(value_bits),
        row_split=(rows // 32, 2, 2, 8),
        column_split=(columns // 2, 2),
        memory_axes=(4, 0, 3, 1, 5, 2),
    )
