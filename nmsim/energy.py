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
    sums = EnergySum(threads=threads)
    sums.add(x, mask)
    return sums.result()


class EnergySum:
    """The energy of a tensor of which some elements are given at a time, in order.

    The result depends on the elements alone, and not on how they are cut: chunks of `CHUNK_ELEMS` are counted from the
    first element.

    Parameters
    ----------
    threads : int
        Cores to use.

    Examples
    --------
    >>> sums = EnergySum()
    >>> sums.add(np.array([3.0]), np.array([False]))
    >>> sums.add(np.array([4.0]), np.array([True]))
    >>> sums.result()
    Energy(total=25.0, kept=16.0)
    """

    def __init__(self, *, threads: int = 1) -> None:
        self._threads = threads
        self._sums: list[tuple[float, float]] = []
        self._rest: list[tuple[NDArray[Any], NDArray[np.bool_]]] = []
        self._rest_elems = 0

    def add(self, x: NDArray[Any], mask: NDArray[np.bool_]) -> None:
        """Take the next elements, and whether each is kept."""
        flat, flags = x.reshape(-1), mask.reshape(-1)
        # What is left over of the pieces before this one begins the next chunk.
        first = min(-self._rest_elems % CHUNK_ELEMS, flat.size)
        if first:
            self._keep(flat[:first], flags[:first])
        whole = first + (flat.size - first) // CHUNK_ELEMS * CHUNK_ELEMS
        starts = range(first, whole, CHUNK_ELEMS)
        chunks = [(flat[low : low + CHUNK_ELEMS], flags[low : low + CHUNK_ELEMS]) for low in starts]
        self._sums += parallel.run(_sums_of, chunks, self._threads)
        if whole < flat.size:
            self._keep(flat[whole:], flags[whole:])

    def result(self) -> Energy:
        """Add up the chunks."""
        sums = self._sums + ([self._rest_sums()] if self._rest else [])
        return Energy(sum(total for total, _ in sums), sum(kept for _, kept in sums))

    def _keep(self, flat: NDArray[Any], flags: NDArray[np.bool_]) -> None:
        self._rest.append((flat.copy(), flags.copy()))
        self._rest_elems += flat.size
        if self._rest_elems == CHUNK_ELEMS:
            self._sums.append(self._rest_sums())
            self._rest, self._rest_elems = [], 0

    def _rest_sums(self) -> tuple[float, float]:
        values, flags = zip(*self._rest, strict=True)
        return _sums_of((np.concatenate(values), np.concatenate(flags)))


def _sums_of(chunk: tuple[NDArray[Any], NDArray[np.bool_]]) -> tuple[float, float]:
    values, keep = chunk
    exact = np.float32 if dtypes.of(values).bits <= 16 or values.dtype == np.float32 else np.float64
    return _squares(values.astype(exact), keep)  # type: ignore[no-any-return]


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
