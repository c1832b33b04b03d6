"""A PTX program as typed records: operands, instructions, parameters and shared variables. It holds no behaviour."""

from dataclasses import dataclass, field

WARP = 32
"""Threads of a warp."""


@dataclass(frozen=True)
class Register:
    """A register of a thread.

    Parameters
    ----------
    name : str
        As in the text.
    index : int
        Its place in the register file: registers of one name in two scopes have two places.
    n_bytes : int
        Width; 0 is a predicate.
    """

    name: str
    index: int
    n_bytes: int


@dataclass(frozen=True)
class Negated:
    """A predicate register, read as its opposite."""

    register: Register


@dataclass(frozen=True)
class Special:
    """A register that the machine sets, such as `%tid.x`."""

    name: str


@dataclass(frozen=True)
class Immediate:
    """A constant.

    Parameters
    ----------
    bits : int
        Of an integer its value, of a float its bits.
    float_bytes : int
        Width of a float that is written as bits (`0f`, `0d`) or in decimals; 0 is an integer.
    """

    bits: int
    float_bytes: int = 0


@dataclass(frozen=True)
class Symbol:
    """The address of a variable, with an offset in bytes."""

    name: str
    offset: int = 0


@dataclass(frozen=True)
class Vector:
    """Operands in braces; `None` is `_`, a place that is not used."""

    items: tuple["Operand | None", ...]


@dataclass(frozen=True)
class Pair:
    """Two results, written `a|b`."""

    first: "Operand"
    second: "Operand"


@dataclass(frozen=True)
class Address:
    """A place in memory: a base, and an offset in bytes."""

    base: "Register | Symbol | Immediate"
    offset: int = 0


@dataclass(frozen=True)
class Target:
    """The instruction that a branch leads to."""

    label: str


Operand = Register | Negated | Special | Immediate | Symbol | Vector | Pair | Address | Target


@dataclass(frozen=True)
class Instruction:
    """One instruction.

    Parameters
    ----------
    opcode : str
        First part of the name: `ld` of `ld.global.b32`.
    modifiers : tuple of str
        The other parts, in order.
    operands : tuple
        As written, results first.
    predicate : Register, optional
        Threads in which it is false do not take part.
    negated : bool
        Threads in which the predicate is true do not take part.
    text : str
    line : int
        Of the text, from 1.
    source : str
        File, line and column of the Triton code, if the compiler names them.
    """

    opcode: str
    modifiers: tuple[str, ...]
    operands: tuple[Operand, ...]
    predicate: Register | None
    negated: bool
    text: str
    line: int
    source: str = ""


@dataclass(frozen=True)
class Parameter:
    """A parameter of the kernel: its name, its width in bytes, and whether it is an address."""

    name: str
    n_bytes: int
    is_pointer: bool = False


@dataclass(frozen=True)
class Program:
    """A kernel.

    Parameters
    ----------
    name : str
    capability : int
        Of the target, times ten: 90 of `sm_90a`.
    threads : int
        Of a program of the grid; 0 if the text names none.
    parameters : tuple of Parameter
    shared : dict of str to int
        Variables in shared memory -> where they start. Memory whose size the launch names starts at `shared_bytes`.
    shared_bytes : int
        Of the variables whose size the text names.
    instructions : tuple of Instruction
    labels : dict of str to int
        Label -> number of the instruction behind it.
    registers : tuple of Register
        The register file.
    """

    name: str
    capability: int
    threads: int
    parameters: tuple[Parameter, ...]
    shared: dict[str, int]
    shared_bytes: int
    instructions: tuple[Instruction, ...]
    labels: dict[str, int]
    registers: tuple[Register, ...] = field(repr=False)
