"""Closed form of the pipeline: cycles, traffic and actions of products on core designs, without a simulation.

DRAM -> L2 -> shared memory -> registers -> (prune) -> decode -> select -> multiply -> accumulate, and write back. The result is
a lower bound of the simulator's cycles for codes of fixed length, and close to them.
"""

import itertools
from typing import Any, NamedTuple

import numpy as np
from numba.np.unsafe import ndarray as fixed
from numpy.typing import NDArray

from hwmodels.tensorcore import services
from hwmodels.tensorcore.critical_path import longest_path
from hwmodels.tensorcore.mapping import POINT, Mapping, choose
from hwmodels.tensorcore.point import Point
from hwmodels.tensorcore.services import (
    DRAM_BYTES,
    GROUPS,
    IN_BLOCKS,
    L2_BYTES,
    OFFERED_BYTES,
    SERVICES,
    SHARED_BYTES,
    STAGES,
    STEPS,
    SUMS,
    WRITE,
)
from hwmodels.tensorcore.waves import WAVES, Waves, add_up
from nmsim.support.jit import njit

LIMITS = (
    *STAGES,
    *(f"{one} and {other} waiting" for one, other in itertools.pairwise(STAGES[:IN_BLOCKS])),
    "latency",
)
"""The meaning of `limit`: a stage, or two stages that wait for the room between them. It is latency if no stage works for
half of the time: filling and emptying the pipeline takes longer."""
LATENCY = len(LIMITS) - 1


class Cycles(NamedTuple):
    """What the closed form says of points; float64, numbers or arrays [n].

    `limit` is the index in `LIMITS` of the stage at which the longest path stays. `<stage>_cycles` is the working time of a
    stage on the slowest core. Traffic in bytes over the whole product: out of DRAM, into DRAM, out of L2, out of the shared
    memories, into the select networks. Actions are multiply-adds that the array has time for, and the effectual ones, on kept
    elements. Further actions are groups decoded (again each time that they are read) and pruned, and partial sums read or
    written.
    """

    cycles: Any
    limit: Any
    dram_cycles: Any
    l2_cycles: Any
    shared_cycles: Any
    prune_cycles: Any
    decode_cycles: Any
    select_cycles: Any
    multiply_cycles: Any
    accumulate_cycles: Any
    write_cycles: Any
    dram_read_bytes: Any
    dram_write_bytes: Any
    l2_read_bytes: Any
    shared_read_bytes: Any
    operand_b_bytes: Any
    macs: Any
    effectual_macs: Any
    decoded_groups: Any
    pruned_groups: Any
    accumulator_accesses: Any
    waves: Any
    tile_rows: Any
    tile_cols: Any
    tile_k: Any
    wave_rows: Any
    wave_cols: Any


_as_tuple: Any = fixed.to_fixed_tuple
N_MAPPING, N_CYCLES = len(Mapping._fields), len(Cycles._fields)
PLACE = {name: place for place, name in enumerate(Cycles._fields)}
STAGE_AT = PLACE["dram_cycles"]
TRAFFIC_AT = PLACE["dram_read_bytes"]
WORK_AT = PLACE["shared_read_bytes"]
MAPPED_AT = PLACE["tile_rows"]


