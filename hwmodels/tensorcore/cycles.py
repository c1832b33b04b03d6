"""Closed form of the pipeline: cycles, traffic and actions of products on core designs, without a simulation.

DRAM -> L2 -> shared memory -> registers -> (prune) -> decode -> select -> multiply -> accumulate, and write back. The result is
a lower bound of the simulator's cycles for codes of fixed length, and close to them.
"""

import itertools
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numba.np.unsafe import ndarray as fixed
from numpy.typing import NDArray

from hwmodels.tensorcore import services
from hwmodels.tensorcore.critical_path import Waves, count, fill_busy, longest_path
from hwmodels.tensorcore.mapping import Mapping, choose
from hwmodels.tensorcore.point import Point
from hwmodels.tensorcore.services import DRAM_BYTES, IN_BLOCKS, L2_BYTES, SERVICES, STAGES, WRITE

LIMITS = (
    *STAGES,
    *(f"{one} and {other} waiting" for one, other in itertools.pairwise(STAGES[:IN_BLOCKS])),
)
"""What `limit` stands for: a stage, or two stages that wait for the room between them."""


class Cycles(NamedTuple):
    """What the closed form says of points; float64, numbers or arrays [n].

    `limit` is the place in `LIMITS` of what the longest path stays at. `<stage>_cycles` is how long a stage works, the
    slowest core counting. Traffic in bytes over the whole product: out of DRAM, into DRAM, out of L2, out of the shared
    memories, into the select networks. Actions: multiply-adds that the array has time for, and the effectual ones, on kept
    elements; groups decoded (again each time that they are read) and pruned; partial sums read or written.
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


class Scratch(NamedTuple):
    """Room that the points of a table share: the fields of `Waves` by these names."""

    full: Any
    tail: Any
    latency: Any
    room: Any
    places: Any
    values: Any


_as_tuple: Any = fixed.to_fixed_tuple
N_POINT, N_MAPPING, N_CYCLES = len(Point._fields), len(Mapping._fields), len(Cycles._fields)
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
        NaN where no tile fits into the core's memories.

    Examples
    --------
    >>> from hwmodels.tensorcore.core_file import load_core
    >>> from hwmodels.tensorcore.point import point
    >>> from nmsim.records import Case, GemmShape
    >>> dense = point(load_core("dense"), Case(GemmShape(4096, 4096, 4096)))
    >>> Cycles(*closed_form(np.array([dense]))[0]).macs == 4096**3
    True
    """
    rows = np.ascontiguousarray(points, np.float64)
    chosen = np.empty((len(rows), N_MAPPING))
    if mappings is not None:
        chosen[:] = mappings
    answers = np.full((len(rows), N_CYCLES), np.nan)
    _fill_table(rows, chosen, mappings is None, answers)
    return answers


@njit(cache=True, nogil=True, error_model="numpy")
def _fill_table(rows: Any, mappings: Any, by_rule: bool, answers: Any) -> None:
    scratch = Scratch(
        np.empty((3, 3, SERVICES)), np.empty((3, 3, SERVICES)), np.empty(IN_BLOCKS), np.empty(IN_BLOCKS),
        np.empty(4, np.int64), np.empty((3, 4)),
    )  # fmt: skip
    for row in range(len(rows)):
        p = Point(*_as_tuple(rows[row], N_POINT))
        m = choose(p) if by_rule else Mapping(*_as_tuple(mappings[row], N_MAPPING))
        if m.tile_k > 0.0:
            _evaluate(p, m, scratch, answers[row])


@njit(cache=True, error_model="numpy")
def _extent(total: float, tiles: float, place: float) -> float:
    """Rows (or columns) of Y in the wave at `place` along one loop, of at most so many a wave."""
    return min(total - place * tiles, tiles)


