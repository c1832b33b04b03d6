"""Mitigations of pruned weights: variance correction, and equalisation before they are pruned.

Both are made once, and cost one factor per token. The factor of a row of W is a factor of an output. The factor of a column
is one of an input. The factor of the whole matrix is either.
"""

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from nmsim.criteria import FloatArray, matrix, row_vector
from nmsim.errors import PatternError, brief
from nmsim.mask import BoolArray, prune
from nmsim.pattern import Pattern

Per = Literal["row", "column", "tensor"]
FLOOR = 1e-9
"""Least variance that is divided by, that of the authors' code for activations."""


def corrected(weight: NDArray[Any], mask: BoolArray, *, per: Per = "row") -> FloatArray:
    """Scale pruned weights until they vary as before: W' = W_sp sqrt(Var(W) / max(Var(W_sp), 1e-9)), zeros included.

    Parameters
    ----------
    weight : array [O, K]
    mask : bool array [O, K]
        What is kept, outliers among it or not: a decision that the caller takes.
    per : {"row", "column", "tensor"}
        Over what a variance is taken; unbiased.

    Returns
    -------
    float64 array [O, K]

    Raises
    ------
    PatternError
        A mask of another shape, an unknown word, or a variance of a single number.

    Source
    ------
    "Variance correction" of weights: arXiv 2507.03052. Its formula was not read: this is the definition for activations
    (arXiv 2509.22166, its code), applied to weights.

    Examples
    --------
    >>> corrected(np.array([[2.0, -2.0, 1.0, -1.0]]), np.array([[True, True, False, False]])).round(3).tolist()
    [[2.236, -2.236, 0.0, 0.0]]
    """
    weight = _checked(weight, mask, per)
    axis = {"row": 1, "column": 0, "tensor": None}[per]
    kept = np.where(mask, weight, 0.0)
    after = np.maximum(kept.var(axis=axis, ddof=1, keepdims=True), FLOOR)
    found: FloatArray = kept * np.sqrt(weight.var(axis=axis, ddof=1, keepdims=True) / after)
    return found


def correction_factors(weight: NDArray[Any], mask: BoolArray, *, per: Per = "row") -> FloatArray:
    """Find the factors of `corrected` by sums alone, for an epilogue: [O] of outputs, [K] of inputs, or [1] of all.

    X W'^T = (X W_sp^T) f for rows and the tensor, (X f) W_sp^T for columns.

    Examples
    --------
    >>> correction_factors(np.array([[2.0, -2.0, 1.0, -1.0]]), np.array([[True, True, False, False]])).round(3).tolist()
    [1.118]
    """
    weight = _checked(weight, mask, per)
    how = {"row": "ij->i", "column": "ij->j", "tensor": "ij->"}[per]
    count = {"row": weight.shape[1], "column": weight.shape[0], "tensor": weight.size}[per]
    kept = weight * mask
    before, after = (
        np.einsum(f"ij,{how}", one, one) - np.square(np.einsum(how, one)) / count for one in (weight, kept)
    )
    found: FloatArray = np.sqrt(np.maximum(before, 0) / np.maximum(after, FLOOR * (count - 1)))
    return np.atleast_1d(found)


def choose_equalised(weight: NDArray[Any], pattern: Pattern | str, factors: NDArray[Any]) -> BoolArray:
    """Prune W s without making it: rank |w_oj| s_j. X / s meets W s, so s cancels and only this choice is left of it.

    Parameters
    ----------
    weight : array [O, K]
    pattern : Pattern or str
    factors : array [K]
        Such as `nmsim.mitigation.golden.equalisation` of calibration tokens. Above zero.

    Returns
    -------
    bool array [O, K]

    Raises
    ------
    PatternError
        Factors of another length, or one that is not above zero.

    Source
    ------
    SmoothQuant-like equalisation of weights: arXiv 2507.03052; formula, the code of arXiv 2509.22166.

    Examples
    --------
    >>> choose_equalised(np.array([[1.0, 2.0]]), "1:2", np.array([4.0, 1.0])).tolist()
    [[True, False]]
    """
    s = row_vector("factors", factors, np.shape(weight)[-1])
    if not (s > 0).all() or not np.isfinite(s).all():
        raise PatternError("factors: one that is zero, negative or not finite, expected all above zero")
    wide = np.float64 if weight.dtype == np.float64 else np.float32
    return prune(weight, pattern, scores=np.abs(weight.astype(wide)) * s.astype(wide))


def _checked(weight: NDArray[Any], mask: BoolArray, per: str) -> FloatArray:
    weight = matrix("weight", weight)
    if np.shape(mask) != weight.shape:
        raise PatternError(f"mask has shape {np.shape(mask)}: expected that of the weights, {weight.shape}")
    if per not in get_args(Per):
        raise PatternError(f"per={brief(per)}: expected one of {', '.join(get_args(Per))}")
    if {"row": weight.shape[1], "column": weight.shape[0], "tensor": weight.size}[per] < 2:
        raise PatternError(f"per={brief(per)}: a variance of one number, expected at least two")
    return weight
