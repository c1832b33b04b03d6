"""Units of patterns and widths that the table of synthesis lacks, from those that it has, with the error of that.

A number of a unit is a product of powers of what describes its pattern. Several such laws are fitted to all patterns that the
table has of one structure, by least squares of logarithms. The one that predicts best the patterns that it was not fitted to is
taken. The error is the largest over patterns, each predicted by what would have been taken without it.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from hwmodels.gates.record import GateRow
from nmsim import encodings
from nmsim.pattern import Pattern

LEAST_PATTERNS = 3
"""Fewer patterns say nothing about the error of a law: one that is left out must leave two."""
MOST_CORRELATED = 0.9
"""Correlation of two terms from which patterns cannot give two powers."""
ONE_WIDTH_ERROR = 0.5
"""Error of gates at a width if the table has no structure of that kind at two widths: an assumption."""
NUMBERS: Final = ("nand2", "fo4", "cut_bits")
"""What is fitted of a row; flip-flops of a combinational unit are none."""
LAWS: Final[Mapping[str, Callable[[Pattern, float], tuple[float, ...]]]] = {
    "M": lambda p, bits: (p.m,),
    "N, M - N + 1": lambda p, bits: (p.n, p.m - p.n + 1),
    "N, M": lambda p, bits: (p.n, p.m),
    "bits": lambda p, bits: (bits,),
    "bits, M": lambda p, bits: (bits, p.m),
    "N (M - N + 1)": lambda p, bits: (p.n * (p.m - p.n + 1),),
    "M (M - 1)": lambda p, bits: (p.m * (p.m - 1),),
}
"""Name of a law -> what it takes powers of, from a pattern and the bits of a code."""


@dataclass(frozen=True)
class Fit:
    """A law of one number of a unit.

    Parameters
    ----------
    law : str
        One of `LAWS`.
    powers : tuple of float
        The logarithm of the constant factor, then the power of each term.
    error : float
        Largest share by which it misses a pattern that it was not fitted to.
    largest_m : int
        Of the patterns that it was fitted to.
    """

    law: str
    powers: tuple[float, ...]
    error: float
    largest_m: int

    def at(self, pattern: Pattern, encoding: str = "") -> float:
        """The number for a pattern."""
        return float(math.exp(float(np.dot(_terms(self.law, pattern, encoding), self.powers))))

    def error_at(self, pattern: Pattern) -> float:
        """The error for a pattern: once more for each doubling of M beyond those that the law was fitted to."""
        return self.error * (1 + max(0.0, math.log2(pattern.m / self.largest_m)))


def fit(values: Mapping[Pattern, float], encoding: str = "") -> Fit | None:
    """Fit the law that predicts a number best where it was not fitted.

    Parameters
    ----------
    values : mapping of Pattern to float
    encoding : str
        Of the codes, empty if there are none.

    Returns
    -------
    Fit or None
        None if the patterns are too few.

    Examples
    --------
    >>> values = {Pattern(n, m): 3.0 * n * (m - n + 1) for n, m in ((1, 4), (2, 4), (2, 8), (4, 8), (8, 16))}
    >>> law = fit(values)
    >>> round(law.at(Pattern(6, 16)), 6), law.error < 1e-9
    (198.0, True)
    """
    tried = _tried(values, encoding)
    if not tried:
        return None
    best = min(tried, key=lambda law: tried[law][1])
    powers, _ = tried[best]
    # A law that was chosen for its predictions makes better ones of these patterns than of others. So each pattern is
    # predicted by the law that would have been chosen without it.
    misses = []
    for left_out, value in values.items():
        without = _tried({pattern: v for pattern, v in values.items() if pattern != left_out}, encoding)
        if without:
            law = min(without, key=lambda name: without[name][1])
            predicted = float(np.dot(_terms(law, left_out, encoding), without[law][0]))
            misses.append(abs(math.exp(predicted) / max(1.0, value) - 1))
    error = max(misses) if misses else max(error for _, error in tried.values())
    return Fit(best, tuple(powers.tolist()), error, max(pattern.m for pattern in values))


def _tried(
    values: Mapping[Pattern, float], encoding: str
) -> dict[str, tuple[npt.NDArray[np.float64], float]]:
    """Each law that these patterns can tell: its powers, and its largest miss of a pattern that is left out."""
    if len(values) < LEAST_PATTERNS:
        return {}
    # A number below 1 is a wire with a rounding, and its logarithm would rule the fit.
    logs = np.log(np.maximum(1.0, np.array(list(values.values()))))
    tried = {}
    for law in LAWS:
        if "bits" in law and not encoding:
            continue
        terms = np.array([_terms(law, pattern, encoding) for pattern in values])
        kept = [np.delete(np.arange(len(logs)), left_out) for left_out in range(len(logs))]
        if not all(_told_apart(terms[rows]) for rows in kept):
            continue
        misses = [
            abs(math.expm1(float(terms[left_out] @ _solved(terms[rows], logs[rows])) - logs[left_out]))
            for left_out, rows in enumerate(kept)
        ]
        tried[law] = (_solved(terms, logs), max(misses))
    return tried


def _told_apart(terms: npt.NDArray[np.float64]) -> bool:
    """Whether patterns differ in each term, and in one term otherwise than in the other.

    With N = M / 2 throughout, N and M - N grow alike, and a law of both could say anything of other patterns.
    """
    if len(terms) < terms.shape[1] or (np.ptp(terms[:, 1:], axis=0) < 1e-9).any():
        return False
    return terms.shape[1] < 3 or abs(float(np.corrcoef(terms[:, 1], terms[:, 2])[0, 1])) < MOST_CORRELATED


def _terms(law: str, pattern: Pattern, encoding: str) -> list[float]:
    bits = float(encodings.get(encoding).bits_per_group(pattern)) if encoding else 0.0
    return [1.0, *(math.log(max(1.0, term)) for term in LAWS[law](pattern, bits))]


def _solved(terms: npt.NDArray[np.float64], logs: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(np.linalg.lstsq(terms, logs, rcond=None)[0], np.float64)


def at_width(rows: Sequence[GateRow], width_bits: int) -> tuple[dict[str, float], float]:
    """Take the numbers of a unit at a width from those at others: a straight line through the two nearest widths.

    Parameters
    ----------
    rows : sequence of GateRow
        One structure for one pattern, at least two, each of another width.
    width_bits : int

    Returns
    -------
    dict of str to float
        `nand2`, `fo4` and `cut_bits`.
    float
        Largest share by which such a line misses the gates of a width that it was not drawn through.

    Examples
    --------
    >>> one = {"unit": "select", "pattern": "2:4", "variant": "mux", "goal": "area", "levels": 2, "fo4": 3, "flip_flops": 0}
    >>> rows = [GateRow(**one, width_bits=bits, nand2=10 + 5 * bits) for bits in (4, 8, 16)]
    >>> numbers, error = at_width(rows, 6)
    >>> numbers["nand2"], round(error, 6)
    (40.0, 0.0)
    """
    ordered = sorted(rows, key=lambda row: row.width_bits)
    numbers = {
        name: _on_line([(row.width_bits, getattr(row, name)) for row in ordered], width_bits)
        for name in NUMBERS
    }
    gates = [(float(row.width_bits), row.nand2) for row in ordered]
    misses = [
        abs(_on_line([*gates[:at], *gates[at + 1 :]], bits) / value - 1)
        for at, (bits, value) in enumerate(gates)
        if value
    ]
    return numbers, max(misses, default=0.0)


def width_ratios(
    patterns: Iterable[Sequence[GateRow]], from_bits: int, to_bits: int
) -> tuple[dict[str, float], float]:
    """How the numbers of a structure grow from one width to another: the mean ratio over patterns that have two widths.

    Without any, gates and wires are proportional to bits, and the delay is the same.

    Parameters
    ----------
    patterns : iterable of sequences of GateRow
        One structure: the rows of each pattern.
    from_bits, to_bits : int

    Returns
    -------
    dict of str to float
        Of `nand2`, `fo4` and `cut_bits`.
    float
        Largest share by which the ratio of gates misses that of a pattern, but `ONE_WIDTH_ERROR` without any.
    """
    known = [(at_width(rows, from_bits)[0], at_width(rows, to_bits)[0]) for rows in patterns if len(rows) > 1]
    if not known:
        proportion = to_bits / from_bits
        return {"nand2": proportion, "fo4": 1.0, "cut_bits": proportion}, ONE_WIDTH_ERROR
    ratios = {
        name: sum(after[name] / max(before[name], 1.0) for before, after in known) / len(known)
        for name in NUMBERS
    }
    misses = [
        abs(ratios["nand2"] * before["nand2"] / max(after["nand2"], 1.0) - 1) for before, after in known
    ]
    return ratios, max(misses)


def _on_line(points: Sequence[tuple[float, float]], at: float) -> float:
    """The value on a line through the two points nearest, or through the origin and one point."""
    if len(points) == 1:
        (bits, value) = points[0]
        return value * at / bits
    pairs = list(pairwise(points))
    left, right = next((pair for pair in pairs if at <= pair[1][0]), pairs[-1])
    slope = (right[1] - left[1]) / (right[0] - left[0])
    return max(0.0, left[1] + slope * (at - left[0]))
