"""The library of standard cells: what each computes, takes and weighs, and its text for the mapper.

Areas are those of the NanGate 45 nm Open Cell Library, X1 cells. Delays are by logical effort: a stage takes its parasitic
delay and its load, counted in inputs of an inverter. An inverter that drives four takes 5 of these units: one FO4.
"""

from dataclasses import dataclass

NAND2_UM2 = 0.798
"""NAND2_X1 of NanGate: the unit of area."""
UNITS_PER_FO4 = 5.0
"""An inverter has parasitic delay 1 and drives 4 inputs of its own kind."""
TYPICAL_LOAD = 3.0
"""Inputs of an inverter that a cell drives, as the mapper sees it before it knows the loads."""
FLIP_FLOP = "DFF"
FLIP_FLOP_UM2 = 4.522


@dataclass(frozen=True)
class Cell:
    """A combinational cell with one output `Y`.

    Parameters
    ----------
    name : str
    um2 : float
        At 45 nm.
    pins : str
        One letter per input.
    formula : str
        Of the output, with `~ & | ^` between letters of pins.
    effort : float
        Load of one of its inputs, in inputs of an inverter of the same drive.
    parasitic : float
        Delay without any load, in units of that inverter's.

    Examples
    --------
    >>> round(CELLS["MUX2"].nand2, 2)
    2.33
    """

    name: str
    um2: float
    pins: str
    formula: str
    effort: float
    parasitic: float

    @property
    def nand2(self) -> float:
        """Area over that of a NAND2."""
        return self.um2 / NAND2_UM2


# Effort and parasitic delay are those of Sutherland, Sproull and Harris, Logical Effort, 1999, tables 1.1 and 1.2.
# A NAND of n inputs has (n + 2) / 3 and n, a NOR (2n + 1) / 3 and n. AOI and OAI are counted in the same way for their worst
# input: widths of its transistors, and of those at the output, over 3. Two stages (AND, OR, BUF) have the effort of the first.
# Their parasitic delay is that of both, with the load of the inverter between them.
CELLS = {
    cell.name: cell
    for cell in (
        Cell("INV", 0.532, "A", "~A", 1, 1),
        Cell("BUF", 0.798, "A", "A", 1, 3),
        Cell("NAND2", 0.798, "AB", "~(A & B)", 4 / 3, 2),
        Cell("NAND3", 1.064, "ABC", "~(A & B & C)", 5 / 3, 3),
        Cell("NAND4", 1.330, "ABCD", "~(A & B & C & D)", 2, 4),
        Cell("NOR2", 0.798, "AB", "~(A | B)", 5 / 3, 2),
        Cell("NOR3", 1.064, "ABC", "~(A | B | C)", 7 / 3, 3),
        Cell("NOR4", 1.330, "ABCD", "~(A | B | C | D)", 3, 4),
        Cell("AND2", 1.064, "AB", "A & B", 4 / 3, 4),
        Cell("AND3", 1.330, "ABC", "A & B & C", 5 / 3, 5),
        Cell("OR2", 1.064, "AB", "A | B", 5 / 3, 4),
        Cell("OR3", 1.330, "ABC", "A | B | C", 7 / 3, 5),
        Cell("AOI21", 1.064, "ABC", "~((A & B) | C)", 2, 7 / 3),
        Cell("OAI21", 1.064, "ABC", "~((A | B) & C)", 2, 7 / 3),
        Cell("AOI22", 1.330, "ABCD", "~((A & B) | (C & D))", 2, 4),
        Cell("OAI22", 1.330, "ABCD", "~((A | B) & (C | D))", 2, 4),
        Cell("AOI211", 1.330, "ABCD", "~((A & B) | C | D)", 8 / 3, 10 / 3),
        Cell("OAI211", 1.330, "ABCD", "~((A | B) & C & D)", 7 / 3, 11 / 3),
        Cell("XOR2", 1.596, "AB", "A ^ B", 4, 4),
        Cell("XNOR2", 1.596, "AB", "~(A ^ B)", 4, 4),
        Cell("MUX2", 1.862, "ABS", "(A & ~S) | (B & S)", 2, 4),
    )
}


def genlib() -> str:
    """The combinational cells as abc reads them, delays in FO4 at a typical load."""
    lines = ["GATE ZERO 0 Y=CONST0;", "GATE ONE 0 Y=CONST1;"]
    for cell in CELLS.values():
        delay = (cell.parasitic + TYPICAL_LOAD) / UNITS_PER_FO4
        formula = _sum_of_products(cell).replace("~", "!").replace("&", "*").replace("|", "+")
        lines.append(
            f"GATE {cell.name} {cell.nand2:.3f} Y={formula}; "
            f"PIN * UNKNOWN {cell.effort:.2f} 999 {delay:.3f} 0.0 {delay:.3f} 0.0"
        )
    return "\n".join(lines) + "\n"


def _sum_of_products(cell: Cell) -> str:
    """The formula without exclusive or, which abc's library has no sign for."""
    written = {"A ^ B": "(A & ~B) | (~A & B)", "~(A ^ B)": "(A & B) | (~A & ~B)"}
    return written.get(cell.formula, cell.formula)


def liberty() -> str:
    """The flip-flop as Yosys reads it."""
    return (
        "library(nand2) {\n"
        f"  cell({FLIP_FLOP}) {{\n"
        f"    area : {FLIP_FLOP_UM2 / NAND2_UM2:.3f};\n"
        '    ff(IQ, IQN) { clocked_on : "C"; next_state : "D"; }\n'
        "    pin(C) { direction : input; clock : true; }\n"
        "    pin(D) { direction : input; }\n"
        '    pin(Q) { direction : output; function : "IQ"; }\n'
        "  }\n"
        "}\n"
    )
