"""`combinatorial`: the place of the mask, from 0, among all M-bit integers with N ones, smallest first."""

from math import comb

from nmsim.errors import EncodingError
from nmsim.pattern import Pattern
from nmsim.reference.masks import check_masks


def code_bits(pattern: Pattern) -> int:
    """Count the bits of a code: those that the last code, C(M, N) - 1, needs.

    Examples
    --------
    >>> code_bits(Pattern(2, 4)), code_bits(Pattern(8, 16)), code_bits(Pattern(4, 4))
    (3, 14, 0)
    """
    return (comb(pattern.m, pattern.n) - 1).bit_length()


def encode(masks: list[int], pattern: Pattern) -> list[int]:
    """Turn group masks into codes.

    Raises
    ------
    EncodingError
        A mask does not have exactly N ones among its low M bits.

    Examples
    --------
    >>> encode([0b0011, 0b0101, 0b0110, 0b1001, 0b1010, 0b1100], Pattern(2, 4))
    [0, 1, 2, 3, 4, 5]
    """
    check_masks(masks, pattern)
    return [_count_smaller(mask, pattern) for mask in masks]


def decode(codes: list[int], pattern: Pattern) -> list[int]:
    """Turn codes into group masks.

    Raises
    ------
    EncodingError
        A code is not below C(M, N).

    Examples
    --------
    >>> [bin(mask) for mask in decode([0, 5], Pattern(2, 4))]
    ['0b11', '0b1100']
    """
    count = comb(pattern.m, pattern.n)
    for i, code in enumerate(codes):
        if not 0 <= code < count:
            raise EncodingError(
                f"code {i} is {code}: expected 0 <= code < C({pattern.m}, {pattern.n}) = {count}"
            )
    return [_mask_at(code, pattern) for code in codes]


def _count_smaller(mask: int, pattern: Pattern) -> int:
    """Number of masks with N ones that are smaller than `mask`.

    Go through the bits from the top. At each one of `mask`, the masks that agree with it so far and have a zero
    there are smaller. All of their missing ones lie in the bits below.
    """
    smaller = 0
    ones_left = pattern.n
    for bit in reversed(range(pattern.m)):
        if mask >> bit & 1:
            smaller += comb(bit, ones_left)
            ones_left -= 1
    return smaller


def _mask_at(code: int, pattern: Pattern) -> int:
    """The mask with exactly `code` smaller ones."""
    mask = 0
    ones_left = pattern.n
    for bit in reversed(range(pattern.m)):
        with_zero_here = comb(bit, ones_left)
        if code >= with_zero_here:
            code -= with_zero_here
            mask += 2**bit
            ones_left -= 1
        if ones_left == 0:
            break
    return mask
