"""N:M sparse x dense products on the CPU: numpy arrays in, numpy arrays out, every instruction set checked alike.

`compress` a matrix once, then `matmul` with it. `docs/explanation/cpu-kernels.md` says how it works and how fast it is.
"""

from kernels.cpu.isa import instruction_sets
from kernels.cpu.products import dense_matmul, matmul
from kernels.stored.errors import KernelError
from kernels.stored.rows import SparseWeights, compress, decompress, from_packed

__all__ = [
    "KernelError",
    "SparseWeights",
    "compress",
    "decompress",
    "dense_matmul",
    "from_packed",
    "instruction_sets",
    "matmul",
]
