"""The machine: all threads of some programs in lockstep, by least program counter.

A register is an array over threads. An instruction is one numpy operation for all threads that are there, so its cost hardly
depends on how many they are. Threads that branch apart run as groups; the group that stands first in the text runs until it
meets another. Programs run some at a time, in an order that a seed shuffles.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.ptx import arithmetic, conversions, matrices, transfers, warps  # noqa: F401  (they enter their builders)
from kernels.ptx.decode import BUILDERS, Form, Operation
from kernels.ptx.errors import DivergentBarrier, Endless, IdleLane, Place, PtxError, UnknownInstruction
from kernels.ptx.memory import GlobalMemory, SharedMemory, Traffic, traffic_of
from kernels.ptx.parse import TYPE_BYTES
from kernels.ptx.program import WARP, Instruction, Program, Target

Grid = tuple[int, int, int]
MOST_THREADS = 8192
"""Threads that run side by side, unless one program has more: their registers then fit a cache."""
MOST_STEPS = 20_000_000
"""Instructions of a launch, each counted once for all threads that execute it together."""


class Active:
    """The threads that execute an instruction.

    Parameters
    ----------
    ids : int64 [count]
        Their numbers, rising.
    full : bool
        Whether they are all threads of the machine.
    """

    __slots__ = ("count", "full", "ids")

    def __init__(self, ids: NDArray[np.int64], full: bool) -> None:
        self.ids, self.full, self.count = ids, full, len(ids)

    def take(self, values: Any) -> Any:
        """Give the values of these threads, of an array over all threads."""
        return values if self.full else values[self.ids]

    def where(self, keep: NDArray[np.bool_]) -> "Active":
        """Give those of the threads for which something holds."""
        return self if keep.all() else Active(self.ids[keep], False)

    def whole_warps(self) -> bool:
        """Whether no warp takes part by halves."""
        if self.full:
            return True
        lanes = self.ids.reshape(-1, WARP) if self.count % WARP == 0 else None
        return lanes is not None and bool(
            ((lanes[:, 0] % WARP == 0) & (lanes[:, -1] - lanes[:, 0] == WARP - 1)).all()
        )


@dataclass(frozen=True)
class _Step:
    """An instruction, ready to run: what it does, its guard, and what the scheduler must know."""

    instruction: Instruction
    kind: str
    operation: Operation | None
    guard: int
    negated: bool
    target: int


@dataclass(frozen=True)
class Counts:
    """What a launch did.

    Parameters
    ----------
    programs : int
    steps : int
        Instructions, each counted once for all threads that execute it together.
    traffic : mapping of str to Traffic
        What loads from global memory (`load`), stores to it (`store`) and accesses of shared memory (`shared`) ask for. Empty
        unless asked for. Copies into shared memory are loads; `ldmatrix`, `stmatrix` and the matrix units are not counted.
    """

    programs: int
    steps: int
    traffic: Mapping[str, Traffic] = field(default_factory=dict)


class Code:
    """A program, ready to run.

    Parameters
    ----------
    program : Program

    Raises
    ------
    UnknownInstruction
        An opcode, or a form of one, that the emulator does not have; the message names it and its line.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.steps = tuple(self._step(Form(instruction, program)) for instruction in program.instructions)
        self.granule = min([16, *(n for n in map(_shared_bytes, program.instructions) if n)])
        atomic = any(instruction.opcode in ("atom", "red") for instruction in program.instructions)
        self.compares_programs = not atomic

    def _step(self, form: Form) -> _Step:
        instruction = form.instruction
        guard = -1 if instruction.predicate is None else instruction.predicate.index
        kind, operation, target = "plain", None, -1
        if instruction.opcode == "bra":
            goal = instruction.operands[0]
            kind, target = "branch", self.program.labels[goal.label] if isinstance(goal, Target) else -1
        elif instruction.opcode in ("ret", "exit"):
            kind = "exit"
        elif instruction.opcode in ("bar", "barrier") and not form.has("warp"):
            kind = "barrier"
            self._check_barrier(form)
        elif instruction.opcode in BUILDERS:
            try:
                operation = BUILDERS[instruction.opcode](form)
            except (KeyError, ValueError, TypeError, IndexError, StopIteration) as error:
                raise form.unknown(f"{type(error).__name__} {error}") from error
        else:
            raise form.unknown()
        return _Step(instruction, kind, operation, guard, instruction.negated, target)

    def _check_barrier(self, form: Form) -> None:
        """Take barriers of a whole program only."""
        if not form.has("sync") or form.has("red"):
            raise form.unknown("expected bar.sync")
        threads = form.integer(1) if len(form.instruction.operands) > 1 else self.program.threads
        if threads != self.program.threads:
            raise form.unknown(
                f"a barrier of {threads} threads: expected all {self.program.threads} of the program"
            )
        form.integer(0)


