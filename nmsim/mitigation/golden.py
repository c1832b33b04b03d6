"""A layer of pruned activations as its formulas stand: dense matrices in float64, every step spelled out.

What this file is for is to be read beside the papers. `nmsim.mitigation.rewrite` computes the same in the form that hardware
would run, and shares nothing with it but the record and the choice.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nmsim.criteria import FloatArray, choose, matrix
from nmsim.errors import PatternError
from nmsim.mitigation.recipe import Recipe
from nmsim.pattern import Pattern

PLAIN = Recipe()


def linear(
    x: NDArray[Any],
    weight: NDArray[Any],
    pattern: Pattern | str,
    recipe: Recipe = PLAIN,
    *,
    criterion: str = "magnitude",
    vector: NDArray[Any] | None = None,
) -> FloatArray:
    """Prune the tokens of a linear layer, mitigate, and multiply.

    Parameters
    ----------
    x : array [L, K]
        Tokens.
    weight : array [O, K]
    pattern : Pattern or str
        N kept of M along K of a token.
    recipe : Recipe
    criterion : str
        A key of `nmsim.criteria.CRITERIA`. It sees X - eta and, for Amber-Pruner and the variance of weights, the weights
        that X meets.
    vector : array [K], for `channel_vector`

    Returns
    -------
    float64 array [L, O]

    Raises
    ------
    PatternError
        Shapes that do not fit together, or as `nmsim.criteria.choose`.

    Source
    ------
    As `Recipe`.

    Examples
    --------
    >>> x, weight = np.array([[1.0, 5.0, 3.0, 3.0]]), np.eye(4)
    >>> linear(x, weight, "2:4").tolist()
    [[0.0, 5.0, 3.0, 0.0]]
    >>> linear(x, weight, "2:4", Recipe(shift="mean")).tolist()  # the mean, 3, stands for what is dropped
    [[1.0, 5.0, 3.0, 3.0]]
    """
    x, weight = fitting(x, weight)
    recipe.check(*weight.shape)
    if recipe.rotation is not None:
        rotation = np.asarray(recipe.rotation, np.float64)
        x, weight = x @ rotation, weight @ rotation
    s = equalisation(x, weight) if recipe.equalises_dynamically else _factors(recipe.equalise)
    x, weight = x / s, weight * s

    eta = _shift(x, recipe.shift)  # [L, 1], [1, K] or [1, 1]
    shifted = x - eta
    mask = choose(shifted, pattern, criterion, weight=weight, vector=vector)
    kept = np.where(mask, shifted, 0.0)
    dropped = shifted - kept

    v = np.ones((len(x), 1))
    if recipe.variance:
        after = np.maximum(kept.var(axis=1, ddof=1, keepdims=True), 1e-9)
        v = np.sqrt(shifted.var(axis=1, ddof=1, keepdims=True) / after)
    y = (v * kept + eta) @ weight.T
    if recipe.kept_bias is not None:
        y += kept @ np.asarray(recipe.kept_bias, np.float64)[:, None]
    if recipe.dropped_bias is not None:
        y += dropped @ np.asarray(recipe.dropped_bias, np.float64)[:, None]
    if recipe.low_rank is not None:
        a, b = (np.asarray(part, np.float64) for part in recipe.low_rank)
        y += (dropped @ b.T) @ a.T
    if recipe.scale is not None:
        y *= 1 + np.asarray(recipe.scale, np.float64)
    if recipe.bias is not None:
        y += np.asarray(recipe.bias, np.float64)
    return y


def equalisation(x: NDArray[Any], weight: NDArray[Any]) -> FloatArray:
    """Factors that share the range between X and W: s_j = sqrt(max_i |x_ij| / max_o |w_oj|), 1 if either is zero.

    Examples
    --------
    >>> equalisation(np.array([[8.0, 0.0]]), np.array([[2.0, 1.0]])).tolist()
    [2.0, 1.0]
    """
    of_x, of_weight = (np.abs(one).max(axis=0) for one in fitting(x, weight))
    defined = (of_x > 0) & (of_weight > 0)
    found: FloatArray = np.sqrt(np.where(defined, of_x, 1.0) / np.where(defined, of_weight, 1.0))
    return found


def rounded(x: NDArray[Any], *, bits: int, group: int) -> FloatArray:
    """Round to nearest in whole numbers, symmetric, one scale per group of each row; the tail is a group of its own.

    Examples
    --------
    >>> rounded(np.array([[3.0, 1.4, 0.2]]), bits=3, group=2).round(6).tolist()
    [[3.0, 1.0, 0.2]]
    """
    x = matrix("x", x)
    found = np.zeros_like(x)
    for first in range(0, x.shape[1], group):
        part = x[:, first : first + group]
        scale = np.abs(part).max(axis=1, keepdims=True) / (2 ** (bits - 1) - 1)
        scale = np.where(scale == 0, 1.0, scale)
        found[:, first : first + group] = np.rint(part / scale) * scale
    return found


def fitting(x: NDArray[Any], weight: NDArray[Any]) -> tuple[FloatArray, FloatArray]:
    """Take tokens and weights of one layer as float64.

    Raises
    ------
    PatternError
        No matrices, or not of the same number of in features.
    """
    x, weight = matrix("x", x), matrix("weight", weight)
    if x.shape[1] != weight.shape[1]:
        raise PatternError(f"x has {x.shape[1]} in features, weight {weight.shape[1]}: expected the same")
    return x, weight


def _factors(equalise: str | NDArray[Any]) -> FloatArray:
    return np.ones(1) if isinstance(equalise, str) else np.asarray(equalise, np.float64)


def _shift(x: FloatArray, shift: str | float | NDArray[Any]) -> FloatArray:
    if not isinstance(shift, str):
        return np.asarray(shift, np.float64).reshape(1, -1)
    if shift == "mean":
        mean: FloatArray = x.mean(axis=1, keepdims=True)
        return mean
    if shift == "median":
        median: FloatArray = np.sort(x, axis=1)[:, [(x.shape[1] - 1) // 2]]
        return median
    return np.zeros((1, 1))
