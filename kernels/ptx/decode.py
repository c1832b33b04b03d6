"""Instructions as functions of the machine: operands are looked up once, and each step then only computes.

`BUILDERS` has a builder per opcode. A builder takes a `Form`: the instruction, with help for its operands. It returns the
function that executes the instruction for the threads of an `Active` set.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kernels.ptx.errors import Place, UnknownInstruction
from kernels.ptx.floats import bfloat_bits, bfloat_number
from kernels.ptx.memory import UNSIGNED
from kernels.ptx.parse import TYPE_BYTES
from kernels.ptx.program import (
    Address,
    Immediate,
    Instruction,
    Negated,
    Operand,
    Program,
    Register,
    Special,
    Symbol,
    Vector,
)

if TYPE_CHECKING:
    from kernels.ptx.machine import Active, Machine

Numbers = NDArray[Any]
Operation = Callable[["Machine", "Active"], None]
Reader = Callable[["Machine", "Active"], Any]
Writer = Callable[["Machine", "Active", Any], None]
Builder = Callable[["Form"], Operation]

BUILDERS: dict[str, Builder] = {}
"""Opcode -> what builds its function."""
SIGNED: dict[int, Any] = {1: np.int8, 2: np.int16, 4: np.int32, 8: np.int64}
FLOATS: dict[str, Any] = {"f16": np.float16, "f32": np.float32, "f64": np.float64}
PACKED = {"f16x2": "f16", "bf16x2": "bf16", "u16x2": "u16", "s16x2": "s16"}
"""Types of two numbers in a register -> type of each."""


def builds(*opcodes: str) -> Callable[[Builder], Builder]:
    """Enter a builder for opcodes."""

    def enter(builder: Builder) -> Builder:
        BUILDERS.update(dict.fromkeys(opcodes, builder))
        return builder

    return enter


def numbers_of(bits: Any, kind: str) -> Any:
    """Read unsigned bits as numbers of a type; two numbers in a register become a last axis of two."""
    if kind in PACKED:
        pairs = np.ascontiguousarray(np.atleast_1d(bits)).view(np.uint16).reshape(-1, 2)
        return numbers_of(pairs, PACKED[kind])
    if kind == "bf16":
        return bfloat_number(bits)
    if kind in FLOATS:
        return bits.view(FLOATS[kind])
    return bits.view(SIGNED[TYPE_BYTES[kind]]) if kind[0] == "s" else bits


def bits_of(numbers: Any, kind: str) -> Any:
    """Turn numbers of a type into unsigned bits: the reverse of `numbers_of`."""
    if kind in PACKED:
        pairs = np.ascontiguousarray(bits_of(numbers, PACKED[kind]))
        return pairs.view(np.uint32).reshape(-1)
    if kind == "bf16":
        return bfloat_bits(numbers)
    n_bytes = TYPE_BYTES[kind]
    if kind in FLOATS:
        return np.asarray(numbers).astype(FLOATS[kind], copy=False).view(UNSIGNED[n_bytes])
    numbers = np.asarray(numbers)
    if numbers.dtype.itemsize != n_bytes:
        numbers = numbers.astype(UNSIGNED[n_bytes])
    return numbers.view(UNSIGNED[n_bytes])


@dataclass(frozen=True)
class Form:
    """An instruction that is being built: its text, and help for its operands.

    Parameters
    ----------
    instruction : Instruction
    program : Program
    """

    instruction: Instruction
    program: Program

    @property
    def type(self) -> str:
        """The type of the instruction, the last part of its name."""
        return self.instruction.modifiers[-1] if self.instruction.modifiers else ""

    @property
    def place(self) -> Place:
        """Where the instruction stands in the text."""
        return Place(self.instruction.text, self.instruction.line, self.instruction.source)

    def has(self, *modifiers: str) -> bool:
        """Whether one of some modifiers is there."""
        return any(modifier in self.instruction.modifiers for modifier in modifiers)

    def unknown(self, what: str = "") -> UnknownInstruction:
        """Make the error of an instruction that the emulator does not have."""
        name = ".".join((self.instruction.opcode, *self.instruction.modifiers))
        about = f": {what}" if what else ""
        return UnknownInstruction(f"the emulator has no instruction {name}{about}", self.place)

    def known(self, *modifiers: str) -> None:
        """Refuse modifiers other than these and the type: ignoring one would compute something else."""
        extra = set(self.instruction.modifiers) - set(modifiers) - set(TYPE_BYTES)
        if extra:
            raise self.unknown("modifier " + ", ".join(sorted(extra)))

    def operand(self, position: int) -> Operand:
        """Give an operand; a missing one is an unknown form."""
        if position >= len(self.instruction.operands):
            raise self.unknown(f"{len(self.instruction.operands)} operands")
        return self.instruction.operands[position]

    def items(self, position: int) -> tuple[Operand | None, ...]:
        """Give the parts of a vector; another operand is its only part."""
        operand = self.operand(position)
        return operand.items if isinstance(operand, Vector) else (operand,)

    def integer(self, position: int) -> int:
        """Give an operand that must be a constant integer."""
        operand = self.operand(position)
        if not isinstance(operand, Immediate) or operand.float_bytes:
            raise self.unknown(f"operand {position + 1} is no constant integer")
        return operand.bits

    def bits(self, operand: Operand, n_bytes: int) -> Reader:
        """Make a reader of an operand, as unsigned bits of so many bytes; of 0 bytes, as truth."""
        if isinstance(operand, Negated):
            index = operand.register.index
            return lambda machine, active: ~machine.get(index, active)
        if isinstance(operand, Register):
            index = operand.index
            if operand.n_bytes == n_bytes:
                return lambda machine, active: machine.get(index, active)
            kind = UNSIGNED[n_bytes] if n_bytes else np.bool_
            return lambda machine, active: machine.get(index, active).astype(kind)
        if isinstance(operand, Special):
            name, kind = operand.name, UNSIGNED[n_bytes]
            return lambda machine, active: active.take(machine.special(name, self)).astype(kind, copy=False)
        constant = self._constant(operand, n_bytes)
        return lambda machine, active: constant

    def _constant(self, operand: Operand, n_bytes: int) -> Any:
        """Give the bits of a constant."""
        if isinstance(operand, Symbol) and operand.name in self.program.shared:
            return UNSIGNED[n_bytes](self.program.shared[operand.name] + operand.offset)
        if not isinstance(operand, Immediate):
            raise self.unknown("an operand of another kind")
        if n_bytes == 0:
            return np.bool_(operand.bits != 0)
        if not operand.float_bytes or operand.float_bytes == n_bytes:
            return UNSIGNED[n_bytes](operand.bits & ((1 << (8 * n_bytes)) - 1))
        kinds: dict[int, Any] = {2: np.float16, 4: np.float32, 8: np.float64}
        number = UNSIGNED[operand.float_bytes](operand.bits).view(kinds[operand.float_bytes])
        return number.astype(kinds[n_bytes]).view(UNSIGNED[n_bytes])

    def reader(self, position: int, kind: str) -> Reader:
        """Make a reader of an operand, as numbers of a type."""
        read = self.bits(self.operand(position), TYPE_BYTES[kind])
        if kind == "pred" or (kind[0] in "bu" and kind not in PACKED and kind != "bf16"):
            return read
        return lambda machine, active: numbers_of(read(machine, active), kind)

    def into(self, operand: Operand | None) -> Writer:
        """Make a writer of unsigned bits: wider ones are cut, narrower ones filled with zeros."""
        if operand is None:
            return lambda machine, active, bits: None
        if not isinstance(operand, Register):
            raise self.unknown("a result that is no register")
        index, kind = operand.index, UNSIGNED.get(operand.n_bytes, np.bool_)
        return lambda machine, active, bits: machine.put(
            index, active, np.asarray(bits).astype(kind, copy=False)
        )

    def writer(self, position: int, kind: str) -> Writer:
        """Make a writer of numbers of a type; a signed integer fills a wider register with its sign."""
        operand = self.operand(position)
        write = self.into(operand)
        if kind == "pred":
            return write
        if kind[0] == "s" and kind not in PACKED and isinstance(operand, Register):
            wide = SIGNED[operand.n_bytes]
            return lambda machine, active, numbers: write(
                machine, active, np.asarray(numbers).astype(wide).view(UNSIGNED[operand.n_bytes])
            )
        return lambda machine, active, numbers: write(machine, active, bits_of(numbers, kind))

    def addresses(self, position: int, n_bytes: int) -> Reader:
        """Make a reader of addresses: int64, one per active thread. Those of shared memory have 4 bytes, others 8."""
        operand = self.operand(position)
        if not isinstance(operand, Address):
            raise self.unknown("an operand that is no address")
        read, offset = self.bits(operand.base, n_bytes), operand.offset

        def addresses(machine: "Machine", active: "Active") -> Any:
            base = np.asarray(read(machine, active)).astype(np.int64) + offset
            return base if base.ndim else np.full(active.count, base)

        return addresses
