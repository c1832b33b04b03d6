"""Run PTX text on numpy arrays: neither torch nor Triton is needed."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kernels.ptx.errors import PtxError
from kernels.ptx.machine import MOST_STEPS, Code, Counts, Grid, run_program
from kernels.ptx.memory import Buffer, GlobalMemory
from kernels.ptx.parse import read_ptx

Argument = NDArray[np.generic] | np.generic | int


def run_ptx(
    text: str, grid: Grid, *, args: Sequence[Argument], threads: int = 0, shared_bytes: int = 0,
    seed: int | None = None, most_steps: int = MOST_STEPS,
) -> Counts:  # fmt: skip
    """Run the kernel of a PTX text on arrays, which are changed in place.

    Parameters
    ----------
    text : str
        PTX with one `.entry`.
    grid : tuple of int
        Programs in x, y and z.
    args : sequence
        One per parameter: a contiguous array for an address, a numpy number or an integer for a value.
    threads : int
        Of a program, if the text names none; a multiple of 32.
    shared_bytes : int
        Of a program: the size of an `.extern .shared` array.
    seed : int, optional
        Shuffles the order of programs.
    most_steps : int
        Instructions after which programs count as endless.

    Returns
    -------
    Counts

    Raises
    ------
    PtxError
        One of its kinds: text that is not read, an unknown instruction, or a broken rule of the machine.

    Examples
    --------
    >>> text = '''
    ... .visible .entry double(.param .u64 .ptr numbers) .reqntid 32
    ... {
    ...     .reg .b32 %r<3>;
    ...     .reg .b64 %d<3>;
    ...     ld.param.b64 %d1, [numbers];
    ...     mov.u32 %r1, %tid.x;
    ...     mad.wide.u32 %d2, %r1, 4, %d1;
    ...     ld.global.b32 %r2, [%d2];
    ...     add.s32 %r2, %r2, %r2;
    ...     st.global.b32 [%d2], %r2;
    ...     ret;
    ... }'''
    >>> numbers = np.arange(32, dtype=np.int32)
    >>> counts = run_ptx(text, (1, 1, 1), args=[numbers])
    >>> numbers[:4].tolist(), counts.steps
    ([0, 2, 4, 6], 7)
    """
    buffers = {}
    for number, arg in enumerate(args):
        if isinstance(arg, np.ndarray):
            if not arg.flags.c_contiguous:
                raise PtxError(f"argument {number} is not contiguous: expected a contiguous array")
            buffers[number] = Buffer(arg.ctypes.data, arg.reshape(-1).view(np.uint8))
    memory = GlobalMemory(list(buffers.values()))
    parameters = []
    for number, arg in enumerate(args):
        if number in buffers:
            parameters.append(memory.address(buffers[number].address))
        elif isinstance(arg, np.generic):
            parameters.append(int.from_bytes(arg.tobytes(), "little"))
        else:
            parameters.append(int(arg))
    code = Code(read_ptx(text))
    counts = run_program(
        code, memory, parameters=parameters, grid=grid, threads=threads, shared_bytes=shared_bytes, seed=seed,
        most_steps=most_steps,
    )  # fmt: skip
    memory.copy_back()
    return counts
