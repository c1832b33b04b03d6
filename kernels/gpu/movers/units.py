"""Whole units of 16 or 32 elements, one per thread: pruned, or compressed as a mask says, without another thread.

For 16-bit values of 2:4, 4:8, 8:16 and 16:32, whose rows are filled to whole units. A thread reads its unit by eights, 16
bytes each, and writes its values by 16 bytes. Codes are made of its mask in registers, except those of `combinatorial`.
"""

from math import gcd
from typing import Any

import torch
import triton
import triton.language as tl

from kernels.gpu.bits import WARP_THREADS, about, ones_of
from kernels.gpu.codes import store_codes
from kernels.gpu.expand import unit_elems
from kernels.gpu.movers.choose import (
    chosen_16,
    chosen_32,
    eight,
    filled,
    four_pairs,
    scored,
    squeezed_16,
    squeezed_32,
    squeezed_positions,
)
from kernels.gpu.movers.pairs import are_sorted, chosen_pairs_16, chosen_pairs_32, magnitudes
from nmsim.format import SparseFormat
from nmsim.pattern import Pattern

WARPS = 4
TILE_ELEMS = 1024
"""Elements of a row that a program holds at a time, where threads do not take whole units."""


@triton.jit
def store_pairs(
    values_row: tl.tensor, unit: tl.tensor, is_unit: tl.tensor, pairs: tl.tensor, UNIT: tl.constexpr
) -> None:
    """Write pairs of values uint32 [L, UNIT // 4] of units [L] to a row of 16-bit values."""
    place = unit[:, None] * (UNIT // 4) + tl.arange(0, UNIT // 4)[None, :]
    tl.store(values_row.to(tl.pointer_type(tl.uint32)) + place, pairs, mask=is_unit[:, None])


@triton.jit
def store_masks(
    metadata_row: tl.tensor, unit: tl.tensor, is_unit: tl.tensor, word: tl.tensor, table: tl.tensor,
    first: tl.tensor, n_groups: tl.tensor,
    N: tl.constexpr, M: tl.constexpr, GROUPS: tl.constexpr, ENCODING: tl.constexpr, CODE_BITS: tl.constexpr,
    POSITION_BITS: tl.constexpr, UNIT_GROUPS: tl.constexpr, UNIT: tl.constexpr,
) -> None:  # fmt: skip
    """Write the codes of units [L], whose masks are uint32 [L], to a row of metadata; `first` is the tile's first group."""
    if ENCODING == "bitmask":
        WORD: tl.constexpr = tl.uint16 if UNIT == 16 else tl.uint32
        tl.store(metadata_row.to(tl.pointer_type(WORD)) + unit, word.to(WORD), mask=is_unit)
    elif ENCODING == "index":
        low, middle, high = squeezed_positions(word, M, UNIT, POSITION_BITS)
        BITS: tl.constexpr = UNIT // 2 * POSITION_BITS
        at = metadata_row.to(tl.pointer_type(tl.uint16)) + unit * (BITS // 16)
        if BITS == 16:
            tl.store(at, (high >> 16).to(tl.uint16), mask=is_unit)
        elif BITS == 32:
            tl.store(at.to(tl.pointer_type(tl.uint32)), high, mask=is_unit)
        elif BITS == 24:
            byte = metadata_row + unit * 3
            tl.store(byte, (high >> 8).to(tl.uint8), mask=is_unit)
            tl.store(byte + 1, (high >> 16).to(tl.uint8), mask=is_unit)
            tl.store(byte + 2, (high >> 24).to(tl.uint8), mask=is_unit)
        else:
            tl.static_assert(BITS == 80)
            tl.store(at, (low >> 16).to(tl.uint16), mask=is_unit)
            tl.store(at + 1, middle.to(tl.uint16), mask=is_unit)
            tl.store(at + 2, (middle >> 16).to(tl.uint16), mask=is_unit)
            tl.store(at + 3, high.to(tl.uint16), mask=is_unit)
            tl.store(at + 4, (high >> 16).to(tl.uint16), mask=is_unit)
    else:
        lane = tl.arange(0, UNIT).to(tl.uint32)[None, :]
        keep = tl.reshape(((word[:, None] >> lane) & 1) != 0, [GROUPS, M])
        slot = tl.cumsum(keep.to(tl.int32), axis=1) - 1
        keep &= slot < N  # a mask to pack by may be none of the pattern, and the table ends with N
        store_codes(
            metadata_row, first + tl.arange(0, GROUPS), keep, slot, table, first, n_groups,
            N, M, GROUPS, ENCODING, CODE_BITS, POSITION_BITS, UNIT_GROUPS,
        )  # fmt: skip


@triton.jit
def _eighth(
    x_row: tl.tensor, vector: tl.tensor, shift: tl.tensor, eta: tl.tensor, unit: tl.tensor, k: tl.tensor,
    M: tl.constexpr, KIND: tl.constexpr, SHIFT: tl.constexpr, HAS_VECTOR: tl.constexpr, LINES: tl.constexpr,
    UNIT: tl.constexpr, FIRST: tl.constexpr, PAIRED: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:  # fmt: skip
    """Read eight elements of each unit, from one on: -> [L, 8] shifted and whether there are any, ranks, four pairs.

    Ranks are eight, or the magnitudes of four pairs if PAIRED: those beyond the row's end then are zeros, and the last ones.
    """
    lane = FIRST + tl.arange(0, 8)[None, :]
    column = unit[:, None] * UNIT + lane
    inside = column < k
    number, stored, rank = scored(
        x_row, vector, shift, eta, column, inside, lane % M, KIND, SHIFT, HAS_VECTOR, False
    )
    pairs = four_pairs(stored, LINES)
    if PAIRED:
        ranks = magnitudes(pairs)
    else:
        ranks = eight(rank, LINES)
    return number, inside, ranks, pairs


@triton.jit
def _bits(word: tl.tensor, FIRST: tl.constexpr) -> tl.tensor:
    """Take eight bits of masks apart, from one on: uint32 [L] -> bool [L, 8]."""
    return ((word[:, None] >> (FIRST + tl.arange(0, 8)).to(tl.uint32)[None, :]) & 1) != 0


@triton.jit
def prune_units(
    x_row: tl.tensor, vector: tl.tensor, shift: tl.tensor, eta: tl.tensor, table: tl.tensor,
    values_row: tl.tensor, metadata_row: tl.tensor, first: tl.tensor, k: tl.tensor, n_groups: tl.tensor,
    N: tl.constexpr, M: tl.constexpr, GROUPS: tl.constexpr, ENCODING: tl.constexpr, CODE_BITS: tl.constexpr,
    POSITION_BITS: tl.constexpr, UNIT_GROUPS: tl.constexpr, UNIT: tl.constexpr, KIND: tl.constexpr,
    SHIFT: tl.constexpr, HAS_VECTOR: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:  # fmt: skip
    """Prune and compress a tile of GROUPS groups of a token, from one on.

    Gives its elements, in any order: shifted, whether there are any, whether they are kept.
    """
    LINES: tl.constexpr = GROUPS * M // UNIT
    SCORED: tl.constexpr = SHIFT != "none" or HAS_VECTOR
    # What is computed from 16-bit values has a score of 32 bits.
    PAIRED: tl.constexpr = not SCORED and are_sorted()
    unit = first // (UNIT // M) + tl.arange(0, LINES)
    is_unit = unit < n_groups // (UNIT // M)
    number_a, inside_a, ranks_a, a = _eighth(
        x_row, vector, shift, eta, unit, k, M, KIND, SHIFT, HAS_VECTOR, LINES, UNIT, 0, PAIRED
    )
    number_b, inside_b, ranks_b, b = _eighth(
        x_row, vector, shift, eta, unit, k, M, KIND, SHIFT, HAS_VECTOR, LINES, UNIT, 8, PAIRED
    )
    number, inside = tl.join(number_a, number_b), tl.join(inside_a, inside_b)
    # Scores may be equal. Then more than half are not below the least one, and a second choice breaks the ties.
    if UNIT == 16:
        if PAIRED:
            word = chosen_pairs_16(ranks_a, ranks_b, M)
        else:
            word = chosen_16(ranks_a, ranks_b, M)
        if SCORED and tl.max(tl.where(is_unit, ones_of(word), 0)) > UNIT // 2:
            ties = chosen_16(ranks_a, ranks_b, M, TIES=True)
            word, _ = filled(word & (ties ^ 0xFFFFFFFF), ties, N, M, UNIT)
        pairs = squeezed_16(a, b, word, LINES)
        keep = tl.join(_bits(word, 0), _bits(word, 8))
    else:
        number_c, inside_c, ranks_c, c = _eighth(
            x_row, vector, shift, eta, unit, k, M, KIND, SHIFT, HAS_VECTOR, LINES, UNIT, 16, PAIRED
        )
        number_d, inside_d, ranks_d, d = _eighth(
            x_row, vector, shift, eta, unit, k, M, KIND, SHIFT, HAS_VECTOR, LINES, UNIT, 24, PAIRED
        )
        if PAIRED:
            word = chosen_pairs_32(ranks_a, ranks_b, ranks_c, ranks_d)
        else:
            word = chosen_32(ranks_a, ranks_b, ranks_c, ranks_d)
        if SCORED and tl.max(tl.where(is_unit, ones_of(word), 0)) > UNIT // 2:
            ties = chosen_32(ranks_a, ranks_b, ranks_c, ranks_d, TIES=True)
            word, _ = filled(word & (ties ^ 0xFFFFFFFF), ties, N, M, UNIT)
        pairs = squeezed_32(a, b, c, d, word, LINES)
        number = tl.join(number, tl.join(number_c, number_d))
        inside = tl.join(inside, tl.join(inside_c, inside_d))
        keep = tl.join(tl.join(_bits(word, 0), _bits(word, 8)), tl.join(_bits(word, 16), _bits(word, 24)))
    store_pairs(values_row, unit, is_unit, pairs, UNIT)
    store_masks(
        metadata_row, unit, is_unit, word, table, first, n_groups,
        N, M, GROUPS, ENCODING, CODE_BITS, POSITION_BITS, UNIT_GROUPS, UNIT,
    )  # fmt: skip
    return number, inside, keep


@triton.jit
def _masked_eighth(
    dense_row: tl.tensor, mask_row: tl.tensor, unit: tl.tensor, k: tl.tensor,
    LINES: tl.constexpr, UNIT: tl.constexpr, FIRST: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:  # fmt: skip
    """Read eight elements of each unit, from one on: -> their bits of the mask, uint32 [L], and four pairs of what is kept."""
    lane = FIRST + tl.arange(0, 8)[None, :]
    column = unit[:, None] * UNIT + lane
    inside = column < k
    wanted = tl.load(mask_row + column, mask=inside, other=0) != 0
    raw = tl.where(wanted, tl.load(dense_row + column, mask=inside, other=0), 0)
    return tl.sum(wanted.to(tl.uint32) << lane.to(tl.uint32), axis=1), four_pairs(raw, LINES)


@triton.jit
def compress_units(
    dense_row: tl.tensor, mask_row: tl.tensor, table: tl.tensor, values_row: tl.tensor,
    metadata_row: tl.tensor, first: tl.tensor, k: tl.tensor, n_groups: tl.tensor,
    N: tl.constexpr, M: tl.constexpr, GROUPS: tl.constexpr, ENCODING: tl.constexpr, CODE_BITS: tl.constexpr,
    POSITION_BITS: tl.constexpr, UNIT_GROUPS: tl.constexpr, UNIT: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Compress GROUPS groups of a row, from one on, as its mask says: -> the most that a group of each unit keeps [L]."""
    LINES: tl.constexpr = GROUPS * M // UNIT
    unit = first // (UNIT // M) + tl.arange(0, LINES)
    is_unit = unit < n_groups // (UNIT // M)
    word, a = _masked_eighth(dense_row, mask_row, unit, k, LINES, UNIT, 0)
    bits, b = _masked_eighth(dense_row, mask_row, unit, k, LINES, UNIT, 8)
    word |= bits
    if UNIT == 16:
        word, most = filled(word, word ^ 0xFFFFFFFF, N, M, UNIT)
        pairs = squeezed_16(a, b, word, LINES)
    else:
        bits, c = _masked_eighth(dense_row, mask_row, unit, k, LINES, UNIT, 16)
        word |= bits
        bits, d = _masked_eighth(dense_row, mask_row, unit, k, LINES, UNIT, 24)
        word |= bits
        word, most = filled(word, word ^ 0xFFFFFFFF, N, M, UNIT)
        pairs = squeezed_32(a, b, c, d, word, LINES)
    store_pairs(values_row, unit, is_unit, pairs, UNIT)
    store_masks(
        metadata_row, unit, is_unit, word, table, first, n_groups,
        N, M, GROUPS, ENCODING, CODE_BITS, POSITION_BITS, UNIT_GROUPS, UNIT,
    )  # fmt: skip
    return most


def warps_for(pattern: Pattern, k: int, dtype: torch.dtype) -> int:
    """Choose how many warps a program has: where threads take units, as many as leave none without one, if that can be.

    Examples
    --------
    >>> warps_for(Pattern(8, 16), 4096, torch.float16), warps_for(Pattern(8, 16), 2560, torch.float16)
    (4, 1)
    """
    unit = unit_elems(pattern, dtype)
    if not unit:
        return WARPS
    return next((warps for warps in (4, 2) if triton.cdiv(k, unit) % (WARP_THREADS * warps) == 0), 1)


def tile_constants(format: SparseFormat, k: int, dtype: torch.dtype) -> dict[str, Any]:
    """Name the constants of kernels that write codes tile by tile of a row."""
    pattern = format.pattern
    codes, unit = about(format, k), unit_elems(pattern, dtype)
    tile_elems = WARP_THREADS * warps_for(pattern, k, dtype) * unit or TILE_ELEMS
    groups = max(8, triton.next_power_of_2(pattern.groups(k)))
    return codes | {
        "GROUPS": min(tile_elems // codes["LANES"], groups),
        "UNIT_GROUPS": 8 // gcd(8, codes["CODE_BITS"]),
        "UNIT": unit,
    }
