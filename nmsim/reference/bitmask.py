"""`bitmask`: the code is the mask itself, M bits."""

from nmsim.errors import EncodingError
from nmsim.pattern import Pattern
from nmsim.reference.masks import check_masks, positions


def code_bits(pattern: Pattern) -> int:
    """Count the bits of a code.

    Examples
    --------
    >>> code_bits(Pattern(2, 4))
    4
    """
    return pattern.m


def encode(masks: list[int], pattern: Pattern) -> list[int]:
    """Turn group masks into codes.

    Raises
    ------
    EncodingError
        A mask does not have exactly N ones among its low M bits.

    Examples
    --------
    >>> encode([0b0011, 0b1010], Pattern(2, 4))
    [3, 10]
    """
    check_masks(masks, pattern)
    return list(masks)


def decode(codes: list[int], pattern: Pattern) -> list[int]:
    """Turn codes into group masks.

    Raises
    ------
    EncodingError
        A code has a bit at or above M, or not exactly N ones.

    Examples
    --------
    >>> decode([3, 10], Pattern(2, 4))
    [3, 10]
    """
    for i, code in enumerate(codes):
        if not 0 <= code < 2**pattern.m:
            raise EncodingError(f"code {i} is {code}: expected 0 <= code < 2**{pattern.m}")
        if len(positions(code)) != pattern.n:
            raise EncodingError(
                f"code {i} is {code}, with popcount {len(positions(code))}: expected {pattern.n} ({pattern})"
            )
    return list(codes)
