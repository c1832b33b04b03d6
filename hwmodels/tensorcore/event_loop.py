"""The event loop of the simulator: when each block of each tile is done at each stage.

A stage begins a block when it is done with the one before, when its input is there, and when there is room behind it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hwmodels.tensorcore.blocks import Integers
from hwmodels.tensorcore.record import SparseTensorCore
from hwmodels.tensorcore.services import IN_BLOCKS
from nmsim.support.jit import njit

Progress = Callable[[float], None]
"""Called with the share of the simulation that is done, 0 to 1."""
EVENTS_A_CALL = 4_000_000
"""Events between two calls of the progress function: about a tenth of a second."""


class Tables(NamedTuple):
    """What blocks take: int64 [row tiles, blocks] of A, [column tiles, blocks] of B, and by pair of tiles.

    `used_by_*`: columns along K in use, by row tile and by wave of them [.., blocks]. `used_at_once`: those fetched for a
    wave, and for all waves after it if L2 keeps them.
    """

    a_dram: Integers
    a_l2: Integers
    a_shared: Integers
    b_dram: Integers
    b_l2: Integers
    b_shared: Integers
    used_by_tile: Integers
    used_by_wave: Integers
    used_at_once: Integers
    steps: Integers
    selects: Integers
    matched: NDArray[np.int32]
    a_groups: Integers
    b_groups: Integers
    pruned: Integers
    offered_bits: Integers
    tile_rows: Integers
    tile_cols: Integers


class Machine(NamedTuple):
    """Numbers of core, case and mapping that the event loop reads. `skip`: B's tables are bytes of one column along K."""

    array_rows: int
    array_cols: int
    fragment_rows: int
    fragment_cols: int
    shared_bytes_per_cycle: int
    selector_groups_per_cycle: int
    decoder_groups_per_cycle: int
    operand_b_bytes_per_cycle: int
    accumulate_steps: int
    sum_bits: int
    accumulator_bytes_per_cycle: int
    accumulator_buffers: int
    l2_bytes_per_cycle: int
    dram_bytes_per_cycle: float
    multicast: bool
    skip: bool
    dual: bool
    output_bits: int
    value_bits: int
    dram_access_bytes: int
    l2_access_bytes: int
    wave_rows: int
    wave_cols: int
    inner_cols: bool
    keep_a: bool
    keep_b: bool


