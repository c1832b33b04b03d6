"""The files of a unit: Verilog with a header that says what it is, its test bench, and the vectors of the bench."""

import textwrap
from typing import Final

from hwmodels.gates.record import UnitSpec
from hwmodels.rtl.unit import Unit
from hwmodels.rtl.verilog.bench import bench
from hwmodels.rtl.verilog.write import module, module_name
from nmsim import encodings
from nmsim.files.container import FORMAT_VERSION

__all__ = ["files", "module_name"]

WIDE: Final = 96
WHAT: Final = {
    "decoder": "Decodes the code of a group of {m} elements into a mask with {n} ones.",
    "position_decoder": "Decodes the code of a group of {m} elements into the positions of the {n} that are kept.",
    "encoder": "Encodes a mask of {n} ones in {m} bits.",
    "select": "Selects the {n} of {m} elements that the kept values meet.",
    "selector": "Finds the {n} greatest of {m} keys.",
    "lane": "Multiplies the {n} values of a group with the elements that they meet, of {m}, and accumulates.",
}
MEANINGS: Final = {
    "clk": "Rising edges count.",
    "rst": "Synchronous; a register takes its first value.",
    "code": "Code of one group; bit 0 is stored first.",
    "mask": "Bit p is 1 if element p of the group is kept.",
    "valid": "1 if the code is that of a mask. If it is 0, the other outputs mean nothing.",
    "legal": "1 if the mask has exactly {n} ones. If it is 0, the code means nothing.",
    "x": "{m} elements of {w} bits; element p is in bits p*{w} and up.",
    "y": "{n} selected elements of {w} bits; that of slot j is in bits j*{w} and up.",
    "positions": "{n} positions of {p} bits, which rise; that of slot j is in bits j*{p} and up.",
    "keys": "{m} unsigned keys of {w} bits; that of element p is in bits p*{w} and up.",
}
ILLEGAL: Final = {
    "decoder": "valid = 0 for a code of no mask",
    "position_decoder": "valid = 0 for a code of no mask",
    "encoder": "legal = 0 for a mask without exactly {n} ones",
    "select": "not checked: settings must be those of a legal mask",
    "selector": "there is none: of equal keys, the lower element wins",
    "lane": "bad = 1 after a code of no mask, until reset; sums of its row mean nothing",
}


def files(unit: Unit, name: str, *, with_bench: bool = True) -> dict[str, str]:
    """Write a unit and its test bench.

    Parameters
    ----------
    unit : Unit
    name : str
        Of the module, and of the file without `.v`, as linters want.
    with_bench : bool

    Returns
    -------
    dict of str to str
        File name -> text.

    Raises
    ------
    SpecError
        The name is no name of Verilog, or the unit cannot be written.
    """
    spec = unit.spec
    made = {f"{name}.v": header(unit) + module(unit, name, meanings=meanings(spec))}
    if with_bench:
        written = bench(unit, name)
        made |= {f"{name}_tb.v": written.verilog, f"{name}_tb.hex": written.vectors}
    return made


def meanings(spec: UnitSpec) -> dict[str, str]:
    """What each port of a unit is.

    Examples
    --------
    >>> meanings(UnitSpec("encoder", 2, 4, "index", "plain"))["legal"]
    '1 if the mask has exactly 2 ones. If it is 0, the code means nothing.'
    """
    pattern = spec.pattern
    numbers = {"n": spec.n, "m": spec.m, "w": spec.width_bits, "p": (spec.m - 1).bit_length()}
    found = {name: words.format(**numbers) for name, words in MEANINGS.items()}
    found |= {
        f"position_{slot}": f"Position of the element that slot {slot} keeps, {slot} to {slot + pattern.m - pattern.n}."
        for slot in range(pattern.n)
    }
    per_slot, last = (spec.m - spec.n + 1, "j + i") if spec.variant == "onehot" else (spec.m, "i")
    found["lines"] = (
        f"{per_slot} lines per slot, one of them 1: bit j*{per_slot}+i gives slot j element {last}."
    )
    return found


def header(unit: Unit) -> str:
    """The comment at the top of the file."""
    spec = unit.spec
    numbers = {"n": spec.n, "m": spec.m}
    lines = textwrap.wrap(WHAT[spec.unit].format(**numbers), WIDE)
    facts = [("pattern", f"{spec.pattern}: {spec.n} of every {spec.m} elements are kept")]
    if spec.encoding:
        codec = encodings.get(spec.encoding)
        facts.append(
            (
                "encoding",
                f"{codec.name}, {codec.code_bits(spec.pattern)} bits per group, as in packed files of nmsim, "
                f"format version {FORMAT_VERSION}",
            )
        )
    facts.append(("structure", spec.variant))
    if spec.width_bits:
        facts.append(("width", f"{spec.width_bits} bits"))
    # A lane holds its sum in a register, whatever its stages.
    cycles = spec.stages + (spec.unit == "lane")
    latency = f"{cycles} cycles, one group per cycle" if cycles else "0 cycles: combinational"
    latency = latency.replace("1 cycles", "1 cycle")
    facts.append(("latency", latency))
    if spec.unit in ILLEGAL:
        facts.append(("illegal input", ILLEGAL[spec.unit].format(**numbers)))
    wide = max(len(name) for name, _ in facts)
    for name, words in facts:
        lines += textwrap.wrap(
            words, WIDE, initial_indent=f"  {name:<{wide}}  ", subsequent_indent=" " * (wide + 4)
        )
    lines.append(
        "Every expression has the width of its place: nothing is widened or cut without being written."
    )
    return "".join(f"// {line}\n" for line in [*lines, "Written by `nmsim rtl`."]) + "\n"
