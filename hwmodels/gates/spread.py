"""A cost with its range: low, nominal and high."""

import math
from dataclasses import astuple, dataclass
from typing import Self

from nmsim.errors import SpecError, brief


@dataclass(frozen=True)
class Spread:
    """A sum of costs: low, nominal and high, in one unit that its owner knows.

    Lows are added to lows and highs to highs, as if all costs erred together; so a sum's range is the widest there is.

    Raises
    ------
    SpecError
        Not finite, negative, or not in order.

    Examples
    --------
    >>> Spread(1.0, 2.0, 4.0) + Spread(1.0, 1.0, 1.0).times(3)
    Spread(low=4.0, nominal=5.0, high=7.0)
    """

    low: float = 0.0
    nominal: float = 0.0
    high: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.low <= self.nominal <= self.high and math.isfinite(self.high)):
            raise SpecError(
                f"low={brief(self.low)}, nominal={brief(self.nominal)}, high={brief(self.high)}: "
                "expected 0 <= low <= nominal <= high"
            )

    def __add__(self, other: "Spread") -> Self:
        return type(self)(self.low + other.low, self.nominal + other.nominal, self.high + other.high)

    def times(self, factor: "float | Spread") -> Self:
        """Multiply by a count, or by a factor that has a range itself."""
        by = factor if isinstance(factor, Spread) else Spread(factor, factor, factor)
        return type(self)(self.low * by.low, self.nominal * by.nominal, self.high * by.high)


def power_law(left: tuple[float, Spread], right: tuple[float, Spread], at: float) -> Spread:
    """A power of `at` through two points, for each of low, nominal and high."""
    (x0, first), (x1, second) = left, right
    t = math.log(at / x0) / math.log(x1 / x0)
    return Spread(*(a * (b / a) ** t for a, b in zip(astuple(first), astuple(second), strict=True)))
