"""The correctness gate: no time is reported of a product that is wrong.

The reference is a plain product in float64 of the very values that are stored. An error is measured against the sum of
the magnitudes of the terms, |x| |W|^T, so that cancellation does not hide or exaggerate it, and the tolerance is tight
enough that one misplaced element of data as `operands` draws it shows.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nmsim.errors import NmsimError

BLOCK_ELEMS = 1 << 22
UNIT_ROUNDOFF = {"fp32": 2.0**-24, "fp16": 2.0**-11, "bf16": 2.0**-8}
SLACK = 4.0
LEAST, MOST = 0.5, 1.5
"""Range of the magnitudes drawn: none is near zero, so that none may be dropped unseen."""

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


class GateError(NmsimError):
    """A kernel whose result is wrong."""


def operands(shape: tuple[int, ...], rng: np.random.Generator) -> Floats:
    """Draw numbers of either sign whose magnitudes lie in [0.5, 1.5)."""
    drawn = rng.random(shape, dtype=np.float32)
    drawn *= 2 * (MOST - LEAST)
    drawn -= MOST - LEAST
    return np.add(drawn, np.copysign(np.float32(LEAST), drawn), out=drawn)


def reference(
    x: Floats, weights: NDArray[Any], keep: NDArray[np.bool_] | None = None
) -> tuple[Doubles, Doubles]:
    """Multiply in float64, some rows at a time.

    Parameters
    ----------
    x : array [M, K]
    weights : array [N, K]
    keep : bool array [N, K], optional
        Elements that are not dropped; all of them when absent.

    Returns
    -------
    tuple of float64 arrays [M, N]
        x W^T, and |x| |W|^T, the scale of its errors.
    """
    tokens = x.astype(np.float64)
    size = (len(x), len(weights))
    product, scale = np.empty(size), np.empty(size)
    step = max(1, BLOCK_ELEMS // weights.shape[1])
    for low in range(0, len(weights), step):
        rows = slice(low, low + step)
        block = weights[rows].astype(np.float64)
        if keep is not None:
            block *= keep[rows]
        product[:, rows] = tokens @ block.T
        scale[:, rows] = np.abs(tokens) @ np.abs(block, out=block).T
    return product, scale


def largest_error(result: NDArray[Any], product: Doubles, scale: Doubles) -> float:
    """Find the largest error as a share of the scale; infinite where the result is no number."""
    if result.shape != product.shape:
        raise GateError(f"result of shape {result.shape}: expected {product.shape}")
    with np.errstate(invalid="ignore"):
        error = np.abs(result.astype(np.float64) - product) / scale
    return float(np.where(np.isfinite(error), error, np.inf).max())


def tolerance(terms: int, result_dtype: str = "fp32") -> float:
    """The largest error to be expected of a sum of products in float32.

    Roundings of `terms` additions grow as a random walk; a result stored in 16 bits is rounded once more.

    Examples
    --------
    >>> f"{tolerance(4096):.1e}"
    '1.5e-05'
    """
    rounded_once_more = 0.0 if result_dtype == "fp32" else UNIT_ROUNDOFF[result_dtype]
    return SLACK * math.sqrt(terms) * UNIT_ROUNDOFF["fp32"] + rounded_once_more
