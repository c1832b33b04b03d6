"""Whether weights fit a pattern: groups with too many elements other than zero, and where the first of them are."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nmsim import dtypes
from nmsim.errors import PatternError
from nmsim.mask import checked_axis
from nmsim.pattern import Pattern

CHUNK_ELEMS = 1 << 20
"""Elements that are looked at together."""


@dataclass(frozen=True)
class Fit:
    """How the zeros of a tensor fit a pattern.

    Parameters
    ----------
    pattern : Pattern
    groups : int
        Groups of M elements along the axis; the last of a row may be shorter.
    violations : int
        Groups with more than N elements other than zero.
    first : tuple of tuple of int
        Positions of the first elements of the first such groups, in the order of the tensor's rows.
    most : int
        The most elements other than zero in a group: N of the smallest N:M that fits.
    nonzeros_elems, elems : int
        Elements other than zero, and all. -0.0 is zero.
    """

    pattern: Pattern
    groups: int
    violations: int
    first: tuple[tuple[int, ...], ...]
    most: int
    nonzeros_elems: int
    elems: int

    @property
    def fits(self) -> bool:
        """No group holds too many."""
        return not self.violations

    @property
    def smallest(self) -> str:
        """The smallest N:M, with this M, that fits the tensor; M:M is dense."""
        return f"{max(1, self.most)}:{self.pattern.m}"


def fit(x: NDArray[Any], axis: int, pattern: Pattern, *, shown: int = 3) -> Fit:
    """Compare the zeros of a tensor with a pattern.

    Parameters
    ----------
    x : array
        Finite numbers of a type that `nmsim.dtypes` lists.
    axis : int
        Along which groups run.
    pattern : Pattern
    shown : int
        Positions to give, at most.

    Returns
    -------
    Fit

    Examples
    --------
    >>> found = fit(np.array([[1, 0, 2, 0, 3, 4, 5, 0]], np.float32), 1, Pattern(2, 4))
    >>> found.violations, found.first, found.smallest
    (1, ((0, 4),), '3:4')
    """
    axis = checked_axis(x.shape, axis)
    turned = np.moveaxis(x, axis, -1)
    outer, k = turned.shape[:-1], turned.shape[-1]
    rows, per_row = math.prod(outer), pattern.groups(k)
    step = max(1, CHUNK_ELEMS // max(1, k))
    violations = most = nonzeros = 0
    first: list[tuple[int, ...]] = []
    flat = turned.reshape(rows, k) if turned.flags.c_contiguous else None
    for low in range(0, rows if k else 0, step):
        part = flat[low : low + step] if flat is not None else _some_rows(turned, low, min(rows, low + step))
        filled = dtypes.magnitude_keys(part) != 0
        nonzeros += int(np.count_nonzero(filled))
        padded = np.zeros((len(part), per_row * pattern.m), np.bool_)
        padded[:, :k] = filled
        counts = padded.reshape(len(part), per_row, pattern.m).sum(axis=2, dtype=np.int32)
        most = max(most, int(counts.max(initial=0)))
        bad = counts > pattern.n
        violations += int(np.count_nonzero(bad))
        for row, group in np.argwhere(bad)[: shown - len(first)] if len(first) < shown else ():
            place = [int(one) for one in np.unravel_index(low + int(row), outer)] if outer else []
            place.insert(axis, int(group) * pattern.m)
            first.append(tuple(place))
    return Fit(pattern, rows * per_row, violations, tuple(first), most, nonzeros, x.size)


def _some_rows(turned: NDArray[Any], low: int, high: int) -> NDArray[Any]:
    """Copy some rows of a tensor whose pruned axis is last, in the order of all its rows."""
    places = np.unravel_index(np.arange(low, high), turned.shape[:-1])
    rows: NDArray[Any] = turned[places]
    return rows


def refuse_dropping(x: NDArray[Any], axis: int, pattern: Pattern) -> None:
    """Refuse a tensor of which a pattern would drop elements other than zero.

    Raises
    ------
    PatternError
        Names the first group, and how many there are.

    Examples
    --------
    >>> refuse_dropping(np.array([[1, 2, 3, 0]]), 1, Pattern(2, 4))
    Traceback (most recent call last):
    nmsim.errors.PatternError: 1 of 1 groups hold more than 2 elements other than zero, the first at [0, 0]; expected \
2:4 weights (3:4 fits, or pack without exact)
    """
    found = fit(x, axis, pattern, shown=1)
    if not found.fits:
        where = ", ".join(map(str, found.first[0]))
        raise PatternError(
            f"{found.violations} of {found.groups} groups hold more than {pattern.n} elements other than zero, the first at "
            f"[{where}]; expected {pattern} weights ({found.smallest} fits, or pack without exact)"
        )
