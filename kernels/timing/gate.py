"""The correctness gate: no time is reported of a product that is wrong.

The reference is a plain product in float64 of the stored values. The allowed error of each output is the sum of its possible
roundings (`allowed`). One stored group in a wrong place adds far more than that. So such a group is detected, and mostly one
misplaced element too. Of 512 rows each, with data as `operands` draws them, numpy's float32 sums rounded once to
bfloat16, and one row in error at a time:

| kept | one group meets the next group's tokens | one value meets the next token |
|---|---|---|
| 8:16 of 4096 | seen in 96 % of rows | 81 % |
| 8:16 of 14336 | 91 % | 65 % |
| 2:4 of 14336 | 78 % | 63 % |

In float16 it is 99, 96 and 90 % of groups. What the tables of a kernel get wrong is wrong in many rows, and is seen for sure.
A library is allowed more, and of it one group in one row is mostly not seen.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nmsim.errors import NmsimError

BLOCK_ELEMS = 1 << 22
UNIT_ROUNDOFF = {"fp32": 2.0**-24, "fp16": 2.0**-11, "bf16": 2.0**-8}
SLACK = 4.0
PARTS = 6.0
"""Roundings of a typical result that are allowed beside the last one, if a library may round partial sums. They are over
ten standard deviations of the sum of these roundings. Of 12 million sums in two or sixteen parts the worst used two thirds."""
LEAST, MOST = 0.5, 1.5
"""Range of the magnitudes drawn: none is near zero, so that none may be dropped unseen."""

Floats = NDArray[np.float32]
Rounding = Literal["once", "parts", "library"]
"""Places of the rounding to the type of a result: once, from a float32 sum; also when parts are added up; anywhere."""


class GateError(NmsimError):
    """A kernel whose result is wrong."""


class RefusedError(NmsimError):
    """A kernel that the device, its compiler or its library does not run: there is no result that could be wrong."""


@dataclass(frozen=True)
class Reference:
    """Products in float64, and the scales of their errors: arrays, or tensors, [M, N].

    Parameters
    ----------
    product : float64
        x W^T.
    magnitudes : float64
        |x| |W|^T, the scale of its errors.
    typical : float64, optional
        Root of the sum of the squares of the terms: what the product comes to where signs are random.
    """

    product: Any
    magnitudes: Any
    typical: Any = None


@dataclass(frozen=True)
class Deviation:
    """How far off a result is at worst.

    Parameters
    ----------
    relative : float
        Of any output, as a share of the sum of the magnitudes of its terms.
    of_allowed : float
        As a share of what is allowed of that output.
    """

    relative: float
    of_allowed: float

    def or_worse(self, other: "Deviation") -> "Deviation":
        """Take the greater of each."""
        return Deviation(max(self.relative, other.relative), max(self.of_allowed, other.of_allowed))

    def checked(self) -> float:
        """Give the relative error of a result that is right.

        Raises
        ------
        GateError
            An output is farther off than is allowed, or no number.
        """
        if self.of_allowed <= 1:
            return self.relative
        raise GateError(
            f"relative error {self.relative:.3g}; an output is {self.of_allowed:.3g} times as far off as its roundings allow"
        )


def operands(shape: tuple[int, ...], rng: np.random.Generator) -> Floats:
    """Draw numbers of either sign whose magnitudes lie in [0.5, 1.5)."""
    drawn = rng.random(shape, dtype=np.float32)
    drawn *= 2 * (MOST - LEAST)
    drawn -= MOST - LEAST
    return np.add(drawn, np.copysign(np.float32(LEAST), drawn), out=drawn)


def multiplied(x: Any, weights: Any, rounding: Rounding) -> Reference:
    """Multiply float64 arrays or tensors [M, K] and [N, K]; `typical` if the rounding asks for it."""
    typical = None if rounding == "library" else ((x * x) @ (weights * weights).T) ** 0.5
    return Reference(x @ weights.T, abs(x) @ abs(weights).T, typical)


def reference(x: Floats, weights: NDArray[Any], keep: NDArray[np.bool_] | None = None) -> Reference:
    """Multiply in float64, some rows at a time, for results in float32 or of a library.

    Parameters
    ----------
    x : array [M, K]
    weights : array [N, K]
    keep : bool array [N, K], optional
        Elements that are not dropped; all of them when absent.
    """
    tokens = x.astype(np.float64)
    size = (len(x), len(weights))
    found = Reference(np.empty(size), np.empty(size))
    step = max(1, BLOCK_ELEMS // weights.shape[1])
    for low in range(0, len(weights), step):
        rows = slice(low, low + step)
        block = weights[rows].astype(np.float64)
        if keep is not None:
            block *= keep[rows]
        part = multiplied(tokens, block, "library")
        found.product[:, rows], found.magnitudes[:, rows] = part.product, part.magnitudes
    return found


def tolerance(terms: int, result_dtype: str = "fp32") -> float:
    """The largest error to be expected of a sum of products in float32, as a share of the sum of their magnitudes.

    Roundings of `terms` additions grow as a random walk; a result stored in 16 bits is rounded once more.

    Examples
    --------
    >>> f"{tolerance(4096):.1e}"
    '1.5e-05'
    """
    return SLACK * math.sqrt(terms) * UNIT_ROUNDOFF["fp32"] + _roundoff(result_dtype)


def allowed(of: Reference, terms: int, result_dtype: str, rounding: Rounding) -> Any:
    """What each output may be off.

    A sum of `terms` products in float32 is off by at most 4 sqrt(terms) 2^-24 of the sum of their magnitudes,
    whatever its order. It is off by more once in some 10^3 sums. With random signs it is off by far less. Of 14336 terms a
    plain loop used at most a 200th of that in 65536 sums. A loop that cuts off after every 16 terms, as matrix units may,
    used an 80th. Products of
    two 16-bit numbers are exact in float32. CPU kernels give these sums as they are: nothing is added for a float32 result.

    Rounding y once to a type of 16 bits is off by at most u |y|. Here u is 2^-8 for bfloat16 and 2^-11 for float16, half the
    distance of neighbours at the lower end of a power of two. In an output near zero terms cancel. Its allowed error is that
    of an output of typical size, the root of the sum of squares: u max(|y|, typical).

    If torch adds up our unpacked weights it may split the sum and round each part. As parts have random signs, their
    roundings add up to some 0.4 u typical, and u (|y| + 6 typical) is allowed. Such a product has many tokens, and
    a wrong group changes each of them. Of a library it is only known that no part of a sum exceeds the sum of magnitudes,
    so u times that is allowed. A library is a baseline, which contains no table of ours.

    Parameters
    ----------
    of : Reference
    terms : int
        Products that are added up.
    result_dtype : {"fp32", "fp16", "bf16"}
    rounding : {"once", "parts", "library"}

    Returns
    -------
    float64 array or tensor [M, N]

    Source
    ------
    Ipsen and Zhou, Probabilistic Error Analysis for Inner Products, SIAM J. Matrix Anal. Appl. 41(4), 2020, for the growth
    with the root of `terms` (https://arxiv.org/abs/1906.10465).

    Examples
    --------
    >>> of = multiplied(np.ones((1, 4)), np.ones((1, 4)), "once")
    >>> float(allowed(of, 4, "bf16", "once")[0, 0]) - 4 * tolerance(4) == 4 * 2.0**-8
    True
    """
    sums = tolerance(terms) * of.magnitudes
    roundoff = _roundoff(result_dtype)
    if roundoff == 0:
        return sums
    if rounding == "library":
        return sums + roundoff * of.magnitudes
    if rounding == "parts":
        return sums + roundoff * (abs(of.product) + PARTS * of.typical)
    return sums + roundoff * abs(of.product).clip(min=of.typical)


def deviation(result: Any, of: Reference, limit: Any) -> Deviation:
    """Compare a float64 result with its reference and the allowed error: infinitely far off if it is not a number.

    Raises
    ------
    GateError
        A result of another shape.
    """
    if result.shape != of.product.shape:
        raise GateError(f"result of shape {tuple(result.shape)}: expected {tuple(of.product.shape)}")
    with np.errstate(invalid="ignore"):
        error = abs(result - of.product)
        worst = float((error / of.magnitudes).max()), float((error / limit).max())
    return Deviation(*(share if math.isfinite(share) else math.inf for share in worst))


def _roundoff(result_dtype: str) -> float:
    """Greatest share that rounding a float32 sum to a type is off."""
    return 0.0 if result_dtype == "fp32" else UNIT_ROUNDOFF[result_dtype]
