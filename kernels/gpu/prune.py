"""Online pruning of activations: shift, score, choose N of every M, store values and codes, in one pass over a token.

One program takes one token. It finds the token's shift first where that depends on the token, reading it once more (mean)
or once a bit of the value (median), out of cache. Nothing here was timed: block sizes are guesses.
"""

from math import gcd
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.gpu.bits import INTEGERS, KINDS, about, as_bits, as_float, binomials, on_device_of
from kernels.gpu.codes import store_codes
from nmsim.pattern import Pattern

TILE_ELEMS = 1024
"""Elements of a token that a program holds at a time."""
STATISTIC_ELEMS = 4096
"""The same, while it looks for the token's shift."""
WARPS = 4
LEAST_VARIANCE = 1e-9
"""The variance of what is kept counts as at least so much."""


@triton.jit
def _mean(row: tl.tensor, k: tl.tensor, KIND: tl.constexpr, BLOCK: tl.constexpr) -> tl.tensor:
    total = tl.zeros([BLOCK], tl.float32)
    for first in range(0, k, BLOCK):
        column = first + tl.arange(0, BLOCK)
        total += as_float(tl.load(row + column, mask=column < k, other=0), KIND)
    return tl.div_rn(tl.sum(total, axis=0), tl.full([], 0.0, tl.float32) + k)


@triton.jit
def _lower_median(row: tl.tensor, k: tl.tensor, KIND: tl.constexpr, BLOCK: tl.constexpr) -> tl.tensor:
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
def _merge(
    mean: tl.tensor, squares: tl.tensor, seen: tl.tensor, part: tl.tensor, inside: tl.tensor, count: tl.tensor
) -> tl.tensor:
    """Add a tile to a mean and to the sum of squares about it; exact in real numbers, and no large sums cancel."""
    part_mean = tl.div_rn(tl.sum(tl.sum(part, axis=1), axis=0), count)
    off = tl.where(inside, part - part_mean, 0.0)
    part_squares = tl.sum(tl.sum(off * off, axis=1), axis=0)
    step = part_mean - mean
    share = tl.div_rn(count, seen + count)
    return mean + step * share, squares + part_squares + step * step * seen * share