@njit(cache=True, error_model="numpy")
def _evaluate(p: Point, m: Mapping, s: Any, answer: Any) -> None:
    full, tail, latency, room = s.full, s.tail, s.latency, s.room
    wave_rows, wave_cols = m.wave_rows * m.tile_rows, m.wave_cols * m.tile_cols
    row_waves, col_waves = np.ceil(p.a_rows / wave_rows), np.ceil(p.b_cols / wave_cols)
    outer, inner = (row_waves, col_waves) if m.inner_cols else (col_waves, row_waves)
    outers, inners = int(min(outer, 3.0)), int(min(inner, 3.0))
    blocks = np.ceil(p.K / m.tile_k)
    last_k = p.K - (blocks - 1.0) * m.tile_k
    dram_read, l2_read, written = 0.0, 0.0, 0.0
    for o in range(outers):
        o_place = outer - 1.0 if o == outers - 1 else float(o)
        for i in range(inners):
            i_place = inner - 1.0 if i == inners - 1 else float(i)
            place = (o_place, i_place) if m.inner_cols else (i_place, o_place)
            rows, cols = _extent(p.a_rows, wave_rows, place[0]), _extent(p.b_cols, wave_cols, place[1])
            first_outer, first_inner = o_place == 0.0, i_place == 0.0
            new_a = (first_inner if m.inner_cols else first_outer) or not m.keep_a
            new_b = (first_outer if m.inner_cols else first_inner) or not m.keep_b
            services.fill(p, m, rows, cols, new_a, new_b, written / blocks, m.tile_k, full[o, i])
            if last_k == m.tile_k:
                tail[o, i, :] = full[o, i, :]
            else:
                services.fill(p, m, rows, cols, new_a, new_b, written / blocks, last_k, tail[o, i])
            written = np.ceil(rows * cols * p.output_bits / 8.0)
            full[o, i, WRITE] = np.ceil(written / p.l2_bytes_per_cycle)
            tail[o, i, WRITE] = full[o, i, WRITE]
            waves = count(o, outers, outer) * count(i, inners, inner)
            dram_read += waves * ((blocks - 1.0) * full[o, i, DRAM_BYTES] + tail[o, i, DRAM_BYTES])
            l2_read += waves * ((blocks - 1.0) * full[o, i, L2_BYTES] + tail[o, i, L2_BYTES])
    for stage in range(IN_BLOCKS):
        latency[stage], room[stage] = services.latency(p, stage), services.buffered_blocks(p, stage)
    drain = max(0.0, np.ceil(written / p.dram_bytes_per_cycle) - full[outers - 1, inners - 1, WRITE])
    w = Waves(
        full, tail, outers, inners, outer, inner, blocks, latency, room, p.accumulator_buffers, drain, s.places, s.values
    )  # fmt: skip
    busy = answer[STAGE_AT : STAGE_AT + WRITE + 1]
    fill_busy(w, busy)
    answer[0], answer[1] = longest_path(w, busy)
    answer[TRAFFIC_AT] = dram_read
    answer[TRAFFIC_AT + 1] = np.ceil(p.a_rows * p.b_cols * p.output_bits / 8.0)
    answer[TRAFFIC_AT + 2] = l2_read
    answer[WORK_AT:MAPPED_AT] = 0.0
    _add_work(p, m, blocks, last_k, answer[WORK_AT:MAPPED_AT])
    answer[MAPPED_AT - 1] = outer * inner
    for place_of, value in enumerate((m.tile_rows, m.tile_cols, m.tile_k, m.wave_rows, m.wave_cols)):
        answer[MAPPED_AT + place_of] = value


@njit(cache=True, error_model="numpy")
def _add_work(p: Point, m: Mapping, blocks: float, last_k: float, work: Any) -> None:
    """Add up what the cores do over all tiles: shared bytes, operand B, multiply-adds, groups, sums, as in `Cycles`."""
    row_tiles, col_tiles = np.ceil(p.a_rows / m.tile_rows), np.ceil(p.b_cols / m.tile_cols)
    last_rows, last_cols = (
        p.a_rows - (row_tiles - 1.0) * m.tile_rows,
        p.b_cols - (col_tiles - 1.0) * m.tile_cols,
    )
    for rows, along_rows in ((m.tile_rows, row_tiles - 1.0), (last_rows, 1.0)):
        for cols, along_cols in ((m.tile_cols, col_tiles - 1.0), (last_cols, 1.0)):
            for k, along_k in ((m.tile_k, blocks - 1.0), (last_k, 1.0)):
                times = along_rows * along_cols * along_k
                if times == 0.0:
                    continue
                laid, walked = services.strips(p, rows, cols), services.steps(p, k)
                sums = p.array_rows * p.array_cols
                work[0] += times * services.shared_bytes(p, rows, cols, k)
                work[1] += times * laid * services.offered_bytes(p, k)
                work[2] += times * laid * walked * sums * p.depth
                work[4] += times * services.decoded_groups(p, rows, cols, k)
                work[6] += times * laid * np.ceil(walked / p.accumulate_steps) * sums * 2.0
    in_groups = p.K % p.a_m
    kept = (p.K - in_groups) / p.a_m * p.a_n + min(p.a_n, in_groups)
    work[3] = p.a_rows * p.b_cols * kept * p.b_n / p.b_m
    if p.consumer:
        work[5] = p.a_rows * np.ceil(p.K / p.a_m) * col_tiles
