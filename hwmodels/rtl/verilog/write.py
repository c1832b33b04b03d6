"""Write a unit as Verilog-2001 that a person can read.

Amaranth's own Verilog has a wire for every operator, and names for none of them. Here expressions are written over the signals
that the unit names, cases stay cases, and the unit's notes stand beside the signals.
"""

import heapq
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from amaranth.back import rtlil

from hwmodels.rtl.unit import Unit
from hwmodels.rtl.verilog.design import KEYWORDS, Signals, runs
from hwmodels.rtl.verilog.expressions import LINE, Expression, assignment, joined
from hwmodels.rtl.verilog.rtlil import NAMED, Assign, Bits, Case, Module, Statement, Switch, Wire, flat, parse
from nmsim.errors import SpecError, brief

INDENT = "  "
MOST_PORT_BITS = 1 << 15
"""Amaranth numbers the bits of all inputs with 16 bits."""


@dataclass
class _Block:
    """What defines a wire, and which wires it reads."""

    name: str
    lines: list[str]
    reads: tuple[str, ...] = ()
    follows: str = ""
    """The wire whose expression this was taken out of."""
    is_inline: bool = False
    """Whether its declaration and definition are one statement."""


def module_name(wanted: str) -> str:
    """Check the name of a module.

    Raises
    ------
    SpecError
        Not a plain name of Verilog, or one of its words.

    Examples
    --------
    >>> module_name("decoder_8_16")
    'decoder_8_16'
    """
    if not re.fullmatch(r"[A-Za-z_]\w*", wanted, re.ASCII) or wanted in KEYWORDS:
        raise SpecError(
            f"module {brief(wanted)}: expected letters, digits and _, no digit first, and no word of Verilog"
        )
    return wanted


def module(unit: Unit, name: str, *, meanings: Mapping[str, str] | None = None) -> str:
    """Write a unit as one module.

    Parameters
    ----------
    unit : Unit
    name : str
        Of the module.
    meanings : mapping of str to str
        Port -> what it is; the unit's notes come first.

    Returns
    -------
    str
        Verilog text without a header.

    Raises
    ------
    SpecError
        The name is not legal, or the unit holds what is not known here, such as a memory.
    """
    module_name(name)
    if sum(map(len, unit.ports)) > MOST_PORT_BITS:
        raise SpecError(f"{unit.spec}: expected ports of at most {MOST_PORT_BITS} bits in all")
    parsed = flat(parse(rtlil.convert(unit, name="top", ports=unit.ports, emit_src=False)))
    notes = dict(meanings or {}) | unit.notes
    for part, inner in vars(unit).items():
        if isinstance(inner, Unit):
            notes |= {f"{part}.{signal}": words for signal, words in inner.notes.items()}
    # Linters take vectors whose bits depend on other bits of theirs for loops, so these are put together at their end.
    apart: frozenset[str] = frozenset()
    while True:
        writer = _Writer(parsed, notes, apart)
        writer.define_all()
        if not (looped := writer.looped() - apart):
            return writer.text(name)
        apart |= looped


