"""What the compiler makes of the Triton kernels, without a GPU: registers, spills, widths of loads, instructions of a loop.

A kernel is compiled ahead of time for an architecture. `cuobjdump` and `nvdisasm`, which Triton's wheel brings, take it apart.
`kernels.compiled.subjects` says which kernels, and what they are compiled for. Triton decides for a whole process
whether it interprets or compiles, so none of this works in one that was started with `TRITON_INTERPRET=1`.

How a loop is counted: an inner loop reaches from the target of a backward branch to that branch, with no other backward
branch inside. Of several, the one with the most unconditional 16-byte loads counts. If none has any, it is the one that loads
most bytes so. It takes all of a weight except the ends of its rows. Its instructions, those of the uniform path among them,
are divided by the groups of 16 elements that a thread takes in one turn. A GEMV thread reads each group's 8 values of 16 bits
by one 16-byte load, and nothing else so wide: that many groups there are.
"""

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.experimental.gluon._runtime import GluonASTSource

from kernels.compiled.listing import (
    controls,
    inner_loop,
    instructions,
    load_widths_bytes,
    operation,
    wide_loads,
)
from kernels.compiled.occupancy import programs_per_multiprocessor
from kernels.compiled.pipes import issue
from kernels.compiled.trips import barrier_trips, serial_trips
from kernels.gpu.bits import WARP_THREADS
from kernels.ptx.launch import driver_of
from kernels.stored.errors import KernelError
from nmsim.errors import brief

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
GROUP_ELEMS = 16


@dataclass(frozen=True)
class Subject:
    """A kernel and all that it is compiled for.

    Parameters
    ----------
    name : str
    kernel : JITFunction
    pointers : mapping of str to str
        Arguments that are tensors, with Triton's type. Each counts as aligned to 16 bytes, as a launch has them.
    numbers : mapping of str to str
        The same for numbers; a type that ends in `:16` says that the number is a multiple of 16.
    constants : mapping
        Compile-time constants. Arguments named nowhere are None.
    warps : int
    groups_are_loads : bool
        Whether each 16-byte load is a group of the loop.
    elems : int
        Elements of a dense matrix that a thread takes in a turn of the loop, or in all if there is no loop. 0 if they are not
        counted.
    options : mapping
        Further options of the compiler.
    """

    name: str
    kernel: Any
    pointers: Mapping[str, str]
    numbers: Mapping[str, str]
    constants: Mapping[str, Any]
    warps: int
    groups_are_loads: bool = False
    elems: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Code:
    """What was found of a kernel for one architecture.

    Parameters
    ----------
    instructions : int
        Of the whole kernel.
    stack_bytes, local_bytes : int
        Memory of a thread for what registers do not hold.
    spills : int
        Instructions that load from or store to such memory.
    loads : dict of str to int
        Bytes of a thread's load from global memory, as text -> how many such instructions.
    loop_instructions : int
        Of the inner loop, 0 if there is none.
    loop_loads : dict of str to int
        As `loads`, of that loop.
    loop_groups : int
        Groups of 16 elements that a thread of the GEMV takes in a turn of it, 0 of another kernel.
    elems : int
        As for `Subject`.
    shared_bytes : int
        Shared memory of a program.
    programs : int
        That a multiprocessor holds at a time.
    cycles : dict of str to float
        Pipe -> cycles of a partition that one warp keeps it busy. That is in a turn of the loop; in the whole kernel if there
        is no loop. `issue` is the start of instructions. See `kernels.compiled.pipes`.
    serial_trips : float
        Round trips to memory that follow each other in such a turn (`kernels.compiled.trips`).
    """

    name: str
    architecture: int
    warps: int
    registers: int
    stack_bytes: int
    local_bytes: int
    spills: int
    instructions: int
    loads: dict[str, int]
    loop_instructions: int
    loop_loads: dict[str, int]
    loop_groups: int
    elems: int
    shared_bytes: int
    programs: int
    cycles: dict[str, float]
    serial_trips: float

    @property
    def instructions_per_group(self) -> float:
        """Machine instructions that a thread executes for 16 elements, in the loop if there is one; NaN if not counted."""
        groups = self.loop_groups or self.elems / GROUP_ELEMS
        return (self.loop_instructions or self.instructions) / groups if groups else float("nan")


