"""How a product is cut up: tiles of Y, blocks along K, and the rectangle of tiles that the cores do at a time.

A mapping is a decision, not a cost: closed form and simulator are given the same one.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from hwmodels.tensorcore.point import Point
from nmsim.errors import RowError

TILE_ROWS = (256.0, 128.0, 64.0, 32.0, 16.0)
TILE_COLS = (256.0, 128.0, 64.0, 32.0, 16.0, 8.0)
BLOCK_BYTES = 128
"""Bytes of a dense row of a block along K: what one line of shared memory holds."""
REUSE_WEIGHT_ELEMS = 32.0
"""Elements whose fetch from beyond the core a tile is charged for, in multiply-adds, against its own (A43)."""
CHARGES = tuple(
    tuple(1.0 + REUSE_WEIGHT_ELEMS * (1 / rows + 1 / cols) for cols in TILE_COLS) for rows in TILE_ROWS
)
"""What the work of each tile is charged, for its fetches: times its multiply-adds."""
ROUNDING = 1e-9
"""Share by which a bound is lowered, so that no rounding makes it one too many."""


class Mapping(NamedTuple):
    """One way to cut a product up; all in elements, but for tiles (`wave_*`), flags and `feasible`.

    A tile of Y has `tile_rows` rows of A and `tile_cols` columns of B, and walks along K in blocks of `tile_k`. In a wave
    the cores do `wave_rows` x `wave_cols` tiles. `inner_cols`: waves advance along the columns first. `keep_a`, `keep_b`:
    L2 keeps what the waves of one outer step read of A, and all that is read of B (the other way round where waves advance
    along the rows first).
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
    """What the depth of a block depends on besides its tile: `unit` and `wanted` in elements, `a_bits`, `b_bits` of each."""

    unit: float
    wanted: float
    room_bits: float
    a_bits: float
    b_bits: float


@njit(cache=True, error_model="numpy")
def _room(p: Point) -> Room:
    """Say what blocks along K come in, how long they are best, and the shared memory for one of them."""
    unit = max(p.a_m, p.b_m)
    if p.native and p.depth > p.a_n:
        unit = max(unit, np.floor(p.depth / p.a_n) * p.a_m)
    if p.dual:
        unit *= np.ceil(p.depth * p.a_m / p.a_n * p.b_m / p.b_n / unit)
        wanted = unit * p.match_windows
    else:
        wanted = max(unit, np.floor(8.0 * BLOCK_BYTES / p.value_bits / unit) * unit)
    wanted = min(wanted, _ceil_div(p.K, unit) * unit)
    a_bits = p.value_bits * (1.0 if p.consumer else p.a_n / p.a_m) + (0.0 if p.consumer else 2.0)
    b_bits = p.value_bits * p.b_n / p.b_m + (2.0 if p.b_n < p.b_m else 0.0)
    return Room(unit, wanted, 8.0 * p.shared_bytes / p.shared_blocks, a_bits, b_bits)


@njit(cache=True, error_model="numpy")
def _depth(room: Room, rows: float, cols: float) -> float:
    """Longest block along K that fits into shared memory, in elements; 0 where none does."""
    fits = np.floor(room.room_bits / (rows * room.a_bits + cols * room.b_bits) / room.unit) * room.unit
    return min(room.wanted, fits)


@njit(cache=True, error_model="numpy")
def choose(p: Point) -> Mapping:
    """Choose by rule: the tile with the least quantised work, charged for what it fetches; bandwidths play no part."""
    best, tile_rows, tile_cols = np.inf, 0.0, 0.0
    sums_elems = 8.0 * p.accumulator_bytes / (p.accumulator_bits * p.accumulator_buffers)
    room = _room(p)
    # No tile does less than the product itself: most need no division to be ruled out.
    product = p.a_rows * p.b_cols / p.cores * (1.0 - ROUNDING)
    for row, rows in enumerate(TILE_ROWS):
        if rows >= 2.0 * p.a_rows and rows > TILE_ROWS[-1]:
            continue
        for col, cols in enumerate(TILE_COLS):
            if (cols >= 2.0 * p.b_cols and cols > TILE_COLS[-1]) or rows * cols > sums_elems:
                continue
            charge = CHARGES[row][col]
            if product * charge > best:
                continue
            strips = _ceil_div(rows, p.array_rows) * _ceil_div(cols, p.array_cols)
            tiles = _ceil_div(p.a_rows, rows) * _ceil_div(p.b_cols, cols)
            work = _ceil_div(tiles, p.cores) * strips * p.array_rows * p.array_cols
            work *= charge
            if work < best and _depth(room, rows, cols) > 0.0:
                best, tile_rows, tile_cols = work, rows, cols
    if best == np.inf:
        return INFEASIBLE
    return with_waves(p, tile_rows, tile_cols)