@triton.jit
def prune_kernel(
    x: tl.tensor,
    vector: tl.tensor,
    shift: tl.tensor,
    table: tl.tensor,
    values: tl.tensor,
    metadata: tl.tensor,
    eta_out: tl.tensor,
    v_out: tl.tensor,
    constant: tl.tensor,
    k: tl.tensor,
    n_groups: tl.tensor,
    N: tl.constexpr,
    M: tl.constexpr,
    LANES: tl.constexpr,
    GROUPS: tl.constexpr,
    ENCODING: tl.constexpr,
    CODE_BITS: tl.constexpr,
    POSITION_BITS: tl.constexpr,
    UNIT_GROUPS: tl.constexpr,
    KIND: tl.constexpr,
    SHIFT: tl.constexpr,
    HAS_VECTOR: tl.constexpr,
    VARIANCE: tl.constexpr,
    STATISTIC: tl.constexpr,
    LEAST: tl.constexpr,
) -> None:
    """Prune and pack one token: see `launch` for what goes in and out."""
    token = tl.program_id(0).to(tl.int64)
    x_row = x + token * k
    values_row = values + token * n_groups * N
    metadata_row = metadata + token * (n_groups * CODE_BITS // 8)
    eta = tl.full([], 0.0, tl.float32)
    if SHIFT == "mean":
        eta = _mean(x_row, k, KIND, STATISTIC)
    elif SHIFT == "median":
        eta = _lower_median(x_row, k, KIND, STATISTIC)
    elif SHIFT == "constant":
        eta += constant
    tl.store(eta_out + token, eta)

    all_mean = tl.full([], 0.0, tl.float32)
    all_squares = tl.full([], 0.0, tl.float32)
    kept_mean = tl.full([], 0.0, tl.float32)
    kept_squares = tl.full([], 0.0, tl.float32)
    lane = tl.arange(0, LANES)[None, :]
    for first in range(0, n_groups, GROUPS):
        group = first + tl.arange(0, GROUPS)
        column = group[:, None] * M + lane
        inside = (lane < M) & (column < k)
        raw = tl.load(x_row + column, mask=inside, other=0)
        number = as_float(raw, KIND)
        if SHIFT == "vector":
            number = tl.where(inside, number - tl.load(shift + column, mask=inside, other=0), 0.0)
        elif SHIFT != "none":
            number = tl.where(inside, number - eta, 0.0)

        if SHIFT == "none" and not HAS_VECTOR:
            if KIND == "float32":
                magnitude = (raw & 0x7FFFFFFF).to(tl.int64)
            else:
                magnitude = raw.to(tl.int32) & 0x7FFF
        else:
            score = number
            if HAS_VECTOR:
                score = number * tl.load(vector + column, mask=inside, other=0)
            magnitude = score.to(tl.int32, bitcast=True) & 0x7FFFFFFF
            magnitude = tl.where(score != score, 0x7FFFFFFF, magnitude).to(tl.int64)
        # No two ranks of a group are equal. Beyond the row's end they are below all inside, and beyond M below every sign.
        rank = tl.where(inside, (magnitude + 1) << 5, 0) + (31 - lane)
        rank = tl.where(lane < M, rank, -2)
        for _ in range(N):
            rank = tl.where(rank == tl.max(rank, axis=1)[:, None], -1, rank)
        keep = rank == -1
        slot = tl.cumsum(keep.to(tl.int32), axis=1) - 1

        stored = raw if SHIFT == "none" else as_bits(number, KIND)
        stays = keep & (group < n_groups)[:, None]
        tl.store(values_row + group[:, None] * N + slot, stored, mask=stays)
        if CODE_BITS > 0:
            store_codes(
                metadata_row, group, keep, slot, table, first, n_groups,
                N, LANES, GROUPS, ENCODING, CODE_BITS, POSITION_BITS, UNIT_GROUPS,
            )  # fmt: skip
        if VARIANCE:
            count = tl.minimum(k - first * M, GROUPS * M)
            if count > 0:
                before = tl.full([], 0.0, tl.float32) + first * M
                now = tl.full([], 0.0, tl.float32) + count
                kept = tl.where(keep, number, 0.0)
                all_mean, all_squares = _merge(all_mean, all_squares, before, number, inside, now)
                kept_mean, kept_squares = _merge(kept_mean, kept_squares, before, kept, inside, now)
    v = tl.full([], 1.0, tl.float32)
    if VARIANCE:
        divisor = tl.full([], 0.0, tl.float32) + (k - 1)
        least = tl.maximum(tl.div_rn(kept_squares, divisor), LEAST)
        v = tl.sqrt_rn(tl.div_rn(tl.div_rn(all_squares, divisor), least))
    tl.store(v_out + token, v)


def launch(
    x: Tensor,
    pattern: Pattern,
    encoding: str,
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
    table = binomials(pattern, x.device) if encoding == "combinatorial" else None
    about_it = constants(
        pattern, encoding, k, x.dtype, shift=shift, vector=vector is not None, variance=variance
    )
    with on_device_of(x):
        prune_kernel[(tokens,)](
            x.view(integer), vector, channels, table, values.view(integer), metadata, eta, v, constant, k,
            values.shape[1] // pattern.n, **about_it, num_warps=WARPS, enable_fp_fusion=False,
        )  # fmt: skip


def constants(
    pattern: Pattern, encoding: str, k: int, dtype: torch.dtype, *, shift: str, vector: bool, variance: bool
) -> dict[str, Any]:
    """Name what `prune_kernel` is compiled for."""
    codes = about(pattern, encoding, k)
    groups = max(8, triton.next_power_of_2(pattern.groups(k)))
    return codes | {
        "GROUPS": min(TILE_ELEMS // codes["LANES"], groups),
        "UNIT_GROUPS": 8 // gcd(8, codes["CODE_BITS"]),
        "KIND": KINDS[dtype],
        "SHIFT": shift,
        "HAS_VECTOR": vector,
        "VARIANCE": variance,
        "STATISTIC": min(STATISTIC_ELEMS, triton.next_power_of_2(k)),
        "LEAST": LEAST_VARIANCE,
    }
