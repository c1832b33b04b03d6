"""`joint` and `joint:G`: one code for G consecutive groups, their combinatorial codes read as digits.

The base is C = C(M, N), the first group is the least significant digit: code = sum of c_j * C**j.
"""

from fractions import Fraction
from math import comb

from nmsim.errors import EncodingError
from nmsim.pattern import Pattern
from nmsim.reference import combinatorial

MACHINE_WORD_BITS = 64
MAX_GROUPS = 4096


def default_groups_per_code(pattern: Pattern) -> int:
    """Find the smallest G with the fewest bits per group, among those whose code fits 64 bits.

    It is 1 if no code fits 64 bits.

    Examples
    --------
    >>> default_groups_per_code(Pattern(2, 4)), default_groups_per_code(Pattern(4, 4))
    (17, 1)
    """
    best = 1
    for groups in range(2, MACHINE_WORD_BITS + 1):
        bits = code_bits(pattern, groups)
        if bits <= MACHINE_WORD_BITS and Fraction(bits, groups) < Fraction(code_bits(pattern, best), best):
            best = groups
    return best


def groups_per_code(pattern: Pattern, groups: int | None = None) -> int:
    """Say how many groups one code covers.

    Raises
    ------
    EncodingError
        `groups` is not 1 to 4096.

    Examples
    --------
    >>> groups_per_code(Pattern(2, 4), 10)
    10
    """
    if groups is None:
        return default_groups_per_code(pattern)
    if not 1 <= groups <= MAX_GROUPS:
        raise EncodingError(f"joint:{groups}: expected 1 to {MAX_GROUPS} groups")
    return groups


def code_bits(pattern: Pattern, groups: int | None = None) -> int:
    """Count the bits of a code: those that the last code, C**G - 1, needs.

    Examples
    --------
    >>> code_bits(Pattern(2, 4), 10)
    26
    """
    return int(comb(pattern.m, pattern.n) ** groups_per_code(pattern, groups) - 1).bit_length()


def encode(masks: list[int], pattern: Pattern, groups: int | None = None) -> list[int]:
    """Turn group masks into codes; in a last code that is not full, the missing digits are 0.

    Parameters
    ----------
    masks : list of int
        One per group, exactly N ones among the low M bits.
    pattern : Pattern
        N and M.
    groups : int, optional
        G, at least 1. That of `default_groups_per_code` if not given.

    Raises
    ------
    EncodingError
        A mask does not have exactly N ones among its low M bits.

    Examples
    --------
    >>> encode([0b1100, 0b0101, 0b0110], Pattern(2, 4), 2)  # digits 5, 1 and 2, 0 in base 6
    [11, 2]
    """
    groups = groups_per_code(pattern, groups)
    base = comb(pattern.m, pattern.n)
    digits = combinatorial.encode(masks, pattern)
    in_codes = [digits[start : start + groups] for start in range(0, len(digits), groups)]
    return [sum(digit * base**j for j, digit in enumerate(some)) for some in in_codes]


def decode(
    codes: list[int], pattern: Pattern, n_groups: int | None = None, groups: int | None = None
) -> list[int]:
    """Turn codes into group masks.

    Parameters
    ----------
    codes : list of int
        Codes below C**G.
    pattern : Pattern
        N and M.
    n_groups : int, optional
        Groups that the codes cover together; all of every code if not given.
    groups : int, optional
        G.

    Raises
    ------
    EncodingError
        A code is not below C**G, a missing digit is not 0, or `n_groups` needs another number of codes.

    Examples
    --------
    >>> [bin(mask) for mask in decode([11, 2], Pattern(2, 4), n_groups=3, groups=2)]
    ['0b1100', '0b101', '0b110']
    """
    groups = groups_per_code(pattern, groups)
    if n_groups is None:
        n_groups = groups * len(codes)
    if -(-n_groups // groups) != len(codes):
        raise EncodingError(
            f"{len(codes)} codes of {groups} groups for {n_groups} groups: "
            f"expected {-(-n_groups // groups)} codes"
        )
    base = comb(pattern.m, pattern.n)
    digits: list[int] = []
    for i, code in enumerate(codes):
        if not 0 <= code < base**groups:
            raise EncodingError(
                f"code {i} is {code}: expected 0 <= code < C({pattern.m}, {pattern.n})**{groups}"
            )
        digits += [code // base**j % base for j in range(groups)]
    for group, digit in enumerate(digits[n_groups:], start=n_groups):
        if digit != 0:
            raise EncodingError(
                f"code {len(codes) - 1} is {codes[-1]}, with digit {digit} for missing group {group}: "
                f"expected 0 after the last of {n_groups} groups"
            )
    return combinatorial.decode(digits[:n_groups], pattern)
