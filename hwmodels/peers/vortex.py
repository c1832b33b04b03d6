"""Vortex's tensor core unit: cycles of its RTL, dense and at 2:4, from its public parameters and three constants.

Vortex is an open GPU. Its unit multiplies tiles of 8 x 8 whose operands lie in registers, so a warp has to load them first.
Loads set the time: the unit itself is busy for a seventh of it. The program of a tile loads its arguments. Then it goes through
K, 8 words at a time. It loads 8 registers of A (4 if A is sparse) and 8 of B. Metadata and scales go into a memory of the unit.

The numbers of loads follow from the parameters alone, and equal those that the RTL counts. Three constants are fitted to its
cycles, the same for all formats.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from hwmodels.tensorcore.record import SparseTensorCore, read_core
from nmsim.case import GemmShape
from nmsim.errors import RowError, SpecError, brief, brief_names
from nmsim.units import ceil_div

CORE_FILE = Path(__file__).parents[1] / "data" / "vortex-tcu.toml"
THREADS = 8
"""Threads of a warp, and 32-bit words of one load."""
TILE = 8
"""Rows and columns of a tile, and its words along K."""
DENSE_STEPS = 32
"""Steps of the unit per 8 words along K: 8 x 8 x 8 words by 4 x 2 x 2 at a time. Half as many if A is sparse."""
DENSE_REGISTERS, SPARSE_REGISTERS = 8, 4
"""Registers of A per thread and 8 words along K; B always has 8."""
METADATA_ROWS = 4
"""Words of metadata in a column of the unit's memory: 2 steps along the rows, 2 along K."""
ARGUMENTS, SPARSE_ARGUMENTS, SCALE_ARGUMENTS = 5, 1, 2
"""Loads of the program's arguments per tile; more if there are metadata and scales."""
SCALE_LOADS = 2
"""Loads of scales per 8 words along K: those of A and those of B."""

START_CYCLES = 3587.7
"""Fitted: cycles of a whole run that no load explains."""
CYCLES_PER_LOAD = 10.644
"""Fitted: cycles of one load of a warp, of 32 bytes."""
STALL_CYCLES = 135.13
"""Fitted: cycles of a tile that needs more than one load of metadata and scales per 8 words along K."""


class VortexFormat(NamedTuple):
    """Bits of a stored value, bits that the program of the published runs takes along K for one, and whether it has scales."""

    value_bits: int
    K_bits: int
    scaled: bool = False


FORMATS = {
    "fp16": VortexFormat(16, 16),
    "fp8": VortexFormat(8, 8),
    "int8": VortexFormat(8, 8),
    "int4": VortexFormat(4, 8),
    "mxfp8": VortexFormat(8, 8, scaled=True),
    "mxfp4": VortexFormat(4, 4, scaled=True),
    "nvfp4": VortexFormat(4, 4, scaled=True),
}
"""Formats of the published runs. The program of `int4` counts K in bytes, so it does twice the work that its K says."""


@dataclass(frozen=True)
class VortexCycles:
    """What one product takes.

    Parameters
    ----------
    cycles : int
        Of the whole run on one core.
    warp_loads : int
        Loads of A, B and arguments by whole warps.
    unit_loads : int
        Loads of metadata and scales, into the memory of the unit.
    steps : int
        Steps of the unit, one per cycle at best.
    """

    cycles: int
    warp_loads: int
    unit_loads: int
    steps: int

    @property
    def thread_loads(self) -> int:
        """Loads as its counter counts them: by each thread."""
        return THREADS * (self.warp_loads + self.unit_loads)


def vortex_cycles(dtype: str, *, sparse: bool = False, shape: GemmShape | None = None) -> VortexCycles:
    """Predict the cycles of a product on Vortex's tensor core unit, with 8 threads per warp and 8 warps.

    Parameters
    ----------
    dtype : str
        One of `FORMATS`.
    sparse : bool
        Whether A keeps 2 of 4.
    shape : GemmShape, optional
        Whole tiles of 8 x 8. The published runs, and what is absent, are 64 x 64 x 64. No other shape was compared.

    Returns
    -------
    VortexCycles

    Raises
    ------
    SpecError
        Another format.
    RowError
        A shape that is not whole tiles.

    Source
    ------
    github.com/vortexgpgpu/vortex: parameters from `hw/rtl/tcu/VX_tcu_pkg.sv`, loads from `kernel/include/vx_tensor.h` and
    `tests/regression/sgemm_tcu_sp/kernel.cpp`, cycles from `perf/results/tcu` (`hwmodels/data/vortex_tcu_cycles.csv`).

    Examples
    --------
    >>> dense, sparse = vortex_cycles("int4"), vortex_cycles("int4", sparse=True)
    >>> dense.cycles, sparse.cycles, f"{dense.cycles / sparse.cycles:.2f}"
    (28793, 32672, '0.88')
    >>> sparse.thread_loads
    17408
    """
    if dtype not in FORMATS:
        raise SpecError(f"dtype={brief(dtype)}: expected one of {brief_names(FORMATS)}")
    shape = GemmShape(64, 64, 64) if shape is None else shape
    value_bits, K_bits, scaled = FORMATS[dtype]
    depth = TILE * 32 // K_bits
    if shape.M % TILE or shape.N % TILE or shape.K % depth:
        raise RowError(
            f"shape {shape}: expected whole tiles of {TILE} x {TILE} and {depth} along K for {dtype}"
        )
    tiles, rounds = shape.M // TILE * (shape.N // TILE), shape.K // depth
    registers = (SPARSE_REGISTERS if sparse else DENSE_REGISTERS) + DENSE_REGISTERS
    arguments = ARGUMENTS + SPARSE_ARGUMENTS * sparse + SCALE_ARGUMENTS * scaled
    # One bit says of each element of a step of A whether it is kept; a step has two words of A for each thread.
    columns = ceil_div(THREADS * 2 * (32 // value_bits), 32)
    unit_loads = ceil_div(METADATA_ROWS * columns, THREADS) * sparse + SCALE_LOADS * scaled
    loads = tiles * (arguments + rounds * registers)
    stalls = tiles if unit_loads > 1 else 0
    return VortexCycles(
        cycles=round(START_CYCLES + CYCLES_PER_LOAD * loads + STALL_CYCLES * stalls),
        warp_loads=loads,
        unit_loads=tiles * rounds * unit_loads,
        steps=tiles * rounds * (DENSE_STEPS // 2 if sparse else DENSE_STEPS),
    )


def vortex_core() -> SparseTensorCore:
    """Load the unit as a core of this package, as far as its public parameters go.

    Examples
    --------
    >>> vortex_core().macs_per_cycle(16)
    32
    """
    return read_core(CORE_FILE)