def inspect(subject: Subject, architecture: int) -> Code:
    """Compile one kernel for an architecture, and take it apart.

    Parameters
    ----------
    subject : Subject
    architecture : int
        Compute capability times ten: 80 (A100), 89 (RTX 4090), 90 (H100, H200) or 100 (B200).

    Returns
    -------
    Code

    Raises
    ------
    KernelError
        A process that interprets, or a wheel of Triton without the tools.
    """
    if triton.knobs.runtime.interpret:
        raise KernelError(
            "Triton interprets in this process: expected TRITON_INTERPRET unset before it starts"
        )
    cubin, shared_bytes = _built(subject, architecture)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        resources = _resources(file.name, subject.name)
        listing = _output("nvdisasm", "-c", "-hex", file.name)
    body, targets = instructions(listing)
    where = inner_loop(body, targets)
    loop = body[where]
    counted = loop or body
    # Registers say which loads wait for each other; barriers say what the compiler made of it, but not for copies to shared
    # memory. The larger count holds.
    upper = controls(listing)
    trips = max(serial_trips(counted), barrier_trips(counted, upper[where] or upper))
    return Code(
        name=subject.name,
        architecture=architecture,
        warps=subject.warps,
        registers=resources["REG"],
        stack_bytes=resources["STACK"],
        local_bytes=resources["LOCAL"],
        spills=sum(name.startswith(("LDL", "STL")) for name in map(operation, body)),
        instructions=len(body),
        loads=_as_text(load_widths_bytes(body)),
        loop_instructions=len(loop),
        loop_loads=_as_text(load_widths_bytes(loop)),
        loop_groups=wide_loads(loop) if subject.groups_are_loads else 0,
        elems=subject.elems,
        shared_bytes=shared_bytes,
        programs=programs_per_multiprocessor(
            architecture, warps=subject.warps, registers=resources["REG"], shared_bytes=shared_bytes
        ),
        cycles={pipe: round(cycles, 3) for pipe, cycles in issue(counted, architecture).cycles.items()},
        serial_trips=trips,
    )


def registers_of(cubin: bytes) -> int:
    """Count the registers of a thread of a compiled kernel.

    Raises
    ------
    KernelError
        A wheel of Triton without the tools.
    """
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return _resources(file.name, "a kernel")["REG"]


def _resources(path: str, name: str) -> dict[str, int]:
    """Registers, stack and local memory of a thread. One that the tool does not name would count as zero: it must be named."""
    usage, resources = _output("cuobjdump", "-res-usage", path), {}
    for resource in ("REG", "STACK", "LOCAL"):
        found = re.search(rf"\b{resource}:(\d+)", usage)
        if found is None:
            raise KernelError(f"cuobjdump says nothing of {resource} for {name}: {brief(usage)}")
        resources[resource] = int(found[1])
    return resources


def compiled(subject: Subject, architecture: int) -> bytes:
    """Compile ahead of time, as a launch on aligned tensors would: -> the binary of one kernel."""
    return _built(subject, architecture)[0]


def _built(subject: Subject, architecture: int) -> tuple[bytes, int]:
    """Compile: -> the binary, and the bytes of shared memory that a launch asks for."""
    kernel = subject.kernel
    named = {**subject.pointers, **subject.numbers, **subject.constants}
    if unknown := sorted(set(named) - set(kernel.arg_names)):
        raise KernelError(
            f"{subject.name}: expected arguments of the kernel, found {', '.join(unknown)} as well"
        )
    types = {**subject.pointers, **{name: text.split(":")[0] for name, text in subject.numbers.items()}}
    whole = {name for name, text in subject.numbers.items() if text.endswith(":16")} | set(subject.pointers)
    unnamed = {name: None for name in kernel.arg_names if name not in named}
    # Gluon, Triton's language with layouts, has a first stage of its own.
    source = (GluonASTSource if kernel.is_gluon() else ASTSource)(
        kernel,
        {name: types.get(name, "constexpr") for name in kernel.arg_names},
        constexprs={**subject.constants, **unnamed},
        attrs={(i,): [["tt.divisibility", 16]] for i, name in enumerate(kernel.arg_names) if name in whole},
    )
    options = {"num_warps": subject.warps, "enable_fp_fusion": False, **subject.options}
    target = GPUTarget("cuda", architecture, WARP_THREADS)
    # Kernels may ask for the architecture they are compiled for.
    with driver_of(architecture):
        found = triton.compile(source, target=target, options=options)
    return found.asm["cubin"], int(found.metadata.shared)


def _as_text(widths: Counter[int]) -> dict[str, int]:
    return {str(width): count for width, count in sorted(widths.items(), reverse=True)}


def table(found: list[Code]) -> pd.DataFrame:
    """Lay rows out as a table: one row for each kernel and architecture."""
    return pd.DataFrame(
        [{**asdict(row), "instructions_per_group": row.instructions_per_group} for row in found]
    )


def _output(tool: str, *arguments: str) -> str:
    path = TOOLS / tool
    if not path.exists():
        raise KernelError(f"{path} is missing: expected the tools that Triton's wheel brings with it")
    return subprocess.run([str(path), *arguments], capture_output=True, text=True, check=True).stdout
