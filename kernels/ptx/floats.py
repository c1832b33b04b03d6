"""Rounding as the machine does it: bfloat16, fused products, 8-bit floats. Numpy has none of them."""

from typing import Any

import ml_dtypes
import numpy as np

EIGHT_BITS = {"e4m3": ml_dtypes.float8_e4m3fn, "e5m2": ml_dtypes.float8_e5m2}
"""8-bit floats by their names in PTX."""


def bfloat_number(bits: Any) -> Any:
    """Read bits of bfloat16 as float32: exact."""
    return (np.asarray(bits).astype(np.uint32) << np.uint32(16)).view(np.float32)


def bfloat_bits(numbers: Any) -> Any:
    """Round float32 or float64 to bfloat16, to the nearest and to even: -> its bits. All NaN become one."""
    numbers = np.asarray(numbers)
    if numbers.dtype == np.float64:
        numbers = odd_float32(numbers)
    bits = numbers.astype(np.float32, copy=False).view(np.uint32)
    rounded = (bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))) >> np.uint32(16)
    return np.where(np.isnan(numbers), 0x7FFF, rounded).astype(np.uint16)


def odd_float32(numbers: Any) -> Any:
    """Round float64 to float32 so that a second rounding, to less precision, is that of the exact number.

    What is not exact gets an odd last bit (Boldo and Melquiond 2008, "Emulation of FMA and correctly rounded sums").
    """
    near = numbers.astype(np.float32)
    rest = numbers - near
    bits = near.view(np.int32)
    outward = np.where((rest > 0) == ~np.signbit(near), 1, -1).astype(np.int32)
    odd = np.where((rest != 0) & ((bits & 1) == 0) & ~np.isnan(rest), bits + outward, bits)
    return odd.astype(np.int32).view(np.float32)


def fused(a: Any, b: Any, c: Any) -> Any:
    """Give a * b + c of float32 or less, to be rounded once more: float64 whose rounding is that of the exact sum.

    The product is exact in float64. The sum is rounded to odd if it is not, so the rounding to 24 bits or less is right.
    """
    product = a.astype(np.float64) * b.astype(np.float64)
    addend = np.asarray(c).astype(np.float64)
    total = product + addend
    bits = np.asarray(total).view(np.int64)
    # A second rounding can only err where all bits below that of float32's half are zero.
    risky = (bits & 0x0FFF_FFFF) == 0
    if risky.any():
        part = total - product
        rest = (product - (total - part)) + (addend - part)
        outward = np.where((rest > 0) == ~np.signbit(total), 1, -1)
        change = risky & (rest != 0) & np.isfinite(total) & np.isfinite(rest)
        total = np.where(change, bits + outward, bits).view(np.float64)
    return total


def flushed(numbers: Any) -> Any:
    """Turn subnormal float32 into zeros of their sign."""
    tiny = np.abs(numbers) < np.float32(2.0**-126)
    return np.where(tiny, np.copysign(np.float32(0), numbers), numbers)
