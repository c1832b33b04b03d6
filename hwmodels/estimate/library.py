"""How long a vendor's matrix library takes: the best tile shape, its waves over the cores, memory and power.

A library cuts Y[tokens, rows] into tiles, gives each to a thread block, and each block steps along K. The estimate
tries the shapes below as the library's own selection does, and takes the fastest. Blocks run in whole waves over the
cores. Each block is as long as its slower side: loading, or multiplying with the operand fetch that is not hidden. K may
be split among several blocks. A product also takes at least the time of its bytes from DRAM, less
what the cache keeps between back-to-back calls. It takes at least its energy over the power of the board.

The sparse libraries differ, as published times show. The dense operand does not shrink although the arithmetic does, so
its fetch counts double. With 16-bit values, those of some generations read the weights again for each wave of blocks, if the
weights are larger than the cache. A generation has its own share of the peak, its own wait
per element of K, and may split K or not: `hwmodels.machine.libraries`.
"""

from math import inf
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hwmodels.estimate.constants import Constants
from hwmodels.machine.chip import REFERENCE_FLOP_PER_CORE_CYCLE, Chip
from hwmodels.machine.libraries import CACHE, DRAM, LATENCY, LAUNCH, PARTS, RATE, RESTREAM_TOKENS, VALUE_TYPES
from nmsim.support.jit import njit

Array = NDArray[np.float64]

TILE_TOKENS = (256, 128, 64, 32, 16)
TILE_ROWS = (256, 128, 64)
SPLITS = (1, 2, 4, 8)
LARGEST_TILE = 128 * 256
LARGEST_SPLIT_TILE = 64 * 256
"""Largest tile of Y whose K is shared by more than two blocks."""
SMALL_TILES = 8
"""A library does not cut tokens into more than so many tiles of 16 or 32: it has larger ones for that."""
K_STEP = 64
"""Elements of K in one stage of a block's pipeline."""
VECTOR_KIND = VALUE_TYPES.index("fp32")
"""Place of the value type that runs on the vector lanes."""
ISSUE_SLOTS = 128
"""Lanes that a GPU's core starts an instruction on in a cycle: four warps of 32 since Volta (CUDA C++ Programming Guide)."""
LINE_BYTES = 128
"""Rows of K that are no whole lines of the cache slow an 8-bit 2:4 library (A67)."""


class Product(NamedTuple):
    """Products for a library, numbers or one array entry each: what is stored sparse (or is the weight) against what is dense.

    `tokens`, `rows` and `K` are whole numbers. `stored_bytes_per_elem` counts values and metadata of an element of the
    stored operand before pruning. `flop_per_s` is the rate at which the unit does the **dense** product. `energy_ratio`
    multiplies the joules of a dense 16-bit operation. `kind` is the place of the value type in
    `hwmodels.machine.libraries.VALUE_TYPES`.
    """

    tokens: Any
    rows: Any
    K: Any
    stored_bytes_per_elem: Any
    value_bytes: Any
    output_bytes: Any
    flop_per_s: Any
    energy_ratio: Any
    sparse: Any
    warm: Any
    kind: Any


def norm(*times_s: Any) -> Any:
    """Overlap stages: the fourth-power mean of times, near the largest, above it if two are close (A24)."""
    total = 0.0
    for time_s in times_s:
        square = time_s * time_s
        total = total + square * square
    return np.sqrt(np.sqrt(total))


def library_time_s(product: Product, chip: Chip, constants: Constants, needed: Any = True) -> Any:
    """Estimate library products.

    Parameters
    ----------
    product : Product
        Numbers, or arrays [rows].
    chip : Chip
    constants : Constants
    needed : bool or bool array [rows]
        Products to look at; the others come back as infinite.

    Returns
    -------
    float or float64 array [rows]
        Seconds of one product.

    Source
    ------
    `docs/explanation/estimate.md`; tiles and waves as in LLMCompass (ISCA 2024), with the constants fitted.
    """
    one: Any = _product_s
    fill: Any = _fill
    if not isinstance(product.tokens, np.ndarray):
        if not needed:
            return inf
        return one(*(kind(value) for kind, value in zip(_KINDS, product, strict=True)), chip, constants)
    time_s = np.full(len(product.tokens), inf)
    columns: Any = (np.ascontiguousarray(column, kind) for kind, column in zip(_KINDS, product, strict=True))
    fill(*columns, np.full(time_s.shape, needed), chip, constants, time_s)
    return time_s


_KINDS: Any = (*[int] * 3, *[float] * 5, *[bool] * 2, int)
"""Types of the fields of `Product`."""


_norm: Any = njit(error_model="numpy")(norm)


