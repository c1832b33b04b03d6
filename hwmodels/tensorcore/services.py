"""How long one block of a wave takes at each stage of the pipeline, and the bytes and actions behind it: closed forms.

Compiled, and free of objects: a `Point`, a `Mapping`, and arrays to fill. How blocks lie in memory: A42.
"""

from typing import Any

import numpy as np

from hwmodels.tensorcore.point import Mapping, Point
from nmsim.support.jit import njit

STAGES = ("dram", "l2", "shared", "prune", "decode", "select", "multiply", "accumulate", "write")
"""In the order of the pipeline. `dram`: DRAM to L2. `l2`: L2 to shared memory. `shared`: shared memory to registers.
`prune`: the online selector. `decode`: codes to positions. `select`: operand B to the lanes. `write`: sums to memory."""
DRAM, L2, SHARED, PRUNE, DECODE, SELECT, MULTIPLY, ACCUMULATE, WRITE = range(9)
IN_BLOCKS = 8
"""Stages that work block by block; `write` works once a wave."""
DRAM_BYTES, L2_BYTES, A_BYTES, B_BYTES = 9, 10, 11, 12
"""Indices in an array of services, after the stages: bytes read from DRAM and from L2, and those of A and of B in DRAM."""
SERVICES = 13
SHARED_BYTES, OFFERED_BYTES, STEPS, FEEDS, GROUPS, SUMS, DECODED_ELEMS = range(7)
"""Indices in an array of the work on one block of one tile. First come bytes from shared memory and of operand B, then cycles
of the array and of its feeding. Decoded groups, partial sums, and the dense elements of decoded groups follow."""
WORKS = 7


@njit(cache=True, error_model="numpy")
def whole(size: float, access: float) -> float:
    """Round up to whole accesses."""
    return np.ceil(size / access) * access


@njit(cache=True, error_model="numpy")
def a_bytes(p: Point, rows: float, k: float, access: float) -> float:
    """Bytes of a block of A as it is stored: values and metadata, each in whole accesses."""
    if p.consumer:
        return whole(rows * k * p.value_bits / 8.0, access)
    groups = rows * np.ceil(k / p.a_m)
    values = whole(groups * p.a_n * p.value_bits / 8.0, access)
    if p.a_slot_bits == 0.0 and p.a_mean_bits == 0.0:
        return values
    codes = np.ceil(groups / p.a_groups_per_code)
    bits = np.ceil(codes / p.a_codes_per_slot) * p.a_slot_bits + groups * p.a_mean_bits
    return values + whole(np.ceil(bits / 8.0), access)


@njit(cache=True, error_model="numpy")
def b_bytes(p: Point, cols: float, k: float, tokens: float, access: float) -> float:
    """Bytes of a block of B. Where unneeded columns are left out, those that `tokens` rows of A are expected to need."""
    if p.skip:
        needed = k * (1.0 - (1.0 - p.a_n / p.a_m) ** tokens)
        return needed * whole(cols * p.value_bits / 8.0, access)
    groups = cols * np.ceil(k / p.b_m)
    values = whole(groups * p.b_n * p.value_bits / 8.0, access)
    if p.b_slot_bits == 0.0 and p.b_mean_bits == 0.0:
        return values
    codes = np.ceil(groups / p.b_groups_per_code)
    bits = np.ceil(codes / p.b_codes_per_slot) * p.b_slot_bits + groups * p.b_mean_bits
    return values + whole(np.ceil(bits / 8.0), access)


@njit(cache=True, error_model="numpy")
def steps(p: Point, k: float) -> float:
    """Cycles in which one strip of the array walks through a block."""
    if p.dual:
        return np.ceil(k * p.a_n / p.a_m * p.b_n / p.b_m / p.depth)
    if not p.native:
        return np.ceil(k / p.depth)
    groups = np.ceil(k / p.a_m)
    if p.depth > p.a_n:
        return np.ceil(groups / np.floor(p.depth / p.a_n))
    return groups * np.ceil(p.a_n / p.depth)


