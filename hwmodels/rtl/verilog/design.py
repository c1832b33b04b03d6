"""A module of RTLIL as its bits are driven: what is alive, which signal stands for which bits, and expressions over signals.

RTLIL drives wires without a name, and connects signals to slices of them. Here every bit has one driver. A signal whose
bits are those of a nameless wire becomes the wire's home, and the wire vanishes. What is used once is written where it is used.
"""

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace

from hwmodels.rtl.verilog.expressions import Expression, constant, joined, text
from hwmodels.rtl.verilog.rtlil import NAMED, ZERO, Assign, Bit, Bits, Cell, Module, Statement, Switch, Wire
from nmsim.errors import SpecError, brief

BITWISE = {"$and": "&", "$or": "|", "$xor": "^"}
MODULAR = {"$add": "+", "$sub": "-", "$mul": "*"}
"""Their low bits depend on low bits only."""
COMPARED = {"$eq": "==", "$ne": "!=", "$lt": "<", "$le": "<=", "$gt": ">", "$ge": ">="}
REDUCED = {"$reduce_or": "|", "$reduce_bool": "|", "$reduce_and": "&", "$reduce_xor": "^"}
SHIFTED = {"$shl": "<<", "$shr": ">>", "$sshr": ">>>", "$shift": ">>"}
DIVIDED = {"$divfloor": "/", "$modfloor": "%"}
OPERATORS = {"$not", "$neg", "$mux", *BITWISE, *MODULAR, *COMPARED, *REDUCED, *SHIFTED, *DIVIDED}
NAMED_FROM = 28
"""An expression of more names and constants than this gets a name of its own."""
SUFFIXES = {
    "$add": "sum", "$sub": "difference", "$mul": "product", "$mux": "choice", "$eq": "equals", "$not": "inverse",
    "process": "next", "register": "held",
}  # fmt: skip
KEYWORDS = frozenset(
    {
        "always", "and", "assign", "automatic", "begin", "buf", "bufif0", "bufif1", "case", "casex", "casez",
        "cell", "cmos", "config", "deassign", "default", "defparam", "design", "disable", "edge", "else", "end",
        "endcase", "endconfig", "endfunction", "endgenerate", "endmodule", "endprimitive", "endspecify",
        "endtable", "endtask", "event", "for", "force", "forever", "fork", "function", "generate", "genvar",
        "highz0", "highz1", "if", "ifnone", "incdir", "include", "initial", "inout", "input", "instance",
        "integer", "join", "large", "liblist", "library", "localparam", "macromodule", "medium", "module",
        "nand", "negedge", "nmos", "nor", "noshowcancelled", "not", "notif0", "notif1", "or", "output",
        "parameter", "pmos", "posedge", "primitive", "pull0", "pull1", "pulldown", "pullup",
        "pulsestyle_ondetect", "pulsestyle_onevent", "rcmos", "real", "realtime", "reg", "release", "repeat",
        "rnmos", "rpmos", "rtran", "rtranif0", "rtranif1", "scalared", "showcancelled", "signed", "small",
        "specify", "specparam", "strong0", "strong1", "supply0", "supply1", "table", "task", "time", "tran",
        "tranif0", "tranif1", "tri", "tri0", "tri1", "triand", "trior", "trireg", "unsigned", "use", "vectored",
        "wait", "wand", "weak0", "weak1", "while", "wire", "wor", "xnor", "xor", "bit", "byte", "char", "int",
        "logic", "longint", "shortint", "struct", "typedef", "union", "enum", "do", "return", "break",
        "continue", "final", "priority", "unique",
    }
)  # fmt: skip


class Names:
    """Names of one module, each given once."""

    def __init__(self) -> None:
        self.taken: set[str] = set()

    def take(self, wanted: str) -> str:
        """A legal name that nothing else has."""
        plain = re.sub(r"\W+", "_", wanted.replace("$", "_")).strip("_") or "signal"
        if plain[0].isdigit():
            plain = f"s{plain}"
        if plain in KEYWORDS:
            plain += "_"
        name = next(
            name for name in itertools.chain([plain], (f"{plain}_{n}" for n in itertools.count(2))) if name not in self.taken
        )  # fmt: skip
        self.taken.add(name)
        return name


