"""One select network for several patterns: which patterns a network serves, and the pattern whose network serves all."""

import math
from collections.abc import Iterable

from nmsim.errors import SpecError
from nmsim.pattern import Pattern


def serves(wide: Pattern, narrow: Pattern) -> bool:
    """Say whether an ordered select network of one pattern serves groups of another, one pattern at a time.

    It does if N of the narrow pattern divides N of the wide one, and the wide one keeps no greater share. With c = N / n, the
    wide group takes c groups of n:m, one after the other, in its first c * m elements. Element and slot of group g both lie
    behind those of the groups before. So slot g * n + j takes an element between g * m + j and g * m + j + m - n. In the wide
    group this slot reaches from g * n + j to g * n + j + M - N. The lower end is in reach, since m >= n. The upper one is,
    since (g + 1) * (m - n) <= c * (m - n) <= M - N.

    For the same reason any network of N:M serves: c masks of n:m side by side are a mask of N:M. If both keep the same share,
    no logic is added. If the narrow pattern keeps more, elements of the wide group are unused. The operand buffer must then
    align elements with groups of M.

    Parameters
    ----------
    wide, narrow : Pattern

    Examples
    --------
    >>> wide = Pattern(8, 16)
    >>> [serves(wide, Pattern.parse(narrow)) for narrow in ("2:4", "4:8", "4:6", "1:4", "3:6")]
    [True, True, True, False, False]
    """
    return wide.n % narrow.n == 0 and narrow.m * wide.n <= wide.m * narrow.n


def serving(patterns: Iterable[Pattern]) -> Pattern:
    """Find the smallest pattern whose ordered select network serves all patterns given.

    Parameters
    ----------
    patterns : iterable of Pattern
        At least one.

    Returns
    -------
    Pattern
        One of them, if its network serves the others. If not, one with the smallest share and a common multiple of N.

    Raises
    ------
    SpecError
        No pattern.

    Examples
    --------
    >>> str(serving(map(Pattern.parse, ["2:4", "8:16", "4:8"]))), str(serving(map(Pattern.parse, ["1:4", "2:4"])))
    ('8:16', '2:8')
    """
    held = list(patterns)
    if not held:
        raise SpecError("no pattern: expected at least one")
    n = math.lcm(*(pattern.n for pattern in held))
    return Pattern(n, max(n // pattern.n * pattern.m for pattern in held))