@njit(cache=True, error_model="numpy")
def offered_bytes(p: Point, k: float) -> float:
    """Bytes of operand B that the array is offered while one strip walks through a block."""
    if p.dual:
        elems = k * p.b_n / p.b_m
    elif not p.native:
        elems = whole(k, p.depth)
    else:
        groups = np.ceil(k / p.a_m)
        if p.depth > p.a_n:
            groups = whole(groups, np.floor(p.depth / p.a_n))
        elems = groups * p.a_m
    return elems * p.array_cols * p.value_bits / 8.0


@njit(cache=True, error_model="numpy")
def strips(p: Point, rows: float, cols: float) -> float:
    """Times that the array is laid over a tile."""
    return np.ceil(rows / p.array_rows) * np.ceil(cols / p.array_cols)


@njit(cache=True, error_model="numpy")
def decoded_groups(p: Point, rows: float, cols: float, k: float) -> tuple[float, float]:
    """Groups of A and of B that a core decodes for a block: again each time that registers take them in."""
    of_a = of_b = 0.0
    if p.decoded:
        of_a = rows * np.ceil(k / p.a_m) * np.ceil(cols / p.fragment_cols)
    if p.b_m > 1.0:
        of_b = cols * np.ceil(k / p.b_m) * np.ceil(rows / p.fragment_rows)
    return of_a, of_b


@njit(cache=True, error_model="numpy")
def pruned_groups(p: Point, rows: float, cols: float, k: float) -> float:
    """Groups that a core prunes for a block, if it prunes on loading: again each time that registers take them in."""
    return rows * np.ceil(k / p.a_m) * np.ceil(cols / p.fragment_cols)


@njit(cache=True, error_model="numpy")
def shared_bytes(p: Point, rows: float, cols: float, k: float) -> float:
    """Bytes that registers take in from shared memory for a block."""
    access = p.shared_access_bytes
    of_a = a_bytes(p, rows, k, access) * np.ceil(cols / p.fragment_cols)
    return of_a + b_bytes(p, cols, k, rows, access) * np.ceil(rows / p.fragment_rows)


@njit(cache=True, error_model="numpy")
def fill_work(p: Point, rows: float, cols: float, k: float, work: Any) -> None:
    """Fill in the work on one block of one tile."""
    laid, walked = strips(p, rows, cols), steps(p, k)
    work[SHARED_BYTES] = shared_bytes(p, rows, cols, k)
    offered = offered_bytes(p, k)
    work[OFFERED_BYTES] = laid * offered
    work[STEPS] = laid * walked
    work[FEEDS] = laid * np.ceil(offered / p.operand_b_bytes_per_cycle)
    of_a, of_b = decoded_groups(p, rows, cols, k)
    work[GROUPS] = of_a + of_b
    work[DECODED_ELEMS] = of_a * p.a_m + of_b * p.b_m
    work[SUMS] = laid * np.ceil(walked / p.accumulate_steps) * p.array_rows * p.array_cols * 2.0


@njit(cache=True, error_model="numpy")
def cut(total: float, part: float) -> tuple[float, float]:
    """Cut a length into whole parts: their number, and the length of what is left over."""
    parts = np.floor(total / part)
    return parts, total - parts * part


@njit(cache=True, error_model="numpy")
def _wave_bytes(
    p: Point, m: Mapping, rows: float, cols: float, k: float, access: float, tokens: float
) -> tuple[float, float]:
    """Bytes of one block of all tiles of a wave, each once. Of B the part counts that `tokens` rows of A need."""
    row_tiles, last_rows = cut(rows, m.tile_rows)
    of_a, of_b = 0.0, 0.0
    if row_tiles > 0.0:
        of_a += row_tiles * a_bytes(p, m.tile_rows, k, access)
    if last_rows > 0.0:
        of_a += a_bytes(p, last_rows, k, access)
    if p.skip:  # B lies along its columns, so that one of them is read in one go
        return of_a, b_bytes(p, cols, k, tokens, access)
    col_tiles, last_cols = cut(cols, m.tile_cols)
    if col_tiles > 0.0:
        of_b += col_tiles * b_bytes(p, m.tile_cols, k, tokens, access)
    if last_cols > 0.0:
        of_b += b_bytes(p, last_cols, k, tokens, access)
    return of_a, of_b


