"""A netlist of cells: how large and deep it is, and what it computes, 64 inputs in one word.

Words are bit-sliced: bit i of word j of a signal's bit is that of input 64 j + i.
"""

import copy
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hwmodels.rtl.cells import CELLS, FLIP_FLOP, UNITS_PER_FO4
from nmsim.errors import SpecError, brief, brief_names
from nmsim.support.jit import njit

ZERO, ONE = 0, 1
"""Nets of the two constants."""
MOST_LOADS, LOADS_PER_BUFFER = 16.0, 4.0
"""A net of more loads is driven through levels of buffers, four loads each."""
OUTPUT_LOAD = 4.0
"""Of a net that no cell reads."""
MOST_STAGE_LOADS = 6.0
"""A cell of a net with more loads is taken larger, so its own delay grows no more."""
WORDS_PER_BLOCK = 64
"""Words of a net that are computed at once: all live nets of a large unit stay in the first cache."""
PINS = 4

Words = npt.NDArray[np.uint64]
_OPS = tuple(CELLS)
(
    _INV, _BUF, _NAND2, _NAND3, _NAND4, _NOR2, _NOR3, _NOR4, _AND2, _AND3, _OR2, _OR3, _AOI21, _OAI21, _AOI22, _OAI22,
    _AOI211, _OAI211, _XOR2, _XNOR2, _MUX2,
) = range(len(_OPS))  # fmt: skip


@dataclass(frozen=True)
class Gate:
    """One cell of a netlist: its name in `CELLS`, the nets at its pins, and the net that it drives."""

    cell: str
    inputs: tuple[int, ...]
    output: int


@dataclass(frozen=True)
class Program:
    """A combinational netlist as arrays, for compiled loops: `run` computes all its outputs from all its inputs.

    Parameters
    ----------
    steps : uint32 array [gates, 6]
        Of each gate, in an order in which inputs come first: number of its cell, place of its output, places of its inputs.
    inputs, outputs : mapping of str to int64 array [bits]
        Where a port's bits stand in the working memory.
    places : int
        Size of the working memory, in blocks of words. Places 0 and 1 are the constants.
    """

    steps: npt.NDArray[np.uint32]
    inputs: Mapping[str, npt.NDArray[np.int64]]
    outputs: Mapping[str, npt.NDArray[np.int64]]
    places: int

    def memory(self, words: int = WORDS_PER_BLOCK) -> Words:
        """Working memory, uint64 [places, words]. Write inputs at their places, call `run`, read outputs at theirs."""
        memory = np.zeros((self.places, words), np.uint64)
        memory[ONE] = ~np.uint64(0)
        return memory


