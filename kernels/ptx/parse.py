"""From PTX text to a `Program`. It reads what Triton and hand-written tests have: one kernel per text, no function calls."""

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from kernels.ptx.errors import Place, PtxSyntaxError
from kernels.ptx.program import (
    Address,
    Immediate,
    Instruction,
    Negated,
    Operand,
    Pair,
    Parameter,
    Program,
    Register,
    Special,
    Symbol,
    Target,
    Vector,
)
from nmsim.errors import brief

TYPE_BYTES = {
    "pred": 0,
    "b8": 1, "u8": 1, "s8": 1,
    "b16": 2, "u16": 2, "s16": 2, "f16": 2, "bf16": 2,
    "b32": 4, "u32": 4, "s32": 4, "f32": 4, "f16x2": 4, "bf16x2": 4, "u16x2": 4, "s16x2": 4, "tf32": 4,
    "b64": 8, "u64": 8, "s64": 8, "f64": 8,
    "b128": 16,
}  # fmt: skip
"""Width of a type in bytes; 0 is a predicate."""

_LINE_DIRECTIVES = (".loc", ".file", ".section", ".version", ".target", ".address_size")
_SPECIAL = re.compile(
    r"%(?:(?:tid|ntid|ctaid|nctaid)\.[xyz]|laneid|warpid|lanemask_\w+|clusterid.*|cluster_.*|clock\w*|globaltimer\w*|smid|nsmid)$"
)
_SCOPE_END = {"{": 1, "}": -1}


@dataclass
class _Statement:
    """Text up to a semicolon, or a brace or a label, and where it begins."""

    text: str
    line: int
    source: str


