"""Look units up in the table of synthesis.

The table ships with the package. Rows that `nmsim synth -o FILE` writes can be added by naming the file in the environment
variable `NMSIM_GATES`.
"""

import functools
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hwmodels.gates.fit import NUMBERS, Fit, at_width, fit, width_ratios
from hwmodels.gates.record import GateRow, Goal
from nmsim.errors import SpecError, brief_names
from nmsim.pattern import Pattern
from nmsim.rows.files import read

SYNTHESIS_FILE = Path(__file__).parents[1] / "rtl" / "synthesis.csv"
ADDED_FILE_VARIABLE = "NMSIM_GATES"
"""Environment variable with the path of a file of further rows."""


@dataclass(frozen=True)
class Gates:
    """What a unit takes.

    Parameters
    ----------
    nand2 : float
        Gates without flip-flops, in NAND2 equivalents.
    flip_flops : float
    fo4 : float
        Delay of the longest path, in delays of an inverter that drives four.
    cut_bits : float
        Flip-flops of one more rank of registers.
    origin : {"synthesised", "fitted"}
    error : float
        Share by which `nand2` of a fit may be wrong; 0 if synthesised.

    Examples
    --------
    >>> (Gates(nand2=10.0) + Gates(nand2=5.0, flip_flops=2.0)).times(2).nand2
    30.0
    """

    nand2: float = 0.0
    flip_flops: float = 0.0
    fo4: float = 0.0
    cut_bits: float = 0.0
    origin: Literal["synthesised", "fitted"] = "synthesised"
    error: float = 0.0

    def __add__(self, other: "Gates") -> "Gates":
        """Two units, one behind the other."""
        nand2 = self.nand2 + other.nand2
        error = (self.nand2 * self.error + other.nand2 * other.error) / nand2 if nand2 else 0.0
        return Gates(
            nand2,
            self.flip_flops + other.flip_flops,
            self.fo4 + other.fo4,
            max(self.cut_bits, other.cut_bits),
            "fitted" if "fitted" in (self.origin, other.origin) else "synthesised",
            error,
        )

    def times(self, copies: float) -> "Gates":
        """So many copies, side by side."""
        return Gates(
            self.nand2 * copies,
            self.flip_flops * copies,
            self.fo4,
            self.cut_bits * copies,
            self.origin,
            self.error,
        )

    def or_else(self, other: "Gates") -> "Gates":
        """A unit that can serve as either of two, one at a time: the larger of each number."""
        larger = self if self.nand2 >= other.nand2 else other
        return Gates(
            larger.nand2,
            max(self.flip_flops, other.flip_flops),
            max(self.fo4, other.fo4),
            max(self.cut_bits, other.cut_bits),
            larger.origin,
            larger.error,
        )


def gates_of(
    unit: str,
    pattern: Pattern,
    *,
    encoding: str = "",
    variant: str = "",
    width_bits: int = 0,
    goal: Goal = "area",
) -> Gates:
    """Look up what a combinational unit takes, or work it out from other patterns and widths of the same structure.

    Parameters
    ----------
    unit : str
        One of `hwmodels.gates.record.Unit`.
    pattern : Pattern
    encoding, variant : str
        If no variant is given, the best for the goal.
    width_bits : int
    goal : {"area", "delay"}
        Of several rows, the one of the fewest gates, or the one of the shortest delay.

    Returns
    -------
    Gates
        All zero if N = M, since nothing is to be decoded or chosen. Of origin `fitted` if the table lacks the pattern or the
        width. Then `error` is that of the law over patterns, or of the line over widths (`hwmodels.gates.fit`).

    Raises
    ------
    SpecError
        The table has no such unit, encoding or variant, or too few patterns of it.

    Examples
    --------
    >>> gates_of("select", Pattern(8, 16), variant="onehot", width_bits=16).origin
    'synthesised'
    """
    return _gates_of(
        os.environ.get(ADDED_FILE_VARIABLE, ""), unit, pattern, encoding, variant, width_bits, goal
    )


