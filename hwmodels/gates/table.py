"""Look units up in the table of synthesis.

The table ships with the package. Rows that `nmsim synth -o FILE` writes can be added by naming the file in the environment
variable `NMSIM_GATES`.
"""

import functools
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hwmodels.gates.record import GateRow
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
    goal: Literal["area", "delay"] = "area",
) -> Gates:
    """Look up what a combinational unit takes.

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

    Raises
    ------
    SpecError
        The table has no such unit.
    """
    rows = [
        row
        for row in table()
        if row.unit == unit
        and row.encoding == encoding
        and not row.stages
        and variant in ("", row.variant)
        and (row.spec.pattern, row.width_bits) == (pattern, width_bits)
    ]
    if not rows:
        raise SpecError(
            f"{unit} {pattern}{f'/{encoding}' if encoding else ''} {variant}: not in the table of synthesis; expected one of "
            f"{brief_names(_known(row for row in table() if row.unit == unit))}"
        )
    best = min(rows, key=lambda row: (row.nand2, row.fo4) if goal == "area" else (row.fo4, row.nand2))
    return Gates(best.nand2, float(best.flip_flops), best.fo4, best.cut_bits)


def _known(rows: Iterable[GateRow]) -> list[str]:
    return list(dict.fromkeys(str(row.spec) for row in rows))


def table() -> tuple[GateRow, ...]:
    """All rows: those that ship, and those of the file that `NMSIM_GATES` names."""
    return _rows(os.environ.get(ADDED_FILE_VARIABLE, ""))


@functools.cache
def _rows(added: str) -> tuple[GateRow, ...]:
    shipped = read(SYNTHESIS_FILE, GateRow)
    return (*shipped, *(read(added, GateRow) if added else ()))