class Driven:
    """Who drives which bit of a module, and what of it is alive."""

    def __init__(self, module: Module) -> None:
        self.module = module
        self._alias: dict[Bit, Bit] = {}
        for target, value in module.connections:
            self._alias.update(zip(target, value, strict=True))
        self.cells: dict[str, Cell] = {}
        self.registers: dict[str, Cell] = {}
        self.processes: dict[str, list[Statement]] = {}
        for cell in module.cells:
            if cell.kind in OPERATORS:
                self._add_operator(cell)
            elif cell.kind == "$dff":
                self.registers[cell.ports["Q"][0][0]] = cell
            else:
                raise SpecError(f"cell {brief(cell.kind)}: cannot be written as Verilog here")
        for body in module.processes:
            if any(isinstance(statement, Switch) for statement in body):
                self.processes[next(targets(body))[0][0]] = body
            else:
                # Of assignments without a condition, the last to a bit counts.
                for statement in body:
                    if isinstance(statement, Assign):
                        self._alias.update(zip(statement.target, statement.value, strict=True))
        left = -1
        while left != (left := len(self.cells)):
            self._fold()
        self._live: set[Bit] = set()

    def _add_operator(self, cell: Cell) -> None:
        """Keep an operator, with a wire as wide as it computes if its output is narrower."""
        output = cell.ports["Y"]
        wide = max((len(bits) for port, bits in cell.ports.items() if port in "AB"), default=0)
        if cell.kind in (*DIVIDED, *SHIFTED) and cell.kind != "$shl" and wide > len(output):
            made = Wire(f"{output[0][0].replace(chr(92), '$')}$wide", wide)
            self.module.wires[made.name] = made
            self._alias.update(zip(output, made.bits, strict=False))
            cell = replace(
                cell,
                parameters=cell.parameters | {"Y_WIDTH": wide},
                ports=cell.ports | {"Y": made.bits},
            )
        self.cells[cell.ports["Y"][0][0]] = cell

    def _fold(self) -> None:
        """Take operators away whose bits are those of an input, or constants."""
        for name, cell in list(self.cells.items()):
            if cell.kind in ("$add", "$sub"):
                output = cell.ports["Y"]
                left, right = (self.resolve(bits) for bits in operands(cell, len(output)))
                if not any(map(any, right)) or (cell.kind == "$add" and not any(map(any, left))):
                    self._alias.update(zip(output, left if not any(map(any, right)) else right, strict=True))
                    del self.cells[name]
            elif cell.kind in BITWISE or cell.kind in ("$mux", "$not"):
                output = cell.ports["Y"]
                inputs = [self.resolve(bits) for bits in operands(cell, len(output))]
                if cell.kind == "$mux":
                    inputs[0] *= len(output)
                folded = [_folded(cell.kind, bits) for bits in zip(*inputs, strict=True)]
                if all(bit is not None for bit in folded):
                    self._alias.update(zip(output, folded, strict=True))  # type: ignore[arg-type]
                    del self.cells[name]

    def find_live(self) -> None:
        """Go from outputs back to what they need."""
        wires = self.module.wires
        self._spread(
            [bit for wire in wires.values() if wire.port == "output" for bit in self.resolve(wire.bits)]
        )
        # A signal that cannot be narrowed is written as a whole.
        views = [self.resolve(wire.bits) for wire in wires.values() if wire.is_named]
        whole = [view for view in views if not all(not name or self.can_be_cut(name) for name, _ in view)]
        while more := [
            bit
            for view in whole
            if any(bit in self._live for bit in view)
            for bit in view
            if bit[0] and bit not in self._live
        ]:
            self._spread(more)

    def _spread(self, work: list[Bit]) -> None:
        """Mark bits, and all that they depend on."""
        done: set[str] = set()
        while work:
            bit = work.pop()
            if bit in self._live or not bit[0]:
                continue
            self._live.add(bit)
            name, at = bit
            if name in self.cells:
                work += self.resolve(_needed(self.cells[name], at))
            elif name in self.registers:
                cell = self.registers[name]
                work += [*self.resolve(cell.ports["D"] + cell.ports["CLK"]), *cell.ports["Q"]]
            elif name in done:
                continue
            elif name in self.processes:
                done.add(name)
                work += self.resolve(tuple(bit for bits in read(self.processes[name]) for bit in bits))

    def resolve(self, bits: Bits) -> Bits:
        """The driven bits behind connections."""
        found = []
        for bit in bits:
            while bit in self._alias:
                bit = self._alias[bit]
            found.append(bit)
        return tuple(found)

    def is_live(self, bit: Bit) -> bool:
        """Whether an output depends on it."""
        return bit in self._live

    def live_width(self, name: str) -> int:
        """Bits up to the highest that is alive; 0 if none is."""
        return max(
            (at + 1 for at in range(self.module.wires[name].width) if (name, at) in self._live), default=0
        )

    def can_be_cut(self, name: str) -> bool:
        """Whether the low bits of a driven wire can be written without the high ones."""
        kind = self.cells[name].kind if name in self.cells else ""
        return kind in BITWISE or kind in MODULAR or kind in ("$not", "$neg", "$mux", "$shl")

    def drives(self, name: str) -> bool:
        """Whether a wire is driven itself, and is not a view of others."""
        return (
            name in self.cells
            or name in self.registers
            or name in self.processes
            or self.module.wires[name].port == "input"
        )


