"""How long a depth of gates takes: picoseconds of a FO4 by technology node, and clock cycles of a unit at a clock."""

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

from hwmodels.gates.spread import Spread, power_law
from nmsim.errors import SpecError, brief
from nmsim.support.schema import About, Kind, Number, Text, read_record, record

DELAY_FILE = Path(__file__).parent / "delay.toml"
MARGIN = 1.4
"""Delay of a laid-out path over that of its gates (A58)."""
REGISTER_FO4 = 3.0
"""What a register takes from each cycle: set-up, clock to output and uncertainty of the clock (A58)."""
End = Literal["low", "nominal", "high"]


@record
class Delay:
    """Picoseconds of a FO4 at one node."""

    node_nm: Annotated[float, Number("nm", "Technology node.", least=1, most=1000)]
    low: Annotated[float, Number("ps", "Fast transistors.", least=0.1, most=1000)]
    nominal: Annotated[float, Number("ps", "What is calculated with.", least=0.1, most=1000)]
    high: Annotated[float, Number("ps", "Slow transistors.", least=0.1, most=1000)]
    kind: Annotated[Kind, About("How it is known.")]
    source: Annotated[Text, About("A name of the table `sources`.")]
    note: Annotated[str, About("Remark on the figures.")] = ""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Check the order of the range."""
        if not self.low <= self.nominal <= self.high:
            yield (
                "nominal",
                f"low={brief(self.low)}, nominal={brief(self.nominal)}, high={brief(self.high)}: "
                "expected low <= nominal <= high",
            )


@record
class DelayFile:
    """Delays of a FO4, by node."""

    sources: Annotated[Mapping[str, Text], About("Name of a source -> the source in full.")]
    delays: Annotated[tuple[Delay, ...], About("Picoseconds of a FO4.")]

    def problems(self) -> Iterator[tuple[str, str]]:
        """Check sources, and that a finer node is never slower."""
        for place, delay in enumerate(self.delays):
            if delay.source not in self.sources:
                yield (
                    f"delays[{place}].source",
                    f"{brief(delay.source)}: expected one of {', '.join(self.sources)}",
                )
        for place, (one, other) in enumerate(pairwise(self.delays), 1):
            # Interpolation needs the order, and a slower node after a faster one is a slip of the pen.
            if other.node_nm >= one.node_nm or other.nominal > one.nominal:
                yield (
                    f"delays[{place}]",
                    f"{other.node_nm:g} nm: expected a finer and no slower node than before",
                )


@dataclass(frozen=True)
class Fo4:
    """Delay of an inverter that drives four: picoseconds with their range, and where they are from."""

    ps: Spread
    kind: Kind
    source: str


@functools.cache
def _delays() -> DelayFile:
    return read_record(DelayFile, DELAY_FILE)


@functools.lru_cache(maxsize=1024)
def fo4_at(node_nm: float) -> Fo4:
    """Look the delay of a FO4 up.

    Parameters
    ----------
    node_nm : float
        Technology node. Between two nodes of the table the delay is a power of the node.

    Returns
    -------
    Fo4

    Raises
    ------
    SpecError
        A node outside the table.

    Source
    ------
    `delay.toml`: a rule of thumb down to 45 nm, fitted polynomials down to 7 nm, gains that a foundry published below.

    Examples
    --------
    >>> fo4_at(7).ps
    Spread(low=3.24, nominal=4.84, high=7.24)
    """
    file = _delays()
    ranges = [(delay.node_nm, Spread(delay.low, delay.nominal, delay.high)) for delay in file.delays]
    for delay, (node, ps) in zip(file.delays, ranges, strict=True):
        if node == node_nm:
            parts = (file.sources[delay.source], delay.note)
            return Fo4(ps, delay.kind, "; ".join(part for part in parts if part))
    for coarse, fine in pairwise(ranges):
        if fine[0] < node_nm < coarse[0]:
            return Fo4(
                power_law(fine, coarse, node_nm), "assumed", f"between {fine[0]:g} nm and {coarse[0]:g} nm"
            )
    raise SpecError(
        f"node_nm={brief(node_nm)}: no delay of a gate is known; expected {ranges[-1][0]:g} to {ranges[0][0]:g}"
    )


@functools.lru_cache(maxsize=1 << 14)
def latency_cycles(fo4: float, *, node_nm: float, clock_hz: float, end: End = "nominal") -> int:
    """Work out in how many clock cycles a unit of some depth is done.

    Parameters
    ----------
    fo4 : float
        Delay of its longest path, in FO4. 0: wires, which take no cycle.
    node_nm, clock_hz : float
    end : {"low", "nominal", "high"}
        Of the range of picoseconds.

    Returns
    -------
    int
        The path with its margin over what a cycle leaves beside its register, rounded up.

    Raises
    ------
    SpecError
        A node outside the table, or a cycle that registers alone fill.

    Source
    ------
    `docs/explanation/tensor-core.md`; margin and registers: A58.

    Examples
    --------
    >>> [latency_cycles(fo4, node_nm=5, clock_hz=1.83e9) for fo4 in (0, 25, 250)]
    [0, 1, 3]
    """
    if not (fo4 >= 0 and math.isfinite(fo4)):
        raise SpecError(f"fo4={brief(fo4)}: expected a depth of at least 0")
    if fo4 == 0:
        return 0
    ps: float = getattr(fo4_at(node_nm).ps, end)
    left_ps = 1e12 / clock_hz - REGISTER_FO4 * ps
    if left_ps <= 0:
        raise SpecError(
            f"clock_hz={clock_hz:g} at {node_nm:g} nm: registers alone take {REGISTER_FO4 * ps:.3g} ps of a cycle; "
            f"expected less than {1e12 / (REGISTER_FO4 * ps):.3g}"
        )
    return math.ceil(fo4 * MARGIN * ps / left_ps)