@functools.lru_cache(maxsize=65536)
def _gates_of(
    added: str, unit: str, pattern: Pattern, encoding: str, variant: str, width_bits: int, goal: Goal
) -> Gates:
    """`gates_of`, with the name of the added file in its key: sweeps ask for the same units again and again."""
    structures = {
        name: patterns
        for name, patterns in _index(added).get((unit, encoding), {}).items()
        if variant in ("", name[0])
    }
    found = [
        _as_gates(row)
        for patterns in structures.values()
        for row in patterns.get(pattern, ())
        if row.width_bits == width_bits
    ]
    # If all elements are kept there is nothing to decode or to choose; an unknown unit stays an error.
    if not found and pattern.n == pattern.m and structures:
        return Gates()
    if not found:
        found = [
            gates
            for name in structures
            if (gates := _fitted(added, (unit, encoding), name, pattern, width_bits)) is not None
        ]
    if not found:
        wanted = f"{unit} {pattern}{f'/{encoding}' if encoding else ''} {variant}".rstrip()
        known = brief_names(_known(row for row in table() if row.unit == unit))
        raise SpecError(
            f"{wanted}: not in the table of synthesis, nor enough of its kind; expected one of {known}"
        )
    return min(found, key=lambda one: (one.nand2, one.fo4) if goal == "area" else (one.fo4, one.nand2))


def _fitted(
    added: str, unit: tuple[str, str], structure: tuple[str, str], pattern: Pattern, width_bits: int
) -> Gates | None:
    """A structure of a pattern or width that the table lacks; None if it has too few patterns of it."""
    patterns = _index(added)[unit][structure]
    here = patterns.get(pattern, ())
    if len(here) > 1:
        numbers, error = at_width(here, width_bits)
        return Gates(**numbers, origin="fitted", error=error)
    if here and width_bits:
        ratios, error = width_ratios(patterns.values(), here[0].width_bits, width_bits)
        scaled = {number: getattr(here[0], number) * ratio for number, ratio in ratios.items()}
        return Gates(**scaled, origin="fitted", error=error)
    # A law of this width, or one of another width with more patterns: what errs less.
    found = []
    for width in {width_bits, *(row.width_bits for rows in patterns.values() for row in rows)}:
        if laws := _laws(added, unit, structure, width):
            ratios, error = dict.fromkeys(NUMBERS, 1.0), 0.0
            if width != width_bits:
                ratios, error = width_ratios(patterns.values(), width, width_bits)
            fitted = {number: law.at(pattern, unit[1]) * ratios[number] for number, law in laws.items()}
            error += laws["nand2"].error_at(pattern)
            found.append(Gates(**fitted, origin="fitted", error=error))
    return min(found, key=lambda gates: gates.error, default=None)


@functools.lru_cache(maxsize=4096)
def _laws(added: str, unit: tuple[str, str], structure: tuple[str, str], width_bits: int) -> dict[str, Fit]:
    """The laws of a structure over patterns, at one width; empty if the patterns are too few."""
    known: dict[Pattern, Mapping[str, float]] = {}
    for pattern, rows in _index(added)[unit][structure].items():
        exact = [row for row in rows if row.width_bits == width_bits]
        if exact:
            known[pattern] = {number: getattr(exact[0], number) for number in NUMBERS}
        elif len(rows) > 1:
            known[pattern] = at_width(rows, width_bits)[0]
    laws = {
        number: fit({pattern: numbers[number] for pattern, numbers in known.items()}, unit[1])
        for number in NUMBERS
    }
    return {number: law for number, law in laws.items() if law is not None}


def _as_gates(row: GateRow) -> Gates:
    return Gates(row.nand2, float(row.flip_flops), row.fo4, row.cut_bits)


@functools.cache
def _index(added: str) -> dict[tuple[str, str], dict[tuple[str, str], dict[Pattern, list[GateRow]]]]:
    """Combinational rows by unit and encoding, then by variant and goal, then by pattern."""
    index: dict[tuple[str, str], dict[tuple[str, str], dict[Pattern, list[GateRow]]]] = {}
    for row in _rows(added):
        if not row.stages:
            structures = index.setdefault((row.unit, row.encoding), {})
            patterns = structures.setdefault((row.variant, row.goal), {})
            patterns.setdefault(row.spec.pattern, []).append(row)
    return index


def _known(rows: Iterable[GateRow]) -> list[str]:
    return list(dict.fromkeys(f"{row.unit} {row.pattern} {row.encoding} {row.variant}" for row in rows))


def table() -> tuple[GateRow, ...]:
    """All rows: shipped ones, and those of the file that `NMSIM_GATES` names, which replace shipped ones of their unit."""
    return _rows(os.environ.get(ADDED_FILE_VARIABLE, ""))


@functools.cache
def _rows(added: str) -> tuple[GateRow, ...]:
    rows = {row.key: row for row in read(SYNTHESIS_FILE, GateRow)}
    return tuple((rows | {row.key: row for row in (read(added, GateRow) if added else ())}).values())
