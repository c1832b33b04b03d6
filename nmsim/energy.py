"""The energy of a tensor, its sum of squares, and how much of it a mask keeps."""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nmsim import dtypes
from nmsim.support import parallel
from nmsim.support.jit import njit

CHUNK_ELEMS = 1 << 20


class Energy(NamedTuple):
    """Sums of squares, in float64: of all elements, and of those that a mask keeps."""

    total: float
    kept: float

    @property
    def share_kept(self) -> float | None:
        """1.0 when all elements are zero; None when the total is not finite."""
        if not math.isfinite(self.total):
            return None
        return self.kept / self.total if self.total else 1.0


def energy(x: NDArray[Any], mask: NDArray[np.bool_], *, threads: int = 1) -> Energy:
    """Add up squares, of all elements and of what a mask keeps.

    Parameters
    ----------
    x : array
        Any type that `nmsim.dtypes` lists.
    mask : bool array like x
    threads : int
        Cores to use.

    Returns
    -------
    Energy

    Examples
    --------
    >>> energy(np.array([3.0, 4.0]), np.array([False, True]))
    Energy(total=25.0, kept=16.0)
    """
    flat, flags = x.reshape(-1), mask.reshape(-1)
    exact = np.float32 if dtypes.of(x).bits <= 16 or x.dtype == np.float32 else np.float64

    def one_chunk(low: int) -> tuple[float, float]:
        part = slice(low, low + CHUNK_ELEMS)
        return _squares(flat[part].astype(exact), flags[part])  # type: ignore[no-any-return]

    sums = parallel.run(one_chunk, range(0, flat.size, CHUNK_ELEMS), threads)
    return Energy(sum(total for total, _ in sums), sum(kept for _, kept in sums))


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _squares(values, keep):  # type: ignore[no-untyped-def]
    """Sum of squares of all, and of what is kept, in float64 on several lanes."""
    total, kept = 0.0, 0.0
    for i in range(values.size):
        square = np.float64(values[i]) * np.float64(values[i])
        total += square
        if keep[i]:
            kept += square
    return total, kept