@njit(cache=True, error_model="numpy")
def with_waves(p: Point, tile_rows: float, tile_cols: float) -> Mapping:
    """Complete a mapping of these tiles: the fewest waves, of these the squarest, in the order that rereads least."""
    row_tiles, col_tiles = _ceil_div(p.a_rows, tile_rows), _ceil_div(p.b_cols, tile_cols)
    fewest, least, wave_rows, wave_cols = np.inf, np.inf, 1.0, 1.0
    cols = 1.0
    while True:
        cols = min(cols, col_tiles, p.cores)
        rows = min(row_tiles, np.floor(p.cores / cols))
        waves = _ceil_div(row_tiles, rows) * _ceil_div(col_tiles, cols)
        edge = rows * tile_rows + cols * tile_cols
        if waves < fewest or (waves == fewest and edge < least):
            fewest, least, wave_rows, wave_cols = waves, edge, rows, cols
        if cols >= min(col_tiles, p.cores):
            break
        cols *= 2.0
    a_bytes = p.value_bits / 8.0 * (1.0 if p.consumer else p.a_n / p.a_m)
    b_bytes = p.value_bits / 8.0 * p.b_n / p.b_m
    a_total, b_total = p.a_rows * p.K * a_bytes, p.b_cols * p.K * b_bytes
    a_strip = min(p.a_rows, wave_rows * tile_rows) * p.K * a_bytes
    b_strip = min(p.b_cols, wave_cols * tile_cols) * p.K * b_bytes
    row_waves, col_waves = _ceil_div(row_tiles, wave_rows), _ceil_div(col_tiles, wave_cols)
    # Columns first: A's strip stays for the columns, B as a whole for the rows. Rows first: the other way round.
    keep_a = a_strip + b_strip <= p.l2_bytes
    keep_b = a_strip + b_total <= p.l2_bytes
    cols_first = a_total * (1.0 if keep_a else col_waves) + b_total * (1.0 if keep_b else row_waves)
    keep_all_a = b_strip + a_total <= p.l2_bytes
    rows_first = a_total * (1.0 if keep_all_a else col_waves) + b_total * (1.0 if keep_a else row_waves)
    depth = _depth(_room(p), tile_rows, tile_cols)
    if cols_first <= rows_first:
        inner_cols, keep_one, keep_other = 1.0, keep_a, keep_b
    else:
        inner_cols, keep_one, keep_other = 0.0, keep_all_a, keep_a
    kept_a, kept_b = 1.0 if keep_one else 0.0, 1.0 if keep_other else 0.0
    return Mapping(tile_rows, tile_cols, depth, wave_rows, wave_cols, inner_cols, kept_a, kept_b)


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
        rows, cols = (float(part) for part in tile)
        if not (rows >= 1 and cols >= 1):
            raise RowError(f"tile={tile!r}: expected two positive ints")
        fits = rows * cols * p.accumulator_bits * p.accumulator_buffers <= 8 * p.accumulator_bytes
        found = with_waves(as_record(p), rows, cols) if fits else INFEASIBLE
    if found.tile_k == 0:
        what = "no tile" if tile is None else f"tile {tile[0]}x{tile[1]}"
        raise RowError(
            f"{what}: fits neither into {p.accumulator_bytes:.0f} bytes of partial sums ({p.accumulator_buffers:.0f} "
            f"buffers) and {p.shared_bytes:.0f} bytes of shared memory ({p.shared_blocks:.0f} blocks)"
        )
    return found