def _folded(kind: str, inputs: tuple[Bit, ...]) -> Bit | None:
    """The bit that an operator gives for these bits, if it is one of them or a constant."""
    one = ("", 1)
    if kind == "$mux":
        test, then, otherwise = inputs
        return then if then == otherwise or test == one else otherwise if test == ZERO else None
    if kind == "$not":
        return ("", 1 - inputs[0][1]) if not inputs[0][0] else None
    constants, others = [bit for bit in inputs if not bit[0]], [bit for bit in inputs if bit[0]]
    if not constants:
        return None
    [other] = others if len(others) == 1 else constants[1:]
    if kind == "$and":
        return other if constants[0] == one else ZERO
    if kind == "$or":
        return one if constants[0] == one else other
    if constants[0] == ZERO:
        return other
    return None if other[0] else ("", 1 - other[1])


def targets(body: Iterable[Statement]) -> Iterator[Bits]:
    """What statements assign to."""
    for statement in body:
        if isinstance(statement, Switch):
            for case in statement.cases:
                yield from targets(case.body)
        else:
            yield statement.target


def read(body: Iterable[Statement]) -> Iterator[Bits]:
    """What statements read."""
    for statement in body:
        if isinstance(statement, Switch):
            yield statement.on
            for case in statement.cases:
                yield from read(case.body)
        else:
            yield statement.value


def extended(bits: Bits, signed: bool, width: int) -> Bits:
    """Cut or extend to a width."""
    fill = bits[-1] if signed and bits else ZERO
    return (*bits[:width], *[fill] * (width - len(bits)))


def operands(cell: Cell, width: int) -> list[Bits]:
    """Inputs of an operator at the width in which it computes `width` bits of its output."""
    ports, parameters = cell.ports, cell.parameters
    if cell.kind == "$mux":
        return [ports["S"], ports["B"][:width], ports["A"][:width]]
    signed = bool(parameters.get("A_SIGNED"))
    if cell.kind in COMPARED:
        wide = max(len(ports["A"]), len(ports["B"]))
        return [extended(ports[name], signed, wide) for name in "AB"]
    if cell.kind in REDUCED:
        return [ports["A"]]
    if cell.kind in DIVIDED:
        return [extended(ports[name], signed, max(width, len(ports["A"]), len(ports["B"]))) for name in "AB"]
    if cell.kind in SHIFTED:
        wide = width if cell.kind == "$shl" else max(len(ports["A"]), width)
        return [extended(ports["A"], signed, wide), ports["B"]]
    return [extended(ports[name], signed, width) for name in "AB" if name in ports]


def _needed(cell: Cell, at: int) -> Bits:
    """Bits of inputs that bit `at` of an operator's output depends on."""
    width = cell.parameters.get("Y_WIDTH", cell.parameters.get("WIDTH", 1))
    if cell.kind == "$mux":
        return (*cell.ports["S"], cell.ports["A"][at], cell.ports["B"][at])
    if cell.kind in BITWISE or cell.kind == "$not":
        return tuple(bits[at] for bits in operands(cell, width))
    if cell.kind in MODULAR or cell.kind == "$neg":
        return tuple(bit for bits in operands(cell, at + 1) for bit in bits)
    return tuple(bit for bits in operands(cell, width) for bit in bits)