def _shared_bytes(instruction: Instruction) -> int:
    """Count the bytes of a shared access of one thread; 0 if it is none."""
    if instruction.opcode not in ("ld", "st", "cp", "atom", "red") or "shared" not in instruction.modifiers:
        return 0
    if instruction.opcode == "cp":
        return 4
    return TYPE_BYTES.get(instruction.modifiers[-1], 1)


class Machine:
    """Some programs of a launch, and the state of their threads.

    Parameters
    ----------
    code : Code
    memory : GlobalMemory
    parameters : sequence of int
        Bits of each parameter of the kernel.
    grid : tuple of int
    programs : int64 [programs]
        Numbers of the programs that run side by side, x fastest.
    threads : int
        Of a program.
    shared_bytes : int
        Of a program.
    traffic : dict, optional
        Where accesses are counted, see `Counts`.
    """

    def __init__(
        self, code: Code, memory: GlobalMemory, *, parameters: Sequence[int], grid: Grid,
        programs: NDArray[np.int64], threads: int, shared_bytes: int, traffic: dict[str, Traffic] | None = None,
    ) -> None:  # fmt: skip
        self.code, self.memory, self.parameters, self.grid = code, memory, parameters, grid
        self.programs, self.threads, self._traffic = programs, threads, traffic
        self.n_threads = len(programs) * threads
        self.ids = np.arange(self.n_threads)
        self.slot = self.ids // threads
        self.warp = self.ids % threads // WARP
        self.lane = self.ids % WARP
        self.shared = SharedMemory(len(programs), shared_bytes, code.granule)
        self.registers: list[Any] = [None] * len(code.program.registers)
        self.instruction: Instruction | None = None
        self.copies = transfers.AsyncCopies(self.n_threads)
        self._alive = np.full(len(programs), threads)
        self._parked = np.full(self.n_threads, -1)
        self._parked_id = np.full(self.n_threads, -1)
        self._exited = np.zeros(self.n_threads, np.bool_)
        self._groups: dict[int, NDArray[np.int64]] = {}
        self._special: dict[str, Any] = {}

    def get(self, index: int, active: Active) -> Any:
        """Read a register."""
        values = self.registers[index]
        if values is None:
            n_bytes = self.code.program.registers[index].n_bytes
            values = np.zeros(
                self.n_threads, {0: np.bool_, 1: np.uint8, 2: np.uint16, 4: np.uint32}.get(n_bytes, np.uint64)
            )
            self.registers[index] = values
        return values if active.full else values[active.ids]

    def put(self, index: int, active: Active, bits: Any) -> None:
        """Write a register. Arrays in registers are never changed in place, so two registers may share one."""
        if active.full:
            self.registers[index] = bits if bits.ndim else np.full(self.n_threads, bits)
            return
        self.get(index, active)
        values = self.registers[index].copy()
        values[active.ids] = bits
        self.registers[index] = values

    def special(self, name: str, form: Form) -> Any:
        """Give a register that the machine sets, over all threads."""
        if name not in self._special:
            self._special[name] = self._make_special(name, form)
        return self._special[name]

    def _make_special(self, name: str, form: Form) -> Any:
        x, y, _ = self.grid
        numbers = self.programs[self.slot]
        same = np.ones(self.n_threads, np.int64)
        # Made when first read: most kernels read two of them.
        made: dict[str, Callable[[], Any]] = {
            "%tid.x": lambda: self.ids % self.threads,
            "%tid.y": lambda: same * 0,
            "%tid.z": lambda: same * 0,
            "%ntid.x": lambda: same * self.threads,
            "%ntid.y": lambda: same,
            "%ntid.z": lambda: same,
            "%ctaid.x": lambda: numbers % x,
            "%ctaid.y": lambda: numbers // x % y,
            "%ctaid.z": lambda: numbers // (x * y),
            "%nctaid.x": lambda: same * self.grid[0],
            "%nctaid.y": lambda: same * self.grid[1],
            "%nctaid.z": lambda: same * self.grid[2],
            "%laneid": lambda: self.lane,
            "%warpid": lambda: self.warp,
            "%smid": lambda: self.slot,
            "%lanemask_lt": lambda: (1 << self.lane) - 1,
            "%lanemask_le": lambda: (2 << self.lane) - 1,
            "%lanemask_eq": lambda: 1 << self.lane,
        }
        if name not in made:
            raise form.unknown(f"register {name}")
        return np.asarray(made[name]()).astype(np.uint32)

    def accessed(self, name: str, ids: NDArray[np.int64], addresses: Any, n_bytes: int) -> None:
        """Count an access, if accesses are counted: threads of a program are whole warps, so that numbers tell them."""
        if self._traffic is not None:
            counted = traffic_of(ids, addresses.astype(np.int64), n_bytes)
            self._traffic[name] = self._traffic.get(name, Traffic()) + counted

    def place(self, thread: int | None = None, address: int | None = None) -> Place:
        """Say where the machine is: the instruction, and a thread by its number in the machine."""
        instruction = self.instruction
        text, line, source = (
            ("", 0, "") if instruction is None else (instruction.text, instruction.line, instruction.source)
        )
        if thread is None:
            return Place(text, line, source)
        number = int(self.programs[thread // self.threads])
        x, y, _ = self.grid
        return Place(
            text,
            line,
            source,
            (number % x, number // x % y, number // (x * y)),
            int(thread % self.threads),
            address,
        )

    def fail(self, active: Active) -> Callable[[type[PtxError], str, int, int], PtxError]:
        """Make the function with which memory makes errors of accesses, one access per active thread."""
        ids = active.ids
        return lambda kind, text, which, address: kind(text, self.place(int(ids[which]), address))

    def whole_warps(self, active: Active) -> None:
        """Refuse an instruction of whole warps that a part of one executes."""
        if not active.whole_warps():
            there = np.zeros(self.n_threads, np.bool_)
            there[active.ids] = True
            part = there.reshape(-1, WARP)
            missing = np.flatnonzero(~there & np.repeat(part.any(axis=1), WARP))
            raise IdleLane(
                "an instruction of a whole warp, in which this thread takes no part",
                self.place(int(missing[0])),
            )

    def run(self, most_steps: int = MOST_STEPS) -> int:
        """Run all programs to their end: -> the steps.

        Raises
        ------
        PtxError
            One of its kinds, for what breaks a rule of the machine.
        """
        self._groups = {0: self.ids}
        steps = 0
        with np.errstate(all="ignore"):
            while True:
                if not self._groups and not self._release(last=True):
                    return steps
                start = min(self._groups)
                ids = self._groups.pop(start)
                steps += self._run_group(start, Active(ids, len(ids) == self.n_threads), most_steps - steps)

    def _run_group(self, counter: int, active: Active, most_steps: int) -> int:
        """Run threads until they branch, wait, end, or meet a group that stands further on: -> the steps."""
        code = self.code.steps
        # Nobody else moves until this group stops, so where the next one stands does not change.
        limit = min(self._groups, default=len(code))
        steps = 0
        while counter < len(code):
            step = code[counter]
            self.instruction = step.instruction
            steps += 1
            if steps > most_steps:
                raise Endless("more steps than allowed: a loop without an end?", self.place())
            taken = active
            if step.guard >= 0:
                holds = self.get(step.guard, active)
                holds = ~holds if step.negated else holds
                if step.kind == "branch":
                    self._branch(counter, step.target, active, holds)
                    return steps
                taken = active.where(holds)
            if step.kind == "branch":
                self._join(step.target, active.ids)
                return steps
            if step.kind != "plain" and taken.count:
                left = active.ids if taken is not active else None
                if step.kind == "exit":
                    self._exit(taken)
                else:
                    self._wait(counter + 1, taken, step.instruction)
                if left is not None:
                    self._join(counter + 1, np.setdiff1d(left, taken.ids, assume_unique=True))
                return steps
            if taken.count and step.operation is not None:
                step.operation(self, taken)
            counter += 1
            if counter >= limit:
                self._join(counter, active.ids)
                return steps
        self._exit(active)
        return steps

    def _branch(self, counter: int, target: int, active: Active, holds: NDArray[np.bool_]) -> None:
        """Send threads to a label if something holds for them, and the others on."""
        if holds.all():
            self._join(target, active.ids)
        elif not holds.any():
            self._join(counter + 1, active.ids)
        else:
            self._join(target, active.ids[holds])
            self._join(counter + 1, active.ids[~holds])

    def _join(self, counter: int, ids: NDArray[np.int64]) -> None:
        """Put threads in front of an instruction, together with those that are there."""
        there = self._groups.get(counter)
        self._groups[counter] = ids if there is None else np.sort(np.concatenate([there, ids]))

    def _exit(self, active: Active) -> None:
        """End threads."""
        self._exited[active.ids] = True
        self._alive -= np.bincount(self.slot[active.ids], minlength=len(self._alive))

    def _wait(self, counter: int, active: Active, instruction: Instruction) -> None:
        """Have threads wait at a barrier, which lets a program go on once all its threads are there."""
        if active.full:
            self.shared.epoch += 1
            self._join(counter, active.ids)
            return
        first = instruction.operands[0]
        self._parked[active.ids] = counter
        self._parked_id[active.ids] = getattr(first, "bits", 0)
        self._release()

    def _release(self, last: bool = False) -> bool:
        """Let programs go on whose threads all wait; if nobody else runs, there must be such a program, or no thread at all."""
        waits = self._parked >= 0
        if not waits.any():
            return False
        # Threads that have ended are not waited for, as on the machine.
        many = np.bincount(self.slot[waits], minlength=len(self._alive))
        ready = (many == self._alive) & (many > 0)
        for slot in np.flatnonzero(ready):
            mine = waits & (self.slot == slot)
            ready[slot] = len(np.unique(self._parked_id[mine])) == 1
        free = np.flatnonzero(waits & ready[self.slot])
        self._check_warps(free)
        for counter in np.unique(self._parked[free]):
            self._join(int(counter), free[self._parked[free] == counter])
        self._parked[free] = -1
        self.shared.epoch[ready] += 1
        if last and not len(free):
            thread = int(np.flatnonzero(waits)[0])
            missing = np.flatnonzero((self.slot == self.slot[thread]) & self._exited)
            step = self.code.steps[int(self._parked[thread]) - 1]
            self.instruction = step.instruction
            about = (
                f"{len(missing)} threads of the program have ended"
                if len(missing)
                else "others wait elsewhere"
            )
            raise DivergentBarrier(
                f"a barrier that not all threads of the program reach: {about}", self.place(thread)
            )
        return bool(len(free))

    def _check_warps(self, free: NDArray[np.int64]) -> None:
        """Refuse a barrier that the lanes of a warp reach at different instructions."""
        where = np.full(self.n_threads, -1)
        where[free] = self._parked[free]
        lanes = where.reshape(-1, WARP)
        most = lanes.max(axis=1)
        apart = (lanes != most[:, None]) & (lanes >= 0)
        if apart.any():
            thread = int(np.flatnonzero(apart.reshape(-1))[0])
            self.instruction = self.code.steps[int(where[thread]) - 1].instruction
            raise DivergentBarrier(
                "a barrier that lanes of one warp reach at different instructions", self.place(thread)
            )


def run_program(
    code: Code, memory: GlobalMemory, *, parameters: Sequence[int], grid: Grid,
    threads: int = 0, shared_bytes: int = 0, seed: int | None = None, most_steps: int = MOST_STEPS,
    most_threads: int = MOST_THREADS, count_traffic: bool = False,
) -> Counts:  # fmt: skip
    """Run all programs of a grid.

    Parameters
    ----------
    code : Code
    memory : GlobalMemory
        Changed in place.
    parameters : sequence of int
        Bits of each parameter; of a pointer its address in `memory`.
    grid : tuple of int
        Programs in x, y and z.
    threads : int
        Of a program, if the text names none; a multiple of 32.
    shared_bytes : int
        Of a program, beyond the variables that the text has.
    seed : int, optional
        Shuffles the order of programs; without one, they run in the order of their numbers.
    most_steps : int
        Of each set of programs that runs side by side.
    most_threads : int
        Threads that run side by side.
    count_traffic : bool
        Count what accesses ask of caches, which takes longer.

    Returns
    -------
    Counts

    Raises
    ------
    PtxError
        One of its kinds, for what breaks a rule of the machine.
    """
    threads = code.program.threads or threads
    if threads <= 0 or threads % WARP:
        raise PtxError(f"a program of {threads} threads: expected a multiple of {WARP}")
    if len(parameters) < len(code.program.parameters):
        raise PtxError(f"{len(parameters)} parameters: expected {len(code.program.parameters)}")
    order = np.arange(grid[0] * grid[1] * grid[2])
    if seed is not None:
        np.random.default_rng(seed).shuffle(order)
    side_by_side = max(1, most_threads // threads)
    steps = 0
    traffic: dict[str, Traffic] | None = {} if count_traffic else None
    for first in range(0, len(order), side_by_side):
        machine = Machine(
            code, memory, parameters=parameters, grid=grid, programs=order[first : first + side_by_side],
            threads=threads, shared_bytes=code.program.shared_bytes + shared_bytes, traffic=traffic,
        )  # fmt: skip
        steps += machine.run(most_steps)
    return Counts(len(order), steps, traffic or {})


__all__ = ["Active", "Code", "Counts", "Grid", "Machine", "UnknownInstruction", "run_program"]
