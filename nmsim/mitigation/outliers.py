"""Outliers beside an N:M matrix: n of every 256 elements, or whole columns, kept in full in a matrix of their own.

W = W_nm + W_out, with supports that do not overlap. Which part chooses first is a decision, and costs no bit either way.
"""

from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from nmsim import dtypes
from nmsim.criteria import best_of_tokens
from nmsim.errors import PatternError, brief
from nmsim.mask import BoolArray, prune
from nmsim.pattern import Pattern, as_pattern

First = Literal["outliers", "pattern"]


class Split(NamedTuple):
    """Masks of the two parts of a matrix, bool [O, K]; no element is in both."""

    nm: BoolArray
    outliers: BoolArray

    @property
    def kept(self) -> BoolArray:
        """What is kept in either part."""
        both: BoolArray = self.nm | self.outliers
        return both


def split(
    x: NDArray[Any],
    pattern: Pattern | str,
    outliers: Pattern | str = "4:256",
    *,
    first: First = "outliers",
    scores: NDArray[Any] | None = None,
) -> Split:
    """Keep n of every 256 elements as outliers, and N of every M beside them.

    With the outliers first, the n greatest of a window are taken out, and each group chooses among the rest. If the rest has
    fewer than N elements, the group keeps all, and its code is completed with stored zeros. With the pattern first, each
    group keeps its N greatest, and the outliers are the n greatest of the dropped elements of a window. The two store as
    much. If M divides the window, the second keeps at least as much energy. No other choice of N per group and n per window
    keeps more. It also need not wait for its window. Use the first if outliers are stored with more bits.

    Parameters
    ----------
    x : array [O, K]
        Weights, or tokens.
    pattern : Pattern or str
    outliers : Pattern or str
        Such as 4:256, 8:256 or 16:256.
    first : {"outliers", "pattern"}
        Who chooses first.
    scores : array like x, optional
        Finite numbers that rank in place of the magnitude.

    Returns
    -------
    Split

    Raises
    ------
    PatternError
        As `nmsim.prune`, an unknown word, or a score that is not finite.

    Source
    ------
    Semi-structured patterns for salient weights: arXiv 2507.03052. Who chooses first there was not read.

    Examples
    --------
    >>> parts = split(np.array([[9.0, 8.0, 1.0, 2.0]]), "1:2", "1:4")
    >>> parts.outliers.astype(int).tolist(), parts.nm.astype(int).tolist()
    ([[1, 0, 0, 0]], [[0, 1, 0, 1]])
    >>> parts = split(np.array([[9.0, 8.0, 1.0, 2.0]]), "1:2", "1:4", first="pattern")
    >>> parts.outliers.astype(int).tolist(), parts.nm.astype(int).tolist()
    ([[0, 1, 0, 0]], [[1, 0, 0, 1]])
    """
    if first not in get_args(First):
        raise PatternError(f"first={brief(first)}: expected one of {', '.join(get_args(First))}")
    leading, following = (outliers, pattern) if first == "outliers" else (pattern, outliers)
    taken = prune(x, leading, scores=_finite(scores))
    rest = _choose_rest(x, as_pattern(following), taken, scores)
    return Split(rest, taken) if first == "outliers" else Split(taken, rest)