class Signals(Driven):
    """The signals of a module, and expressions over them."""

    def __init__(self, module: Module, apart: frozenset[str] = frozenset()) -> None:
        super().__init__(module)
        self.find_live()
        self.apart = apart
        """Signals of several drivers that are only put together, and not read here."""
        self.names = Names()
        self.shown: dict[str, str] = {}
        """Wire of RTLIL -> its name in Verilog, of wires that are declared."""
        self.widths: dict[str, int] = {}
        self.homes: dict[str, tuple[str, int]] = {}
        """Driven wire -> the declared wire that holds its bits, and from which bit on."""
        self.views: dict[str, Bits] = {}
        """Declared wire -> driven bits."""
        self.used: dict[str, set[int]] = {}
        """Declared wire -> bits that something reads."""
        self.reads: dict[str, None] = {}
        """Declared wires that were named since this was emptied, in order."""
        self.context = ""
        """Name that a new wire is called after."""
        self.context_wire = ""
        self.contexts: dict[str, str] = {}
        """Wire that got a name late -> the wire whose expression it was taken out of."""
        self._uses: Counter[str] = Counter()
        self._places: dict[Bit, list[tuple[str, int]]] = {}
        self._declare()
        self._uses = self._count_uses()

    def _declare(self) -> None:
        """Give named wires their names: ports first, then signals that hold what is alive."""
        wires = self.module.wires
        for wire in (*(w for w in wires.values() if w.port), *(w for w in wires.values() if not w.port)):
            view = self.resolve(wire.bits)
            if not wire.is_named or not (wire.port or any(self.is_live(bit) for bit in view)):
                continue
            self.views[wire.name] = view
            if self.drives(wire.name):
                self.homes[wire.name] = (wire.name, 0)
        for exact in (True, False):
            for name in self.views:
                self._find_home(name, exact)
        for name in self.views:
            self._show(name, name.removeprefix(NAMED))

    def _find_home(self, name: str, exact: bool) -> None:
        """Make a signal the home of nameless wires that it holds as far as they are alive."""
        view = self.views[name]
        for driven, start, count in runs(view):
            at = view[start][1]
            if driven in self.homes or self.module.wires[driven].is_named or at or not self.drives(driven):
                continue
            if count < self.live_width(driven) or (exact and count != len(view)):
                continue
            # Registers and processes assign all of a variable.
            if count != len(view) and (driven not in self.cells or name in self.apart):
                continue
            # Signs beside a number read the number's highest bit.
            if sum(bit[0] == driven for bit in view) != count:
                continue
            if (
                count < self.module.wires[driven].width
                and driven in self.cells
                and not self.can_be_cut(driven)
            ):
                continue
            self.homes[driven] = (name, start)

    def _show(self, name: str, wanted: str) -> None:
        view = self.views[name]
        wire = self.module.wires.get(name, Wire(name, len(view)))
        width = len(view)
        if not wire.port and all(not bit[0] or self.can_be_cut(bit[0]) for bit in view):
            width = max(at + 1 for at, bit in enumerate(view) if self.is_live(bit))
        self.widths[name] = width
        self.shown[name] = self.names.take(wanted)
        self.used[name] = set()
        for at, bit in enumerate(view[:width]):
            if bit[0] and not (name in self.apart and self.is_put_together(name)):
                self._places.setdefault(bit, []).append((name, at))

    def is_put_together(self, name: str) -> bool:
        """Whether a declared wire is more than the home of one driven wire."""
        view = self.views[name][: self.widths[name]]
        return self.homes.get(view[0][0]) != (name, 0) or next(runs(view))[2] != len(view)

    def _count_uses(self) -> Counter[str]:
        """How often each nameless wire without a home is read."""
        uses: Counter[str] = Counter()

        def note(bits: Bits) -> None:
            for part in self.parts(self.resolve(bits)):
                if part[0] == "wire":
                    uses[part[1]] += 1

        for view in self.views.values():
            note(view)
        for name, cell in self.cells.items():
            if width := self.live_width(name):
                for bits in operands(cell, width):
                    note(bits)
        for name, cell in self.registers.items():
            if self.live_width(name):
                note(cell.ports["D"])
        for name, body in self.processes.items():
            if self.live_width(name):
                for bits in read(body):
                    note(bits)
        return uses

    # Expressions.

    def value(self, bits: Bits, *, of_homes: bool = False) -> Expression:
        """An expression of exactly as many bits.

        Parameters
        ----------
        bits : bits
            Lowest first.
        of_homes : bool
            Name homes only, as the definition of another signal of the same bits must.
        """
        parts = self.parts(self.resolve(bits or (ZERO,)), of_homes=of_homes)
        shown = [self._part(part) for part in reversed(parts)]
        return shown[0] if len(shown) == 1 else Expression("{}", parts=tuple(shown))

    def parts(self, bits: Bits, *, of_homes: bool = False) -> list[tuple[str, str, int, int]]:
        """Cut bits into constants, slices of declared wires, repeated bits and nameless wires.

        Returns
        -------
        list of (kind, name, start, count)
            Of a "constant", `start` is the value. "named" is a slice of a declared wire, "repeat" a bit of one, "wire" and
            "repeated wire" the same of a nameless one. A "wire" may have
            more bits than it is wide, if its operator can compute them.
        """
        found: list[tuple[str, str, int, int]] = []
        at = 0
        # The longest piece at each place, since a concatenation of few pieces is easier to read.
        while at < len(bits):
            name, index = bits[at]
            same = same_bits(bits[at:])
            if not name:
                count = next((place for place, bit in enumerate(bits[at:]) if bit[0]), len(bits) - at)
                value = sum(bit[1] << place for place, bit in enumerate(bits[at : at + count]))
                found.append(("constant", "", value, count))
            elif same > 1:
                place = self._longest(bits[at : at + 1], of_homes)
                kind = "repeat" if place else "repeated wire"
                found.append((kind, *((place[0], place[1]) if place else (name, index)), same))
                count = same
            elif place := self._longest(bits[at:], of_homes):
                found.append(("named", *place))
                count = place[2]
            else:
                count = rising(bits[at:])
                rest = bits[at + count :]
                if rest and self._extends(name, index, count, rest):
                    found.append(("wire", name, 0, len(bits) - at))
                    return found
                found.append(("wire", name, index, count))
            at += count
        return found

    def _longest(self, bits: Bits, of_homes: bool) -> tuple[str, int, int] | None:
        """The slice of a declared wire that holds the most of the bits from the first on."""
        best: tuple[str, int, int] | None = None
        best_rank = (0, False, False)
        home, offset = self.homes.get(bits[0][0], ("", 0))
        for name, at in self._places.get(bits[0], ()):
            is_home = (name, at) == (home, offset + bits[0][1])
            if of_homes and not is_home:
                continue
            width = self.widths[name]
            count = in_common(bits, self.views[name][at:width])
            # The name of exactly these bits says more than a slice of another.
            rank = (count, count == width, is_home)
            if rank > best_rank:
                best, best_rank = (name, at, count), rank
        return best

    def _extends(self, name: str, low: int, count: int, rest: Bits) -> bool:
        """Whether the rest extends a wire, so that its operator can compute the wider number itself."""
        cell = self.cells.get(name)
        if cell is None or low or count != self.module.wires[name].width or self._uses[name] > 1:
            return False
        zeros, signs = all(bit == ZERO for bit in rest), all(bit == (name, count - 1) for bit in rest)
        inputs = [len(cell.ports[port]) for port in "AB" if port in cell.ports]
        signed = bool(cell.parameters.get("A_SIGNED"))
        if cell.kind == "$add":
            return count > max(inputs) and (signs if signed else zeros)
        if cell.kind in ("$sub", "$neg"):
            return count > max(inputs) and signs
        return cell.kind == "$mul" and not signed and count >= sum(inputs) and zeros

    def _part(self, part: tuple[str, str, int, int]) -> Expression:
        kind, name, start, count = part
        if kind == "constant":
            return constant(start, count)
        if kind == "named":
            return self.slice(name, start, count)
        if kind == "repeat":
            return Expression("{n{}}", str(count), (self.slice(name, start, 1),))
        if kind == "repeated wire":
            self._name_wire(name)
            return Expression("{n{}}", str(count), (self.slice(name, start, 1),))
        return self._inlined(name, start, count)

    def slice(self, name: str, start: int, count: int) -> Expression:
        """A slice of a declared wire."""
        self.used[name].update(range(start, start + count))
        self.reads[name] = None
        shown, width = self.shown[name], self.widths[name]
        if count == width:
            return text(shown)
        return text(f"{shown}[{start}]" if count == 1 else f"{shown}[{start + count - 1}:{start}]")

    def _inlined(self, name: str, start: int, count: int) -> Expression:
        """A nameless wire where it is read, or a new name for it."""
        cell = self.cells.get(name)
        free = cell is not None and (cell.kind in BITWISE or cell.kind in ("$mux", "$not"))
        cut_low = cell is not None and not start and (cell.kind in MODULAR or cell.kind in ("$neg", "$shl"))
        whole = not start and count >= self.module.wires[name].width
        alone = cell is not None and (
            cell.kind == "$sshr" or (cell.kind == "$mul" and cell.parameters["A_SIGNED"])
        )
        if cell is None or alone or self._uses[name] > 1 or not (whole or free or cut_low):
            self._name_wire(name)
            return self.slice(name, start, count)
        made = self.operator(cell, start, count)
        if made.size > NAMED_FROM and whole and count == self.module.wires[name].width:
            self._name_wire(name)
            return self.slice(name, start, count)
        return made

    def _name_wire(self, name: str) -> None:
        """Declare a nameless wire after all."""
        if name in self.shown:
            return
        holders = [holder for holder, view in self.views.items() if any(bit[0] == name for bit in view)]
        kind = (
            self.cells[name].kind if name in self.cells
            else "register" if name in self.registers else "process"
        )  # fmt: skip
        if holders:
            at = next(at for at, bit in enumerate(self.views[holders[0]]) if bit[0] == name)
            wanted = f"{self.shown[holders[0]]}_{at if at or holders[0] in self.apart else 'full'}"
        else:
            wanted = f"{self.context}_{SUFFIXES.get(kind, 'term')}"
        self.views[name] = self.module.wires[name].bits
        self.homes[name] = (name, 0)
        self._show(name, wanted)
        self.contexts[name] = self.contexts.get(self.context_wire, self.context_wire)

    def operator(self, cell: Cell, start: int, count: int) -> Expression:
        """An operator's output bits `start` .. `start + count - 1`."""
        kind = cell.kind
        inputs = [
            bits[start:] if kind in BITWISE or kind == "$not" else bits
            for bits in operands(cell, start + count)
        ]
        signed = bool(cell.parameters.get("A_SIGNED"))
        if kind == "$mux":
            test, then, otherwise = inputs
            return Expression(
                "?", parts=(self.value(test), self.value(then[start:]), self.value(otherwise[start:]))
            )
        if kind in REDUCED:
            return self._reduced(REDUCED[kind], inputs[0])
        if kind in ("$not", "$neg"):
            return Expression("~" if kind == "$not" else "-", parts=(self.value(inputs[0]),))
        if kind in DIVIDED and signed:
            raise SpecError(f"cell {brief(kind)}: signed division cannot be written as Verilog here")
        left, right = map(self.value, inputs)
        if kind in COMPARED:
            if signed and kind not in ("$eq", "$ne"):
                left, right = (Expression("call", "$signed", (side,)) for side in (left, right))
            return Expression(COMPARED[kind], parts=(left, right))
        if kind in BITWISE or kind == "$add":
            return joined(BITWISE.get(kind, "+"), left, right)
        if kind == "$mul" and signed:
            # Verilog widens signed operands itself.
            left, right = (
                Expression("call", "$signed", (self.value(cell.ports[port][:count]),)) for port in "AB"
            )
        if kind == "$sshr":
            left = Expression("call", "$signed", (left,))
        return Expression({**MODULAR, **SHIFTED, **DIVIDED}[kind], parts=(left, right))

    def _reduced(self, operator: str, bits: Bits) -> Expression:
        parts = self.parts(self.resolve(bits or (ZERO,)))
        shown = [self._part(part) for part in reversed(parts)]
        if all(part[0] in ("named", "wire") and part[3] == 1 for part in parts):
            return joined(operator, *shown) if len(shown) > 1 else shown[0]
        return Expression(
            operator, parts=(shown[0] if len(shown) == 1 else Expression("{}", parts=tuple(shown)),)
        )


def runs(bits: Bits) -> Iterator[tuple[str, int, int]]:
    """Runs of successive bits of one wire: its name, where the run starts in `bits`, its length."""
    at = 0
    while at < len(bits):
        name = bits[at][0]
        count = rising(bits[at:]) if name else 1
        if name:
            yield name, at, count
        at += count


def rising(bits: Bits) -> int:
    """How many bits from the first on are successive bits of one wire.

    Examples
    --------
    >>> rising((("a", 1), ("a", 2), ("a", 4)))
    2
    """
    name, low = bits[0]
    return next((place for place, bit in enumerate(bits) if bit != (name, low + place)), len(bits))


def same_bits(bits: Bits) -> int:
    """How many bits from the first on are the same."""
    return next((place for place, bit in enumerate(bits) if bit != bits[0]), len(bits))


def in_common(bits: Bits, others: Bits) -> int:
    """How many bits from the first on two have in common."""
    pairs = zip(bits, others, strict=False)
    return next(
        (place for place, (bit, other) in enumerate(pairs) if bit != other), min(len(bits), len(others))
    )