@dataclass
class _Reader:
    """The state of one pass over the body of a kernel."""

    shared: dict[str, int]
    shared_bytes: int
    parameters: dict[str, Parameter]
    scopes: list[dict[str, Register]] = field(default_factory=lambda: [{}])
    registers: list[Register] = field(default_factory=list)
    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    # A label belongs to its braces, and a branch may lead to one that comes later or stands outside.
    braces: list[int] = field(default_factory=list)
    opened: int = 0
    branches: list[tuple[int, str, tuple[int, ...]]] = field(default_factory=list)

    def declare(self, text: str, place: Place) -> None:
        """Take a `.reg` line: single names, and ranges such as `%r<10>`."""
        found = re.match(r"\.reg\s+\.(\w+)\s+(.*)$", text, re.DOTALL)
        if found is None or found[1] not in TYPE_BYTES:
            raise PtxSyntaxError("registers of an unknown type", place)
        for name in (part.strip() for part in found[2].split(",")):
            many = re.match(r"([%\w$]+)<(\d+)>$", name)
            for one in [f"{many[1]}{i}" for i in range(int(many[2]))] if many else [name]:
                register = Register(one, len(self.registers), TYPE_BYTES[found[1]])
                self.registers.append(register)
                self.scopes[-1][one] = register

    def declare_shared(self, text: str, place: Place) -> None:
        """Take a `.shared` variable: an array without a size begins behind all others."""
        name, align, size = _shared(text, place)
        if size is None:
            self.shared[name] = -1
            return
        start = -(-self.shared_bytes // align) * align
        self.shared[name], self.shared_bytes = start, start + size

    def register(self, name: str) -> Register | None:
        """Find a register in the innermost scope that has it."""
        return next((scope[name] for scope in reversed(self.scopes) if name in scope), None)

    def operand(self, text: str, place: Place) -> Operand:
        """Read one operand."""
        text = text.strip()
        if text.startswith("{") and text.endswith("}"):
            items = _split(text[1:-1])
            return Vector(tuple(None if item == "_" else self.operand(item, place) for item in items))
        if text.startswith("[") and text.endswith("]"):
            return self.address(text[1:-1].strip(), place)
        if text.startswith("!") and (register := self.register(text[1:].strip())):
            return Negated(register)
        if "|" in text:
            first, second = text.split("|")
            return Pair(self.operand(first, place), self.operand(second, place))
        if register := self.register(text):
            return register
        if _SPECIAL.match(text):
            return Special(text)
        if (constant := _constant(text)) is not None:
            return constant
        if (symbol := self.symbol(text)) is not None:
            return symbol
        raise PtxSyntaxError(f"operand {brief(text)} is no register, constant or variable", place)

    def open(self) -> None:
        """Enter braces."""
        self.scopes.append({})
        self.braces.append(self.opened)
        self.opened += 1

    def close(self) -> None:
        """Leave braces."""
        self.scopes.pop()
        self.braces.pop()

    def link(self) -> None:
        """Lead each branch to the label of its name in the innermost braces that have one."""
        for number, label, braces in self.branches:
            names = [_scoped(label, braces[:depth]) for depth in range(len(braces), -1, -1)]
            instruction = self.instructions[number]
            found = next((name for name in names if name in self.labels), None)
            if found is None:
                place = Place(instruction.text, instruction.line, instruction.source)
                raise PtxSyntaxError(f"label {label} is nowhere", place)
            self.instructions[number] = replace(instruction, operands=(Target(found),))

    def symbol(self, text: str) -> Symbol | None:
        """Read the name of a variable or parameter, with an offset."""
        found = re.match(r"([\w$%]+)\s*(?:\+\s*(-?\w+))?$", text)
        if found is None or (found[1] not in self.shared and found[1] not in self.parameters):
            return None
        return Symbol(found[1], int(found[2], 0) if found[2] else 0)

    def address(self, text: str, place: Place) -> Address:
        """Read what stands in brackets: a base, and an offset in bytes."""
        found = re.match(r"([\w$%.]+)\s*(?:([+-])\s*(-?\w+))?$", text)
        if found is None:
            raise PtxSyntaxError(f"address {brief(text)} has an unknown form", place)
        base = self.operand(found[1], place)
        if not isinstance(base, Register | Symbol | Immediate):
            raise PtxSyntaxError(f"address {brief(text)} has no base", place)
        offset = int(found[3], 0) if found[3] else 0
        return Address(base, -offset if found[2] == "-" else offset)

    def instruction(self, statement: _Statement) -> Instruction:
        """Read one instruction: a guard, a name, operands."""
        place = Place(statement.text, statement.line, statement.source)
        found = re.match(r"(?:@(!?)\s*([%\w$]+)\s+)?([a-z][\w.:]*)(?:\s+(.*))?$", statement.text, re.DOTALL)
        if found is None:
            raise PtxSyntaxError("no instruction", place)
        guard = self.register(found[2]) if found[2] else None
        if found[2] and guard is None:
            raise PtxSyntaxError(f"predicate {found[2]} is not declared", place)
        opcode, *modifiers = re.split(r"\.", found[3].replace("shared::cta", "shared"))
        parts = _split(found[4]) if found[4] else []
        operands: tuple[Operand, ...]
        operands = (
            (Target(parts[0]),) if opcode == "bra" else tuple(self.operand(part, place) for part in parts)
        )
        return Instruction(
            opcode, tuple(modifiers), operands, guard, found[1] == "!", statement.text, statement.line,
            statement.source,
        )  # fmt: skip


def read_ptx(text: str) -> Program:
    """Read the kernel of a PTX text.

    Parameters
    ----------
    text : str
        One `.entry`; what follows it is not read.

    Returns
    -------
    Program

    Raises
    ------
    PtxSyntaxError
        No kernel, or a statement that is not read; the message names it and its line.

    Examples
    --------
    >>> program = read_ptx('''
    ... .target sm_90
    ... .visible .entry add_one(.param .u32 number) .reqntid 32
    ... {
    ...     .reg .b32 %r<3>;
    ...     ld.param.b32 %r1, [number];
    ...     add.s32 %r2, %r1, 1;
    ...     ret;
    ... }''')
    >>> program.name, program.threads, [i.opcode for i in program.instructions]
    ('add_one', 32, ['ld', 'add', 'ret'])
    """
    text = re.sub(r"/\*.*?\*/", lambda found: "\n" * found[0].count("\n"), text, flags=re.DOTALL)
    head = re.search(r"\.entry\s+([\w$]+)\s*(\(.*?\))?([^{;]*)\{", re.sub(r"//[^\n]*", "", text), re.DOTALL)
    if head is None:
        raise PtxSyntaxError("a text without a kernel: expected .entry, a name, parameters and a body")
    entry = text.index(".entry")
    body = text.index("{", entry)
    parameters = _parameters(head[2] or "()")
    threads = re.search(r"\.(?:reqntid|maxntid)\s+([\d, ]+)", head[3])
    target = re.search(r"\.target\s+sm_(\d+)", text)
    reader = _Reader({}, 0, {parameter.name: parameter for parameter in parameters})
    for line in re.findall(r"^\s*(?:\.\w+\s+)*?\.shared[^;]*;", text[:entry], re.MULTILINE):
        reader.declare_shared(line.strip(" \t\n;"), Place(line.strip(), 0))
    _read_body(reader, text[body:], text.count("\n", 0, body) + 1)
    # An array of unknown size stands behind those of known size, at the widest alignment.
    end = -(-reader.shared_bytes // 1024) * 1024 if reader.shared_bytes else 0
    shared = {name: end if start < 0 else start for name, start in reader.shared.items()}
    reader.link()
    product = 1
    for part in (threads[1] if threads else "0").split(","):
        product *= int(part)
    return Program(
        head[1], int(target[1]) if target else 0, product, parameters, shared, end,
        tuple(reader.instructions), reader.labels, tuple(reader.registers),
    )  # fmt: skip


def _scoped(label: str, braces: Sequence[int]) -> str:
    """Name a label of braces: those of the body's own are as they are written."""
    return ".".join([label, *map(str, braces[1:])])


def _read_body(reader: _Reader, text: str, first_line: int) -> None:
    """Read statements until the body's last brace."""
    depth = 0
    for statement in _statements(text, first_line):
        place = Place(statement.text, statement.line, statement.source)
        if statement.text in _SCOPE_END:
            # Labels of an inner scope, such as that of inline assembly, hide those outside.
            depth += _SCOPE_END[statement.text]
            if depth == 0:
                return
            if statement.text == "{":
                reader.open()
            else:
                reader.close()
        elif statement.text.endswith(":"):
            reader.labels[_scoped(statement.text[:-1], reader.braces)] = len(reader.instructions)
        elif statement.text.startswith(".reg"):
            reader.declare(statement.text, place)
        elif ".shared" in statement.text.split("[")[0].split() and statement.text.startswith("."):
            reader.declare_shared(statement.text, place)
        elif statement.text.startswith(".pragma"):
            continue
        elif statement.text.startswith("."):
            raise PtxSyntaxError("directive that is not read", place)
        else:
            reader.instructions.append(reader.instruction(statement))
            goal = reader.instructions[-1].operands[:1]
            if goal and isinstance(goal[0], Target):
                reader.branches.append((len(reader.instructions) - 1, goal[0].label, tuple(reader.braces)))
    raise PtxSyntaxError("a body without its closing brace")


def _statements(text: str, first_line: int) -> list[_Statement]:
    """Cut a body into statements; a `.loc` line names the source of those behind it."""
    found: list[_Statement] = []
    source, pending, began = "", "", 0
    for line, raw in enumerate(text.split("\n"), first_line):
        code, _, remark = raw.partition("//")
        code = code.strip()
        if not pending and code.startswith(_LINE_DIRECTIVES):
            if code.startswith(".loc"):
                words = remark.split("@")[0].split()
                source = words[0] if words else ""
            continue
        while code:
            if not pending and (mark := re.match(r"([{}]|[\w$.]+:(?!:))\s*", code)):
                found.append(_Statement(mark[1], line, source))
                code = code[mark.end() :]
                continue
            part, semicolon, rest = code.partition(";")
            began = began if pending else line
            pending = f"{pending} {part}".strip()
            if semicolon:
                if pending:
                    found.append(_Statement(re.sub(r"\s+", " ", pending), began, source))
                pending = ""
            code = rest.strip()
    return found


def _parameters(text: str) -> tuple[Parameter, ...]:
    """Read the parameters of a kernel, in parentheses."""
    found = []
    for part in filter(None, (part.strip() for part in text.strip("()").split(","))):
        words = part.replace("[", " [").split()
        kind = next((word[1:] for word in words if word[1:] in TYPE_BYTES), "b32")
        array = re.search(r"\[(\d+)\]", part)
        name = next(word for word in reversed(words) if not word.startswith("["))
        n_bytes = TYPE_BYTES[kind] * (int(array[1]) if array else 1)
        found.append(Parameter(name, n_bytes, ".ptr" in words))
    return tuple(found)


def _shared(text: str, place: Place) -> tuple[str, int, int | None]:
    """Read a variable in shared memory: name, alignment, bytes if they are named."""
    found = re.search(r"(?:\.align\s+(\d+)\s+)?\.(\w+)\s+([\w$%]+)\s*(?:\[(\d*)\])?$", text)
    if found is None or found[2] not in TYPE_BYTES:
        raise PtxSyntaxError("a shared variable of an unknown form", place)
    n_bytes = TYPE_BYTES[found[2]]
    many = 1 if found[4] is None else int(found[4]) if found[4] else None
    return found[3], int(found[1] or n_bytes), None if many is None else many * n_bytes


def _constant(text: str) -> Immediate | None:
    """Read a number: an integer of any base, a float in decimals or as its bits."""
    if found := re.match(r"0[fF]([0-9a-fA-F]{8})$", text):
        return Immediate(int(found[1], 16), 4)
    if found := re.match(r"0[dD]([0-9a-fA-F]{16})$", text):
        return Immediate(int(found[1], 16), 8)
    if found := re.match(r"(-?(?:0[xX][0-9a-fA-F]+|0[bB][01]+|\d+))U?$", text):
        digits = found[1]
        octal = re.match(r"-?0[0-7]+$", digits)
        return Immediate(int(digits, 8) if octal else int(digits, 0))
    if re.match(r"-?\d+\.\d*(?:[eE][+-]?\d+)?$", text):
        return Immediate(int.from_bytes(struct.pack("<d", float(text)), "little"), 8)
    return None


def _split(text: str) -> list[str]:
    """Cut operands at commas outside of braces and brackets."""
    found, depth, part = [], 0, ""
    for letter in text:
        depth += (letter in "{[(") - (letter in "}])")
        if letter == "," and depth == 0:
            found.append(part.strip())
            part = ""
        else:
            part += letter
    if part.strip():
        found.append(part.strip())
    return found