class Netlist:
    """Gates and flip-flops between named ports.

    Parameters
    ----------
    module : mapping
        A module as Yosys' `write_json` has it.
    name : str
        What errors call it.
    seconds : float
        Time of its synthesis.

    Raises
    ------
    SpecError
        A cell that the library lacks, a net that nothing drives or that two cells drive, or a loop.

    Source
    ------
    Sutherland, Sproull and Harris, Logical Effort, 1999: delay of a stage as parasitic delay and load.
    """

    def __init__(self, module: Mapping[str, Any], *, name: str = "netlist", seconds: float = 0.0) -> None:
        self.name, self.seconds = name, seconds
        self._numbers: dict[object, int] = {"0": ZERO, "1": ONE, "x": ZERO, "z": ZERO}
        ports = {
            port: (found["direction"], tuple(map(self._net, found["bits"])))
            for port, found in module["ports"].items()
        }
        self.inputs = {port: bits for port, (way, bits) in ports.items() if way == "input"}
        self.outputs = {port: bits for port, (way, bits) in ports.items() if way == "output"}
        self.registers: tuple[tuple[int, int], ...] = ()
        """Net at the input and net at the output of each flip-flop."""
        gates = []
        for cell in module["cells"].values():
            pins = {pin: self._net(bits[0]) for pin, bits in cell["connections"].items() if bits}
            kind = cell["type"]
            if kind == FLIP_FLOP:
                self.registers += ((pins["D"], pins["Q"]),)
            elif kind in ("ZERO", "ONE"):
                gates.append(Gate("BUF", (ZERO if kind == "ZERO" else ONE,), pins["Y"]))
            elif kind in CELLS:
                gates.append(Gate(kind, tuple(pins[pin] for pin in CELLS[kind].pins), pins["Y"]))
            elif kind != "$scopeinfo":
                raise SpecError(f"{name}: cell {brief(kind)}: expected one of {brief_names(CELLS, most=30)}")
        self.gates = self._ordered(gates)

    def _net(self, bit: object) -> int:
        return self._numbers.setdefault(bit, len(self._numbers))

    def _ordered(self, gates: Sequence[Gate]) -> tuple[Gate, ...]:
        """Gates in an order in which each comes after those that drive it."""
        driver: dict[int, Gate] = {}
        known = {ZERO, ONE, *(net for bits in self.inputs.values() for net in bits)}
        known.update(q for _, q in self.registers)
        for gate in gates:
            if gate.output in driver or gate.output in known:
                raise SpecError(f"{self.name}: net {gate.output}: driven twice, expected one driver")
            driver[gate.output] = gate
        # A stack of our own: paths of large units are deeper than Python's recursion goes.
        ordered: list[Gate] = []
        begun: set[int] = set()
        for first in gates:
            stack = [first]
            while stack:
                gate = stack[-1]
                if gate.output in known:
                    stack.pop()
                    continue
                waits = [net for net in gate.inputs if net not in known]
                if not waits:
                    known.add(gate.output)
                    ordered.append(gate)
                    stack.pop()
                    continue
                begun.add(gate.output)
                for net in waits:
                    if net not in driver or net in begun:
                        problem = "in a loop" if net in driver else "driven by nothing"
                        raise SpecError(f"{self.name}: net {net}: {problem}, expected a driver before it")
                    stack.append(driver[net])
        ends = {net for bits in self.outputs.values() for net in bits} | {d for d, _ in self.registers}
        if lost := sorted(ends - known):
            raise SpecError(f"{self.name}: net {lost[0]}: driven by nothing, expected a driver")
        return tuple(ordered)

    @property
    def nand2(self) -> float:
        """Area of the gates, flip-flops not included, in NAND2 equivalents."""
        return sum(CELLS[gate.cell].nand2 for gate in self._counted)

    @property
    def flip_flops(self) -> int:
        """How many."""
        return len(self.registers)

    @property
    def levels(self) -> int:
        """Cells on the longest path."""
        level: dict[int, int] = {}
        for gate in self._counted:
            level[gate.output] = 1 + max((level.get(net, 0) for net in gate.inputs), default=0)
        return max(level.values(), default=0)

    @property
    def fo4(self) -> float:
        """Delay of the longest path, in delays of an inverter that drives four: see `arrivals`."""
        return max(self.arrivals.values(), default=0.0)

    @property
    def cut_bits(self) -> int:
        """Flip-flops of one rank of registers: nets that cross a cut at half of the delay.

        A net crosses if its value is there by then and is needed later. Needed later are outputs, and inputs of gates whose
        own value comes later.
        """
        half, arrivals = self.fo4 / 2, self.arrivals
        read = {
            net for gate in self._counted if arrivals[gate.output] > half for net in gate.inputs
        } | self._ends()
        return sum(1 for net in read if net > ONE and arrivals.get(net, 0.0) <= half)

    @functools.cached_property
    def arrivals(self) -> dict[int, float]:
        """When each net that a gate drives has its value, in FO4 after inputs and registers.

        A gate takes its parasitic delay and the loads of its output. Beyond 6 loads it is taken larger, and beyond 16 each
        level of buffers adds one FO4 and divides the loads by four.
        """
        loads: dict[int, float] = {}
        for gate in self._counted:
            for net in gate.inputs:
                loads[net] = loads.get(net, 0.0) + CELLS[gate.cell].effort
        arrivals: dict[int, float] = {}
        for gate in self._counted:
            load, buffers = loads.get(gate.output, OUTPUT_LOAD), 0.0
            while load > MOST_LOADS:
                load, buffers = load / LOADS_PER_BUFFER, buffers + 1.0
            own = (CELLS[gate.cell].parasitic + min(load, MOST_STAGE_LOADS)) / UNITS_PER_FO4
            start = max((arrivals.get(net, 0.0) for net in gate.inputs), default=0.0)
            arrivals[gate.output] = start + own + buffers
        return arrivals

    @functools.cached_property
    def _counted(self) -> tuple[Gate, ...]:
        """Gates but those that only give a constant."""
        return tuple(gate for gate in self.gates if not (gate.cell == "BUF" and gate.inputs[0] <= ONE))

    def _ends(self) -> set[int]:
        """Nets of outputs and at inputs of registers."""
        return {net for bits in self.outputs.values() for net in bits} | {d for d, _ in self.registers}

    def evaluate(self, values: Mapping[str, Words], *, state: Words | None = None) -> dict[str, Words]:
        """Compute the outputs of a combinational netlist, or of one cycle.

        Parameters
        ----------
        values : mapping of str to uint64 array [bits, words]
            Of each input, bit-sliced; a clock may be missing.
        state : uint64 array [flip-flops, words], optional
            What the registers hold; replaced by what they hold after the cycle.

        Returns
        -------
        dict of str to uint64 array [bits, words]

        Raises
        ------
        SpecError
            A port is missing, unknown, or of another width; or there are registers and no state is given.

        Examples
        --------
        >>> bits = {"direction": "input", "bits": [2, 3]}, {"direction": "output", "bits": [4]}
        >>> nand = {"type": "NAND2", "connections": {"A": [2], "B": [3], "Y": [4]}}
        >>> netlist = Netlist({"ports": dict(zip("ab", bits)), "cells": {"one": nand}})
        >>> integers(netlist.evaluate({"a": bit_slices(np.arange(4), 2)})["b"], 4).tolist()
        [1, 1, 1, 0]
        """
        program = self.program
        words = self._checked(values, state)
        memory = program.memory(words)
        for port, places in program.inputs.items():
            if port in values:
                memory[places] = values[port]
        if state is not None:
            memory[program.inputs[_STATE]] = state
        run(program.steps, memory)
        if state is not None:
            state[:] = memory[program.outputs[_STATE]]
        return {port: memory[places] for port, places in program.outputs.items() if port != _STATE}

    def _checked(self, values: Mapping[str, Words], state: Words | None) -> int:
        """Words of each input."""
        if unknown := [port for port in values if port not in self.inputs]:
            raise SpecError(f"{self.name}: input {unknown[0]}: unknown, expected {brief_names(self.inputs)}")
        for port, bits in self.inputs.items():
            if port not in values and port not in ("clk", "rst"):
                raise SpecError(f"{self.name}: input {port}: missing")
            if port in values and values[port].shape[0] != len(bits):
                raise SpecError(
                    f"{self.name}: input {port}: {values[port].shape[0]} bits, expected {len(bits)}"
                )
        if (state is not None and len(state) != self.flip_flops) or (state is None and self.registers):
            held = "none" if state is None else str(len(state))
            raise SpecError(f"{self.name}: state of {held}, expected one of {self.flip_flops} flip-flops")
        counts = {array.shape[1] for array in values.values()} | (
            {state.shape[1]} if state is not None else set()
        )
        if len(counts) != 1:
            raise SpecError(
                f"{self.name}: inputs of {brief_names(sorted(counts))} words, expected one number"
            )
        return int(counts.pop())

    def empty_state(self, words: int) -> Words:
        """Registers that all hold 0, for `evaluate`: uint64 [flip-flops, words]."""
        return np.zeros((self.flip_flops, words), np.uint64)

    @functools.cached_property
    def program(self) -> Program:
        """The gates as arrays, for `run` in a compiled loop. Memory of nets that nobody needs any more is used again."""
        starts = dict(self.inputs) | ({_STATE: tuple(q for _, q in self.registers)} if self.registers else {})
        ends = dict(self.outputs) | ({_STATE: tuple(d for d, _ in self.registers)} if self.registers else {})
        last = {net: step for step, gate in enumerate(self.gates) for net in gate.inputs}
        # Inputs keep their places too, so that a caller need not write those again that stay.
        kept = {ZERO, ONE, *(net for bits in (*starts.values(), *ends.values()) for net in bits)}
        place = {ZERO: ZERO, ONE: ONE}
        for bits in starts.values():
            for net in bits:
                place.setdefault(net, len(place))
        places, free = len(place), list[int]()
        steps = np.zeros((len(self.gates), 2 + PINS), np.uint32)
        for step, gate in enumerate(self.gates):
            pins = [place[net] for net in gate.inputs]
            free += [
                place[net] for net in dict.fromkeys(gate.inputs) if net not in kept and last[net] == step
            ]
            if free:
                place[gate.output] = free.pop()
            else:
                place[gate.output], places = places, places + 1
            if gate.output not in last and gate.output not in kept:
                free.append(place[gate.output])
            steps[step, : 2 + len(pins)] = [_OPS.index(gate.cell), place[gate.output], *pins]
        inputs, outputs = (
            {port: np.array([place[net] for net in bits], np.int64) for port, bits in ports.items()}
            for ports in (starts, ends)
        )
        return Program(steps, inputs, outputs, places)

    def mutants(self, count: int, *, seed: int) -> Iterator["Netlist"]:
        """Draw netlists in which one gate is replaced by another with as many inputs, for tests that must notice it.

        Parameters
        ----------
        count : int
        seed : int

        Yields
        ------
        Netlist
            Its name says which gate became what.
        """
        drawn = np.random.default_rng(seed)
        for _ in range(count):
            at = int(drawn.integers(len(self.gates)))
            gate = self.gates[at]
            others = [
                cell.name
                for cell in CELLS.values()
                if len(cell.pins) == len(gate.inputs) and cell.name != gate.cell
            ]
            other = others[int(drawn.integers(len(others)))]
            mutant = copy.copy(self)
            mutant.name = f"{self.name}, {gate.cell} of net {gate.output} as {other}"
            mutant.gates = (
                *self.gates[:at],
                Gate(other, gate.inputs, gate.output),
                *self.gates[at + 1 :],
            )
            for cached in ("program", "arrivals", "_counted"):
                mutant.__dict__.pop(cached, None)
            yield mutant


