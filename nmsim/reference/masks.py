"""Which elements of a row are kept: choosing them, cutting a row into group masks, completing a group.

A group is M consecutive elements. Its mask is an integer whose bit i (value 2**i) is element i of the group.
"""

import struct

from nmsim.errors import EncodingError, PatternError
from nmsim.pattern import Pattern


def positions(mask: int) -> list[int]:
    """List the elements a mask keeps, lowest first.

    Examples
    --------
    >>> positions(0b1010)
    [1, 3]
    """
    return [i for i in range(mask.bit_length()) if mask >> i & 1]


def mask_of(kept: list[int]) -> int:
    """Write a list of kept elements as a mask.

    Examples
    --------
    >>> bin(mask_of([1, 3]))
    '0b1010'
    """
    return sum(2**i for i in kept)


def check_masks(masks: list[int], pattern: Pattern) -> None:
    """Refuse masks that are not exactly N ones among the low M bits.

    Raises
    ------
    EncodingError
        A mask is negative, has a bit at or above M, or has more or fewer than N ones. Names the group.

    Examples
    --------
    >>> check_masks([0b0011, 0b1010], Pattern(2, 4))
    """
    for group, mask in enumerate(masks):
        if not 0 <= mask < 2**pattern.m:
            raise EncodingError(f"group mask {group} is {mask}: expected 0 <= group mask < 2**{pattern.m}")
        kept = len(positions(mask))
        if kept != pattern.n:
            how = "over-full" if kept > pattern.n else "under-full"
            raise EncodingError(
                f"group mask {group} is {mask:#x}, {how} with {kept} kept: "
                f"expected exactly {pattern.n} ones among the low {pattern.m} bits"
            )


def complete(mask: int, pattern: Pattern) -> int:
    """Add the lowest-numbered elements not kept until N are; the values stored for them are zero.

    Parameters
    ----------
    mask : int
        At most N ones among the low M bits.
    pattern : Pattern
        N and M.

    Returns
    -------
    int
        A mask with exactly N ones, among them all those of `mask`.

    Raises
    ------
    PatternError
        The mask has more than N ones, or a bit at or above M.

    Examples
    --------
    >>> bin(complete(0b1000, Pattern(2, 4)))
    '0b1001'
    """
    if not 0 <= mask < 2**pattern.m:
        raise PatternError(f"group mask is {mask}: expected 0 <= group mask < 2**{pattern.m}")
    kept = positions(mask)
    if len(kept) > pattern.n:
        raise PatternError(
            f"group mask is {mask:#x}, over-full with {len(kept)} kept: "
            f"expected at most {pattern.n} ones ({pattern})"
        )
    for element in range(pattern.m):
        if len(kept) < pattern.n and element not in kept:
            kept.append(element)
    return mask_of(kept)


def split_row(keep: list[bool], pattern: Pattern) -> list[int]:
    """Cut a row of keep-or-drop flags into completed group masks.

    A tail of t < M elements is a group whose elements t..M-1 do not exist and so are not kept.

    Raises
    ------
    PatternError
        A group keeps more than N elements.

    Examples
    --------
    >>> [bin(mask) for mask in split_row([True, False, False, True, False, True], Pattern(2, 4))]
    ['0b1001', '0b11']
    """
    masks = []
    for group, start in enumerate(range(0, len(keep), pattern.m)):
        flags = keep[start : start + pattern.m]
        try:
            masks.append(complete(mask_of([i for i, kept in enumerate(flags) if kept]), pattern))
        except PatternError as error:
            raise PatternError(f"group {group}: {error}") from None
    return masks


def join_row(masks: list[int], pattern: Pattern, row_elems: int) -> list[bool]:
    """Lay group masks end to end as a row of keep-or-drop flags, and drop what does not exist.

    Raises
    ------
    PatternError
        The number of masks is not the number of groups that cover the row.

    Examples
    --------
    >>> join_row([0b1001, 0b0011], Pattern(2, 4), 5)
    [True, False, False, True, True]
    """
    if len(masks) != pattern.groups(row_elems):
        raise PatternError(
            f"{len(masks)} groups for a row of {row_elems} elements: expected {pattern.groups(row_elems)}"
        )
    return [bool(mask >> i & 1) for mask in masks for i in range(pattern.m)][:row_elems]


def magnitude(value: int | float) -> int:
    """Turn a value into the integer that pruning compares.

    The magnitude of an integer is its absolute value. That of a float is its bit pattern with the sign bit cleared,
    read as an unsigned integer. So -0.0 equals 0.0, infinities are above every finite number, NaN is above infinity.

    Examples
    --------
    >>> magnitude(-7)
    7
    >>> magnitude(-0.0) == magnitude(0.0) < magnitude(1e300) < magnitude(float("-inf"))
    True
    >>> magnitude(float("-inf")) < magnitude(float("nan"))
    True
    """
    if isinstance(value, int):
        return abs(value)
    return magnitude_of_bits(int.from_bytes(struct.pack("<d", value), "little"), 64)


def magnitude_of_bits(word: int, width_bits: int) -> int:
    """Clear the sign bit of a float that is given as its stored bits (float16, bfloat16, float8, ...).

    Examples
    --------
    >>> hex(magnitude_of_bits(0xBC00, 16))
    '0x3c00'
    """
    sign: int = 2 ** (width_bits - 1)
    return word % sign


def prune_row(values: list[int] | list[float], pattern: Pattern) -> list[bool]:
    """Keep the N elements of greatest magnitude of every M; of equal ones the lower index wins.

    A tail of t < M elements keeps min(N, t). All values are integers or all are floats.

    Examples
    --------
    >>> prune_row([1, -3, 3, 3], Pattern(2, 4))
    [False, True, True, False]
    """
    return _keep_greatest([magnitude(value) for value in values], pattern)


def prune_row_by_scores(scores: list[float], pattern: Pattern) -> list[bool]:
    """Keep the N elements of greatest score of every M; of equal ones the lower index wins.

    Raises
    ------
    PatternError
        A score is NaN.

    Examples
    --------
    >>> prune_row_by_scores([-1.0, -3.0, 0.0, 0.5], Pattern(2, 4))
    [False, False, True, True]
    """
    for element, score in enumerate(scores):
        if score != score:
            raise PatternError(f"score of element {element} is NaN: expected a number")
    return _keep_greatest(scores, pattern)


def _keep_greatest(marks: list[int] | list[float], pattern: Pattern) -> list[bool]:
    keep = [False] * len(marks)
    for start in range(0, len(marks), pattern.m):
        group = list(range(start, min(start + pattern.m, len(marks))))
        best_first = sorted(group, key=lambda element: (-marks[element], element))
        for element in best_first[: pattern.n]:
            keep[element] = True
    return keep
