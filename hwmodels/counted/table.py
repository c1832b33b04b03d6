"""Counts of compiled GPU kernels, carried as data: what one turn of each kernel's loop asks of a multiprocessor.

`python -m kernels.compiled.count_gpu hwmodels/data/gpu_kernels.csv` writes them. They are counted in the machine code that
Triton compiles, not measured.
"""

import functools
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

COUNTS_FILE = Path(__file__).parents[1] / "data" / "gpu_kernels.csv"


@dataclass(frozen=True)
class CountedKernel:
    """One kernel as one Triton compiles it for one architecture.

    Parameters
    ----------
    triton : str
        Version of the compiler.
    kernel : str
        gemv, mma, dense, prune or copy.
    pattern, encoding, dtype : str
        Empty if it has none.
    tokens : int
        Most tokens of one launch; 0 of a kernel that multiplies none.
    warps : int
        Of a program.
    architecture : int
        Compute capability times ten.
    program_rows : int
        Rows of the dense matrix that the warps of a program share.
    elems : int
        Elements of the dense matrix that a thread takes in a turn.
    bytes_per_elem : float
        Bytes from and to memory per element of the dense matrix.
    registers : int
        Of a thread.
    programs : int
        That a multiprocessor holds at a time.
    pipe : str
        The one that is busy longest.
    issue_cycles : float
        Cycles of a partition that a turn of one warp keeps it busy.
    serial_trips : float
        Round trips to memory that follow each other in a turn.
    wavefronts_least, wavefronts_most : float
        Of L1, for 32 threads with 16 elements each.
    launches : int
        Kernels that a call launches, this one among them.
    """

    triton: str
    kernel: str
    pattern: str
    encoding: str
    dtype: str
    tokens: int
    warps: int
    architecture: int
    program_rows: int
    elems: int
    bytes_per_elem: float
    registers: int
    programs: int
    pipe: str
    issue_cycles: float
    serial_trips: float
    wavefronts_least: float
    wavefronts_most: float
    launches: int


@functools.cache
def counted_kernels() -> tuple[CountedKernel, ...]:
    """Read all counts."""
    table = pd.read_csv(COUNTS_FILE, keep_default_na=False, dtype={"triton": str})
    return tuple(
        CountedKernel(**{str(name): value for name, value in row.items()})
        for row in table.to_dict(orient="records")
    )


def triton_versions() -> tuple[str, ...]:
    """Versions of Triton whose code was counted, oldest first."""
    return tuple(
        sorted(
            {row.triton for row in counted_kernels()},
            key=lambda text: [int(part) for part in text.split(".")],
        )
    )