_STATE = "registers"
"""What a program calls the flip-flops: no port of a unit has this name."""


@njit(cache=True, nogil=True)
def run(steps, memory):  # type: ignore[no-untyped-def]
    """Compute all gates of a program on its working memory, uint64 [places, words], in place. For compiled callers too."""
    # One loop over words for each kind of cell: the compiler makes vector code of each.
    words = memory.shape[1]
    for step in range(steps.shape[0]):
        op = steps[step, 0]
        y, a, b, c, d = (
            memory[steps[step, 1]],
            memory[steps[step, 2]],
            memory[steps[step, 3]],
            memory[steps[step, 4]],
            memory[steps[step, 5]],
        )
        if op == _INV:
            for i in range(words):
                y[i] = ~a[i]
        elif op == _BUF:
            for i in range(words):
                y[i] = a[i]
        elif op == _NAND2:
            for i in range(words):
                y[i] = ~(a[i] & b[i])
        elif op == _NAND3:
            for i in range(words):
                y[i] = ~(a[i] & b[i] & c[i])
        elif op == _NAND4:
            for i in range(words):
                y[i] = ~(a[i] & b[i] & c[i] & d[i])
        elif op == _NOR2:
            for i in range(words):
                y[i] = ~(a[i] | b[i])
        elif op == _NOR3:
            for i in range(words):
                y[i] = ~(a[i] | b[i] | c[i])
        elif op == _NOR4:
            for i in range(words):
                y[i] = ~(a[i] | b[i] | c[i] | d[i])
        elif op == _AND2:
            for i in range(words):
                y[i] = a[i] & b[i]
        elif op == _AND3:
            for i in range(words):
                y[i] = a[i] & b[i] & c[i]
        elif op == _OR2:
            for i in range(words):
                y[i] = a[i] | b[i]
        elif op == _OR3:
            for i in range(words):
                y[i] = a[i] | b[i] | c[i]
        elif op == _AOI21:
            for i in range(words):
                y[i] = ~((a[i] & b[i]) | c[i])
        elif op == _OAI21:
            for i in range(words):
                y[i] = ~((a[i] | b[i]) & c[i])
        elif op == _AOI22:
            for i in range(words):
                y[i] = ~((a[i] & b[i]) | (c[i] & d[i]))
        elif op == _OAI22:
            for i in range(words):
                y[i] = ~((a[i] | b[i]) & (c[i] | d[i]))
        elif op == _AOI211:
            for i in range(words):
                y[i] = ~((a[i] & b[i]) | c[i] | d[i])
        elif op == _OAI211:
            for i in range(words):
                y[i] = ~((a[i] | b[i]) & c[i] & d[i])
        elif op == _XOR2:
            for i in range(words):
                y[i] = a[i] ^ b[i]
        elif op == _XNOR2:
            for i in range(words):
                y[i] = ~(a[i] ^ b[i])
        elif op == _MUX2:
            for i in range(words):
                y[i] = (a[i] & ~c[i]) | (b[i] & c[i])


