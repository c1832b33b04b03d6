"""The estimate on a CPU: bytes from the cache they lie in, and instructions counted in compiled kernels.

A CPU has no unit for N:M. Its cores read values and codes, bring each kept value together with its element of x, and
multiply. The time of a core has three parts. They are bytes over the bandwidth of their level, instructions over the rate at
which it issues them, and the reading of x. The first two overlap in part: well if rows are plain values, hardly if each load
waits for a code to be decoded (A29). Cores that share a memory also wait for each other. A call and the waking of threads are
added. All rates are the machine's own, from a datasheet or from `nmsim calibrate`. Only the two exponents of the overlap
were chosen with measured products in view.
"""

import functools
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from hwmodels.estimate.bounds import Bound, Plan, Traffic, where
from hwmodels.estimate.estimate import CACHE_STATES, Estimate
from hwmodels.estimate.library import norm
from hwmodels.machine.spec import CacheLevel, HardwareSpec
from nmsim.format import SparseFormat
from nmsim.pattern import Pattern

COUNTS_FILE = Path(__file__).parents[1] / "data" / "cpu_instructions.csv"
INSTRUCTION_SETS = {16: "avx512", 8: "avx2"}
"""32-bit lanes of a vector register -> the kernels that use them; other machines run plain loops."""
PLAIN_PER_KEPT, PLAIN_PER_ELEM = 10.0, 20.0
"""Time of a plain loop, in instructions per kept value and token, and per element (assumption A27). Each sum waits for the
one before, and each code is read bit by bit."""
BLOCKS_PER_KEPT, BLOCKS_PER_ELEM = 6.0, 1.0
"""The same if codes are decoded to masks block by block before a compiled kernel reads those (A27)."""
BLOCK_DECODED = (Pattern(16, 32), "combinatorial")
"""The format that a compiled kernel cannot read itself: its table of masks would not fit."""
DENSE_OVERLAP, SPARSE_OVERLAP = 2.0, 1.5
"""Exponent of the norm that adds the time of bytes and the time of instructions. 1 is no overlap, a large one is
perfect overlap. Chosen on the campaigns of one machine (assumption A29)."""
CACHE_SHARE = 0.75
"""Share of a cache that one product can use (assumption A28)."""
NARROW_LANES = 8
"""Lanes that an instruction of fewer lanes counts as, on a machine of wider registers. Zen 4 issues one 16-lane instruction
where it issues two of 8 lanes."""
FEW_TOKENS = 4
"""Most tokens of which kernels read x to its end for each block of rows. Beyond it they read panels of x."""
PANEL_BYTES, PANEL_TOKENS = {16: 1 << 14, 8: 1 << 17}, 16
"""Lanes of a vector register -> bytes of a panel of x; and most tokens of one."""
STREAMING_LANES = (16,)
"""Lanes of a vector register whose kernels read the rows of few tokens as long streams, asked for ahead: no row starts anew."""


class CpuWork(NamedTuple):
    """What a product costs a CPU core per element of the dense matrix and row, all tokens together.

    `sparse_lanes`, `dense_lanes`: 32-bit lanes of the instructions that are issued. `sparse_x_bytes`, `dense_x_bytes`: bytes of
    x that are loaded. `library_flop_per_s`: rate of the dense library on a core; 0 if nobody measured it. Numbers, or float64
    arrays [rows].
    """

    sparse_lanes: Any
    dense_lanes: Any
    sparse_x_bytes: Any
    dense_x_bytes: Any
    library_flop_per_s: Any


@functools.cache
def _counts() -> dict[tuple[str, str, str, str], list[tuple[int, float, float]]]:
    table = pd.read_csv(COUNTS_FILE, keep_default_na=False)
    found: dict[tuple[str, str, str, str], list[tuple[int, float, float]]] = {}
    for row in table.itertuples(index=False):
        key = (str(row.instruction_set), str(row.dtype), str(row.pattern), str(row.encoding))
        counts = (
            int(str(row.tokens)),
            float(str(row.lanes_per_element)),
            float(str(row.x_bytes_per_element)),
        )
        found.setdefault(key, []).append(counts)
    return found


@functools.lru_cache(maxsize=4096)
def counted(lanes: int, dtype: str, format: SparseFormat | None, tokens: int) -> tuple[float, float]:
    """Lanes that are issued, and bytes of x that are loaded, per element of the dense matrix and row.

    Parameters
    ----------
    lanes : int
        32-bit lanes of a vector register.
    dtype : str
    format : SparseFormat or None
        None for a dense matrix.
    tokens : int

    Returns
    -------
    tuple of float
        Counted in the compiled kernels for what they cover; tokens beyond the largest count as repeated products.
        For all else, an assumption: a plain loop, or blocks of codes decoded before (A27). Their time holds the loads of x.
    """
    key = (
        INSTRUCTION_SETS.get(lanes, ""),
        dtype,
        str(format.pattern) if format else "dense",
        format.encoding.name if format else "",
    )
    entries = _counts().get(key)
    if entries is None:
        if format is None:
            return 2.0 * tokens, 0.0
        blocks = key[0] and (format.pattern, format.encoding.name) == BLOCK_DECODED
        kept, element = (BLOCKS_PER_KEPT, BLOCKS_PER_ELEM) if blocks else (PLAIN_PER_KEPT, PLAIN_PER_ELEM)
        instructions = element + kept * float(format.pattern.density) * tokens
        return instructions * min(lanes, NARROW_LANES), 0.0
    largest, *most = entries[-1]
    whole, rest = divmod(tokens, largest)
    part = next((counts for upto, *counts in entries if rest and rest <= upto), [0.0, 0.0])
    return whole * most[0] + part[0], whole * most[1] + part[1]


