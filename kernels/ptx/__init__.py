"""An emulator of the code that Triton compiles for NVIDIA GPUs: PTX, run on a CPU in numpy, with every access checked.

`run_compiled` and `emulated` take Triton kernels and need torch and Triton; `run_ptx` takes PTX text and numpy arrays. It
computes what the code says, one instruction for all threads at once, and knows nothing of time.
"""

from typing import TYPE_CHECKING

from nmsim.support.lazy import lazy_exports

if TYPE_CHECKING:
    from kernels.ptx.errors import (
        DivergentBarrier,
        Endless,
        IdleLane,
        Misaligned,
        MissingWait,
        OutOfBounds,
        Place,
        PtxError,
        PtxSyntaxError,
        SharedRace,
        UnknownInstruction,
        UnwrittenRead,
        WriteConflict,
    )
    from kernels.ptx.launch import Launch, emulated, ptx_of, run_compiled
    from kernels.ptx.machine import Counts
    from kernels.ptx.parse import read_ptx
    from kernels.ptx.program import Instruction, Parameter, Program
    from kernels.ptx.run import run_ptx
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "kernels.ptx.errors": "DivergentBarrier Endless IdleLane Misaligned MissingWait OutOfBounds Place PtxError "
            "PtxSyntaxError SharedRace UnknownInstruction UnwrittenRead WriteConflict",
            "kernels.ptx.launch": "Launch emulated ptx_of run_compiled",
            "kernels.ptx.machine": "Counts",
            "kernels.ptx.parse": "read_ptx",
            "kernels.ptx.program": "Instruction Parameter Program",
            "kernels.ptx.run": "run_ptx",
        },
        extras={"torch": "nmsim[gpu]", "triton": "nmsim[gpu]"},
    )

__all__ = [
    "Counts",
    "DivergentBarrier",
    "Endless",
    "IdleLane",
    "Instruction",
    "Launch",
    "Misaligned",
    "MissingWait",
    "OutOfBounds",
    "Parameter",
    "Place",
    "Program",
    "PtxError",
    "PtxSyntaxError",
    "SharedRace",
    "UnknownInstruction",
    "UnwrittenRead",
    "WriteConflict",
    "emulated",
    "ptx_of",
    "read_ptx",
    "run_compiled",
    "run_ptx",
]
