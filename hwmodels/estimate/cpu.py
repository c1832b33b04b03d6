"""The estimate on a CPU: bytes from the cache they lie in, and instructions counted in compiled kernels.

A CPU has no unit for N:M. Its cores read values and codes, bring each kept value together with its element of x, and
multiply. The time has two parts: the bytes over the bandwidth of their level, and the instructions over the rate at which the
cores issue them. The two overlap in part: well if rows are plain values, hardly if each load waits for a code to
be decoded (A29). A call and the waking of threads are added. All rates are the machine's own, from a datasheet or from
`nmsim calibrate`. Only the two exponents of the overlap were chosen with measured products in view.
"""

import functools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hwmodels.estimate.bounds import Bound, Plan, Traffic, where
from hwmodels.estimate.estimate import CACHE_STATES, Estimate
from hwmodels.machine.spec import HardwareSpec
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
DENSE_OVERLAP, SPARSE_OVERLAP = 2.0, 1.2
"""Exponent of the norm that adds the time of bytes and the time of instructions. 1 is no overlap, a large one is
perfect overlap. Chosen on the campaigns of one machine (assumption A29)."""
CACHE_SHARE = 0.75
"""Share of a cache that one product can use (assumption A28)."""


@functools.cache
def _counts() -> dict[tuple[str, str, str, str], list[tuple[int, float]]]:
    table = pd.read_csv(COUNTS_FILE, keep_default_na=False)
    found: dict[tuple[str, str, str, str], list[tuple[int, float]]] = {}
    for row in table.itertuples(index=False):
        key = (str(row.instruction_set), str(row.dtype), str(row.pattern), str(row.encoding))
        found.setdefault(key, []).append((int(str(row.tokens)), float(str(row.instructions_per_element))))
    return found


@functools.lru_cache(maxsize=4096)
def instructions_per_element(lanes: int, dtype: str, format: SparseFormat | None, tokens: int) -> float:
    """Instructions that an element of the dense matrix costs one row, all tokens together.

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
    float
        Counted in the compiled kernels for what they cover; tokens beyond the largest count as repeated products.
        For all else, an assumption: a plain loop, or blocks of codes decoded before (A27).
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
            return 2.0 * tokens / lanes
        blocks = key[0] and (format.pattern, format.encoding.name) == BLOCK_DECODED
        kept, element = (BLOCKS_PER_KEPT, BLOCKS_PER_ELEM) if blocks else (PLAIN_PER_KEPT, PLAIN_PER_ELEM)
        return element + kept * float(format.pattern.density) * tokens
    largest, most = entries[-1]
    whole, rest = divmod(tokens, largest)
    part = next((count for upto, count in entries if rest and rest <= upto), 0.0)
    return whole * most + part


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
    cores = int(hardware.cores.value)

    def rate(one: Any, all_cores: Any) -> float:
        if one is None or threads >= cores:
            return float(all_cores.value)
        return float(min(one.value * threads, max(one.value, all_cores.value)))

    found: Any = rate(hardware.core_read_bandwidth_bytes_per_s, hardware.dram_bandwidth_bytes_per_s)
    for level in reversed(hardware.cache):
        room = CACHE_SHARE * level.bytes.value * (1 if level.shared else threads)
        speed = rate(level.core_read_bandwidth_bytes_per_s, level.read_bandwidth_bytes_per_s)
        found = where(warm & (footprint_bytes <= room), np.maximum(found, speed), found)
    return found


def estimate_cpu(
    hardware: HardwareSpec,
    how: Plan,
    shape: tuple[Any, Any, Any],
    moved: Traffic,
    bound: Bound,
    moved_dense: Traffic,
    state: Any,
    threads: Any,
    instructions: tuple[Any, Any],
) -> Estimate:
    """Estimate products on a CPU.

    Parameters
    ----------
    hardware, how, shape, moved, bound, moved_dense, state
        As in `hwmodels.estimate.estimate.estimate`.
    threads : int or int64 array [rows]
        Cores at work; 0 for all.
    instructions : tuple of float or float64 array [rows]
        Per element of the dense matrix, of the sparse and of the dense product.

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
    lanes = vector_lanes(hardware)
    issue_per_s = hardware.issue_lanes_per_core_per_cycle.value * hardware.clock_hz.value / lanes
    dense_call_s, sparse_call_s, wake_s = (
        float(known.value) if known else 0.0
        for known in (hardware.call_overhead_s, hardware.sparse_call_overhead_s, hardware.thread_wake_s)
    )
    woken_s = where(used > 1, wake_s, 0.0)
    warm = state == CACHE_STATES.index("warm")
    rows = where(how.sparse_activations, M * how.input_copies, N)
    flop_per_s = hardware.vector_peak_flop_per_s.value * used / cores

    def time_s(traffic: Traffic, per_element: Any, share: Any, call_s: Any, overlap: float) -> Any:
        rate: Any = np.nan
        for count in np.unique(used):
            of_count = bandwidth_bytes_per_s(hardware, traffic.total_bytes, int(count), warm)
            rate = where(used == count, of_count, rate)
        issued_s = rows * K * per_element / (used * issue_per_s)
        worked_s = np.maximum(issued_s, 2.0 * M * N * K * share / flop_per_s)
        read_s = traffic.total_bytes / rate
        return call_s + woken_s + (read_s**overlap + worked_s**overlap) ** (1 / overlap)

    sparse_instructions, dense_instructions = instructions
    is_sparse = how.execution != 0
    # 32-bit products are numpy's at their smallest, 16-bit ones those of `kernels.cpu`.
    least_s = where(how.value_bits == 32, dense_call_s, sparse_call_s)
    dense_s = time_s(moved_dense, dense_instructions, 1.0, least_s, DENSE_OVERLAP)
    pruned_s = (
        time_s(moved, sparse_instructions, how.vector_work, sparse_call_s, SPARSE_OVERLAP) + bound.select_s
    )
    return Estimate(where(is_sparse, pruned_s, dense_s), dense_s, np.zeros(np.shape(M), np.int8))


def vector_lanes(hardware: HardwareSpec) -> int:
    """32-bit lanes of a vector register: as the spec says, else the widest that follows from its peak rate."""
    if hardware.vector_lanes is not None:
        return int(hardware.vector_lanes.value)
    per_cycle = hardware.vector_peak_flop_per_s.value / hardware.cores.value / hardware.clock_hz.value
    return int(2 ** max(2, min(4, round(math.log2(max(per_cycle / 4, 1.0))))))