def cpu_work(hardware: HardwareSpec, dtype: str, format: SparseFormat | None, tokens: int) -> CpuWork:
    """Say what the sparse product of a format costs a core, and the dense one beside it."""
    lanes = vector_lanes(hardware)
    sparse, dense = counted(lanes, dtype, format, tokens), counted(lanes, dtype, None, tokens)
    library = hardware.library_flop_per_s.get(dtype)
    return CpuWork(sparse[0], dense[0], sparse[1], dense[1], float(library.value) if library else 0.0)


class _Source(NamedTuple):
    """Where bytes come from: bytes per second of one core of those at work, and of all together; whether it is DRAM."""

    core_bytes_per_s: Any
    shared_bytes_per_s: Any
    is_dram: Any


def _source(hardware: HardwareSpec, footprint_bytes: Any, threads: int, warm: Any) -> _Source:
    """The innermost level that a product's bytes fit in, when warm; DRAM else."""
    cores = int(hardware.cores.value)

    def rates(one: Any, together: Any, shared: bool) -> tuple[float, float]:
        if one is None or (threads >= cores and not shared):
            return float(together.value) / min(threads, cores), math.inf
        return float(one.value), max(one.value, together.value) if threads > 1 and shared else math.inf

    core, all_cores = rates(
        hardware.core_read_bandwidth_bytes_per_s, hardware.dram_bandwidth_bytes_per_s, True
    )
    found = _Source(core, all_cores, True)
    for level in reversed(hardware.cache):
        room = CACHE_SHARE * level.bytes.value * (1 if level.shared else threads)
        inside = warm & (footprint_bytes <= room)
        core, all_cores = rates(
            level.core_read_bandwidth_bytes_per_s, level.read_bandwidth_bytes_per_s, level.shared
        )
        found = _Source(
            where(inside, np.maximum(found.core_bytes_per_s, core), found.core_bytes_per_s),
            where(inside, np.maximum(found.shared_bytes_per_s, all_cores), found.shared_bytes_per_s),
            found.is_dram & ~np.asarray(inside, bool),
        )
    return found


def bandwidth_bytes_per_s(hardware: HardwareSpec, footprint_bytes: Any, threads: int, warm: Any) -> Any:
    """Bandwidth of the innermost level that a product's bytes fit in, when warm; of DRAM else.

    Parameters
    ----------
    hardware : HardwareSpec
    footprint_bytes : number or array
    threads : int
        Cores at work.
    warm : bool or bool array

    Returns
    -------
    float or float64 array
    """
    source = _source(hardware, footprint_bytes, threads, warm)
    return np.minimum(threads * source.core_bytes_per_s, source.shared_bytes_per_s)


def _x_bytes(lanes: int, tokens: Any, K: Any) -> Any:
    """Bytes of x that a kernel reads again and again: all of it for few tokens, a panel for more."""
    some = 4.0 * np.minimum(tokens, PANEL_TOKENS) * K
    panel_bytes = PANEL_BYTES.get(lanes, PANEL_BYTES[NARROW_LANES])
    return where(tokens <= FEW_TOKENS, some, np.minimum(some, panel_bytes))


def _x_s(hardware: HardwareSpec, footprint_bytes: Any, loaded_bytes: Any) -> tuple[Any, Any]:
    """Seconds that loads of x keep a core's load ports, and seconds that they wait for a level beyond the first."""
    if not hardware.cache:
        return 0.0, 0.0

    def fits(level: CacheLevel) -> Any:
        return footprint_bytes <= CACHE_SHARE * level.bytes.value

    first, *others = hardware.cache
    rate: Any = _source(hardware, 0, 1, False).core_bytes_per_s
    for level in reversed(others):
        rate = where(fits(level), level.core_read_bandwidth_bytes_per_s.value, rate)
    ports_s = loaded_bytes / first.core_read_bandwidth_bytes_per_s.value
    return ports_s, where(fits(first), 0.0, loaded_bytes / rate)