def split_unstructured(
    x: NDArray[Any],
    pattern: Pattern | str,
    outliers: Pattern | str = "4:256",
    *,
    scores: NDArray[Any] | None = None,
) -> Split:
    """Keep the greatest elements of every row, anywhere in it, as outliers, and N of every M beside them.

    n:m says which share of the row they are: K n/m of K elements, rounded down. So it keeps as many as `split`, and no window
    has a limit. The outliers choose first. Of equal elements, the lower index is an outlier.

    Parameters
    ----------
    x : array [O, K]
    pattern : Pattern or str
    outliers : Pattern or str
        Such as 4:256, 8:256 or 16:256.
    scores : array like x, optional
        As `split`.

    Returns
    -------
    Split

    Raises
    ------
    PatternError
        As `split`.

    Source
    ------
    Unstructured salient weights, with which arXiv 2507.03052 compares semi-structured ones. Whether they are the greatest of
    a row or of the whole matrix was not read.

    Examples
    --------
    >>> parts = split_unstructured(np.array([[1.0, 0.0, 9.0, 8.0, 7.0, 2.0]]), "1:2", "1:3")
    >>> parts.outliers.astype(int).tolist(), parts.nm.astype(int).tolist()
    ([[0, 0, 1, 1, 0, 0]], [[1, 0, 0, 0, 1, 0]])
    """
    x = np.asarray(x)
    if x.ndim != 2 or not x.size:
        raise PatternError(f"x has shape {x.shape}: expected a matrix with something in it")
    dtypes.refuse_not_finite(x)
    share = as_pattern(outliers)
    ranked = dtypes.magnitude_keys(x) if scores is None else _finite(scores)
    assert ranked is not None
    taken = best_of_tokens(ranked, x.shape[1] * share.n // share.m)
    return Split(_choose_rest(x, as_pattern(pattern), taken, scores), taken)


def split_columns(
    x: NDArray[Any],
    pattern: Pattern | str,
    columns: int,
    *,
    saliency: NDArray[Any] | None = None,
    scores: NDArray[Any] | None = None,
) -> Split:
    """Keep whole columns, those of greatest saliency, and N of every M of what is left.

    Parameters
    ----------
    x : array [O, K]
    pattern : Pattern or str
    columns : int
        0 to K. Of equal columns, the first.
    saliency : array [K], optional
        Default: the sum of squares of the column.
    scores : array like x, optional
        As `split`.

    Returns
    -------
    Split

    Raises
    ------
    PatternError
        A number of columns out of range, a saliency of another shape or with a NaN, or as `split`.

    Source
    ------
    Columns kept in full: GIFT-SW, arXiv 2408.15300, by another measure of saliency, which needs gradients or inputs.

    Examples
    --------
    >>> split_columns(np.array([[9.0, 8.0, 1.0, 2.0]]), "1:2", 1).kept.astype(int).tolist()
    [[1, 1, 0, 1]]
    """
    x = np.asarray(x)
    if x.ndim != 2:
        raise PatternError(f"x has shape {x.shape}: expected a matrix")
    if isinstance(columns, bool) or not isinstance(columns, int) or not 0 <= columns <= x.shape[1]:
        raise PatternError(f"columns={brief(columns)}: expected an int from 0 to {x.shape[1]}")
    if saliency is None:
        values: NDArray[Any] = x.astype(np.float32 if x.dtype != np.float64 else np.float64, copy=False)
        saliency = np.square(values).sum(axis=0)
    saliency = np.asarray(saliency, np.float64)
    if saliency.shape != x.shape[1:] or np.isnan(saliency).any():
        raise PatternError(
            f"saliency has shape {saliency.shape}: expected {x.shape[1:]} numbers, none of them NaN"
        )
    chosen = np.zeros(x.shape, np.bool_)
    chosen[:, np.argsort(-saliency, kind="stable")[:columns]] = True
    return Split(_choose_rest(x, as_pattern(pattern), chosen, _finite(scores)), chosen)


def _choose_rest(
    x: NDArray[Any], pattern: Pattern, taken: BoolArray, scores: NDArray[Any] | None
) -> BoolArray:
    """Choose among what is not taken: an element that is taken ranks below all others and is not kept."""
    ranked: NDArray[Any]
    if scores is None:
        keys = dtypes.magnitude_keys(np.asarray(x))
        wide = keys.astype(np.uint32 if keys.itemsize <= 2 else np.uint64)
        # One more for all numbers except the last two of uint64, which become equal.
        ranked = np.where(
            taken, 0, np.minimum(wide, wide.dtype.type(-1 % (1 << 8 * wide.itemsize) - 1)) + 1
        ).astype(wide.dtype)
    else:
        ranked = np.where(taken, -np.inf, scores)
    found: BoolArray = prune(x, pattern, scores=ranked) & ~taken
    return found


def _finite(scores: NDArray[Any] | None) -> NDArray[Any] | None:
    if scores is not None and not np.isfinite(scores).all():
        raise PatternError("scores: one that is not finite, expected finite numbers")
    return scores
