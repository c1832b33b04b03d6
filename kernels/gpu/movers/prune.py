"""Online pruning of activations: shift, score, choose N of every M, store values and codes, in one pass over a token.

One program takes one token, or a tile of one if no number of the whole token is needed. For 16-bit values of 2:4, 4:8, 8:16
and 16:32 each thread takes a whole unit and chooses by sorting (`kernels.gpu.movers.units`). For all others the lanes of a
group look for their largest, N times. If the shift depends on the token, the program finds it first. It reads the token once
more for the mean, and once per bit of the value for the median, out of cache. Nothing here was timed: block sizes are guesses.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.gpu.bits import INTEGERS, KINDS, as_float, code_table, on_device_of
from kernels.gpu.codes import store_codes
from kernels.gpu.movers.choose import scored
from kernels.gpu.movers.units import prune_units, tile_constants, warps_for
from kernels.gpu.split import PROGRAMS_PER_PROCESSOR, processors
from nmsim.format import SparseFormat


@triton.jit
def mean(row: tl.tensor, k: tl.tensor, KIND: tl.constexpr, BLOCK: tl.constexpr) -> tl.tensor:
    """Add up a token and divide by its length."""
    total = tl.zeros([BLOCK], tl.float32)
    for first in range(0, k, BLOCK):
        column = first + tl.arange(0, BLOCK)
        total += as_float(tl.load(row + column, mask=column < k, other=0), KIND)
    return tl.div_rn(tl.sum(total, axis=0), tl.full([], 0.0, tl.float32) + k)


@triton.jit
def lower_median(row: tl.tensor, k: tl.tensor, KIND: tl.constexpr, BLOCK: tl.constexpr) -> tl.tensor:
    """Find the greatest t with count(x >= t) >= K - floor((K - 1) / 2), bit by bit of the ordered value.

    The order is that of numbers, with -0.0 below 0.0; with a NaN among them the median is NaN.
    """
    BITS: tl.constexpr = 32 if KIND == "float32" else 16
    TOP: tl.constexpr = 1 << (BITS - 1)
    needed = k - (k - 1) // 2
    odd = tl.zeros([BLOCK], tl.int32)
    for first in range(0, k, BLOCK):
        column = first + tl.arange(0, BLOCK)
        number = as_float(tl.load(row + column, mask=column < k, other=0), KIND)
        odd += (number != number).to(tl.int32)
    found = tl.full([], 0, tl.uint32)
    for i in range(BITS):
        candidate = found | (tl.full([], TOP, tl.uint32) >> i)
        above = tl.zeros([BLOCK], tl.int32)
        for first in range(0, k, BLOCK):
            column = first + tl.arange(0, BLOCK)
            raw = tl.load(row + column, mask=column < k, other=0)
            signed = (raw ^ ((raw >> (BITS - 1)) & (TOP - 1))).to(tl.int32)
            ordered = signed.to(tl.uint32, bitcast=True) & (2 * TOP - 1) ^ TOP
            above += ((column < k) & (ordered >= candidate)).to(tl.int32)
        found = tl.where(tl.sum(above, axis=0) >= needed, candidate, found)
    signed = (found ^ TOP).to(tl.int32, bitcast=True)
    if BITS == 16:
        signed = signed.to(tl.int16)
    median = as_float(signed ^ ((signed >> (BITS - 1)) & (TOP - 1)), KIND)
    return tl.where(tl.sum(odd, axis=0) > 0, float("nan"), median)


@triton.jit
def merged(
    mean: tl.tensor, squares: tl.tensor, seen: tl.tensor, part: tl.tensor, inside: tl.tensor, count: tl.tensor
) -> tl.tensor:
    """Add a tile to a mean and to the sum of squares about it; exact in real numbers, and no large sums cancel."""
    part_mean = tl.div_rn(tl.sum(part), count)
    off = tl.where(inside, part - part_mean, 0.0)
    part_squares = tl.sum(off * off)
    step = part_mean - mean
    share = tl.div_rn(count, seen + count)
    return mean + step * share, squares + part_squares + step * step * seen * share


STATISTIC_ELEMS = 512
"""Elements of a token that a warp holds at a time, while a program looks for the token's shift. With more, registers spill."""
LEAST_VARIANCE = 1e-9
"""The variance of what is kept counts as at least so much."""