def estimate_cpu(
    hardware: HardwareSpec,
    how: Plan,
    shape: tuple[Any, Any, Any],
    moved: Traffic,
    bound: Bound,
    moved_dense: Traffic,
    state: Any,
    threads: Any,
    work: CpuWork,
) -> Estimate:
    """Estimate products on a CPU.

    Parameters
    ----------
    hardware, how, shape, moved, bound, moved_dense, state
        As in `hwmodels.estimate.estimate.estimate`.
    threads : int or int64 array [rows]
        Cores at work; 0 for all.
    work : CpuWork
        Of numbers, or of arrays [rows].

    Returns
    -------
    Estimate
        Numbers, or float64 arrays [rows].

    Source
    ------
    `docs/explanation/estimate.md`, section on CPUs.
    """
    cores = int(hardware.cores.value)
    M, N, K = shape
    used = where(threads == 0, cores, np.minimum(threads, cores))
    issued_per_s = hardware.issue_lanes_per_core_per_cycle.value * hardware.clock_hz.value
    dense_call_s, sparse_call_s, wake_s, row_start_s = (
        float(known.value) if known else 0.0
        for known in (
            hardware.call_overhead_s,
            hardware.sparse_call_overhead_s,
            hardware.thread_wake_s,
            hardware.row_start_s,
        )
    )
    woken_s = where(used > 1, wake_s, 0.0)
    warm = state == CACHE_STATES.index("warm")
    rows = where(how.sparse_activations, M * how.input_copies, N)
    flop_per_s = hardware.vector_peak_flop_per_s.value / cores
    lanes_of_register = vector_lanes(hardware)
    streams = (M <= FEW_TOKENS) & (lanes_of_register in STREAMING_LANES)

    def source(total_bytes: Any) -> _Source:
        found = _Source(np.nan, np.nan, True)
        for count in np.unique(used):
            of_count = _source(hardware, total_bytes, int(count), warm)
            found = _Source(
                *(where(used == count, new, old) for new, old in zip(of_count, found, strict=True))
            )
        return found

    def own_s(traffic: Traffic, lanes: Any, x_bytes: Any, share: Any, overlap: float) -> Any:
        """Seconds of a kernel of `kernels.cpu`, without the call."""
        level, elements = source(traffic.total_bytes), rows * K / used
        ports_s, wait_s = _x_s(hardware, _x_bytes(lanes_of_register, M, K), elements * x_bytes)
        worked_s = np.maximum(elements * lanes / issued_per_s, 2.0 * M * N * K * share / (used * flop_per_s))
        worked_s = np.maximum(worked_s, ports_s)
        read_s = traffic.total_bytes / (used * level.core_bytes_per_s)
        # What a core waits for beside its stream of bytes is not hidden behind it, unless it was asked for ahead.
        waited_s = read_s + where(level.is_dram, rows * row_start_s / used, 0.0) + wait_s
        core_s = (waited_s**overlap + worked_s**overlap) ** (1 / overlap)
        core_s = where(streams & level.is_dram, norm(read_s, worked_s), core_s)
        return woken_s + norm(core_s, traffic.total_bytes / level.shared_bytes_per_s)

    def library_s(traffic: Traffic) -> Any:
        """Seconds of the dense library, without the call: it copies blocks of weights before it multiplies with them."""
        level = source(traffic.total_bytes)
        multiplied_s = 2.0 * M * N * K / np.maximum(work.library_flop_per_s, 1.0)
        core_s = (traffic.total_bytes / level.core_bytes_per_s + multiplied_s) / used
        return woken_s + norm(core_s, traffic.total_bytes / level.shared_bytes_per_s)

    is_sparse = how.execution != 0
    own_dense_s = own_s(moved_dense, work.dense_lanes, work.dense_x_bytes, 1.0, DENSE_OVERLAP)
    # If no rate of the library is known, 32-bit products are numpy's at their smallest, and 16-bit ones those of `kernels.cpu`.
    least_s = where(how.value_bits == 32, dense_call_s, sparse_call_s)
    best_s = np.minimum(sparse_call_s + own_dense_s, dense_call_s + library_s(moved_dense))
    by_library = (M > FEW_TOKENS) & (np.asarray(work.library_flop_per_s) > 0)
    dense_s = where(by_library, best_s, least_s + own_dense_s)
    own_sparse_s = own_s(moved, work.sparse_lanes, work.sparse_x_bytes, how.vector_work, SPARSE_OVERLAP)
    pruned_s = sparse_call_s + own_sparse_s + bound.select_s
    return Estimate(where(is_sparse, pruned_s, dense_s), dense_s, np.zeros(np.shape(M), np.int8))


def vector_lanes(hardware: HardwareSpec) -> int:
    """32-bit lanes of a vector register: as the spec says, else the widest that follows from its peak rate."""
    if hardware.vector_lanes is not None:
        return int(hardware.vector_lanes.value)
    per_cycle = hardware.vector_peak_flop_per_s.value / hardware.cores.value / hardware.clock_hz.value
    return int(2 ** max(2, min(4, round(math.log2(max(per_cycle / 4, 1.0))))))
