"""The four-bit code of one group, the same on every NVIDIA architecture: masks to nibbles and back.

A 2:4 group that keeps elements i < j has the nibble `i | j << 2`. A 1:2 pair (32-bit values) is written as
the 2:4 group of its four 16-bit halves. So keeping element 0 gives 0x4 and keeping element 1 gives 0xE.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nmsim.errors import PatternError

EMPTY_NIBBLE = 0xE
"""Nibble of a group that keeps nothing, and of every padding group."""

UNDER_FULL_PAIR = {0b0000: (2, 3), 0b0001: (0, 2), 0b0010: (1, 2), 0b0100: (2, 3), 0b1000: (2, 3)}
"""2:4 mask (bit e = element e kept) that keeps fewer than two -> the pair that stands for it (torch 2.13)."""

NIBBLE_OF_MASK: dict[int, dict[int, int]] = {
    4: {1 << i | 1 << j: i | j << 2 for j in range(4) for i in range(j)}
    | {mask: i | j << 2 for mask, (i, j) in UNDER_FULL_PAIR.items()},
    2: {0b00: EMPTY_NIBBLE, 0b01: 0x4, 0b10: 0xE},
}
"""Elements of a group -> group mask (bit e = element e kept) -> nibble. A mask not listed is over-full."""

MASK_OF_NIBBLE: dict[int, dict[int, int]] = {
    elems: {nibble: mask for mask, nibble in nibble_of_mask.items() if mask.bit_count() == elems // 2}
    for elems, nibble_of_mask in NIBBLE_OF_MASK.items()
}
"""Elements of a group -> legal nibble -> the full mask it stands for."""

LEGAL_NIBBLES: dict[int, tuple[int, ...]] = {
    elems: tuple(sorted(mask_of_nibble)) for elems, mask_of_nibble in MASK_OF_NIBBLE.items()
}
"""Elements of a group -> its legal nibbles: six for 4 elements (2:4), two for 2 elements (1:2)."""


def _words_of_mask_bytes(elems: int) -> tuple[NDArray[np.unsignedinteger[Any]], NDArray[np.bool_]]:
    """Tabulate the 256 values of eight mask bits: their nibbles, and whether a group is over-full."""
    groups = 8 // elems
    words = np.zeros(256, dtype=f"<u{groups // 2}")
    over_full = np.zeros(256, dtype=np.bool_)
    for mask_bits in range(256):
        for group in range(groups):
            nibble = NIBBLE_OF_MASK[elems].get(mask_bits >> elems * group & (1 << elems) - 1)
            if nibble is None:
                over_full[mask_bits] = True
            else:
                words[mask_bits] |= nibble << 4 * group
    return words, over_full


_WORDS_OF_MASK_BYTES = {elems: _words_of_mask_bytes(elems) for elems in NIBBLE_OF_MASK}


def _bools_of_nibbles(elems: int) -> NDArray[np.bool_]:
    """Tabulate the mask of each of the 16 nibbles as bools, shape [16, elems]; illegal ones keep nothing."""
    table = np.zeros((16, elems), dtype=np.bool_)
    for nibble, mask in MASK_OF_NIBBLE[elems].items():
        table[nibble] = [bool(mask >> element & 1) for element in range(elems)]
    return table


_BOOLS_OF_NIBBLES = {elems: _bools_of_nibbles(elems) for elems in MASK_OF_NIBBLE}


def pack_nibbles(mask: NDArray[np.bool_], elems: int) -> NDArray[np.uint8]:
    """Turn a mask into nibbles in plain row order, the earlier group in the low half of a byte.

    Parameters
    ----------
    mask : ndarray of bool, shape [rows, K], K a multiple of 8
        True where an element is kept.
    elems : {4, 2}
        Elements of a group: 4 for 2:4, 2 for 1:2.

    Returns
    -------
    ndarray of uint8, shape [rows, K / (2 * elems)]

    Raises
    ------
    PatternError
        A group keeps more than half of its elements.
    """
    words, over_full = _WORDS_OF_MASK_BYTES[elems]
    mask_bytes = np.packbits(np.ascontiguousarray(mask), axis=1, bitorder="little")
    if over_full[mask_bytes].any():
        kept = mask.reshape(mask.shape[0], -1, elems).sum(axis=2)
        row, group = (int(i) for i in np.argwhere(kept > elems // 2)[0])
        raise PatternError(
            f"mask row {row}, group {group} (elements {elems * group} to {elems * group + elems - 1}) keeps "
            f"{kept[row, group]} elements: expected at most {elems // 2} of {elems}"
        )
    return words[mask_bytes].view(np.uint8)


def split_nibbles(row_bytes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Spread bytes over nibbles, low half first: shape [rows, B] to [rows, 2 B]."""
    nibbles = np.empty((row_bytes.shape[0], 2 * row_bytes.shape[1]), dtype=np.uint8)
    np.bitwise_and(row_bytes, 0xF, out=nibbles[:, 0::2])
    np.right_shift(row_bytes, 4, out=nibbles[:, 1::2])
    return nibbles


def first_outside(nibbles: NDArray[np.uint8], allowed: tuple[int, ...]) -> tuple[int, int] | None:
    """Find the first nibble, in row order, that is not among the allowed ones: (row, group), or None."""
    bad_nibble = np.ones(16, dtype=np.bool_)
    bad_nibble[list(allowed)] = False
    bad = bad_nibble[nibbles]
    if not bad.any():
        return None
    row, group = np.unravel_index(int(bad.argmax()), bad.shape)
    return int(row), int(group)


def unpack_nibbles(nibbles: NDArray[np.uint8], elems: int) -> NDArray[np.bool_]:
    """Turn legal nibbles, one per group, into a mask: shape [rows, groups] to [rows, groups * elems] bool."""
    table = _BOOLS_OF_NIBBLES[elems].view(f"u{elems}").reshape(16)  # all bools of a group in one gather
    return table[nibbles].view(np.bool_)
