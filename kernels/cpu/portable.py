"""The portable method: blocks of rows are decoded to positions, then multiplied by plain loops. Any pattern, any CPU."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.stored.rows import SparseWeights
from nmsim.support.jit import njit
from nmsim.words import popcount

BLOCK_ELEMS = 1 << 16
"""Stored values of a block of rows: with their positions they stay in the second-level cache."""
CHAINS = 4
"""Sums of a row that grow side by side, since an addition takes as long as four of them."""

Floats = NDArray[np.float32]


def multiply(x: Floats, weights: SparseWeights, rows: slice, out: Floats) -> None:
    """Multiply some rows.

    Parameters
    ----------
    x : float32 [G * M, T]
        Tokens side by side, zero in positions beyond K.
    weights : SparseWeights
    rows : slice
    out : float32 [N, T]
        Filled in `rows`.
    """
    step = max(1, BLOCK_ELEMS // max(1, weights.values.shape[1]))
    positions = np.empty((step, weights.values.shape[1]), np.int32)
    for low in range(rows.start, rows.stop, step):
        block = slice(low, min(rows.stop, low + step))
        values = weights.values[block].astype(np.float32, copy=False)
        at = positions[: len(values)]
        _positions(weights.group_masks(block), weights.pattern.m, at.reshape(-1), at.shape[1])
        _gather_and_sum(values, at, x, out[block])


def multiply_dense(x: Floats, weights: NDArray[Any], rows: slice, out: Floats) -> None:
    """Multiply some rows of a dense matrix [N, K]: x is float32 [K, T], out [N, T] is filled in `rows`."""
    step = max(1, BLOCK_ELEMS // weights.shape[1])
    for low in range(rows.start, rows.stop, step):
        block = slice(low, min(rows.stop, low + step))
        _sum(weights[block].astype(np.float32, copy=False), x, out[block])


@njit(cache=True, nogil=True)
def _positions(masks, m, positions, per_row):  # type: ignore[no-untyped-def]
    """Masks of whole rows [G] -> columns of the kept elements, counted from the beginning of each row."""
    one = np.uint64(1)
    at, start = 0, 0
    for g in range(masks.size):
        if at % per_row == 0:
            start = 0
        mask = np.uint64(masks[g])
        while mask:
            positions[at] = start + np.int64(popcount((mask & (~mask + one)) - one))
            at += 1
            mask &= mask - one
        start += m


@njit(cache=True, nogil=True)
def _gather_and_sum(values, positions, x, out):  # type: ignore[no-untyped-def]
    """out[r, t] = sum of values[r, i] * x[positions[r, i], t], in `CHAINS` partial sums."""
    tokens = x.shape[1]
    sums = np.empty((CHAINS, tokens), np.float32)
    for r in range(values.shape[0]):
        sums[:] = 0
        whole = values.shape[1] // CHAINS * CHAINS
        for i in range(0, whole, CHAINS):
            for c in range(CHAINS):
                value, column = values[r, i + c], positions[r, i + c]
                for t in range(tokens):
                    sums[c, t] += value * x[column, t]
        for i in range(whole, values.shape[1]):
            for t in range(tokens):
                sums[0, t] += values[r, i] * x[positions[r, i], t]
        for t in range(tokens):
            out[r, t] = (sums[0, t] + sums[1, t]) + (sums[2, t] + sums[3, t])


@njit(cache=True, nogil=True)
def _sum(weights, x, out):  # type: ignore[no-untyped-def]
    """out[r, t] = sum of weights[r, k] * x[k, t], in `CHAINS` partial sums."""
    tokens = x.shape[1]
    sums = np.empty((CHAINS, tokens), np.float32)
    for r in range(weights.shape[0]):
        sums[:] = 0
        whole = weights.shape[1] // CHAINS * CHAINS
        for k in range(0, whole, CHAINS):
            for c in range(CHAINS):
                for t in range(tokens):
                    sums[c, t] += weights[r, k + c] * x[k + c, t]
        for k in range(whole, weights.shape[1]):
            for t in range(tokens):
                sums[0, t] += weights[r, k] * x[k, t]
        for t in range(tokens):
            out[r, t] = (sums[0, t] + sums[1, t]) + (sums[2, t] + sums[3, t])
