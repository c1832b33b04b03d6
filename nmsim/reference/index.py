"""`index`: the N kept positions in increasing order, ceil(log2 M) bits each, the first lowest."""

from nmsim.errors import EncodingError
from nmsim.pattern import Pattern
from nmsim.reference.masks import check_masks, mask_of, positions


def position_bits(pattern: Pattern) -> int:
    """Count the bits of one position, ceil(log2 M): the bits that the greatest position, M-1, needs.

    Examples
    --------
    >>> [position_bits(Pattern(1, m)) for m in (1, 2, 3, 4, 5)]
    [0, 1, 2, 2, 3]
    """
    return (pattern.m - 1).bit_length()


def code_bits(pattern: Pattern) -> int:
    """Count the bits of a code.

    Examples
    --------
    >>> code_bits(Pattern(2, 4))
    4
    """
    return pattern.n * position_bits(pattern)


def encode(masks: list[int], pattern: Pattern) -> list[int]:
    """Turn group masks into codes.

    Raises
    ------
    EncodingError
        A mask does not have exactly N ones among its low M bits.

    Examples
    --------
    >>> [hex(code) for code in encode([0b0011, 0b1010], Pattern(2, 4))]
    ['0x4', '0xd']
    """
    check_masks(masks, pattern)
    bits = position_bits(pattern)
    return [sum(position << (j * bits) for j, position in enumerate(positions(mask))) for mask in masks]


def decode(codes: list[int], pattern: Pattern) -> list[int]:
    """Turn codes into group masks.

    Raises
    ------
    EncodingError
        A code has more bits than it should, a position at or above M, or positions that do not increase.

    Examples
    --------
    >>> [bin(mask) for mask in decode([0x4, 0xD], Pattern(2, 4))]
    ['0b11', '0b1010']
    """
    return [_decode_one(i, code, pattern) for i, code in enumerate(codes)]


def _decode_one(i: int, code: int, pattern: Pattern) -> int:
    bits = position_bits(pattern)
    if not 0 <= code < 2 ** (pattern.n * bits):
        raise EncodingError(f"code {i} is {code}: expected 0 <= code < 2**{pattern.n * bits}")
    kept: list[int] = []
    for j in range(pattern.n):
        position = (code >> (j * bits)) % 2**bits
        if position >= pattern.m:
            raise EncodingError(
                f"code {i} is {code}, with position {j} at {position}: expected below M={pattern.m}"
            )
        if kept and position <= kept[-1]:
            raise EncodingError(
                f"code {i} is {code}, with position {j} at {position} after {kept[-1]}: expected increasing"
            )
        kept.append(position)
    return mask_of(kept)