class _Writer:
    """Writes one module."""

    def __init__(
        self,
        module: Module,
        notes: Mapping[str, str],
        apart: frozenset[str],
    ) -> None:
        self.module, self.notes = module, notes
        self.signals = Signals(module, apart)
        self.blocks: dict[str, _Block] = {}
        self.variables: set[str] = set()

    def define_all(self) -> None:
        """Define the outputs, and what is read on the way."""
        outputs = [name for name, wire in self.module.wires.items() if wire.port == "output"]
        work = list(reversed(outputs))
        while work:
            name = work.pop()
            if name in self.blocks or self.module.wires.get(name, _NONE).port == "input":
                continue
            block = self.define(name)
            block.follows = self.signals.contexts.get(name, "")
            self.blocks[name] = block
            work += reversed(block.reads)

    def looped(self) -> set[str]:
        """Wires that are put together from several drivers, and lie on a loop that no register breaks."""
        after = {
            name: set(block.reads) & self.blocks.keys()
            for name, block in self.blocks.items()
            if not self.is_register(name)
        }
        while ended := {
            name
            for name, reads in after.items()
            if not reads & after.keys() or not any(name in other for other in after.values())
        }:
            after = {name: reads for name, reads in after.items() if name not in ended}
        return {name for name in after if self.signals.is_put_together(name)}

    def is_register(self, name: str) -> bool:
        driver = self.signals.views[name][0][0]
        return driver in self.signals.registers and self.signals.homes[driver] == (name, 0)

    def text(self, title: str) -> str:
        """The module."""
        order = self.ordered()
        # What is read before the place of its definition is declared at the top.
        seen: set[str] = set()
        early: list[str] = []
        for block in order:
            early += [
                name
                for name in block.reads
                if name in self.blocks and name != block.name and name not in seen and name not in early
            ]
            seen.add(block.name)
        body: list[str] = []
        for name in dict.fromkeys(early):
            if self.needs_declaration(name):
                body += self.declaration(name)
        for block in order:
            made = self.block_lines(block, early)
            # What takes several lines stands apart.
            if len(made) > 1:
                body += ["", *made, ""] if body[-1:] != [""] else [*made, ""]
            else:
                body += made
        while body and not body[0]:
            body.pop(0)
        while body and not body[-1]:
            body.pop()
        return "\n".join([f"module {title} (", *self.port_lines(), ");", *body, "endmodule", ""])

    def needs_declaration(self, name: str) -> bool:
        return not self.module.wires.get(name, _NONE).port

    # Order.

    def ordered(self) -> list[_Block]:
        """Definitions before uses, and otherwise in the order of the unit's signals.

        A loop through a register has no such order; there, the earliest signal goes first.
        """
        places = {name: at for at, name in enumerate(self.module.wires)}
        place = {name: places[block.follows or name] for name, block in self.blocks.items()}
        waits = {
            name: (set(block.reads) & self.blocks.keys()) - {name} for name, block in self.blocks.items()
        }
        readers: dict[str, list[str]] = {name: [] for name in self.blocks}
        for name, needed in waits.items():
            for other in needed:
                readers[other].append(name)
        ready = [(place[name], at, name) for at, name in enumerate(self.blocks) if not waits[name]]
        heapq.heapify(ready)
        left = dict.fromkeys(self.blocks)
        order: list[_Block] = []
        while left:
            name = heapq.heappop(ready)[2] if ready else min(left, key=lambda one: place[one])
            if name not in left:
                continue
            del left[name]
            order.append(self.blocks[name])
            for reader in readers[name]:
                waits[reader].discard(name)
                if not waits[reader] and reader in left:
                    heapq.heappush(ready, (place[reader], len(order), reader))
        return order

    # Text of declarations.

    def block_lines(self, block: _Block, early: Iterable[str]) -> list[str]:
        """A definition with its declaration, if it has none yet, and its remark."""
        name = block.name
        if not self.needs_declaration(name):
            return block.lines
        if block.is_inline and name in early:
            made = [block.lines[0].replace(f"wire {self.range(name)}", "assign ", 1), *block.lines[1:]]
        elif block.is_inline:
            made = _waived(block.lines, self.unused(name))
        else:
            made = [*([] if name in early else self.declaration(name)), *block.lines]
        return [*self.note(name), *made]

    def range(self, name: str) -> str:
        width = self.signals.widths[name]
        return f"[{width - 1}:0] " if width > 1 else ""

    def declaration(self, name: str) -> list[str]:
        kind = "reg" if name in self.variables else "wire"
        return _waived([f"{INDENT}{kind} {self.range(name)}{self.signals.shown[name]};"], self.unused(name))

    def unused(self, name: str) -> str:
        """Say which bits nothing reads; empty if all are read."""
        left = sorted(set(range(self.signals.widths[name])) - self.signals.used[name])
        if not left:
            return ""
        if len(left) == self.signals.widths[name]:
            return "not read"
        return (
            f"bits {', '.join(map(str, left))} are not read"
            if len(left) > 1
            else f"bit {left[0]} is not read"
        )

    def note(self, name: str) -> list[str]:
        words = self.notes.get(name.removeprefix(NAMED).partition("$")[0], "")
        return [f"{INDENT}// {line}" for line in wrapped(words, LINE - 5)]

    def is_unused_reset(self, wire: Wire) -> bool:
        """Whether this is the reset of a clock whose registers need none."""
        return wire.name == "\\rst" and not self.signals.used[wire.name]

    def port_lines(self) -> list[str]:
        ports = sorted(
            (wire for wire in self.module.wires.values() if wire.port and not self.is_unused_reset(wire)),
            key=lambda wire: (wire.port != "input", wire.name not in ("\\clk", "\\rst")),
        )
        wide = max((len(self.range(wire.name)) for wire in ports), default=0)
        lines = []
        for wire in ports:
            kind = "reg " if wire.name in self.variables else "wire"
            end = "" if wire is ports[-1] else ","
            direction = "input " if wire.port == "input" else "output"
            line = [
                f"{INDENT}{direction} {kind} {self.range(wire.name):<{wide}}{self.signals.shown[wire.name]}{end}"
            ]
            unused = self.unused(wire.name) if wire.port == "input" else ""
            lines += [*self.note(wire.name), *_waived(line, unused)]
        return lines

    # Definitions.

    def define(self, name: str) -> _Block:
        """Define a declared wire, and what is defined with it."""
        signals = self.signals
        signals.reads = {}
        signals.context, signals.context_wire = signals.shown[name], name
        view = signals.views[name]
        driver = next((bit[0] for bit in view if bit[0] and signals.homes.get(bit[0], ("",))[0] == name), "")
        if driver in signals.registers:
            self.variables.add(name)
            return self.finished(name, self.register(name, driver))
        if driver in signals.processes:
            self.variables.add(name)
            body = self.statements(self.cleaned(signals.processes[driver], driver), driver, "=")
            return self.finished(name, _always("*", body))
        return self.combinational(name)

    def finished(self, name: str, lines: list[str], is_inline: bool = False) -> _Block:
        return _Block(name, lines, reads=tuple(self.signals.reads), is_inline=is_inline)

    def combinational(self, name: str) -> _Block:
        signals, width = self.signals, self.signals.widths[name]
        view = signals.views[name][:width]
        pieces = self.pieces(name, view)
        shown = signals.shown[name]
        is_port = not self.needs_declaration(name)
        if len(pieces) == 1:
            left = f"assign {shown} =" if is_port else f"wire {self.range(name)}{shown} ="
            return self.finished(name, assignment(left, pieces[0][1], INDENT), not is_port)
        lines: list[str] = []
        at = 0
        for count, value in pieces:
            place = f"[{at}]" if count == 1 else f"[{at + count - 1}:{at}]"
            lines += assignment(f"assign {shown}{place} =", value, INDENT)
            at += count
        return self.finished(name, lines)

    def pieces(self, name: str, view: Bits) -> list[tuple[int, Expression]]:
        """The expressions of a wire, lowest bits first: one for each nameless wire that it is home to."""
        signals = self.signals
        if signals.homes.get(view[0][0]) == (name, 0) and next(runs(view))[2] == len(view):
            cell = signals.cells[view[0][0]]
            return [(len(view), signals.operator(cell, 0, len(view)))]
        pieces: list[tuple[int, Expression]] = []
        at = 0
        while at < len(view):
            owned = signals.homes.get(view[at][0]) == (name, at) and not view[at][1]
            end = at + 1
            while end < len(view) and (
                view[end] == (view[at][0], view[at][1] + end - at)
                if owned
                else signals.homes.get(view[end][0], ("", 0))[0] != name
            ):
                end += 1
            part = view[at:end]
            value = (
                signals.operator(signals.cells[part[0][0]], 0, len(part))
                if owned
                else signals.value(part, of_homes=True)
            )
            pieces.append((end - at, value))
            at = end
        if len(pieces) != 2 or all(name for name, _ in view):
            return pieces
        # A number and constant bits beside it are one number.
        return [(len(view), Expression("{}", parts=tuple(value for _, value in reversed(pieces))))]

    # Processes.

    def register(self, name: str, driver: str) -> list[str]:
        signals, cell = self.signals, self.signals.registers[driver]
        edge = "posedge" if cell.parameters["CLK_POLARITY"] else "negedge"
        events = f"{edge} {signals.value(cell.ports['CLK'])}"
        data = signals.resolve(cell.ports["D"])[: signals.widths[name]]
        source = data[0][0]
        own_process = (
            source in signals.processes
            and source not in signals.homes
            and signals._uses[source] == 1
            and data == self.module.wires[source].bits[: len(data)]
        )
        if own_process:
            hold = {bit: (driver, at) for at, bit in enumerate(self.module.wires[source].bits)}
            body = self.cleaned(signals.processes[source], source, hold=driver)
            signals.homes[source] = (name, 0)
            last = body[-1] if body else None
            # What comes last wins, such as a reset. People write it first, and the rest as its else.
            if (
                len(body) > 1
                and isinstance(last, Switch)
                and len(last.cases) == 1
                and last.cases[0].patterns == ("1",)
                and assigns_all(last.cases[0].body, len(hold))
            ):
                body = [Switch(last.on, [last.cases[0], Case((), body[:-1])])]
            lines = self.statements(body, source, "<=")
        else:
            lines = assignment(f"{signals.shown[name]} <=", signals.value(data), "")
        return _always(f"({events})", lines)

    def cleaned(self, body: list[Statement], driver: str, *, hold: str = "") -> list[Statement]:
        """Drop a first assignment that has no effect: what it gives is given again, or a register keeps its value."""
        width = self.module.wires[driver].width
        first, *rest = body
        if not isinstance(first, Assign):
            return body
        holds = bool(hold) and self.signals.resolve(first.value) == self.module.wires[hold].bits
        return rest if rest and (holds or assigns_all(rest, width)) else body

    def statements(self, body: list[Statement], driver: str, sign: str) -> list[str]:
        lines: list[str] = []
        for statement in body:
            if isinstance(statement, Assign):
                lines += self.assign(statement, driver, sign)
            elif not statement.on:
                for case in statement.cases:
                    lines += self.statements(case.body, driver, sign)
            else:
                lines += self.switch(statement, driver, sign)
        return lines

    def assign(self, statement: Assign, driver: str, sign: str) -> list[str]:
        signals = self.signals
        home, offset = signals.homes[driver]
        low = statement.target[0][1] + offset
        count = min(len(statement.target), signals.widths[home] - low)
        if count <= 0:
            return []
        used, reads = set(signals.used[home]), dict(signals.reads)
        left = str(signals.slice(home, low, count))
        signals.used[home], signals.reads = used, reads
        return assignment(f"{left} {sign}", signals.value(statement.value[:count]), "")

    def test(self, bit: Bits, is_one: bool) -> Expression:
        """Ask for a value of a bit."""
        value = self.signals.value(bit)
        return value if is_one else Expression("~", parts=(value,))

    def switch(self, switch: Switch, driver: str, sign: str) -> list[str]:
        signals = self.signals
        conditions = [condition(case, switch.on) for case in switch.cases]
        lines: list[str] = []
        if all(found is not None for found in conditions):
            for at, (case, found) in enumerate(zip(switch.cases, conditions, strict=True)):
                tests, inner = [found or ((), True)], case.body
                # A condition alone in another is one with it.
                while len(switch.cases) == 1 and (more := only_condition(inner)):
                    tests.append(more[0])
                    inner = more[1]
                body = self.statements(inner, driver, sign)
                if not tests[0][0]:
                    start = "else "
                else:
                    asked = [self.test(bit, is_one) for bit, is_one in tests]
                    start = (
                        f"{'else ' if at else ''}if ({joined('&&', *asked) if len(asked) > 1 else asked[0]}) "
                    )
                    if body and body[0].startswith("if "):
                        # An else that follows would belong to the inner condition.
                        body = ["begin", *(INDENT + line for line in body), "end"]
                if body or tests[0][0]:
                    made = _grouped(body or [";"], "", "begin")
                    lines += [start + made[0], *made[1:]]
            return lines
        wild = any("-" in pattern for case in switch.cases for pattern in case.patterns)
        lines = [f"{'casez' if wild else 'case'} ({signals.value(switch.on)})"]
        merged: list[tuple[list[str], list[str]]] = []
        for case in switch.cases:
            body = self.statements(case.body, driver, sign) or [";"]
            labels = [_label(pattern) for pattern in case.patterns] or ["default"]
            same = next((found for found, other in merged if other == body and found != ["default"]), None)
            # Labels of patterns that overlap must stay in their order.
            if same is not None and not wild and case.patterns:
                same += labels
            else:
                merged.append((labels, body))
        for labels, body in merged:
            made = _grouped(body, INDENT, "begin")
            start = f"{INDENT}{', '.join(labels)}: "
            lines += [start + made[0], *made[1:]]
        if all(case.patterns for case in switch.cases):
            lines.append(f"{INDENT}default: ;")
        return [*lines, "endcase"]


