"""A figure with its range: what one action or structure costs, low, nominal and high, and where that is from."""

import math
from dataclasses import dataclass
from typing import Self

from nmsim.errors import SpecError
from nmsim.support.schema import Kind, Quantity


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
                f"low={self.low!r}, nominal={self.nominal!r}, high={self.high!r}: expected 0 <= low <= nominal <= high"
            )

    def __add__(self, other: "Spread") -> Self:
        return type(self)(self.low + other.low, self.nominal + other.nominal, self.high + other.high)

    def times(self, factor: "float | Spread") -> Self:
        """Multiply by a count, or by a factor that has a range itself."""
        by = factor if isinstance(factor, Spread) else Spread(factor, factor, factor)
        return type(self)(self.low * by.low, self.nominal * by.nominal, self.high * by.high)


@dataclass(frozen=True)
class CostRange:
    """What one action or structure costs at a technology node.

    Parameters
    ----------
    low, nominal, high : float
        Positive, in this order.
    unit : str
        One of `nmsim.support.schema.UNITS`.
    kind : {"datasheet", "measured", "fitted", "assumed"}
    source : str
    node_nm : float
        Technology node of the figures, in nanometres.

    Raises
    ------
    SpecError
        A field is none of the above.

    Examples
    --------
    >>> CostRange(0.5, 1.0, 2.0, "um2", "assumed", "an example", 45).times(10)
    Spread(low=5.0, nominal=10.0, high=20.0)
    """

    low: float
    nominal: float
    high: float
    unit: str
    kind: Kind
    source: str
    node_nm: float

    def __post_init__(self) -> None:
        for name in ("low", "nominal", "high"):
            try:
                Quantity(getattr(self, name), self.unit, self.kind, self.source)
            except SpecError as error:
                raise SpecError(f"{name}: {error}") from error
        if not self.low <= self.nominal <= self.high:
            raise SpecError(
                f"low={self.low!r}, nominal={self.nominal!r}, high={self.high!r}: expected low <= nominal <= high"
            )
        if (
            isinstance(self.node_nm, bool)
            or not isinstance(self.node_nm, int | float)
            or not self.node_nm > 0
        ):
            raise SpecError(f"node_nm={self.node_nm!r}: expected a technology node in nanometres")

    @property
    def spread(self) -> Spread:
        """The three figures alone."""
        return Spread(self.low, self.nominal, self.high)

    def times(self, count: float | Spread) -> Spread:
        """Cost of so many of it."""
        return self.spread.times(count)
