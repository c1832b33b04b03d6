"""Values rounded to nearest in whole numbers of a few bits, with one scale per group of values along K.

`round_values` is what a run calls, `golden.rounded` the formula. Both compute in float64 and give the same bits.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nmsim import dtypes
from nmsim.errors import PatternError, brief
from nmsim.support.jit import njit


def round_values(x: NDArray[Any], *, bits: int, group: int) -> NDArray[Any]:
    """Round a matrix to nearest, symmetrically: q = round(x / s) and q s, s = max |x| / (2^(bits - 1) - 1) of its group.

    A group is `group` consecutive elements of a row. The tail of a row is a group of its own. Half a step is rounded to the
    even neighbour. A group of zeros stays zero, and so does each zero: a pruned element takes part and changes nothing.

    Parameters
    ----------
    x : array [L, K] of float32 or float64
        Weights, or tokens.
    bits : int
        2 to 8.
    group : int
        Elements per scale.

    Returns
    -------
    array like x
        The numbers that the integers stand for, not the integers.

    Raises
    ------
    PatternError
        Another shape or type, a number of bits out of range, no element per scale, or an element that is not finite.

    Source
    ------
    Round to nearest with a scale per group, as llama.cpp's Q4_0 and Q8_0 have it for 32 values. There scales are 16 bits wide,
    and that of Q4_0 is chosen for the range -8 to 7. Here scales are exact and the range is symmetric.

    Examples
    --------
    >>> round_values(np.array([[7.0, 2.4, -3.5, 0.0, 0.1]]), bits=4, group=4).round(6).tolist()
    [[7.0, 2.0, -4.0, 0.0, 0.1]]
    """
    x = np.asarray(x)
    if x.ndim != 2 or x.dtype.name not in ("float32", "float64"):
        raise PatternError(
            f"x has shape {x.shape} and dtype {x.dtype}: expected [L, K] of float32 or float64"
        )
    if isinstance(bits, bool) or not isinstance(bits, int) or not 2 <= bits <= 8:
        raise PatternError(f"bits={brief(bits)}: expected an int from 2 to 8")
    if isinstance(group, bool) or not isinstance(group, int) or group < 1:
        raise PatternError(f"group={brief(group)}: expected an int of at least 1")
    dtypes.refuse_not_finite(x)
    x = np.ascontiguousarray(x)
    out = np.empty_like(x)
    _round_rows(x, group, float(2 ** (bits - 1) - 1), out)
    return out


@njit(cache=True, nogil=True)
def _round_rows(x, group, most, out):  # type: ignore[no-untyped-def]
    """Round every group of every row."""
    rows, k = x.shape
    for row in range(rows):
        for first in range(0, k, group):
            stop = min(k, first + group)
            largest = 0.0
            for j in range(first, stop):
                largest = max(largest, abs(np.float64(x[row, j])))
            # A scale of the smallest numbers may be zero; they are then kept as they are.
            scale = largest / most
            if scale == 0.0:
                for j in range(first, stop):
                    out[row, j] = x[row, j]
            else:
                for j in range(first, stop):
                    out[row, j] = np.rint(np.float64(x[row, j]) / scale) * scale
