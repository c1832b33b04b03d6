"""Simulator of the pipeline, block by block and stage by stage, on real masks.

Every block of every tile passes every stage at a recorded time. At that time the stage is free, its input has arrived, and
there is room behind it. Room is bounded, so a slow stage delays those before it. The work of a block at a stage is counted in
the mask (`hwmodels.tensorcore.blocks`). It depends on kept elements, code lengths, collisions in banks, and rows that keep
more than others.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hwmodels.tensorcore import blocks
from hwmodels.tensorcore.blocks import BoolArray, Cut, Integers
from hwmodels.tensorcore.latency import decoder_cycles, passes_by
from hwmodels.tensorcore.point import Mapping, Point, execution, mapping, point
from hwmodels.tensorcore.record import SparseTensorCore, load_core
from hwmodels.tensorcore.services import IN_BLOCKS, STAGES
from hwmodels.tensorcore.trace import Trace, empty_trace
from nmsim.case import VALUE_BITS, Case
from nmsim.errors import RowError
from nmsim.format import SparseFormat, sparse_format
from nmsim.mask import complete, prune
from nmsim.pattern import Pattern
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
    """Numbers of core, case and mapping that the event loop reads. `skip`: B's tables are bytes of one column along K.

    `a_group_elems`, `b_group_elems`: M of the groups that are decoded.
    """

    array_rows: int
    array_cols: int
    fragment_rows: int
    fragment_cols: int
    shared_bytes_per_cycle: int
    selector_elements_per_cycle: int
    decoder_elements_per_cycle: int
    a_group_elems: int
    b_group_elems: int
    operand_b_bytes_per_cycle: int
    decoder_latency_cycles: int
    selector_latency_cycles: int
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
    tables: Tables, machine: Machine, core: SparseTensorCore, progress: Progress, traced: bool = False
) -> tuple[int, list[int], list[int], int, int, Trace | None]:
    """Run the event loop, some waves at a time, so that progress can be reported.

    Parameters
    ----------
    tables : Tables
    machine : Machine
    core : SparseTensorCore
        For its latencies of memories and its room.
    progress : function
    traced : bool
        Whether times are kept.

    Returns
    -------
    tuple
        Cycles; busy cycles by stage; totals as the event loop adds them up; events; waves; times if traced.

    Raises
    ------
    RowError
        A trace would be too large.
    """
    rows, depth = tables.steps.shape
    cols = len(tables.tile_cols)
    row_waves, col_waves = -(-rows // machine.wave_rows), -(-cols // machine.wave_cols)
    waves = row_waves * col_waves
    cores = machine.wave_rows * machine.wave_cols
    latency = np.zeros(IN_BLOCKS, np.int64)
    latency[0], latency[1] = core.dram_latency_cycles, core.l2_latency_cycles
    latency[3] = machine.selector_latency_cycles if tables.pruned.any() else 0
    latency[4] = machine.decoder_latency_cycles if tables.a_groups.any() or tables.b_groups.any() else 0
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
    trace = times = None
    if traced:
        trace = empty_trace(
            waves, depth, cores=cores, latency=latency, room=room, buffers=machine.accumulator_buffers
        )
        times = (trace.start_cycle, trace.duration_cycles, trace.write_start_cycle, trace.write_cycles)
    # A compiled call cannot report progress, so it gets a part of the waves that takes a short time.
    at_once = max(1, EVENTS_A_CALL // (depth * (2 + 6 * cores)))
    for start in range(0, waves, at_once):
        end = min(waves, start + at_once)
        _simulate(tables, machine, state, latency, room, row_waves, col_waves, start, end, times)
        progress(min(1.0, (start + at_once) / waves))
    busy = state.busy.max(axis=1).tolist()
    scalars = state.scalars.tolist()
    return scalars[_WRITE_FREE], busy, state.totals.tolist(), scalars[_EVENTS], waves, trace


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
    t: Any, c: Any, s: Any, latency: Any, room: Any, row_waves: int, col_waves: int, first: int, end: int,
    times: Any,
) -> None:  # fmt: skip
    # Without a trace `times` is None. Then the compiler leaves out each `if times is not None`.
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
            if times is not None:
                _keep(times, g, 0, c.wave_rows * c.wave_cols, start, work)
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
            if times is not None:
                _keep(times, g, 1, c.wave_rows * c.wave_cols, start, work)
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
                    of_a, of_b = t.a_groups[row, block] * passes_a, t.b_groups[col, block] * passes_b
                    decoded_elems = of_a * c.a_group_elems + of_b * c.b_group_elems
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
                    pruned = t.pruned[row, block] * passes_a
                    took[3] = _up(pruned * c.a_group_elems, c.selector_elements_per_cycle)
                    took[4] = _up(decoded_elems, c.decoder_elements_per_cycle)
                    took[5] = max(selects, feed)
                    took[6] = steps
                    sum_bits = 2 * sums * c.array_rows * c.array_cols * c.sum_bits
                    took[7] = _up(sum_bits, 8 * c.accumulator_bytes_per_cycle)
                    totals[2] += shared
                    totals[3] += strips * t.offered_bits[block]
                    totals[4] += steps
                    totals[5] += of_a + of_b
                    totals[6] += pruned
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
                        if times is not None:
                            times[0][g, stage, core], times[1][g, stage, core] = start, took[stage]
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
        start = max(scalars[_WRITE_FREE], summed)
        if times is not None:
            times[2][wave], times[3][wave] = start, work
        scalars[_WRITE_FREE] = start + work
        s.sums[wave % c.accumulator_buffers] = scalars[_WRITE_FREE]
        scalars[_WRITTEN] = out_bytes
        scalars[_EVENTS] += 1


@njit(cache=True, inline="always")
def _keep(times: Any, block: int, stage: int, cores: int, start: int, work: int) -> None:
    """Note the times of a stage that serves all cores at once."""
    for core in range(cores):
        times[0][block, stage, core], times[1][block, stage, core] = start, work


@dataclass(frozen=True)
class Simulation:
    """What a simulation saw. Cycles, bytes and counts as in `Cycles`; `busy_cycles` by stage, of the busiest core.

    `trace` is there if it was asked for.
    """

    cycles: int
    busy_cycles: dict[str, int]
    dram_read_bytes: int
    l2_read_bytes: int
    shared_read_bytes: int
    operand_b_bytes: int
    macs: int
    effectual_macs: int
    decoded_groups: int
    pruned_groups: int
    accumulator_accesses: int
    waves: int
    events: int
    trace: Trace | None = field(default=None, compare=False, repr=False)


def random_mask(rows: int, K: int, pattern: Pattern, seed: int = 0) -> BoolArray:
    """Draw a mask in which every choice of N of M is equally likely: bool [rows, K].

    Examples
    --------
    >>> random_mask(4, 32, Pattern(8, 16)).sum()
    np.int64(64)
    """
    rng = np.random.default_rng(seed)
    return prune(rng.random((rows, K), np.float32), pattern)


def simulate(
    case: Case,
    core: str | Path | SparseTensorCore,
    *,
    mask: BoolArray | None = None,
    other: Pattern | str | None = None,
    other_mask: BoolArray | None = None,
    tile: tuple[int, int] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    trace: bool = False,
) -> Simulation:
    """Simulate one product on one core design.

    Parameters
    ----------
    case : Case
        With a pattern, or without one: then dense, or with a mask unstructured, stored behind a bitmask.
    core : str, Path or SparseTensorCore
        As for `load_core`.
    mask : bool array [rows of A, K], optional
        What A keeps: W [N, K], or X [M, K] for sparse activations. Drawn at random if a pattern needs one.
    other : Pattern or its text, optional
        Of the other operand, on a dual-sided core.
    other_mask : bool array [columns of B, K], optional
        What B keeps.
    tile : (rows of A, columns of B), optional
        Chosen by the rule of the closed form when absent.
    seed : int
        Of masks that are drawn.
    progress : function, optional
    trace : bool
        Whether to keep start and duration of each stage's work on each block, as a `Trace`.

    Returns
    -------
    Simulation

    Raises
    ------
    RowError
        As `point` and `mapping`; a mask of another shape or type, or without a pattern on a core that skips nothing. A
        trace of more than `hwmodels.tensorcore.trace.MOST_ENTRIES` numbers.
    PatternError
        A mask that does not follow the pattern.

    Source
    ------
    `docs/explanation/tensor-core.md`.

    Examples
    --------
    >>> from nmsim.case import GemmShape
    >>> case = Case(GemmShape(256, 1024, 1024), "8:16")
    >>> simulate(case, "flexible-8x16").effectual_macs == 256 * 1024 * 1024 // 2
    True
    """
    core, other = load_core(core), Pattern.parse(other) if isinstance(other, str) else other
    p = point(core, case, other)
    m = mapping(p, tile)
    rows, cols, K = int(p.a_rows), int(p.b_cols), case.shape.K
    kept = _checked_mask("mask", mask, (rows, K))
    if kept is not None and case.pattern is None and not core.patterns:
        raise RowError(f"mask without a pattern: {core.id} skips nothing; expected a core with patterns")
    if kept is None and case.pattern is not None:
        kept = random_mask(rows, K, case.pattern, seed)
    other_kept = _checked_mask("other_mask", other_mask, (cols, K))
    if other is None and other_kept is not None:
        raise RowError("other_mask: expected a second pattern as well, given as other=")
    if other is not None and other_kept is None:
        # Another seed than the first mask's: equal masks would meet in every position.
        other_kept = random_mask(cols, K, other, seed + 1)
    product = _Product(case, core, p, m, kept, other, other_kept)
    tables, pairs = product.tables()
    cycles, busy, totals, events, waves, times = run(
        tables, product.machine(), core, progress or (lambda share: None), trace
    )
    return Simulation(
        cycles=cycles,
        busy_cycles=dict(zip(STAGES, busy, strict=True)),
        dram_read_bytes=totals[0],
        l2_read_bytes=totals[1],
        shared_read_bytes=totals[2],
        operand_b_bytes=totals[3] // 8,
        macs=totals[4] * core.array_rows * core.array_cols * core.depth(VALUE_BITS[case.dtype]),
        effectual_macs=pairs,
        decoded_groups=totals[5],
        pruned_groups=totals[6],
        accumulator_accesses=totals[7] * core.array_rows * core.array_cols * 2,
        waves=waves,
        events=events,
        trace=times,
    )


def _checked_mask(name: str, kept: Any, shape: tuple[int, int]) -> BoolArray | None:
    if kept is None:
        return None
    kept = np.asarray(kept)
    if kept.dtype != np.bool_ or kept.shape != shape:
        raise RowError(
            f"{name} of type {kept.dtype} and shape {list(kept.shape)}: expected bool {list(shape)}, rows by K"
        )
    return np.ascontiguousarray(kept)


@dataclass(frozen=True)
class _Product:
    """A case with its masks, cut up, on its way to the tables of the event loop."""

    case: Case
    core: SparseTensorCore
    point: Point
    mapping: Mapping
    kept: BoolArray | None
    other: Pattern | None
    other_kept: BoolArray | None

    @property
    def a(self) -> Cut:
        """Tiles and blocks of A."""
        return self._cut(self.point.a_rows, self.mapping.tile_rows)

    @property
    def b(self) -> Cut:
        """Tiles and blocks of B."""
        return self._cut(self.point.b_cols, self.mapping.tile_cols)

    def _cut(self, rows: float, tile: float) -> Cut:
        return Cut(int(rows), self.case.shape.K, int(tile), int(self.mapping.tile_k))

    @property
    def bits(self) -> int:
        """Bits of a value."""
        return VALUE_BITS[self.case.dtype]

    @property
    def group_elems(self) -> int:
        """Elements of a group of A. A mask without a pattern is decoded by the decoder of the widest one."""
        if self.case.pattern is not None:
            return self.case.pattern.m
        return max((one.m for one in self.core.patterns), default=1) if self.kept is not None else 1

    @property
    def passes_by(self) -> bool:
        """Whether codes of A go to the select network as they are."""
        how = "dual" if self.other is not None else execution(self.core, self.case)
        return self.case.format is not None and passes_by(self.case.format.encoding, how)

    @property
    def decoder_latency_cycles(self) -> int:
        """Of the point; or of a bitmask of the widest pattern, if the mask follows none."""
        if self.case.pattern is not None or self.kept is None:
            return int(self.point.decoder_latency_cycles)
        widest = max(self.core.patterns, key=lambda one: one.m)
        return decoder_cycles(self.core, sparse_format(widest, encoding="bitmask"))

    def machine(self) -> Machine:
        """Numbers of core, case and mapping for the event loop."""
        core, p, m = self.core, self.point, self.mapping
        return Machine(
            core.array_rows, core.array_cols, core.fragment_rows, core.fragment_cols, core.shared_bytes_per_cycle,
            max(1, core.selector_elements_per_cycle), core.decoder_elements_per_cycle,
            self.group_elems, self.other.m if self.other else 1, core.operand_b_bytes_per_cycle,
            self.decoder_latency_cycles, int(p.selector_latency_cycles), core.accumulate_steps, core.accumulator_bits,
            core.accumulator_bytes_per_cycle, core.accumulator_buffers, core.l2_bytes_per_cycle,
            core.dram_bytes_per_cycle, core.multicast, bool(p.skip), bool(p.dual),
            int(p.output_bits), int(p.value_bits), core.dram_access_bytes, core.l2_access_bytes,
            int(m.wave_rows), int(m.wave_cols), bool(m.inner_cols), bool(m.keep_a), bool(m.keep_b),
        )  # fmt: skip

    @property
    def accesses(self) -> tuple[int, int, int]:
        """Bytes of an access to DRAM, L2 and shared memory."""
        return self.core.dram_access_bytes, self.core.l2_access_bytes, self.core.shared_access_bytes

    def tables(self) -> tuple[Tables, int]:
        """Count what all blocks take, and the pairs of kept elements that are multiplied."""
        a, b, core = self.a, self.b, self.core
        steps, selects, offered, matched, pairs = self._steps()
        a_groups = np.zeros((len(a.row_starts), len(a.k_starts)), np.int64)
        b_groups = np.zeros((len(b.row_starts), len(b.k_starts)), np.int64)
        pruned = np.zeros_like(a_groups)
        if self.case.pattern is not None and self.point.consumer:
            pruned = blocks.group_counts(a, self.case.pattern.m)
        elif self.kept is not None and not self.passes_by:
            a_groups = blocks.group_counts(a, self.group_elems) if self.group_elems > 1 else a_groups
        if self.other is not None:
            b_groups = blocks.group_counts(b, self.other.m)
        used_by_tile = used_by_wave = np.multiply.outer(np.ones(len(a.row_starts), np.int64), a.block_k)
        if self.point.skip and self.kept is not None:
            used_by_tile = blocks.used_columns(self.kept, a)
            # L2 fetches a column once for all tiles of a wave, so its columns are those of the whole wave.
            wide = Cut(a.rows, a.K, a.tile * int(self.mapping.wave_rows), a.depth)
            used_by_wave = blocks.used_columns(self.kept, wide)
        used_at_once = used_by_wave
        if self.point.skip and self.kept is not None and self.mapping.keep_b:
            everyone = blocks.used_columns(self.kept, Cut(a.rows, a.K, a.rows, a.depth))
            used_at_once = np.repeat(everyone, len(used_by_wave), axis=0)
        of_a, of_b = self._bytes_of_a(), self._bytes_of_b()
        found = Tables(
            a_dram=of_a[0],
            a_l2=of_a[1],
            a_shared=of_a[2],
            b_dram=of_b[0],
            b_l2=of_b[1],
            b_shared=of_b[2],
            used_by_tile=used_by_tile,
            used_by_wave=used_by_wave,
            used_at_once=used_at_once,
            steps=steps,
            selects=selects,
            matched=matched,
            a_groups=a_groups,
            b_groups=b_groups,
            pruned=pruned,
            offered_bits=np.asarray(offered * core.array_cols * self.bits, np.int64),
            tile_rows=a.tile_rows,
            tile_cols=b.tile_rows,
        )
        return found, pairs

    def _bytes_of_a(self) -> list[Integers]:
        if self.kept is None or self.point.consumer:
            return [blocks.dense_bytes(self.a, self.bits, access) for access in self.accesses]
        if self.case.pattern is None:
            values, metadata = blocks.unstructured_bits(self.kept, self.a)
        else:
            values, metadata = self._packed(self.kept, self.a, self.case.pattern)
        return [_stored(values * self.bits, metadata, access) for access in self.accesses]

    def _bytes_of_b(self) -> list[Integers]:
        if self.other is not None and self.other_kept is not None:
            values, metadata = self._packed(self.other_kept, self.b, self.other)
            return [_stored(values * self.bits, metadata, access) for access in self.accesses]
        if self.point.skip:
            column = -(-self.b.tile_rows * self.bits // 8)
            each = np.ones(len(self.b.k_starts), np.int64)
            return [np.multiply.outer(blocks.in_accesses(column, access), each) for access in self.accesses]
        return [blocks.dense_bytes(self.b, self.bits, access) for access in self.accesses]

    def _packed(self, kept: BoolArray, cut: Cut, pattern: Pattern) -> tuple[Integers, Integers]:
        stored = self.case.format or SparseFormat(pattern)
        return blocks.packed_bits(kept, cut, replace(stored, pattern=pattern))

    def _steps(self) -> tuple[Integers, Integers, Integers, NDArray[np.int32], int]:
        """Steps of array and select network [tiles, blocks], elements offered [blocks], steps of pairs of tiles, pairs."""
        a, core, pattern, kept = self.a, self.core, self.case.pattern, self.kept
        depth = core.depth(self.bits)
        none = np.zeros((1, 1, 1), np.int32)
        if (
            self.other is not None
            and kept is not None
            and self.other_kept is not None
            and pattern is not None
        ):
            window = int(core.match_windows * depth / (pattern.density * self.other.density))
            array = (core.array_rows, core.array_cols)
            matched, pairs = blocks.matched_steps(kept, self.other_kept, a, self.b, array, window, depth)
            nothing = np.zeros(matched.shape[::2], np.int64)
            return nothing, nothing, a.block_k * self.other.n // self.other.m, matched, pairs
        kept_elems = a.rows * a.K if kept is None else int(kept.sum(dtype=np.int64))
        pairs = kept_elems * int(self.point.b_cols)
        if kept is None or (pattern is not None and execution(core, self.case) == "expanded"):
            walked = -(-a.block_k // depth)
            steps = np.multiply.outer(-(-a.tile_rows // core.array_rows), walked)
            return steps, steps, walked * depth, none, pairs
        if pattern is None:
            stored = kept
            window = max(depth, core.operand_b_bytes_per_cycle * 8 // (core.array_cols * self.bits))
        else:
            # A group with fewer non-zeros is stored, and multiplied, with zeros in their place.
            stored = complete(kept, pattern)
            window = pattern.m * max(1, depth // pattern.n)
        banks = core.select_banks if core.select_network == "banked" else 0
        cut = Cut(a.rows, stored.shape[1], a.tile, a.depth)
        steps, selects = blocks.array_steps(stored, cut, core.array_rows, window, depth, banks)
        return steps, selects, -(-a.block_k // window) * window, none, pairs


def _stored(value_bits: Integers, metadata_bits: Integers, access: int) -> Integers:
    values = blocks.in_accesses(-(-value_bits // 8), access)
    return np.asarray(values + blocks.in_accesses(-(-metadata_bits // 8), access), np.int64)