def bit_slices(values: npt.ArrayLike, width: int) -> Words:
    """Slice integers into bits: uint64 [width, ceil(count / 64)].

    Parameters
    ----------
    values : integers [count]
        Python integers of any size, or an array.
    width : int
        Bits of each; higher ones are refused.

    Raises
    ------
    SpecError
        A value of more bits.

    Examples
    --------
    >>> bit_slices([1, 2, 3], 2).tolist()
    [[5], [6]]
    """
    # NumPy would make floats of a list of integers around 2^63.
    array = values if isinstance(values, np.ndarray) else np.array(values, object)
    count = array.size
    whole = [int(value) for value in array.tolist()] if array.dtype == object or width > 64 else None
    limbs = -(-width // 64)
    sliced = np.zeros((width, -(-count // 64) * 64), np.uint8)
    for limb in range(limbs):
        part = (
            np.array([value >> (64 * limb) & (1 << 64) - 1 for value in whole], np.uint64)
            if whole is not None
            else array.astype(np.uint64)
        )
        for bit in range(min(64, width - 64 * limb)):
            sliced[64 * limb + bit, :count] = part >> np.uint64(bit) & np.uint64(1)
    largest = max(whole) if whole else int(array.max()) if count else 0
    if largest >> width:
        raise SpecError(f"value {brief(largest)}: expected at most {width} bits")
    return np.packbits(sliced, axis=1, bitorder="little").view(np.uint64)


def integers(slices: Words, count: int) -> npt.NDArray[Any]:
    """Put bits together again: uint64 [count], or Python integers from 65 bits on.

    Examples
    --------
    >>> integers(bit_slices([1, 2, 3], 2), 3).tolist()
    [1, 2, 3]
    """
    bits = np.unpackbits(np.ascontiguousarray(slices).view(np.uint8), axis=1, bitorder="little")[:, :count]
    kind: Any = np.uint64 if len(slices) <= 64 else object
    found = np.zeros(count, kind)
    for bit, row in enumerate(bits):
        found |= row.astype(kind) << (np.uint64(bit) if kind is np.uint64 else bit)
    return found
