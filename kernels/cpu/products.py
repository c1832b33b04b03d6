"""`matmul` and `dense_matmul`: check the operands, choose the method, spread rows over cores."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.cpu import compiled, portable
from kernels.cpu import isa as isas
from kernels.cpu.recipe import COLUMN_TOKENS
from kernels.stored.errors import KernelError
from kernels.stored.rows import STEP_ELEMS, SparseWeights, checked_matrix, checked_weights
from nmsim.support import parallel
from nmsim.units import ceil_div

PIECES_PER_THREAD = 4
"""Pieces of rows per core. They are taken one after the other, so that no core waits long for a slower one."""
PIECE_ROWS = 32
"""Pieces are whole multiples of so many rows."""

Floats = NDArray[np.float32]
Multiply = Callable[[slice, Floats], None]
"""Fills some rows of float32 [N, M]."""


def matmul(
    x: NDArray[Any], w: SparseWeights, *, threads: int = 1, isa: str | None = None, out: Floats | None = None
) -> Floats:
    """Multiply tokens with sparse weights: Y[M, N] = X[M, K] W[N, K]^T, in float32.

    Products are summed in float32, in an order that depends on the instruction set. A dropped element is never
    multiplied: an infinity or NaN of x in its place has no effect. A stored zero is multiplied like any value.

    Parameters
    ----------
    x : array [M, K] or [K] of float32 or of the dtype of `w`
        In any memory order; converted to float32 once.
    w : SparseWeights
    threads : int
        Cores to use.
    isa : {"avx512", "avx2", "portable"}, optional
        The best of `instruction_sets()` when absent.
    out : float32 array [M, N] or [N], optional
        In C order; may not overlap x. Whatever it holds is overwritten.

    Returns
    -------
    float32 array [M, N], or [N] for x [K]

    Raises
    ------
    KernelError
        Operands that do not fit together, or an instruction set that is not available.

    Examples
    --------
    >>> from kernels import cpu
    >>> w = cpu.compress(np.array([[1, -4, 3, 2]], np.float32), "2:4")
    >>> matmul(np.array([1, 10, 100, 1000], np.float32), w).tolist()
    [260.0]
    """
    checked_weights(w)
    which = isas.chosen(isa)
    tokens = _tokens(x, w.shape[1], w.dtype)
    result = _room(out, x, w.shape[0])
    if which == "portable" or w.pattern not in STEP_ELEMS:
        columns = _columns(tokens, w.groups_per_row * w.pattern.m)
        return _by_rows(partial(portable.multiply, columns, w), len(tokens), result, threads)
    for part, some in _chunks(tokens):
        multiply = compiled.sparse(w, some, which)
        _by_rows(multiply, len(some), result if result.ndim == 1 else result[part], threads)
    return result


def dense_matmul(
    x: NDArray[Any],
    weights: NDArray[Any],
    *,
    threads: int = 1,
    isa: str | None = None,
    out: Floats | None = None,
) -> Floats:
    """Multiply tokens with dense weights by a kernel built like the sparse ones: Y[M, N] = X[M, K] W[N, K]^T.

    Parameters
    ----------
    x : array [M, K] or [K] of float32 or of the dtype of `weights`
    weights : C-contiguous array [N, K] of float32, float16 or ml_dtypes.bfloat16
    threads, isa, out
        As for `matmul`.

    Returns
    -------
    float32 array [M, N], or [N] for x [K]

    Raises
    ------
    KernelError
        Operands that do not fit together, or an instruction set that is not available.
    """
    checked_matrix(weights)
    if not weights.flags.c_contiguous:
        raise KernelError(
            f"weights have strides {weights.strides}: expected an array in C order, rows without gaps"
        )
    which = isas.chosen(isa)
    tokens = _tokens(x, weights.shape[1], weights.dtype)
    result = _room(out, x, len(weights))
    if which == "portable":
        columns = _columns(tokens, weights.shape[1])
        return _by_rows(partial(portable.multiply_dense, columns, weights), len(tokens), result, threads)
    for part, some in _chunks(tokens):
        multiply = compiled.dense(weights, some, which)
        _by_rows(multiply, len(some), result if result.ndim == 1 else result[part], threads)
    return result


def _by_rows(multiply: Multiply, n_tokens: int, result: Floats, threads: int) -> Floats:
    """Multiply pieces of rows on several cores, into float32 [M, N] or [N]."""
    n_rows = result.shape[-1]
    sums = result.reshape(n_rows, 1) if n_tokens == 1 else np.empty((n_rows, n_tokens), np.float32)
    if parallel.checked(threads) == 1:
        multiply(slice(0, n_rows), sums)
    else:
        parallel.run(lambda rows: multiply(rows, sums), _pieces(n_rows, threads), threads)
    if n_tokens > 1:
        result[...] = sums.T
    return result


def _chunks(tokens: Floats) -> list[tuple[slice, Floats]]:
    """As many tokens at a time as a kernel takes."""
    step = COLUMN_TOKENS[-1]
    if 1 <= len(tokens) <= step:
        return [(slice(None), tokens)]
    return [(slice(low, low + step), tokens[low : low + step]) for low in range(0, len(tokens), step)]


def _tokens(x: NDArray[Any], k: int, dtype: np.dtype[Any]) -> Floats:
    """Check x and take it as float32 [M, K] in C order."""
    if not isinstance(x, np.ndarray):
        raise KernelError(f"x of type {type(x).__name__}: expected a numpy array [M, {k}] or [{k}]")
    if x.dtype != np.float32 and x.dtype != dtype:
        raise KernelError(
            f"x has dtype {x.dtype}: expected float32" + (f" or {dtype}" if dtype != np.float32 else "")
        )
    if x.ndim not in (1, 2) or x.shape[-1] != k:
        raise KernelError(f"x has shape {x.shape}: expected [M, {k}] or [{k}], K of the weights")
    return np.ascontiguousarray(x.reshape(-1, k), dtype=np.float32)


def _room(out: Floats | None, x: NDArray[Any], n_rows: int) -> Floats:
    """Check `out`, or make it."""
    shape = (*x.shape[:-1], n_rows)
    if out is None:
        return np.empty(shape, np.float32)
    if not isinstance(out, np.ndarray) or out.dtype != np.float32 or out.shape != shape:
        found = f"{out.dtype} {out.shape}" if isinstance(out, np.ndarray) else type(out).__name__
        raise KernelError(f"out is {found}: expected a float32 array {shape}")
    if not out.flags.c_contiguous or not out.flags.writeable:
        raise KernelError("out is read-only or not in C order: expected a writable array without gaps")
    if np.may_share_memory(out, x):
        raise KernelError("out overlaps x: expected memory of its own")
    return out


def _columns(tokens: Floats, k: int) -> Floats:
    """Tokens side by side, filled with zeros to `k` positions: [M, K] -> [k, M]."""
    columns = np.zeros((k, len(tokens)), np.float32)
    columns[: tokens.shape[1]] = tokens.T
    return columns


def _pieces(n_rows: int, threads: int) -> list[slice]:
    """Rows cut for several cores."""
    step = ceil_div(ceil_div(n_rows, threads * PIECES_PER_THREAD), PIECE_ROWS) * PIECE_ROWS
    return [slice(low, min(n_rows, low + step)) for low in range(0, n_rows, step)]
