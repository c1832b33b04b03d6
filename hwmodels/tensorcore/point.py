"""One product on one core as plain numbers: the design point, and its mapping onto tiles and waves.

Two operands meet. A is the sparse one: W [N, K] for sparse weights and dense products, X [M, K] for sparse activations. B is
the other. Names as in `hwmodels.tensorcore.record`, all floats, so that compiled code may take a row of a table for one.

A mapping says how a product is cut up. It names tiles of Y, blocks along K, and the rectangle of tiles that the cores do at
a time. It is a decision, not a cost: closed form and simulator are given the same one. What L2 keeps of it: A44.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from hwmodels.estimate.bounds import DENSE_STREAM, OUTPUT_BITS, stream
from hwmodels.estimate.table import MAX_DIMENSION, SHAPE_COLUMNS
from hwmodels.tensorcore.latency import decoder_cycles, passes_by, selector_cycles
from hwmodels.tensorcore.record import SparseTensorCore
from nmsim.case import VALUE_BITS, Case
from nmsim.errors import RowError, brief
from nmsim.pattern import Pattern
from nmsim.support.jit import njit

EXECUTIONS = ("dense", "native", "expanded")
"""`native`: the array skips what the pattern leaves out. `expanded`: codes are decoded, zeros multiplied."""


class Point(NamedTuple):
    """Numbers of one product on one core. `a_*` and `b_*` are how the metadata of an operand add up (`Stream`).

    `native`, `decoded`, `consumer`, `skip`, `dual`, `multicast` are 0 or 1. `native`: the array skips zeros of A. `decoded`:
    codes of A pass the decoder. `consumer`: A arrives dense and is pruned in the core. `skip`: columns of B that no row of A
    needs stay in DRAM. `dual`: zeros of B are skipped too.
    """

    a_rows: Any
    b_cols: Any
    K: Any
    value_bits: Any
    output_bits: Any
    a_n: Any
    a_m: Any
    a_groups_per_code: Any
    a_codes_per_slot: Any
    a_slot_bits: Any
    a_mean_bits: Any
    b_n: Any
    b_m: Any
    b_groups_per_code: Any
    b_codes_per_slot: Any
    b_slot_bits: Any
    b_mean_bits: Any
    native: Any
    decoded: Any
    consumer: Any
    skip: Any
    dual: Any
    cores: Any
    array_rows: Any
    array_cols: Any
    depth: Any
    accumulator_bits: Any
    accumulator_bytes: Any
    accumulator_buffers: Any
    accumulator_bytes_per_cycle: Any
    accumulate_steps: Any
    decoder_elements_per_cycle: Any
    decoder_latency_cycles: Any
    operand_b_bytes_per_cycle: Any
    match_windows: Any
    selector_elements_per_cycle: Any
    selector_latency_cycles: Any
    fragment_rows: Any
    fragment_cols: Any
    register_blocks: Any
    shared_bytes: Any
    shared_bytes_per_cycle: Any
    shared_access_bytes: Any
    shared_blocks: Any
    l2_bytes: Any
    l2_bytes_per_cycle: Any
    l2_access_bytes: Any
    l2_blocks: Any
    l2_latency_cycles: Any
    multicast: Any
    dram_bytes_per_cycle: Any
    dram_access_bytes: Any
    dram_latency_cycles: Any


CORE_FIELDS = tuple(name for name in Point._fields if name in SparseTensorCore.__dataclass_fields__)
"""Fields that are taken from the core as they are."""


def execution(core: SparseTensorCore, case: Case) -> str:
    """Say how a core runs a case: one of `EXECUTIONS`."""
    if case.pattern is None:
        return "dense"
    return "native" if core.takes(case.pattern, case.sparse_operand) else "expanded"


def point(core: SparseTensorCore, case: Case, other: Pattern | None = None) -> Point:
    """Put a case and a core together.

    Parameters
    ----------
    core : SparseTensorCore
    case : Case
    other : Pattern, optional
        Of the other operand, stored with the same encoding and packing; for dual-sided cores.

    Returns
    -------
    Point

    Raises
    ------
    RowError
        A value type or encoding that the core does not take. Consumer-side pruning without a selector. A second
        pattern on a core that is not dual-sided or does not take it.
    SpecError
        No latency is known: as `decoder_cycles`.

    Examples
    --------
    >>> from hwmodels.tensorcore.record import load_core
    >>> from nmsim.case import GemmShape
    >>> case = Case(GemmShape(1, 4096, 4096), "8:16/combinatorial")
    >>> found = point(load_core("flexible-8x16"), case)
    >>> found.a_rows, found.b_cols, found.depth, found.native
    (4096.0, 1.0, 16.0, 1.0)
    """
    if not isinstance(case, Case):
        raise RowError(f"case of type {type(case).__name__}: expected a Case")
    for name in SHAPE_COLUMNS:
        if getattr(case.shape, name) > MAX_DIMENSION:
            raise RowError(f"case {name}={getattr(case.shape, name)}: expected at most {MAX_DIMENSION}")
    if case.dtype not in core.dtypes:
        raise RowError(f"dtype {brief(case.dtype)}: {core.id} takes {', '.join(core.dtypes)}")
    online = case.pattern is not None and case.sparse_operand == "activations"
    if case.format is not None and case.format.encoding.spec.name not in core.encodings:
        raise RowError(
            f"encoding {brief(case.format.encoding.name)}: {core.id} decodes {', '.join(core.encodings) or 'none'}"
        )
    if other is not None:
        if not core.dual_sided or other not in core.patterns:
            raise RowError(f"second pattern {other}: {core.id} does not skip zeros of both operands by it")
        if case.pattern is None or execution(core, case) != "native":
            raise RowError(
                f"second pattern {other}: the first one, {case.pattern or 'dense'}, is not native to {core.id}"
            )
    consumer = online and core.selector_placement == "consumer"
    if consumer and not core.selector_elements_per_cycle:
        raise RowError(f"sparse activations: {core.id} prunes on loading, but has no selector")
    bits = VALUE_BITS[case.dtype]
    shape = case.shape
    a = stream(case.format) if case.format else DENSE_STREAM
    b = stream(replace(case.format, pattern=other)) if case.format and other else DENSE_STREAM
    runs = execution(core, case)
    chosen = online and core.selector_elements_per_cycle > 0
    how = "dual" if other is not None else runs
    decoded = (
        case.format is not None
        and not consumer
        and case.format.pattern.m > 1
        and not passes_by(case.format.encoding, how)
    )
    numbers = {
        "a_rows": shape.M if online else shape.N,
        "b_cols": shape.N if online else shape.M,
        "K": shape.K,
        "value_bits": bits,
        "output_bits": 32 if bits == 32 else OUTPUT_BITS,
        **{f"a_{name}": value for name, value in _named(a)},
        **{f"b_{name}": value for name, value in _named(b)},
        "native": runs == "native",
        "decoded": decoded,
        "consumer": consumer,
        "skip": online and core.column_skip and other is None,
        "dual": other is not None,
        "depth": core.depth(bits),
        **{name: getattr(core, name) for name in CORE_FIELDS},
        "decoder_latency_cycles": decoder_cycles(core, case.format, how) if case.format and decoded else 0,
        "selector_latency_cycles": selector_cycles(core, case.format.pattern, case.dtype)
        if case.format and chosen
        else 0,
    }
    # All numbers are floats, so that one compiled function serves single points and sweeps.
    return Point(**{name: float(value) for name, value in numbers.items()})


def _named(how: Any) -> Any:
    names = ("n", "m", "groups_per_code", "codes_per_slot", "slot_bits", "mean_bits")
    return zip(names, how, strict=True)


TILE_ROWS = (64.0, 128.0, 256.0, 32.0, 16.0)
TILE_COLS = (256.0, 128.0, 64.0, 32.0, 16.0, 8.0)
"""Likely ones first: what cannot beat them is ruled out at once."""
SMALLEST_ROWS, SMALLEST_COLS = 16.0, 8.0
BLOCK_BYTES = 128
"""Bytes of a dense row of a block along K: what one line of shared memory holds."""
MACS_AN_ELEM = 32.0
"""Multiply-adds that an element from shared memory is charged, whatever the core (A43)."""
MACS_AN_L2_ELEM = 128.0
"""Multiply-adds of all cores that an element out of L2 is charged (A43)."""
BLOCK_CYCLES = 96.0
"""Cycles that a block is charged at least: latency, over the blocks in flight (A43)."""
MACS_A_DRAM_ELEM = 200.0
"""Multiply-adds that an element from DRAM is charged, whatever the core (A43)."""
TIE = 0.05
"""Share of the smaller costs that is added to the largest."""


class Mapping(NamedTuple):
    """A division of a product; all in elements, except tiles (`wave_*`), flags and `feasible`.

    A tile of Y has `tile_rows` rows of A and `tile_cols` columns of B, and steps along K in blocks of `tile_k`. In a wave
    the cores do `wave_rows` x `wave_cols` tiles. `inner_cols`: waves advance along the columns first. `keep_a`, `keep_b`:
    L2 keeps A of the waves of one outer step, and all of B. If waves advance along the rows first, A and B change roles.
    """

    tile_rows: Any
    tile_cols: Any
    tile_k: Any
    wave_rows: Any
    wave_cols: Any
    inner_cols: Any
    keep_a: Any
    keep_b: Any


POINT = np.dtype([(name, np.float64) for name in Point._fields])
"""A row of a table of points, as compiled code takes it: where it lies, not a copy of all its numbers."""
INFEASIBLE = Mapping(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


@njit(cache=True, error_model="numpy")
def _ceil_div(a: float, b: float) -> float:
    return np.ceil(a / b)


class Room(NamedTuple):
    """The depth of a block depends on its tile and on these. `group`, `unit` (whole windows of the array) and `wanted` are in
    elements; `a_bits`, `b_bits` are per element."""

    group: float
    unit: float
    wanted: float
    room_bits: float
    a_bits: float
    b_bits: float


@njit(cache=True, error_model="numpy")
def _room(p: Point) -> Room:
    """Say what blocks along K come in, how long they are best, and the shared memory for one of them."""
    group = unit = max(p.a_m, p.b_m)
    if p.native and p.depth > p.a_n:
        unit = max(unit, np.floor(p.depth / p.a_n) * p.a_m)
    if p.dual:
        unit *= np.ceil(p.depth * p.a_m / p.a_n * p.b_m / p.b_n / unit)
        wanted = unit * p.match_windows
    else:
        wanted = max(unit, np.floor(8.0 * BLOCK_BYTES / p.value_bits / unit) * unit)
    wanted = min(wanted, _ceil_div(p.K, unit) * unit)
    a_bits = p.value_bits * (1.0 if p.consumer else p.a_n / p.a_m)
    a_bits += 2.0 if p.a_n < p.a_m and not p.consumer else 0.0
    b_bits = p.value_bits * p.b_n / p.b_m + (2.0 if p.b_n < p.b_m else 0.0)
    return Room(group, unit, wanted, 8.0 * p.shared_bytes / p.shared_blocks, a_bits, b_bits)


@njit(cache=True, error_model="numpy")
def _depth(room: Room, rows: float, cols: float) -> float:
    """Longest block along K that fits into shared memory, in elements; 0 if none does."""
    elems = room.room_bits / (rows * room.a_bits + cols * room.b_bits)
    unit = room.unit if elems >= room.unit else room.group
    return min(room.wanted, np.floor(elems / unit) * unit)


@njit(cache=True, error_model="numpy")
def choose(p: Point) -> Mapping:
    """Choose by rule the tile and the waves of least cost: see `_try_waves`. Bandwidths play no part."""
    best, tile_rows, tile_cols, wave_rows, wave_cols = np.inf, 0.0, 0.0, 0.0, 0.0
    sums_elems = 8.0 * p.accumulator_bytes / (p.accumulator_bits * p.accumulator_buffers)
    room = _room(p)
    for rows in TILE_ROWS:
        if rows >= 2.0 * p.a_rows and rows > SMALLEST_ROWS:
            continue
        for cols in TILE_COLS:
            if (cols >= 2.0 * p.b_cols and cols > SMALLEST_COLS) or rows * cols > sums_elems:
                continue
            depth = _depth(room, rows, cols)
            if depth == 0.0:
                continue
            cost, of_rows, of_cols = _try_waves(p, rows, cols, depth, best)
            if cost < best:
                best, tile_rows, tile_cols, wave_rows, wave_cols = cost, rows, cols, of_rows, of_cols
    if best == np.inf:
        return INFEASIBLE
    return _completed(p, tile_rows, tile_cols, wave_rows, wave_cols)


@njit(cache=True, error_model="numpy")
def with_waves(p: Point, tile_rows: float, tile_cols: float) -> Mapping:
    """Complete a mapping of these tiles with the waves of least cost."""
    depth = _depth(_room(p), tile_rows, tile_cols)
    if depth == 0.0:
        return INFEASIBLE
    _, wave_rows, wave_cols = _try_waves(p, tile_rows, tile_cols, depth, np.inf)
    return _completed(p, tile_rows, tile_cols, wave_rows, wave_cols)


@njit(cache=True, error_model="numpy")
def _tile_cost(p: Point, rows: float, cols: float, depth: float) -> float:
    """Cost of a tile in blocks of a depth, in multiply-adds of a core for each element along K: its own, or its fetches."""
    density = (p.a_n / p.a_m if p.native else 1.0) * (p.b_n / p.b_m if p.dual else 1.0)
    strips = _ceil_div(rows, p.array_rows) * _ceil_div(cols, p.array_cols)
    macs = strips * p.array_rows * p.array_cols * density
    of_a = rows * (1.0 if p.consumer else p.a_n / p.a_m) * _ceil_div(cols, p.fragment_cols)
    of_b = cols * p.b_n / p.b_m * _ceil_div(rows, p.fragment_rows)
    least = BLOCK_CYCLES * p.array_rows * p.array_cols * p.depth / depth
    read = max(MACS_AN_ELEM * (of_a + of_b), least)
    return max(macs, read) + TIE * min(macs, read)


@njit(cache=True, error_model="numpy")
def _try_waves(
    p: Point, tile_rows: float, tile_cols: float, depth: float, best: float
) -> tuple[float, float, float]:
    """Find the waves of least cost for a tile: their cost, their rows and their columns of tiles.

    The cost is that of all waves of such tiles, or of the bytes from DRAM, whichever is larger. `best` is a cost that is known
    already: a search that cannot beat it is spared.
    """
    row_tiles, col_tiles = _ceil_div(p.a_rows, tile_rows), _ceil_div(p.b_cols, tile_cols)
    work = _tile_cost(p, tile_rows, tile_cols, depth)
    least, wave_rows, wave_cols = best, 0.0, 0.0
    if work * _ceil_div(row_tiles * col_tiles, p.cores) >= best:
        return least, wave_rows, wave_cols
    a_share, b_share = 1.0 if p.consumer else p.a_n / p.a_m, p.b_n / p.b_m
    once = (p.a_rows * a_share + p.b_cols * b_share) * MACS_A_DRAM_ELEM / p.cores
    for turn in range(2):
        # Powers of two along one side, and what is left of the cores along the other.
        along, across = (col_tiles, row_tiles) if turn == 0 else (row_tiles, col_tiles)
        side = 1.0 if across > 1.0 else min(along, p.cores)
        while True:
            side = min(side, along, p.cores)
            other = min(across, np.floor(p.cores / side))
            of_rows, of_cols = (other, side) if turn == 0 else (side, other)
            moved = of_rows * tile_rows * a_share * (1.0 if p.multicast else of_cols)
            moved += of_cols * tile_cols * b_share * (1.0 if p.multicast else of_rows)
            each = max(work, MACS_AN_L2_ELEM * moved / p.cores)
            all_work = each * _ceil_div(row_tiles, of_rows) * _ceil_div(col_tiles, of_cols)
            if max(all_work, once) + TIE * min(all_work, once) < least:
                read = _read_bytes(p, tile_rows, tile_cols, of_rows, of_cols)[0]
                read *= MACS_A_DRAM_ELEM * 8.0 / p.value_bits / (p.cores * p.K)
                cost = max(all_work, read) + TIE * min(all_work, read)
                if cost < least:
                    least, wave_rows, wave_cols = cost, of_rows, of_cols
            if side >= along or side >= p.cores:
                break
            side *= 2.0
        if col_tiles == 1.0 or row_tiles * col_tiles <= p.cores:
            break
    return least, wave_rows, wave_cols


@njit(cache=True, error_model="numpy")
def _read_bytes(
    p: Point, tile_rows: float, tile_cols: float, wave_rows: float, wave_cols: float
) -> tuple[float, float, float, float]:
    """Values that come from DRAM in the better of two orders: bytes, and `inner_cols`, `keep_a`, `keep_b` of that order."""
    a_bytes = p.value_bits / 8.0 * (1.0 if p.consumer else p.a_n / p.a_m)
    b_bytes = p.value_bits / 8.0 * p.b_n / p.b_m
    a_total, b_total = p.a_rows * p.K * a_bytes, p.b_cols * p.K * b_bytes
    a_strip = min(p.a_rows, wave_rows * tile_rows) * p.K * a_bytes
    b_strip = min(p.b_cols, wave_cols * tile_cols) * p.K * b_bytes
    row_waves, col_waves = (
        _ceil_div(p.a_rows, wave_rows * tile_rows),
        _ceil_div(p.b_cols, wave_cols * tile_cols),
    )
    # Columns first: A's strip stays for the columns, B as a whole for the rows. Rows first: B's strip stays for the rows,
    # A as a whole for the columns.
    strips_fit = a_strip + b_strip <= p.l2_bytes
    b_fits, a_fits = a_strip + b_total <= p.l2_bytes, b_strip + a_total <= p.l2_bytes
    cols_first = a_total * (1.0 if strips_fit else col_waves) + b_total * (1.0 if b_fits else row_waves)
    rows_first = a_total * (1.0 if a_fits else col_waves) + b_total * (1.0 if strips_fit else row_waves)
    kept_strips = 1.0 if strips_fit else 0.0
    if cols_first <= rows_first:
        return cols_first, 1.0, kept_strips, 1.0 if b_fits else 0.0
    return rows_first, 0.0, 1.0 if a_fits else 0.0, kept_strips


@njit(cache=True, error_model="numpy")
def _completed(p: Point, tile_rows: float, tile_cols: float, wave_rows: float, wave_cols: float) -> Mapping:
    _, inner_cols, keep_a, keep_b = _read_bytes(p, tile_rows, tile_cols, wave_rows, wave_cols)
    depth = _depth(_room(p), tile_rows, tile_cols)
    return Mapping(tile_rows, tile_cols, depth, wave_rows, wave_cols, inner_cols, keep_a, keep_b)


def as_record(p: Point) -> Any:
    """Make a record of a point, as compiled code takes it."""
    return np.array([p]).view(POINT)[0, 0]


def mapping(p: Point, tile: tuple[int, int] | None = None) -> Mapping:
    """Cut a product up by the rule, or in tiles of the caller's.

    Parameters
    ----------
    p : Point
    tile : (rows of A, columns of B), optional
        In elements.

    Returns
    -------
    Mapping

    Raises
    ------
    RowError
        No tile fits into the partial sums and the shared memory of a core.
    """
    if tile is None:
        found = choose(as_record(p))
    else:
        if len(tile) != 2 or not all(isinstance(part, int) and part >= 1 for part in tile):
            raise RowError(f"tile={brief(tile)}: expected two positive ints")
        rows, cols = (float(part) for part in tile)
        fits = rows * cols * p.accumulator_bits * p.accumulator_buffers <= 8 * p.accumulator_bytes
        found = with_waves(as_record(p), rows, cols) if fits else INFEASIBLE
    if found.tile_k == 0:
        what = "no tile" if tile is None else f"tile {tile[0]}x{tile[1]}"
        raise RowError(
            f"{what}: fits neither into {p.accumulator_bytes:.0f} bytes of partial sums ({p.accumulator_buffers:.0f} "
            f"buffers) and {p.shared_bytes:.0f} bytes of shared memory ({p.shared_blocks:.0f} blocks)"
        )
    return found
