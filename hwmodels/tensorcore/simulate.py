"""Simulator of the pipeline, block by block and stage by stage, on real masks.

Every block of every tile passes every stage at a recorded time. At that time the stage is free, its input has arrived, and
there is room behind it. Room is bounded, so a slow stage delays those before it. The work of a block at a stage is counted in
the mask (`hwmodels.tensorcore.blocks`). It depends on kept elements, code lengths, collisions in banks, and rows that keep
more than others.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwmodels.tensorcore import blocks
from hwmodels.tensorcore.blocks import BoolArray, Cut, Integers
from hwmodels.tensorcore.event_loop import Machine, Progress, Tables, run
from hwmodels.tensorcore.mapping import Mapping, mapping
from hwmodels.tensorcore.point import Point, execution, point
from hwmodels.tensorcore.record import SparseTensorCore, load_core
from hwmodels.tensorcore.services import STAGES
from nmsim.case import VALUE_BITS, Case
from nmsim.errors import RowError
from nmsim.format import SparseFormat
from nmsim.mask import complete, prune
from nmsim.pattern import Pattern


@dataclass(frozen=True)
class Simulation:
    """What a simulation saw. Cycles, bytes and counts as in `Cycles`; `busy_cycles` by stage, of the busiest core."""

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

    Returns
    -------
    Simulation

    Raises
    ------
    RowError
        As `point` and `mapping`; a mask of another shape or type, or without a pattern on a core that skips nothing.
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
    tables, pairs = _Product(case, core, p, m, kept, other, other_kept).tables()
    cycles, busy, totals, events, waves = run(
        tables, _machine(core, p, m), core, progress or (lambda share: None)
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
        elif self.kept is not None:
            m = self.case.pattern.m if self.case.pattern else max(one.m for one in core.patterns)
            a_groups = blocks.group_counts(a, m) if m > 1 else a_groups
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


def _machine(core: SparseTensorCore, p: Point, m: Mapping) -> Machine:
    return Machine(
        core.array_rows, core.array_cols, core.fragment_rows, core.fragment_cols, core.shared_bytes_per_cycle,
        max(1, core.selector_groups_per_cycle), core.decoder_groups_per_cycle, core.operand_b_bytes_per_cycle,
        core.accumulate_steps, core.accumulator_bits, core.accumulator_bytes_per_cycle, core.accumulator_buffers,
        core.l2_bytes_per_cycle, core.dram_bytes_per_cycle, core.multicast, bool(p.skip), bool(p.dual),
        int(p.output_bits), int(p.value_bits), core.dram_access_bytes, core.l2_access_bytes,
        int(m.wave_rows), int(m.wave_cols), bool(m.inner_cols), bool(m.keep_a), bool(m.keep_b),
    )  # fmt: skip
