"""Numbers of a whole token, found by the program that prunes it: mean, lower median, and a variance tile by tile."""

import triton
import triton.language as tl

from kernels.gpu.bits import as_float


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