def run(
    tables: Tables, machine: Machine, core: SparseTensorCore, progress: Progress
) -> tuple[int, list[int], list[int], int, int]:
    """Run the event loop, some waves at a time, so that progress can be reported.

    Parameters
    ----------
    tables : Tables
    machine : Machine
    core : SparseTensorCore
        For its latencies and room.
    progress : function

    Returns
    -------
    tuple
        Cycles; busy cycles by stage; totals as the event loop adds them up; events; waves.
    """
    rows, depth = tables.steps.shape
    cols = len(tables.tile_cols)
    row_waves, col_waves = -(-rows // machine.wave_rows), -(-cols // machine.wave_cols)
    waves = row_waves * col_waves
    cores = machine.wave_rows * machine.wave_cols
    latency = np.zeros(IN_BLOCKS, np.int64)
    latency[0], latency[1] = core.dram_latency_cycles, core.l2_latency_cycles
    latency[3] = core.selector_latency_cycles if tables.pruned.any() else 0
    latency[4] = core.decoder_latency_cycles if tables.a_groups.any() or tables.b_groups.any() else 0
    room = np.array([core.l2_blocks, core.shared_blocks, *[core.register_blocks] * (IN_BLOCKS - 2)], np.int64)
    most = int(room.max())
    state = _State(
        np.zeros((IN_BLOCKS, most, cores), np.int64),
        np.zeros((IN_BLOCKS, cores), np.int64),
        np.zeros(cores, np.int64),
        np.zeros((2, most), np.int64),
        np.zeros(machine.accumulator_buffers, np.int64),
        np.full((rows, depth), -1, np.int64),
        np.full((cols, depth), -1, np.int64),
        np.zeros((9, cores), np.int64),
        np.zeros(8, np.int64),
        np.zeros(6, np.int64),
    )
    # A compiled call cannot report progress, so it gets a part of the waves that takes a short time.
    at_once = max(1, EVENTS_A_CALL // (depth * (2 + 6 * cores)))
    for start in range(0, waves, at_once):
        _simulate(
            tables, machine, state, latency, room, row_waves, col_waves, start, min(waves, start + at_once)
        )
        progress(min(1.0, (start + at_once) / waves))
    busy = state.busy.max(axis=1).tolist()
    scalars = state.scalars.tolist()
    return scalars[_WRITE_FREE], busy, state.totals.tolist(), scalars[_EVENTS], waves


class _State(NamedTuple):
    """Where the simulation stands. `done`: when a core was done with a block at a stage [stages, room, cores], a ring.

    `last`: the same of its last block [stages, cores]. `begun`: blocks of each core. `chip`: rings of the end of
    L2's work, and of the time at which the slowest core had read a block from shared memory. `sums`: when each buffer of
    sums was written back. `seen_*`: outer step in which a block was last read from DRAM.
    """

    done: Integers
    last: Integers
    begun: Integers
    chip: Integers
    sums: Integers
    seen_a: Integers
    seen_b: Integers
    busy: Integers
    totals: Integers
    scalars: Integers


_DRAM_FREE, _L2_FREE, _WRITE_FREE, _BLOCK, _WRITTEN, _EVENTS = range(6)


@njit(cache=True, nogil=True)
def _up(a: Any, b: Any) -> Any:
    return (a + b - 1) // b


@njit(cache=True, nogil=True)
def _simulate(
    t: Any, c: Any, s: Any, latency: Any, room: Any, row_waves: int, col_waves: int, first: int, end: int
) -> None:
    n_rows, n_blocks = t.steps.shape
    n_cols = len(t.tile_cols)
    most = s.done.shape[1]
    inner = col_waves if c.inner_cols else row_waves
    totals, scalars = s.totals, s.scalars
    took = np.zeros(IN_BLOCKS, np.int64)
    for wave in range(first, end):
        o, i = wave // inner, wave % inner
        wave_row, wave_col = (o, i) if c.inner_cols else (i, o)
        row_start, col_start = wave_row * c.wave_rows, wave_col * c.wave_cols
        row_end, col_end = min(n_rows, row_start + c.wave_rows), min(n_cols, col_start + c.wave_cols)
        out_bits = 0
        for row in range(row_start, row_end):
            for col in range(col_start, col_end):
                out_bits += t.tile_rows[row] * t.tile_cols[col] * c.output_bits
        for block in range(n_blocks):
            g = scalars[_BLOCK]
            # DRAM to L2, and the sums of the wave before on their way to DRAM.
            read: Any = 0
            epoch_a = o if c.inner_cols else 0
            for row in range(row_start, row_end):
                if not c.keep_a or s.seen_a[row, block] != epoch_a:
                    read += t.a_dram[row, block]
                    s.seen_a[row, block] = epoch_a
            epoch_b = 0 if c.inner_cols else o
            new_cols = 0
            for col in range(col_start, col_end):
                if not c.keep_b or s.seen_b[col, block] != epoch_b:
                    new_cols += t.tile_cols[col]
                    read += 0 if c.skip else t.b_dram[col, block]
                    s.seen_b[col, block] = epoch_b
            if c.skip:
                column_bytes = _up(new_cols * c.value_bits, 8 * c.dram_access_bytes) * c.dram_access_bytes
                read += column_bytes * t.used_at_once[wave_row, block]
            totals[0] += read
            work = np.int64(np.ceil((read + scalars[_WRITTEN] / n_blocks) / c.dram_bytes_per_cycle))
            start = scalars[_DRAM_FREE]
            if g >= room[0]:
                start = max(start, s.chip[0, (g - room[0]) % most])
            scalars[_DRAM_FREE] = start + work
            s.busy[0, 0] += work
            ready = start + work + latency[0]
            # L2 to the shared memories.
            moved = 0
            for row in range(row_start, row_end):
                copies = 1 if c.multicast else col_end - col_start
                moved += copies * t.a_l2[row, block]
            if c.multicast and c.skip:
                wave_cols = 0
                for col in range(col_start, col_end):
                    wave_cols += t.tile_cols[col]
                column_bytes = _up(wave_cols * c.value_bits, 8 * c.l2_access_bytes) * c.l2_access_bytes
                moved += column_bytes * t.used_by_wave[wave_row, block]
            for col in range(col_start, col_end):
                if c.multicast:
                    moved += 0 if c.skip else t.b_l2[col, block]
                else:
                    for row in range(row_start, row_end):
                        moved += t.b_l2[col, block] * (t.used_by_tile[row, block] if c.skip else 1)
            totals[1] += moved
            work = _up(moved, c.l2_bytes_per_cycle)
            start = max(scalars[_L2_FREE], ready)
            if g >= room[1]:
                start = max(start, s.chip[1, (g - room[1]) % most])
            scalars[_L2_FREE] = start + work
            s.chip[0, g % most] = start + work
            s.busy[1, 0] += work
            ready = start + work + latency[1]
            slowest: Any = 0
            core = 0
            for row in range(row_start, row_end):
                passes_b = _up(t.tile_rows[row], c.fragment_rows)
                row_strips = _up(t.tile_rows[row], c.array_rows)
                for col in range(col_start, col_end):
                    passes_a = _up(t.tile_cols[col], c.fragment_cols)
                    col_strips = _up(t.tile_cols[col], c.array_cols)
                    used = t.used_by_tile[row, block] if c.skip else 1
                    shared = t.a_shared[row, block] * passes_a + t.b_shared[col, block] * used * passes_b
                    groups = t.a_groups[row, block] * passes_a + t.b_groups[col, block] * passes_b
                    if c.dual:
                        steps = np.int64(t.matched[row, col, block])
                        selects = steps
                    else:
                        steps, selects = t.steps[row, block] * col_strips, t.selects[row, block] * col_strips
                    strips = row_strips * col_strips
                    feed = strips * _up(t.offered_bits[block], 8 * c.operand_b_bytes_per_cycle)
                    if c.accumulate_steps == 1:
                        sums = steps
                    else:
                        sums = strips * _up(_up(steps, strips), c.accumulate_steps)
                    took[2] = _up(shared, c.shared_bytes_per_cycle)
                    took[3] = _up(t.pruned[row, block] * passes_a, c.selector_groups_per_cycle)
                    took[4] = _up(groups, c.decoder_groups_per_cycle)
                    took[5] = max(selects, feed)
                    took[6] = steps
                    sum_bits = 2 * sums * c.array_rows * c.array_cols * c.sum_bits
                    took[7] = _up(sum_bits, 8 * c.accumulator_bytes_per_cycle)
                    totals[2] += shared
                    totals[3] += strips * t.offered_bits[block]
                    totals[4] += steps
                    totals[5] += groups
                    totals[6] += t.pruned[row, block] * passes_a
                    totals[7] += sums
                    count = s.begun[core]
                    arrived = ready
                    for stage in range(2, IN_BLOCKS):
                        start = max(arrived, s.last[stage, core])
                        if stage + 1 < IN_BLOCKS and count >= room[stage]:
                            start = max(start, s.done[stage + 1, (count - room[stage]) % most, core])
                        if stage == 6 and block == 0 and wave >= c.accumulator_buffers:
                            start = max(start, s.sums[wave % c.accumulator_buffers])
                        finish = start + took[stage]
                        s.last[stage, core] = finish
                        s.done[stage, count % most, core] = finish
                        s.busy[stage, core] += took[stage]
                        arrived = finish + latency[stage]
                    s.begun[core] = count + 1
                    slowest = max(slowest, s.last[2, core])
                    core += 1
            s.chip[1, g % most] = slowest
            scalars[_BLOCK] = g + 1
            scalars[_EVENTS] += 2 + core * (IN_BLOCKS - 2)
        summed: Any = 0
        for busy_core in range(core):
            summed = max(summed, s.last[7, busy_core])
        out_bytes = _up(out_bits, 8)
        work = _up(out_bytes, c.l2_bytes_per_cycle)
        if wave + 1 == row_waves * col_waves:
            work = max(work, np.int64(np.ceil(out_bytes / c.dram_bytes_per_cycle)))
        s.busy[8, 0] += work
        scalars[_WRITE_FREE] = max(scalars[_WRITE_FREE], summed) + work
        s.sums[wave % c.accumulator_buffers] = scalars[_WRITE_FREE]
        scalars[_WRITTEN] = out_bytes
        scalars[_EVENTS] += 1