@triton.jit
def _prune_groups(
    x_row: tl.tensor, vector: tl.tensor, shift: tl.tensor, eta: tl.tensor, table: tl.tensor,
    values_row: tl.tensor, metadata_row: tl.tensor, first: tl.tensor, k: tl.tensor, n_groups: tl.tensor,
    N: tl.constexpr, M: tl.constexpr, LANES: tl.constexpr, GROUPS: tl.constexpr, ENCODING: tl.constexpr,
    CODE_BITS: tl.constexpr, POSITION_BITS: tl.constexpr, UNIT_GROUPS: tl.constexpr, KIND: tl.constexpr,
    SHIFT: tl.constexpr, HAS_VECTOR: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:  # fmt: skip
    """Prune and pack a tile of groups [G, LANES] of a token, from one on: what `prune_units` does, for any pattern."""
    lane = tl.arange(0, LANES)[None, :]
    group = first + tl.arange(0, GROUPS)
    column = group[:, None] * M + lane
    inside = (lane < M) & (column < k)
    number, stored, rank = scored(
        x_row, vector, shift, eta, column, inside, lane, KIND, SHIFT, HAS_VECTOR, True
    )
    rank = tl.where(lane < M, rank, -2)
    for _ in range(N):
        rank = tl.where(rank == tl.max(rank, axis=1)[:, None], -1, rank)
    keep = rank == -1
    slot = tl.cumsum(keep.to(tl.int32), axis=1) - 1
    stays = keep & (group < n_groups)[:, None]
    tl.store(values_row + group[:, None] * N + slot, stored, mask=stays)
    if CODE_BITS > 0:
        store_codes(
            metadata_row, group, keep, slot, table, first, n_groups,
            N, LANES, GROUPS, ENCODING, CODE_BITS, POSITION_BITS, UNIT_GROUPS,
        )  # fmt: skip
    return number, inside, keep


@triton.jit
def prune_kernel(
    x: tl.tensor, vector: tl.tensor, shift: tl.tensor, table: tl.tensor, values: tl.tensor,
    metadata: tl.tensor, eta_out: tl.tensor, v_out: tl.tensor, constant: tl.tensor, k: tl.tensor,
    n_groups: tl.tensor,
    N: tl.constexpr, M: tl.constexpr, LANES: tl.constexpr, GROUPS: tl.constexpr, ENCODING: tl.constexpr,
    CODE_BITS: tl.constexpr, POSITION_BITS: tl.constexpr, UNIT_GROUPS: tl.constexpr, UNIT: tl.constexpr,
    KIND: tl.constexpr, SHIFT: tl.constexpr, HAS_VECTOR: tl.constexpr, VARIANCE: tl.constexpr,
    STATISTIC: tl.constexpr, LEAST: tl.constexpr,
) -> None:  # fmt: skip
    """Prune and pack one token: see `launch` for what goes in and out."""
    token = tl.program_id(0).to(tl.int64)
    x_row = x + token * k
    values_row = values + token * n_groups * N
    metadata_row = metadata + token * (n_groups * CODE_BITS // 8)
    eta = tl.full([], 0.0, tl.float32)
    if SHIFT == "mean":
        eta = mean(x_row, k, KIND, STATISTIC)
    elif SHIFT == "median":
        eta = lower_median(x_row, k, KIND, STATISTIC)
    elif SHIFT == "constant":
        eta += constant
    tl.store(eta_out + token, eta)

    # Variances are merged tile by tile: a sum of squares over the whole token would cancel.
    all_mean = tl.full([], 0.0, tl.float32)
    all_squares = tl.full([], 0.0, tl.float32)
    kept_mean = tl.full([], 0.0, tl.float32)
    kept_squares = tl.full([], 0.0, tl.float32)
    for first in range(tl.program_id(1) * GROUPS, n_groups, tl.num_programs(1) * GROUPS):
        if UNIT > 0:
            number, inside, keep = prune_units(
                x_row, vector, shift, eta, table, values_row, metadata_row, first, k, n_groups, N, M, GROUPS,
                ENCODING, CODE_BITS, POSITION_BITS, UNIT_GROUPS, UNIT, KIND, SHIFT, HAS_VECTOR,
            )  # fmt: skip
        else:
            number, inside, keep = _prune_groups(
                x_row, vector, shift, eta, table, values_row, metadata_row, first, k, n_groups, N, M, LANES, GROUPS,
                ENCODING, CODE_BITS, POSITION_BITS, UNIT_GROUPS, KIND, SHIFT, HAS_VECTOR,
            )  # fmt: skip
        if VARIANCE:
            count = tl.minimum(k - first * M, GROUPS * M)
            if count > 0:
                before = tl.full([], 0.0, tl.float32) + first * M
                now = tl.full([], 0.0, tl.float32) + count
                kept = tl.where(keep, number, 0.0)
                all_mean, all_squares = merged(all_mean, all_squares, before, number, inside, now)
                kept_mean, kept_squares = merged(kept_mean, kept_squares, before, kept, inside, now)
    v = tl.full([], 1.0, tl.float32)
    if VARIANCE:
        divisor = tl.full([], 0.0, tl.float32) + (k - 1)
        least = tl.maximum(tl.div_rn(kept_squares, divisor), LEAST)
        v = tl.sqrt_rn(tl.div_rn(tl.div_rn(all_squares, divisor), least))
    tl.store(v_out + token, v)


def launch(
    x: Tensor,
    format: SparseFormat,
    out: tuple[Tensor, Tensor, Tensor, Tensor],
    *,
    shift: str,
    constant: float = 0.0,
    channels: Tensor | None = None,
    vector: Tensor | None = None,
    variance: bool = False,
) -> None:
    """Prune and pack tokens x [T, K], contiguous, of a type in `KINDS`.

    Parameters
    ----------
    out : values [T, G * N] like x, metadata uint8 [T, bytes of a row], eta and v float32 [T]
        Contiguous; every element is written.
    shift : {"none", "mean", "median", "constant", "vector"}
        `constant` goes with the fourth, float32 `channels` [K] with the fifth.
    vector : float32 Tensor [K], optional
        The score is the magnitude of x_ij - eta times it.
    """
    values, metadata, eta, v = out
    tokens, k = x.shape
    if tokens == 0:
        return
    integer = INTEGERS[x.dtype]
    pattern, table = format.pattern, code_table(format, x.device)
    about_it = constants(format, k, x.dtype, shift=shift, vector=vector is not None, variance=variance)
    warps = warps_for(pattern, k, x.dtype)
    programs = 1
    if shift not in ("mean", "median") and not variance:  # no tile of a token depends on another
        tiles = triton.cdiv(pattern.groups(k), about_it["GROUPS"])
        programs = min(tiles, triton.cdiv(PROGRAMS_PER_PROCESSOR * processors(x.device), tokens))
    with on_device_of(x):
        prune_kernel[(tokens, programs)](
            x.view(integer), vector, channels, table, values.view(integer), metadata, eta, v, constant, k,
            values.shape[1] // pattern.n, **about_it, num_warps=warps, enable_fp_fusion=False,
        )  # fmt: skip


def constants(
    format: SparseFormat, k: int, dtype: torch.dtype, *, shift: str, vector: bool, variance: bool
) -> dict[str, Any]:
    """Name what `prune_kernel` is compiled for."""
    return tile_constants(format, k, dtype) | {
        "KIND": KINDS[dtype],
        "SHIFT": shift,
        "HAS_VECTOR": vector,
        "VARIANCE": variance,
        "STATISTIC": min(STATISTIC_ELEMS * warps_for(format.pattern, k, dtype), triton.next_power_of_2(k)),
        "LEAST": LEAST_VARIANCE,
    }