def only_condition(body: list[Statement]) -> tuple[tuple[Bits, bool], list[Statement]] | None:
    """The condition of a body that is one condition without an else, and what is done then."""
    if len(body) != 1 or not isinstance(body[0], Switch) or len(body[0].cases) != 1:
        return None
    [case] = body[0].cases
    found = condition(case, body[0].on)
    return (found, case.body) if found and found[0] else None


def condition(case: Case, on: Bits) -> tuple[Bits, bool] | None:
    """A case as a condition: the bit that it asks for, and which value; no bit if it asks for none, None if for more."""
    if not case.patterns:
        return (), True
    if len(case.patterns) > 1:
        return None
    [pattern] = case.patterns
    asked = [at for at, digit in enumerate(reversed(pattern)) if digit != "-"]
    if len(asked) != 1:
        return None
    return (on[asked[0]],), pattern[len(pattern) - 1 - asked[0]] == "1"


def assigns_all(body: Sequence[Statement], width: int) -> bool:
    """Whether statements assign all of their variable, whatever is asked."""
    for statement in body:
        if isinstance(statement, Assign):
            if len(statement.target) == width:
                return True
        elif (
            statement.cases
            and any(not case.patterns for case in statement.cases)
            and all(assigns_all(case.body, width) for case in statement.cases)
        ):
            return True
    return False