def closed_form(
    points: NDArray[np.float64], mappings: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Evaluate the closed form.

    Parameters
    ----------
    points : float64 array [n, fields of `Point`]
    mappings : float64 array [n, fields of `Mapping`], optional
        Chosen by `hwmodels.tensorcore.mapping.choose` when absent.

    Returns
    -------
    float64 array [n, fields of `Cycles`]
        NaN if no tile fits into the core's memories.

    Examples
    --------
    >>> from hwmodels.tensorcore.record import load_core
    >>> from hwmodels.tensorcore.point import point
    >>> from nmsim.case import Case, GemmShape
    >>> dense = point(load_core("dense"), Case(GemmShape(4096, 4096, 4096)))
    >>> Cycles(*closed_form(np.array([dense]))[0].tolist()).macs == 4096**3
    True
    """
    rows = np.ascontiguousarray(points, np.float64)
    chosen = np.empty((len(rows), N_MAPPING))
    if mappings is not None:
        chosen[:] = mappings
    answers = np.full((len(rows), N_CYCLES), np.nan)
    _fill_table(rows.view(POINT)[:, 0], chosen, mappings is None, np.zeros(1, WAVES)[0], answers)
    return answers


@njit(cache=True, nogil=True, error_model="numpy")
def _fill_table(rows: Any, mappings: Any, by_rule: bool, w: Waves, answers: Any) -> None:
    for row in range(len(rows)):
        p = rows[row]
        m = choose(p) if by_rule else Mapping(*_as_tuple(mappings[row], N_MAPPING))
        if m.tile_k > 0.0:
            _evaluate(p, m, w, answers[row])


@njit(cache=True, error_model="numpy")
def _kinds(waves: float) -> int:
    """Kinds of waves along one loop: the first, those between, the last."""
    return int(min(waves, 3.0))


@njit(cache=True, error_model="numpy")
def _evaluate(p: Point, m: Mapping, w: Waves, answer: Any) -> None:
    """Fill in the answer for one point; `w` is room that the points of a table share."""
    row_waves = np.ceil(p.a_rows / (m.wave_rows * m.tile_rows))
    col_waves = np.ceil(p.b_cols / (m.wave_cols * m.tile_cols))
    w.outer, w.inner = (row_waves, col_waves) if m.inner_cols else (col_waves, row_waves)
    w.outers, w.inners = _kinds(w.outer), _kinds(w.inner)
    w.kinds = w.outers * w.inners
    w.blocks = np.ceil(p.K / m.tile_k)
    w.sums = p.accumulator_buffers
    answer[WORK_AT:MAPPED_AT] = 0.0
    _add_work(p, m, w.work, answer[WORK_AT:MAPPED_AT])
    _fill_kinds(p, m, w)
    for stage in range(IN_BLOCKS):
        w.latency[stage], w.room[stage] = services.latency(p, stage), services.buffered_blocks(p, stage)
    add_up(w)
    answer[0], answer[1] = longest_path(w)
    for stage in range(len(STAGES)):
        answer[STAGE_AT + stage] = w.totals[stage]
    if answer[1] <= WRITE and w.totals[int(answer[1])] < 0.5 * answer[0]:
        answer[1] = LATENCY
    answer[TRAFFIC_AT] = w.totals[DRAM_BYTES]
    answer[TRAFFIC_AT + 1] = np.ceil(p.a_rows * p.b_cols * p.output_bits / 8.0)
    answer[TRAFFIC_AT + 2] = w.totals[L2_BYTES]
    answer[MAPPED_AT - 1] = w.outer * w.inner
    for place_of, value in enumerate((m.tile_rows, m.tile_cols, m.tile_k, m.wave_rows, m.wave_cols)):
        answer[MAPPED_AT + place_of] = value


@njit(cache=True, error_model="numpy")
def _copy(w: Waves, kind: int, to: int) -> None:
    """Give one kind of wave the services of another."""
    for place in range(SERVICES):
        w.full[to, place], w.tail[to, place] = w.full[kind, place], w.tail[kind, place]


@njit(cache=True, error_model="numpy")
def _fill_kind(p: Point, m: Mapping, rows: float, cols: float, last_k: float, w: Waves, kind: int) -> None:
    """Fill in the work of a block of a wave of `rows` x `cols` elements of Y, without DRAM and the write."""
    full, tail = w.full[kind], w.tail[kind]
    row, col = int(rows < m.tile_rows), int(cols < m.tile_cols)
    services.fill(p, m, rows, cols, m.tile_k, w.work[row, col, 0], full)
    if last_k < m.tile_k:
        services.fill(p, m, rows, cols, last_k, w.work[row, col, 1], tail)
    else:
        for place in range(SERVICES):
            tail[place] = full[place]


@njit(cache=True, error_model="numpy")
def _fill_kinds(p: Point, m: Mapping, w: Waves) -> None:
    """Fill in what a block of each kind of wave takes; kinds differ by their edges, and by what comes from DRAM."""
    last_k = p.K - (w.blocks - 1.0) * m.tile_k
    wave_rows, wave_cols = m.wave_rows * m.tile_rows, m.wave_cols * m.tile_cols
    o_total, i_total = (p.a_rows, p.b_cols) if m.inner_cols else (p.b_cols, p.a_rows)
    o_most, i_most = (wave_rows, wave_cols) if m.inner_cols else (wave_cols, wave_rows)
    written, o_before, i_before = 0.0, 0.0, 0.0
    for o in range(w.outers):
        o_place = w.outer - 1.0 if o == w.outers - 1 else float(o)
        o_size = min(o_total - o_place * o_most, o_most)
        for i in range(w.inners):
            i_place = w.inner - 1.0 if i == w.inners - 1 else float(i)
            i_size = min(i_total - i_place * i_most, i_most)
            kind = o * w.inners + i
            # Waves of equal size differ only in their DRAM traffic, which is filled in below.
            if o_size == o_before:
                _copy(w, kind - w.inners, kind)
            elif i > 0 and i_size == i_before:
                _copy(w, kind - 1, kind)
            else:
                rows, cols = (o_size, i_size) if m.inner_cols else (i_size, o_size)
                _fill_kind(p, m, rows, cols, last_k, w, kind)
            i_before = i_size
            full, tail = w.full[kind], w.tail[kind]
            new_a = (i_place if m.inner_cols else o_place) == 0.0 or not m.keep_a
            new_b = (o_place if m.inner_cols else i_place) == 0.0 or not m.keep_b
            services.fill_dram(p, new_a, new_b, written / w.blocks, full)
            services.fill_dram(p, new_a, new_b, written / w.blocks, tail)
            written = np.ceil(o_size * i_size * p.output_bits / 8.0)
            full[WRITE] = tail[WRITE] = np.ceil(written / p.l2_bytes_per_cycle)
            along_outer = w.outer - 2.0 if w.outers == 3 and o == 1 else 1.0
            w.waves[kind] = along_outer * (w.inner - 2.0 if w.inners == 3 and i == 1 else 1.0)
        o_before = o_size
    w.drain = max(0.0, np.ceil(written / p.dram_bytes_per_cycle) - w.full[w.kinds - 1, WRITE])


@njit(cache=True, error_model="numpy")
def _add_work(p: Point, m: Mapping, works: Any, added: Any) -> None:
    """Fill in the work on blocks of whole tiles and of those at the edges, and add it up over all, as in `Cycles`.

    `works` [2, 2, 2, places]: along the rows, the columns and K, whole or left over; only of those that there are.
    """
    row_tiles, last_rows = services.cut(p.a_rows, m.tile_rows)
    col_tiles, last_cols = services.cut(p.b_cols, m.tile_cols)
    blocks, last_k = services.cut(p.K, m.tile_k)
    for row, (rows, along_rows) in enumerate(((m.tile_rows, row_tiles), (last_rows, 1.0))):
        for col, (cols, along_cols) in enumerate(((m.tile_cols, col_tiles), (last_cols, 1.0))):
            for part, (k, along_k) in enumerate(((m.tile_k, blocks), (last_k, 1.0))):
                tiles = along_rows * along_cols
                if tiles * rows * cols * k == 0.0:
                    continue
                times = tiles * along_k
                work = works[row, col, part]
                services.fill_work(p, rows, cols, k, work)
                added[0] += times * work[SHARED_BYTES]
                added[1] += times * work[OFFERED_BYTES]
                added[2] += times * work[STEPS] * p.array_rows * p.array_cols * p.depth
                added[4] += times * work[GROUPS]
                if p.consumer:
                    added[5] += times * services.pruned_groups(p, rows, cols, k)
                added[6] += times * work[SUMS]
    in_groups = p.K % p.a_m
    kept = (p.K - in_groups) / p.a_m * p.a_n + min(p.a_n, in_groups)
    added[3] = p.a_rows * p.b_cols * kept * p.b_n / p.b_m
