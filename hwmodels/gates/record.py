"""A unit of hardware by name, and a row of the table of synthesis: what one unit takes in gates, depth and registers."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from nmsim import encodings
from nmsim.errors import RowError
from nmsim.pattern import Pattern
from nmsim.rows.record import Cell, check_cells

Unit = Literal["decoder", "position_decoder", "encoder", "select", "selector", "lane"]
"""`decoder`: code to mask. `position_decoder`: code to the N positions. `encoder`: mask to code. `select`: the elements of
operand B that N kept values meet, out of M. `selector`: the N largest of M keys as a mask. `lane`: decode, select, multiply and
accumulate."""
Goal = Literal["area", "delay"]
"""What the synthesis script works for: few gates, or a short path."""
CODED_UNITS = ("decoder", "position_decoder", "encoder", "lane")
"""Units of an encoding; the others have none."""
WIDE_UNITS = ("select", "selector", "lane")
"""Units with a width: bits of a value, or of a key; the others have none."""


@dataclass(frozen=True, order=True)
class UnitSpec:
    """One unit of hardware: what it is, for which pattern and encoding, how it is built.

    Parameters
    ----------
    unit : str
        One of `Unit`.
    n, m : int
        Of the pattern.
    encoding : str
        Of `CODED_UNITS`; empty for the others.
    variant : str
        The structure, such as `serial` or `all_pairs`.
    width_bits : int
        Bits of a value or key of `WIDE_UNITS`; 0 for the others.
    stages : int
        Ranks of registers between inputs and outputs. 0: combinational.

    Examples
    --------
    >>> spec = UnitSpec("decoder", 8, 16, "combinatorial", "serial")
    >>> str(spec), str(spec.pattern)
    ('decoder 8:16/combinatorial serial', '8:16')
    """

    unit: str
    n: int
    m: int
    encoding: str = ""
    variant: str = ""
    width_bits: int = 0
    stages: int = 0

    @property
    def pattern(self) -> Pattern:
        """N:M as a `Pattern`."""
        return Pattern(self.n, self.m)

    def __str__(self) -> str:
        parts = [
            self.unit,
            f"{self.n}:{self.m}" + (f"/{self.encoding}" if self.encoding else ""),
            self.variant,
            f"{self.width_bits} bits" if self.width_bits else "",
            f"{self.stages} stages" if self.stages else "",
        ]
        return " ".join(part for part in parts if part)


@dataclass(frozen=True, kw_only=True)
class GateRow:
    """What one unit takes, as one synthesis found it.

    Gates are equivalents of a NAND2 of two inputs and include no flip-flops. Depths are those of the longest path from an
    input or a register to an output or a register.

    Raises
    ------
    RowError
        A field holds what it may not. The error names the field, the value and what was expected.
    """

    unit: Annotated[Unit, Cell("Unit of hardware")]
    pattern: Annotated[str, Cell("`N:M`", named=Pattern.parse)]
    encoding: Annotated[str, Cell("Encoding of its codes; empty if it has none", named=encodings.get)] = ""
    variant: Annotated[str, Cell("How it is built")]
    width_bits: Annotated[int, Cell("Bits of a value or a key; 0 if it has none", least=0)] = 0
    stages: Annotated[int, Cell("Ranks of registers between inputs and outputs", least=0)] = 0
    goal: Annotated[Goal, Cell("What the script worked for")]
    nand2: Annotated[float, Cell("Gates without flip-flops, in NAND2 equivalents", least=0)]
    levels: Annotated[int, Cell("Cells on the longest path", least=0)]
    fo4: Annotated[
        float, Cell("Delay of the longest path, in delays of an inverter that drives four", least=0)
    ]
    flip_flops: Annotated[int, Cell("Flip-flops", least=0)]
    cut_bits: Annotated[
        float,
        Cell(
            "Wires that cross a cut of the combinational unit at half of its delay: flip-flops of a rank",
            least=0,
        ),
    ] = 0.0
    comparators: Annotated[int, Cell("Comparators of a selector", least=0)] = 0
    synthesis_s: Annotated[float | None, Cell("Time of the synthesis")] = None
    tool: Annotated[str, Cell("Tool and version")] = ""
    script: Annotated[str, Cell("Name and version of the script")] = ""
    OLDER: ClassVar[str] = ""

    def __post_init__(self) -> None:
        check_cells(self)
        for name, filled, units in (
            ("encoding", bool(self.encoding), CODED_UNITS),
            ("width_bits", bool(self.width_bits), WIDE_UNITS),
        ):
            if filled != (self.unit in units):
                raise RowError(
                    f"{name}={getattr(self, name)!s}: a {self.unit} has {'an' if self.unit in units else 'no'} {name}",
                    column=name,
                )

    @property
    def spec(self) -> UnitSpec:
        """The unit."""
        pattern = Pattern.parse(self.pattern)
        return UnitSpec(
            self.unit, pattern.n, pattern.m, self.encoding, self.variant, self.width_bits, self.stages
        )

    @property
    def key(self) -> tuple[object, ...]:
        """What distinguishes rows, so that a run can skip what a file holds already."""
        return (self.spec, self.goal)