@njit(cache=True, nogil=True, error_model="numpy")
def _fill(
    tokens: Any, rows: Any, K: Any, stored: Any, values: Any, outputs: Any, rates: Any, energies: Any,
    sparse: Any, warm: Any, kinds: Any, needed: Any, chip: Any, constants: Any, time_s: Any,
) -> None:  # fmt: skip
    for i in range(len(tokens)):
        if needed[i]:
            time_s[i] = _product_s(
                tokens[i], rows[i], K[i], stored[i], values[i], outputs[i], rates[i], energies[i],
                sparse[i], warm[i], kinds[i], chip, constants,
            )  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _product_s(
    tokens: int, rows: int, K: int, stored: float, values: float, output: float, rate: float, energy: float,
    sparse: bool, warm: bool, kind: int, chip: Any, constants: Any,
) -> float:  # fmt: skip
    side = 1 if sparse else 0
    traits = chip.libraries[kind, side]
    stored_bytes = stored * rows * K
    total_bytes = stored_bytes + values * tokens * K + output * tokens * rows
    dram_bytes = total_bytes
    if warm:  # what outgrows the cache, when the product is called back to back
        room = constants.cache_residency_share * chip.cache_bytes * traits[CACHE]
        beyond = (total_bytes - room) / (constants.cache_overflow_ratio * room)
        dram_bytes *= min(max(beyond, 0.0), 1.0)
    reached = (constants.sparse_matrix_share if sparse else constants.matrix_share) * traits[RATE]
    if kind == VECTOR_KIND:
        # A core with as many lanes as issue slots has none left for loads and addresses (A69). What it cannot start, it need
        # not fetch either, so the rate itself is lower.
        started = 2.0 * chip.cores * chip.clock_hz * ISSUE_SLOTS / (1.0 + constants.vector_issue_ratio)
        rate, reached = min(rate, started), 1.0
    dense_rate = rate * values / 2 / (2 if sparse else 1)
    per_core_cycle = dense_rate / (chip.cores * chip.clock_hz)
    if traits[RESTREAM_TOKENS] < tokens:
        # Each wave of tiles reads the weights again, except the part that the cache holds.
        passes = np.ceil(tokens / traits[RESTREAM_TOKENS])
        shared = max(1.0, chip.cores * traits[RESTREAM_TOKENS] / rows)
        outgrown = max(
            0.0, 1.0 - constants.cache_restream_ratio * chip.cache_bytes * traits[CACHE] / stored_bytes
        )
        dram_bytes += stored_bytes * (max(1.0, passes / shared) - 1.0) * outgrown
    share = constants.sparse_dram_share if sparse else constants.dram_share
    memory_s = dram_bytes / (chip.dram_bytes_per_s * share * traits[DRAM])
    joules = 2.0 * tokens * rows * K * energy
    joules *= constants.tensor_energy_joules_per_flop * chip.process_energy_scale
    # A core of a later generation has an operand path that grew with its rate; a slower one has time to spare.
    relative = per_core_cycle / REFERENCE_FLOP_PER_CORE_CYCLE
    fetch, multicast = constants.operand_fetch_share * min(relative, 1.0), max(relative, 1.0)
    tiles_s = _tiles_s(
        tokens, rows, K, stored, values, rate, sparse, reached, fetch, multicast, traits, chip, constants
    )
    launch_s = constants.sparse_library_launch_s if sparse else constants.library_launch_s
    power_s = joules / chip.power_watts
    # A board holds its clock for a while: products too short to heat it escape the limit (A66).
    long = max(power_s, max(tiles_s, memory_s))
    power_s *= long / (long + constants.power_window_s)
    return launch_s * traits[LAUNCH] + _norm(tiles_s, memory_s, power_s)  # type: ignore[no-any-return]


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _tiles_s(
    tokens: int, rows: int, K: int, stored: float, values: float, rate: float, sparse: bool, reached: float,
    fetch: float, multicast: float, traits: Any, chip: Any, constants: Any,
) -> float:  # fmt: skip
    """Time of the fastest tile shape."""
    cache_bytes_per_s = constants.cache_bandwidth_share * chip.cache_bytes_per_s
    core_s_per_flop = chip.cores / rate
    if sparse:
        if values == 1.0 and K % LINE_BYTES:
            reached *= constants.unaligned_share
        latency_s = constants.sparse_element_latency_s * traits[LATENCY]
        stored_ratio, fetch = stored / values, 2.0 * fetch
    else:
        latency_s, stored_ratio = constants.element_latency_s * traits[LATENCY], 1.0
    most_parts = traits[PARTS]
    best_s = inf
    for tile_tokens in TILE_TOKENS:
        token_tiles = np.ceil(tokens / tile_tokens)
        if (token_tiles == 1 and tile_tokens >= 2 * tokens and tile_tokens > 16) or (
            tile_tokens <= 32 and token_tiles > SMALL_TILES
        ):
            continue
        for tile_rows in TILE_ROWS:
            tiles = token_tiles * np.ceil(rows / tile_rows)
            shape = 64.0 * (stored_ratio / tile_tokens + 1.0 / tile_rows)
            # Boards that run above the quoted clock reach more than the share that is left; nothing beats the peak.
            slowed = max(1.0, (1.0 + fetch * shape) / reached)
            step_flop_s = 2.0 * tile_tokens * tile_rows * core_s_per_flop * slowed
            # Whole waves of whole steps take no less than their share of all cores, so most shapes need no closer look.
            if tile_tokens * tile_rows > LARGEST_TILE or tiles * K * step_flop_s >= best_s * chip.cores:
                continue
            step_bytes = stored * tile_rows + values * min(tile_tokens, tokens)
            for parts in SPLITS:
                if parts > most_parts or (parts > 2 and tile_tokens * tile_rows > LARGEST_SPLIT_TILE):
                    break
                blocks = tiles * parts
                depth = np.ceil(K / (parts * K_STEP)) * K_STEP
                cache_s = step_bytes * min(blocks, chip.cores) / (cache_bytes_per_s * multicast)
                loads_s = max(latency_s, cache_s)
                waves = np.ceil(blocks / chip.cores)
                rest_s = waves * constants.tile_overhead_s
                if parts > 1:
                    rest_s += constants.split_overhead_s + 8.0 * parts * tokens * rows / cache_bytes_per_s
                if waves * depth * max(step_flop_s, loads_s) + rest_s < best_s:
                    best_s = min(best_s, waves * depth * _norm(step_flop_s, loads_s) + rest_s)
    return best_s
