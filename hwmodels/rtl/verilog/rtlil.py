"""Read RTLIL, the text in which Amaranth hands its modules to Yosys."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from nmsim.errors import SpecError, brief

Bit = tuple[str, int]
"""A bit of a wire: its name and index. Of a constant: an empty name, and 0 or 1."""
Bits = tuple[Bit, ...]
"""Lowest first."""
ZERO: Bit = ("", 0)
NAMED = "\\"
"""First letter of the names that designers gave."""


@dataclass(frozen=True)
class Wire:
    """A wire as declared. `port` is "input", "output" or empty; `init` the value of a register at the start."""

    name: str
    width: int
    signed: bool = False
    port: str = ""
    init: int | None = None

    @property
    def bits(self) -> Bits:
        """All of its bits."""
        return tuple((self.name, index) for index in range(self.width))

    @property
    def is_named(self) -> bool:
        """Whether the designer gave it a name."""
        return self.name.startswith(NAMED)


@dataclass(frozen=True)
class Cell:
    """An operator, a register, or an instance of a module."""

    kind: str
    name: str
    parameters: dict[str, int] = field(default_factory=dict)
    ports: dict[str, Bits] = field(default_factory=dict)


@dataclass(frozen=True)
class Assign:
    """A statement of a process."""

    target: Bits
    value: Bits


@dataclass(frozen=True)
class Case:
    """Patterns of 0, 1 and - (either), highest bit first; without any, what is done otherwise."""

    patterns: tuple[str, ...]
    body: "list[Assign | Switch]"


@dataclass(frozen=True)
class Switch:
    """The first case that fits is taken."""

    on: Bits
    cases: list[Case]


Statement = Assign | Switch


@dataclass
class Module:
    """Wires, cells, processes and connections of one module."""

    name: str
    wires: dict[str, Wire] = field(default_factory=dict)
    cells: list[Cell] = field(default_factory=list)
    processes: list[list[Statement]] = field(default_factory=list)
    connections: list[tuple[Bits, Bits]] = field(default_factory=list)


def parse(text: str) -> list[Module]:
    """Read modules, the top one first.

    Parameters
    ----------
    text : str
        As `amaranth.back.rtlil.convert` writes it.

    Raises
    ------
    SpecError
        A line of a kind that is not known here, such as a memory.

    Examples
    --------
    >>> [module] = parse("module \\\\top\\n wire width 2 input 0 \\\\a\\nend\\n")
    >>> module.wires["\\\\a"].width
    2
    """
    lines = (line for line in (raw.strip() for raw in text.splitlines()) if line)
    modules = []
    for line in lines:
        if line.startswith("module "):
            modules.append(_Reader(lines).module(line.split()[1]))
        elif not line.startswith("attribute "):
            raise _unknown(line)
    return modules


def flat(modules: list[Module]) -> Module:
    """Put all modules into the first, whose wires keep their names; others get the names of instances in front.

    Amaranth lets a signal of one module be read in another, and makes ports of such bits. So a module's ports say little.
    """
    by_name = {module.name: module for module in modules}
    top = Module(modules[0].name)
    _add(top, modules[0], by_name, "")
    return top


def _add(top: Module, module: Module, by_name: dict[str, Module], place: str) -> None:
    names = {name: _placed(name, place) for name in module.wires}

    def moved(bits: Bits) -> Bits:
        return tuple((names[name], at) if name else ("", at) for name, at in bits)

    for wire in module.wires.values():
        name = names[wire.name]
        top.wires[name] = replace(wire, name=name, port="" if place else wire.port)
    top.connections += [(moved(target), moved(value)) for target, value in module.connections]
    top.processes += [_moved(body, moved) for body in module.processes]
    for cell in module.cells:
        ports = {port: moved(bits) for port, bits in cell.ports.items()}
        child = by_name.get(cell.kind)
        if child is None:
            top.cells.append(replace(cell, ports=ports))
            continue
        inside = f"{place}{cell.name.removeprefix(NAMED)}."
        _add(top, child, by_name, inside)
        for port, outer in ports.items():
            wire = child.wires[NAMED + port]
            inner = tuple((_placed(name, inside), at) for name, at in wire.bits)
            top.connections.append((outer, inner) if wire.port == "output" else (inner, outer))


def _placed(name: str, place: str) -> str:
    """The name of a wire in the top module; a port that Amaranth named is nameless."""
    if not place:
        return name
    plain = name[len(NAMED) :]
    return f"{NAMED if name.startswith(NAMED) and not plain.startswith('port$') else '$'}{place}{plain}"


def _moved(body: "list[Statement]", moved: Callable[[Bits], Bits]) -> "list[Statement]":
    return [
        Assign(moved(one.target), moved(one.value))
        if isinstance(one, Assign)
        else Switch(moved(one.on), [Case(case.patterns, _moved(case.body, moved)) for case in one.cases])
        for one in body
    ]


class _Reader:
    """Reads the lines of one module."""

    def __init__(self, lines: Iterator[str]) -> None:
        self.lines = lines
        self.wires: dict[str, Wire] = {}

    def module(self, name: str) -> Module:
        module = Module(name, self.wires)
        init: int | None = None
        for line in self.lines:
            word, _, rest = line.partition(" ")
            if word == "end":
                return module
            if word == "attribute":
                key, _, value = rest.partition(" ")
                init = _integer(value) if key == "\\init" else init
                continue
            if word == "wire":
                wire = _wire(rest, init)
                self.wires[wire.name] = wire
            elif word == "cell":
                module.cells.append(self.cell(*rest.split()))
            elif word == "process":
                module.processes.append(self.body()[0])
            elif word == "connect":
                module.connections.append(self.pair(rest))
            else:
                raise _unknown(line)
            init = None
        raise SpecError(f"module {brief(name)}: no end, expected one")

    def cell(self, kind: str, name: str) -> Cell:
        cell = Cell(kind, name)
        for line in self.lines:
            word, _, rest = line.partition(" ")
            if word == "end":
                break
            key, _, value = rest.removeprefix("signed ").partition(" ")
            if word == "parameter":
                cell.parameters[key.removeprefix("\\")] = _integer(value)
            elif word == "connect":
                cell.ports[key.removeprefix("\\")] = self.bits(value)
            else:
                raise _unknown(line)
        return cell

    def body(self) -> tuple[list[Statement], str]:
        """Read statements, up to the line that ends them."""
        statements: list[Statement] = []
        for line in self.lines:
            word, _, rest = line.partition(" ")
            if word == "assign":
                statements.append(Assign(*self.pair(rest)))
            elif word == "switch":
                statements.append(self.switch(rest))
            else:
                return statements, line
        raise SpecError("process: no end, expected one")

    def switch(self, on: str) -> Switch:
        cases = []
        line = next(self.lines)
        while line != "end":
            word, _, rest = line.partition(" ")
            if word != "case":
                raise _unknown(line)
            patterns = tuple(text.strip().partition("'")[2] for text in rest.split(",")) if rest else ()
            body, line = self.body()
            cases.append(Case(patterns, body))
        return Switch(self.bits(on), cases)

    def pair(self, text: str) -> tuple[Bits, Bits]:
        left, right = _TERM.findall(text)
        return self.bits(left), self.bits(right)

    def bits(self, text: str) -> Bits:
        text = text.strip()
        if text.startswith("{"):
            parts = [self.bits(part) for part in _TERM.findall(text[1:-1])]
            return tuple(bit for part in reversed(parts) for bit in part)
        if text[0].isdigit():
            return _constant(text)
        name, _, index = text.partition(" ")
        if not index:
            return self.wires[name].bits
        high, _, low = index.strip("[]").partition(":")
        return tuple((name, at) for at in range(int(low or high), int(high) + 1))


_TERM = re.compile(r"\{[^}]*\}|[\\$]\S+(?: \[\d+(?::\d+)?\])?|\d+(?:'[01x-]*)?")


def _unknown(line: str) -> SpecError:
    return SpecError(
        f"RTLIL: {brief(line)}: not known here; expected wires, cells, processes and connections"
    )


def _wire(text: str, init: int | None) -> Wire:
    words = text.split()
    port = next((word for word in words if word in ("input", "output")), "")
    if "inout" in words:
        raise _unknown(f"wire {text}")
    return Wire(words[-1], int(words[1]), "signed" in words, port, init)


def _constant(text: str) -> Bits:
    width, quote, digits = text.partition("'")
    if not quote:
        width, digits = "32", f"{int(text):032b}"
    if not set(digits) <= {"0", "1"}:
        raise SpecError(f"RTLIL: constant {brief(text)}: expected digits 0 and 1")
    return tuple(("", int(digit)) for digit in reversed(digits.rjust(int(width), "0")))


def _integer(text: str) -> int:
    if text.startswith('"'):
        raise _unknown(text)
    return sum(value << at for at, (_, value) in enumerate(_constant(text)))