@njit(cache=True, error_model="numpy")
def _each_core_bytes(p: Point, m: Mapping, rows: float, cols: float, k: float, access: float) -> float:
    """Bytes of one block of all tiles of a wave, where each core fetches its own."""
    of_a, of_b = _wave_bytes(p, m, rows, cols, k, access, rows)
    if not p.skip:
        return of_a * np.ceil(cols / m.tile_cols) + of_b * np.ceil(rows / m.tile_rows)
    row_tiles, last_rows = cut(rows, m.tile_rows)
    col_tiles, last_cols = cut(cols, m.tile_cols)
    total = of_a * np.ceil(cols / m.tile_cols)
    for of_rows, along_rows in ((m.tile_rows, row_tiles), (last_rows, 1.0)):
        for of_cols, along_cols in ((m.tile_cols, col_tiles), (last_cols, 1.0)):
            if along_rows * along_cols * of_rows * of_cols > 0.0:
                total += along_rows * along_cols * b_bytes(p, of_cols, k, of_rows, access)
    return total


@njit(cache=True, error_model="numpy")
def fill_dram(p: Point, new_a: bool, new_b: bool, written_bytes: float, services: Any) -> None:
    """Fill in what one block of a wave takes from DRAM, behind `fill`.

    `new_a`, `new_b`: it comes from DRAM. `written_bytes` of the wave before go there meanwhile.
    """
    read = (services[A_BYTES] if new_a else 0.0) + (services[B_BYTES] if new_b else 0.0)
    services[DRAM_BYTES] = read
    services[DRAM] = np.ceil((read + written_bytes) / p.dram_bytes_per_cycle)


@njit(cache=True, error_model="numpy")
def fill(p: Point, m: Mapping, rows: float, cols: float, k: float, work: Any, services: Any) -> None:
    """Fill in what one block of a wave of `rows` x `cols` elements of Y takes, in cycles, the slowest core counting.

    `work` is that of its largest tile.
    """
    # What L2 keeps of B is fetched once, for all rows that will need it.
    tokens = p.a_rows if m.keep_b else rows
    services[A_BYTES], services[B_BYTES] = _wave_bytes(p, m, rows, cols, k, p.dram_access_bytes, tokens)
    if p.multicast:
        of_a, of_b = _wave_bytes(p, m, rows, cols, k, p.l2_access_bytes, rows)
        services[L2_BYTES] = of_a + of_b
    else:
        services[L2_BYTES] = _each_core_bytes(p, m, rows, cols, k, p.l2_access_bytes)
    services[L2] = np.ceil(services[L2_BYTES] / p.l2_bytes_per_cycle)
    services[SHARED] = np.ceil(work[SHARED_BYTES] / p.shared_bytes_per_cycle)
    services[PRUNE] = 0.0
    if p.consumer:
        groups = pruned_groups(p, min(m.tile_rows, rows), min(m.tile_cols, cols), k)
        services[PRUNE] = np.ceil(groups * p.a_m / p.selector_elements_per_cycle)
    services[DECODE] = np.ceil(work[DECODED_ELEMS] / p.decoder_elements_per_cycle)
    services[SELECT] = max(work[STEPS], work[FEEDS])
    services[MULTIPLY] = work[STEPS]
    services[ACCUMULATE] = np.ceil(work[SUMS] * p.accumulator_bits / 8.0 / p.accumulator_bytes_per_cycle)


@njit(cache=True, error_model="numpy")
def latency(p: Point, stage: int) -> float:
    """Cycles between the end of a stage's work on a block and the moment the next stage has it."""
    if stage == DRAM:
        return p.dram_latency_cycles
    if stage == L2:
        return p.l2_latency_cycles
    if stage == PRUNE and p.consumer:
        return p.selector_latency_cycles
    if stage == DECODE and (p.decoded or p.b_m > 1.0):
        return p.decoder_latency_cycles
    return 0.0


@njit(cache=True, error_model="numpy")
def buffered_blocks(p: Point, stage: int) -> float:
    """Blocks that fit between a stage and the next."""
    if stage == DRAM:
        return p.l2_blocks
    return p.shared_blocks if stage == L2 else p.register_blocks
