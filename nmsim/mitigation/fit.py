"""Parameters of mitigations from calibration tokens: closed forms that stand in for the authors' training.

They train block by block with AdamW on the error of a whole block. Here each is the least squares of one linear layer, or the
statistic that the code takes. What is found so is a stand-in, and is called fitted.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nmsim.criteria import FloatArray, matrix
from nmsim.errors import PatternError, brief

CALLS = 100
"""Forward calls after which the shift of S-PTS stands; the authors' `eta_buffer_size`."""


def static_shift(batches: Iterable[NDArray[Any]], *, calls: int = CALLS) -> float:
    """Find the shift of S-PTS: the mean, over the first calls, of the mean of the tokens' lower medians.

    Parameters
    ----------
    batches : iterable of array [L, K]
        One per call.
    calls : int

    Raises
    ------
    PatternError
        No batch.

    Source
    ------
    Formula, the code of arXiv 2509.22166, branches with a static shift.

    Examples
    --------
    >>> static_shift([np.array([[1.0, 2.0, 9.0], [3.0, 4.0, 9.0]])])
    3.0
    """
    means = []
    for batch, _ in zip(batches, range(calls), strict=False):
        x = matrix("x", batch)
        means.append(float(np.partition(x, (x.shape[1] - 1) // 2, axis=1)[:, (x.shape[1] - 1) // 2].mean()))
    if not means:
        raise PatternError("static shift: no batch of tokens, expected at least one")
    return float(np.mean(means))


def channel_shift(x: NDArray[Any]) -> FloatArray:
    """Mean of each in feature over the tokens, [K]: a stand-in for the learned vector of L-PTS."""
    found: FloatArray = matrix("x", x).mean(axis=0)
    return found


def scale_and_bias(y: NDArray[Any], target: NDArray[Any]) -> tuple[FloatArray, FloatArray]:
    """Fit the learnable diagonal: s, b [O] with least squares of y (1 + s) + b against the dense result, output by output.

    Parameters
    ----------
    y, target : array [L, O]
        Of the pruned layer, without scale and bias, and of the dense one.

    Returns
    -------
    (s, b) : float64 arrays [O]
        An output that is constant over the tokens is left at s = 0.

    Raises
    ------
    PatternError
        Shapes that differ.

    Examples
    --------
    >>> s, b = scale_and_bias(np.array([[1.0], [2.0]]), np.array([[3.0], [5.0]]))
    >>> s.tolist(), b.tolist()
    ([1.0], [1.0])
    """
    y, target = _pair(y, target)
    centred, wanted = y - y.mean(axis=0), target - target.mean(axis=0)
    spread = np.einsum("ij,ij->j", centred, centred)
    slope = np.where(
        spread > 0, np.einsum("ij,ij->j", centred, wanted) / np.where(spread > 0, spread, 1), 1.0
    )
    return slope - 1, target.mean(axis=0) - slope * y.mean(axis=0)


def token_bias(part: NDArray[Any], error: NDArray[Any]) -> FloatArray:
    """Fit bias1 or bias2: b [K] with least squares of (part b) against the mean error of a token over all outputs.

    Of the many vectors that fit when there are fewer tokens than in features, the shortest.

    Parameters
    ----------
    part : array [L, K]
        What is kept, or what is dropped.
    error : array [L, O]
        Dense result minus that of the pruned layer.

    Examples
    --------
    >>> token_bias(np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([[3.0], [4.0]])).round(6).tolist()
    [3.0, 2.0]
    """
    part, error = matrix("part", part), matrix("error", error)
    if len(part) != len(error):
        raise PatternError(f"part has {len(part)} tokens, error {len(error)}: expected the same")
    found: FloatArray = np.linalg.lstsq(part, error.mean(axis=1), rcond=None)[0]
    return found


def low_rank(dropped: NDArray[Any], weight: NDArray[Any], rank: int) -> tuple[FloatArray, FloatArray]:
    """Fit R-Sparse: A [O, r], B [r, K] so that dropped B^T A^T is the best rank-r approximation of dropped W^T.

    The right singular vectors V of dropped W^T, r of them, give A = V and B = V^T W. They are found as eigenvectors of the
    smallest Gram matrix that has them, of side min(L, K, O). With 1024 tokens, K = 576 and O = 1536 that takes a seventh of
    the time that the singular values of dropped W^T take. Those below 1e-8 of the greatest are lost in rounding: their
    vectors are any ones.

    Parameters
    ----------
    dropped : array [L, K]
        What was dropped of calibration tokens.
    weight : array [O, K]
    rank : int
        1 to min(L, O).

    Raises
    ------
    PatternError
        A rank out of range.

    Source
    ------
    Eckart and Young. R-Sparse and the authors train A and B instead.

    Examples
    --------
    >>> a, b = low_rank(np.array([[1.0, 0.0], [2.0, 0.0]]), np.eye(2), 1)
    >>> np.abs(a @ b).round(6).tolist()
    [[1.0, 0.0], [0.0, 0.0]]
    """
    dropped, weight = matrix("dropped", dropped), matrix("weight", weight)
    most = min(len(dropped), len(weight))
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= most:
        raise PatternError(
            f"rank={brief(rank)}: expected an int from 1 to {most}, the lesser of tokens and out features"
        )
    right = _right_singular_vectors(dropped, weight, rank)
    return right, right.T @ weight


def _right_singular_vectors(dropped: FloatArray, weight: FloatArray, rank: int) -> FloatArray:
    """Of dropped W^T [L, O]: orthonormal columns [O, r], greatest singular value first."""
    tokens, in_features = dropped.shape
    # D and its triangular factor R have the same D^T D: with more tokens than in features, R is the smaller one.
    if tokens > in_features:
        dropped = np.asarray(np.linalg.qr(dropped, mode="r"))
    y = dropped @ weight.T
    rows, out_features = y.shape
    if out_features <= rows:
        return _greatest_eigenvectors(y.T @ y, rank)
    # Eigenvectors U of y y^T give y^T U, whose columns are V times the singular values; QR divides by them safely.
    found: FloatArray = np.linalg.qr(y.T @ _greatest_eigenvectors(y @ y.T, rank))[0]
    return found


def _greatest_eigenvectors(gram: FloatArray, count: int) -> FloatArray:
    """Those of the greatest eigenvalues, [side, count], greatest first."""
    import scipy.linalg  # here: the command line imports this module, and starts without scipy

    side = len(gram)
    found: FloatArray = scipy.linalg.eigh(gram, subset_by_index=[side - count, side - 1], check_finite=False)[
        1
    ]
    return found[:, ::-1]


def _pair(y: NDArray[Any], target: NDArray[Any]) -> tuple[FloatArray, FloatArray]:
    y, target = matrix("y", y), matrix("target", target)
    if y.shape != target.shape:
        raise PatternError(f"y has shape {y.shape}, target {target.shape}: expected the same")
    return y, target
