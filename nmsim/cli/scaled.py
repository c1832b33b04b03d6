"""Figures in units for people: few digits, and no exponents."""

from collections.abc import Iterable

JOULES = {"J": 1.0, "mJ": 1e3, "µJ": 1e6, "nJ": 1e9}
"""Unit -> how many of it a joule is."""
UM2_PER_MM2 = 1e6


def joules_unit(joules: Iterable[float]) -> tuple[str, float]:
    """Choose one unit for a column of energies: the largest in which the least of them is 1 or more.

    Parameters
    ----------
    joules : iterable of float
        In joules; those that are not known may be NaN.

    Returns
    -------
    tuple of str and float
        The unit, and how many of it a joule is.

    Examples
    --------
    >>> joules_unit([0.25, 0.004])
    ('mJ', 1000.0)
    """
    least = min((each for each in joules if each > 0), default=1.0)
    return next(((unit, per) for unit, per in JOULES.items() if least * per >= 1), ("nJ", JOULES["nJ"]))


def short(value: float) -> str:
    """Write a number with three digits, or all of its whole ones.

    Examples
    --------
    >>> short(0.012345), short(78.91), short(12345.6)
    ('0.0123', '78.9', '12,346')
    """
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