def wrapped(words: str, room: int) -> list[str]:
    """Lines of a remark."""
    lines: list[str] = []
    for word in words.split():
        if lines and len(lines[-1]) + 1 + len(word) <= room:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _label(pattern: str) -> str:
    if "-" in pattern:
        return f"{len(pattern)}'b{pattern.replace('-', '?')}"
    return f"{len(pattern)}'d{int(pattern, 2)}"


def _always(events: str, lines: list[str]) -> list[str]:
    """A process of one statement or several."""
    if len(lines) > 1 and not _is_one(lines):
        return [
            f"{INDENT}{line}"
            for line in (f"always @{events} begin", *(INDENT + line for line in lines), "end")
        ]
    if len(lines) > 1 and not lines[0].endswith("="):
        return [f"{INDENT}always @{events}", *(INDENT * 2 + line for line in lines)]
    return [f"{INDENT}always @{events} {lines[0]}", *(INDENT + line for line in lines[1:])]


def _is_one(lines: list[str]) -> bool:
    """Whether lines are one statement."""
    return (
        len(lines) == 1
        or lines[0] == "begin"
        or (
            lines[0].startswith(("if ", "case"))
            and all(line.startswith((" ", "else", "end")) for line in lines[1:])
        )
        or (lines[0].endswith("=") and all(line.startswith("    ") for line in lines[1:]))
    )


def _grouped(lines: list[str], indent: str, word: str) -> list[str]:
    """One statement as it is, several between begin and end."""
    if _is_one(lines):
        return [lines[0], *(indent + line for line in lines[1:])]
    return [word, *(f"{indent}{INDENT}{line}" for line in lines), f"{indent}end"]


def _waived(lines: list[str], why: str) -> list[str]:
    """Lines for which a linter must not warn of bits that nothing reads, if there are any."""
    if not why:
        return lines
    return [
        f"{INDENT}/* verilator lint_off UNUSED */  // {why}",
        *lines,
        f"{INDENT}/* verilator lint_on UNUSED */",
    ]


class _None:
    port = ""


_NONE = _None()
