"""`Pattern(n, m)`: N elements kept of every M consecutive ones, and the numbers that follow from N and M alone."""

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Self

from nmsim.errors import PatternError, brief
from nmsim.units import ceil_div

MAX_M = 256


@dataclass(frozen=True, order=True)
class Pattern:
    """An N:M sparsity pattern: N elements **kept** of every M consecutive ones.

    Parameters
    ----------
    n : int, 1 <= n <= m
        Elements kept in a group.
    m : int, 1 <= m <= 256
        Elements of a group.

    Raises
    ------
    PatternError
        `n` or `m` is not an integer, or out of range.

    Examples
    --------
    >>> Pattern.parse("8:16")
    Pattern(n=8, m=16)
    >>> Pattern(8, 16).configurations
    12870
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        for name, value in (("n", self.n), ("m", self.m)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise PatternError(
                    f"pattern {name}={brief(value)} (type {type(value).__name__}): expected an int"
                )
        if not 1 <= self.m <= MAX_M:
            raise PatternError(f"pattern {brief(self.n)}:{brief(self.m)}: expected 1 <= M <= {MAX_M}")
        if not 1 <= self.n <= self.m:
            raise PatternError(
                f"pattern {brief(self.n)}:{self.m}: expected 1 <= N <= M (N counts what is kept)"
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a pattern written `N:M`.

        Raises
        ------
        PatternError
            `text` is not two positive decimal numbers joined by a colon, or they are out of range.

        Examples
        --------
        >>> Pattern.parse("2:4").density
        Fraction(1, 2)
        """
        if not isinstance(text, str):
            raise PatternError(
                f"pattern {brief(text)} (type {type(text).__name__}): expected text such as '8:16'"
            )
        match = re.fullmatch(r"\s*([0-9]{1,4})\s*:\s*([0-9]{1,4})\s*", text, flags=re.ASCII)
        if match is None:
            raise PatternError(
                f"pattern {brief(text)}: expected 'N:M' with N kept of every M, such as '8:16'"
            )
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"

    @property
    def density(self) -> Fraction:
        """Share of elements kept, N/M."""
        return Fraction(self.n, self.m)

    @property
    def sparsity(self) -> Fraction:
        """Share of elements dropped, 1 - N/M."""
        return 1 - self.density

    @property
    def configurations(self) -> int:
        """Number of legal masks of a group, C(M, N)."""
        return math.comb(self.m, self.n)

    @property
    def entropy_bits(self) -> float:
        """Fewest bits per group on average if all masks are equally likely: log2 C(M, N)."""
        return math.log2(self.configurations)

    def groups(self, elems: int) -> int:
        """Count the groups that cover `elems` consecutive elements; a tail counts as one group.

        Examples
        --------
        >>> Pattern(2, 4).groups(10)
        3
        """
        return ceil_div(elems, self.m)


def as_pattern(pattern: Pattern | str) -> Pattern:
    """Take a pattern, or the text of one."""
    return pattern if isinstance(pattern, Pattern) else Pattern.parse(pattern)
