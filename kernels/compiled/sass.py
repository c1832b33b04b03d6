"""What the compiler makes of the Triton kernels, without a GPU: registers, spills, widths of loads, instructions of a loop.

A kernel is compiled ahead of time for an architecture. `cuobjdump` and `nvdisasm`, which Triton's wheel brings, take it apart.
`kernels.compiled.subjects` says which kernels, and what they are compiled for. Triton decides for a whole process
whether it interprets or compiles, so none of this works in one that was started with `TRITON_INTERPRET=1`.

How a loop is counted: an inner loop reaches from the target of a backward branch to that branch, with no other backward
branch inside. Of several, the one with the most unconditional 16-byte loads counts. It takes all of a weight except the ends
of its rows. Its instructions, those of the uniform path among them, are divided by the groups of 16 elements that a thread
takes in one turn. A GEMV thread reads each group's 8 values by one 16-byte load, and nothing else so wide: that many groups
there are.
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

from kernels.gpu.bits import WARP_THREADS
from kernels.stored.errors import KernelError
from nmsim.errors import brief

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
GROUP_ELEMS = 16
GROUP_LOAD_BYTES = 16
"""What a thread of the GEMV loads to have the values of 16 elements."""
WIDTHS_BYTES = {"128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}


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
        Compute capability times ten: 80 (A100), 90 (H100, H200) or 100 (B200).

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
    cubin = compiled(subject, architecture)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = _output("cuobjdump", "-res-usage", file.name)
        listing = _output("nvdisasm", "-c", file.name)
    # A resource that the tool does not name would count as zero: it must be named.
    resources = {}
    for name in ("REG", "STACK", "LOCAL"):
        found = re.search(rf"\b{name}:(\d+)", usage)
        if found is None:
            raise KernelError(f"cuobjdump says nothing of {name} for {subject.name}: {brief(usage)}")
        resources[name] = int(found[1])
    body, targets = instructions(listing)
    loop = inner_loop(body, targets)
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
        loop_groups=_wide_loads(loop) if subject.groups_are_loads else 0,
        elems=subject.elems,
    )


def compiled(subject: Subject, architecture: int) -> bytes:
    """Compile ahead of time, as a launch on aligned tensors would: -> the binary of one kernel."""
    kernel = subject.kernel
    named = {**subject.pointers, **subject.numbers, **subject.constants}
    if unknown := sorted(set(named) - set(kernel.arg_names)):
        raise KernelError(
            f"{subject.name}: expected arguments of the kernel, found {', '.join(unknown)} as well"
        )
    types = {**subject.pointers, **{name: text.split(":")[0] for name, text in subject.numbers.items()}}
    whole = {name for name, text in subject.numbers.items() if text.endswith(":16")} | set(subject.pointers)
    unnamed = {name: None for name in kernel.arg_names if name not in named}
    source = ASTSource(
        kernel,
        {name: types.get(name, "constexpr") for name in kernel.arg_names},
        constexprs={**subject.constants, **unnamed},
        attrs={(i,): [["tt.divisibility", 16]] for i, name in enumerate(kernel.arg_names) if name in whole},
    )
    options = {"num_warps": subject.warps, "enable_fp_fusion": False, **subject.options}
    target = GPUTarget("cuda", architecture, WARP_THREADS)
    binary: bytes = triton.compile(source, target=target, options=options).asm["cubin"]
    return binary


def instructions(listing: str) -> tuple[list[str], dict[str, int]]:
    """Read what nvdisasm prints: instructions in order, and where each label points among them.

    Examples
    --------
    >>> instructions(".L_x_0:\\n  /*0010*/  @!P0 BRA `(.L_x_0) ;\\n")
    (['@!P0 BRA `(.L_x_0)'], {'.L_x_0': 0})
    """
    body: list[str] = []
    targets: dict[str, int] = {}
    for line in listing.splitlines():
        if label := re.match(r"(\.L_\w+):", line):
            targets[label[1]] = len(body)
        elif found := re.match(r"\s+/\*[0-9a-f]+\*/\s+(.*?)\s*;", line):
            body.append(found[1])
    return body, targets


def operation(instruction: str) -> str:
    """Name an instruction's operation, without its predicate.

    Examples
    --------
    >>> operation("@!P0 LDG.E.128 R8, desc[UR6][R16.64]")
    'LDG.E.128'
    """
    return re.sub(r"^@!?U?P\w+\s+", "", instruction).split()[0]


def inner_loop(body: list[str], targets: dict[str, int]) -> list[str]:
    """Find the inner loop with the most unconditional 16-byte loads, of equals the longest; nothing if there is no loop."""
    loops = []
    for end, instruction in enumerate(body):
        if operation(instruction).startswith("BRA") and (label := re.search(r"`\((\.L_\w+)\)", instruction)):
            start = targets.get(label[1], len(body))
            if start < end:
                loops.append((start, end + 1))
    inner = [a for a in loops if not any(a != b and a[0] <= b[0] and b[1] <= a[1] for b in loops)]
    bodies = [body[start:end] for start, end in inner]
    return max(bodies, key=lambda part: (_wide_loads(part), len(part)), default=[])


def load_widths_bytes(body: list[str]) -> Counter[int]:
    """Count loads from global memory, to registers or to shared memory, by the bytes that a thread gets.

    Examples
    --------
    >>> load_widths_bytes(["LDG.E.128 R8, desc[UR6][R16.64]", "LDG.E.EL R2, desc[UR6][R4.64]"])
    Counter({16: 1, 4: 1})
    """
    names = [operation(instruction).split(".") for instruction in body]
    return Counter(
        next((WIDTHS_BYTES[part] for part in name if part in WIDTHS_BYTES), 4)
        for name in names
        if name[0] in ("LDG", "LDGSTS")
    )


def _as_text(widths: Counter[int]) -> dict[str, int]:
    return {str(width): count for width, count in sorted(widths.items(), reverse=True)}


def _wide_loads(body: list[str]) -> int:
    return load_widths_bytes([line for line in body if not line.startswith("@")])[GROUP_LOAD_BYTES]


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
