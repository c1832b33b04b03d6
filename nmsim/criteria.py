"""Criteria: by what elements are chosen. Each is the formula of its paper or code in float64, and a mask that follows from it.

X is [L, K]: tokens i by in features j; L is all tokens of the call, batch and sequence together. W is [O, K]. Formulas and
what has been proven of them are in the docstrings; `hwmodels.online.mitigations` counts what each costs.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nmsim import dtypes
from nmsim.errors import PatternError, brief
from nmsim.mask import BoolArray, greatest, prune
from nmsim.pattern import Pattern, as_pattern

FloatArray = NDArray[np.float64]

CLIP_QUANTILES = (0.005, 0.995)
"""Weights between these two quantiles give the mean and the deviation by which Amber-Pruner normalises all of them."""
ROWS_AT_A_TIME = 256
"""Of weights, where whole matrices need not be copied."""


def magnitude(x: NDArray[Any]) -> FloatArray:
    """Score by magnitude: S_ij = |x_ij|. Of weights, the plain magnitude baseline.

    Examples
    --------
    >>> magnitude(np.array([[1.0, -4.0]])).tolist()
    [[1.0, 4.0]]
    """
    return np.abs(matrix("x", x))


def clact(x: NDArray[Any]) -> FloatArray:
    """Score by CLACT, the cosine loss: S_ij = |x_ij| sqrt(sum_p x_pj^2) / sqrt(sum_k x_ik^2).

    The norm of the column runs over all tokens. So a choice depends on later tokens and on the rest of the batch. The norm
    of the row is the same for all of a group. It cannot change an N:M choice, or a choice of the k best of a token. With
    one token the column is the element itself, S_j = x_j^2 / |x|, and the choice is that of the magnitude. A token of zeros
    scores zero.

    Source
    ------
    Formula, linear_act_sp.py of the code of arXiv 2509.22166.

    Examples
    --------
    >>> clact(np.array([[3.0, 4.0], [4.0, 0.0]])).tolist()
    [[3.0, 3.2], [5.0, 0.0]]
    """
    x = matrix("x", x)
    rows = np.sqrt(np.square(x).sum(axis=1, keepdims=True))
    columns = np.sqrt(np.square(x).sum(axis=0, keepdims=True))
    found: FloatArray = np.abs(x) * columns / np.where(rows == 0, 1.0, rows)
    return found


def channel_vector(x: NDArray[Any], vector: NDArray[Any]) -> FloatArray:
    """Score by magnitude times a vector of in features: S_ij = |x_ij f_j|.

    Amber-Pruner, the variance of weights, and gradients accumulated in calibration have this form. So has Wanda's
    criterion, with W for X and the norms of X's columns for f.

    Parameters
    ----------
    x : array [L, K]
    vector : array [K]

    Raises
    ------
    PatternError
        A vector of another length.

    Examples
    --------
    >>> channel_vector(np.array([[1.0, -4.0]]), np.array([10.0, -1.0])).tolist()
    [[10.0, 4.0]]
    """
    x = matrix("x", x)
    return np.abs(x * row_vector("vector", vector, x.shape[1]))


def ria(x: NDArray[Any], vector: NDArray[Any], *, column_sums: NDArray[Any] | None = None) -> FloatArray:
    """Score by relative importance and activations (RIA): S_ij = (|x_ij| / R_i + |x_ij| / C_j) sqrt(|f_j|).

    X is a matrix of weights here. Sums of its rows are R_i = sum_j |x_ij|, sums of its columns C_j = sum_i |x_ij|. Of in
    feature j, f_j is the norm over calibration tokens. The norms may share a factor, which scales all scores alike. An element
    of a row or column of zeros scores zero.

    Parameters
    ----------
    x : array [O, K]
    vector : array [K]
    column_sums : array [K], optional
        C, if X is a block of the rows.

    Raises
    ------
    PatternError
        A vector of another length.

    Source
    ------
    arXiv 2402.12419; formula and the exponent 1/2, prune.py of the authors' code (Relative-importance-and-activation-pruning).

    Examples
    --------
    >>> ria(np.array([[1.0, -3.0], [1.0, 1.0]]), np.array([4.0, 1.0])).tolist()
    [[1.5, 1.5], [2.0, 0.75]]
    """
    x = matrix("x", x)
    f = np.sqrt(np.abs(row_vector("vector", vector, x.shape[1])))
    sizes = np.abs(x)
    rows = sizes.sum(axis=1, keepdims=True)
    columns = sizes.sum(axis=0) if column_sums is None else row_vector("column_sums", column_sums, x.shape[1])
    shares = 1 / np.where(rows == 0, 1.0, rows) + 1 / np.where(columns == 0, 1.0, columns)
    found: FloatArray = sizes * shares * f
    return found


def amber_vector(weight: NDArray[Any]) -> FloatArray:
    """Amber-Pruner's vector: f_j = |What_j| / min_k |What_k|, norms of the columns of What = (W - mu) / sigma.

    mu and sigma (unbiased) are of the weights between the quantiles 0.5 % and 99.5 %, both included; What is of all weights.
    The authors' code finds quantiles from 50 thousand weights drawn at random, anew in each call; here they are exact and
    the vector is static. Division by sigma and by the least norm scales all f_j alike, and cannot change an N:M choice.

    Parameters
    ----------
    weight : array [O, K]

    Returns
    -------
    float64 array [K]
        At least 1.

    Raises
    ------
    PatternError
        All weights equal, or a column that lies at mu throughout: f is not defined.

    Source
    ------
    After arXiv 2508.02128; formula, linear_act_sp.py of the code of arXiv 2509.22166.

    Examples
    --------
    >>> amber_vector(np.array([[1.0, -2.0], [-1.0, 2.0]])).tolist()
    [1.0, 2.0]
    """
    weight = matrix("weight", weight)
    low, high = np.quantile(weight, CLIP_QUANTILES)
    inner = weight[(weight >= low) & (weight <= high)]
    mu, sigma = float(inner.mean()), float(inner.std(ddof=1)) if inner.size > 1 else 0.0
    del inner
    if sigma == 0:
        raise PatternError(
            "amber: weights between the quantiles 0.5 % and 99.5 % are all equal, expected some that differ"
        )
    squares = np.zeros(weight.shape[1])
    for first in range(0, len(weight), ROWS_AT_A_TIME):
        squares += np.square((weight[first : first + ROWS_AT_A_TIME] - mu) / sigma).sum(axis=0)
    norms = np.sqrt(squares)
    if norms.min() == 0:
        raise PatternError(
            f"amber: column {int(norms.argmin())} of the weights equals their mean throughout, expected one that differs"
        )
    found: FloatArray = norms / norms.min()
    return found


def weight_variance_vector(weight: NDArray[Any]) -> FloatArray:
    """Variance of the weights of each in feature: f_j = Var_o(w_oj), unbiased.

    Raises
    ------
    PatternError
        Fewer than two out features.

    Source
    ------
    Formula `var-weight`, linear_act_sp.py of the code of arXiv 2509.22166. A common factor cannot change an N:M choice, so
    the biased variance chooses the same.

    Examples
    --------
    >>> weight_variance_vector(np.array([[1.0, 0.0], [3.0, 0.0]])).tolist()
    [2.0, 0.0]
    """
    weight = matrix("weight", weight)
    if len(weight) < 2:
        raise PatternError("weight_variance: one out feature, expected at least two, to have a variance")
    found: FloatArray = weight.var(axis=0, ddof=1)
    return found


def best_of_tokens(scores: NDArray[Any], count: int) -> BoolArray:
    """Keep the `count` greatest of every row; of equal scores, the lower index wins.

    Raises
    ------
    PatternError
        A count that is no int from 0 to K, or a score that is NaN.

    Examples
    --------
    >>> best_of_tokens(np.array([[1.0, 2.0, 2.0, 2.0]]), 2).tolist()
    [[False, True, True, False]]
    """
    # Scores may be -inf, so that `matrix` would be too strict.
    scores = _two_dimensional("scores", scores)
    k = scores.shape[1]
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= k:
        raise PatternError(f"count={brief(count)}: expected an int from 0 to {k}")
    if scores.dtype != np.float32:
        scores = scores.astype(np.float64)
    if np.isnan(scores).any():
        raise PatternError("scores: a NaN among them, expected numbers that have an order")
    return greatest(scores, count)


class Criterion(NamedTuple):
    """A criterion: its formula, what an element competes with, and what its scores are made of.

    One that has neither `scores` nor `vector` takes a vector that is handed in. Of weights that is the norm of each in
    feature over calibration tokens.
    """

    formula: str
    among: Literal["group", "token", "all"]
    scores: Callable[[NDArray[Any]], FloatArray] | None = None
    """X [L, K] -> scores [L, K]."""
    vector: Callable[[NDArray[Any]], FloatArray] | None = None
    """W [O, K] -> the vector [K] that magnitudes are multiplied with."""
    of_weights: bool = False
    """It also chooses among weights."""
    with_vector: Callable[[NDArray[Any], NDArray[Any]], FloatArray] = channel_vector
    """X and a vector [K] -> scores [L, K], if it has no `scores`."""

    @property
    def takes_vector(self) -> bool:
        """Its vector is handed in."""
        return self.scores is None and self.vector is None


CRITERIA: Mapping[str, Criterion] = MappingProxyType(
    {
        "magnitude": Criterion("|x_ij|", "group", magnitude, of_weights=True),
        "clact": Criterion("|x_ij| |X_:j| / |X_i:|", "group", clact),
        "amber": Criterion("|x_ij| |What_:j| / min_k |What_:k|", "group", vector=amber_vector),
        "weight_variance": Criterion("|x_ij| Var_o(w_oj)", "group", vector=weight_variance_vector),
        "channel_vector": Criterion("|x_ij f_j|, f given", "group", of_weights=True),
        "ria": Criterion(
            "(|x_ij| / sum_k |x_ik| + |x_ij| / sum_p |x_pj|) |f_j|^(1/2), f given",
            "group",
            of_weights=True,
            with_vector=ria,
        ),
        "unstructured": Criterion(
            "|x_ij|, the K N/M greatest of a token", "token", magnitude, of_weights=True
        ),
        "unstructured_channel_vector": Criterion(
            "|x_ij f_j|, f given, the K N/M greatest of a token", "token", of_weights=True
        ),
        "unstructured_global": Criterion("|x_ij|, the L K N/M greatest of all", "all", magnitude),
    }
)
"""Name -> criterion."""


def vector_of(
    criterion: str, *, weight: NDArray[Any] | None = None, vector: NDArray[Any] | None = None
) -> FloatArray | None:
    """Make or take the vector of in features that a criterion needs; None when it needs none.

    Raises
    ------
    PatternError
        An unknown criterion, or one that misses its weights or its vector.

    Examples
    --------
    >>> vector_of("weight_variance", weight=np.array([[1.0, 0.0], [3.0, 0.0]])).tolist()
    [2.0, 0.0]
    """
    chosen = named(criterion)
    if chosen.scores is not None:
        return None
    if chosen.vector is not None:
        if weight is None:
            raise PatternError(
                f"criterion={brief(criterion)}: weight is missing, expected the weights [O, K] it is made of"
            )
        return chosen.vector(weight)
    if vector is None:
        raise PatternError(f"criterion={brief(criterion)}: vector is missing, expected [K] numbers")
    return np.asarray(vector, np.float64)


def choose(
    x: NDArray[Any],
    pattern: Pattern | str,
    criterion: str = "magnitude",
    *,
    weight: NDArray[Any] | None = None,
    vector: NDArray[Any] | None = None,
) -> BoolArray:
    """Choose what a criterion keeps.

    Of equal scores the lower index wins, in a group, in a token and in the whole. `magnitude` compares stored bits, as
    `nmsim.prune`. Unstructured criteria keep the pattern's share of a token, or of all tokens, rounded down.

    Parameters
    ----------
    x : array [L, K]
    pattern : Pattern or str
        N kept of M, along K.
    criterion : str
        A key of `CRITERIA`.
    weight : array [O, K], for `amber` and `weight_variance`
    vector : array [K], for `channel_vector`, `ria` and `unstructured_channel_vector`

    Returns
    -------
    bool array [L, K]

    Raises
    ------
    PatternError
        An unknown criterion, one that misses its vector, or a score that is NaN.

    Examples
    --------
    >>> x = np.array([[5.0, 4.0, 3.0, 0.0], [0.0, 1.0, 0.0, 2.0]])
    >>> choose(x, "1:2").astype(int).tolist()
    [[1, 0, 1, 0], [0, 1, 0, 1]]
    >>> choose(x, "1:2", "unstructured").astype(int).tolist()
    [[1, 1, 0, 0], [0, 1, 0, 1]]
    >>> choose(x, "1:2", "unstructured_global").astype(int).tolist()
    [[1, 1, 1, 0], [0, 0, 0, 1]]
    """
    pattern = as_pattern(pattern)
    chosen = named(criterion)
    if criterion == "magnitude":
        return prune(_two_dimensional("x", x), pattern)
    scores = _scores(chosen, x, vector_of(criterion, weight=weight, vector=vector))
    if chosen.among == "group":
        return prune(_two_dimensional("x", x), pattern, scores=scores)
    if chosen.among == "token":
        return best_of_tokens(scores, scores.shape[1] * pattern.n // pattern.m)
    return best_of_tokens(scores.reshape(1, -1), scores.size * pattern.n // pattern.m).reshape(scores.shape)


def _scores(chosen: Criterion, x: NDArray[Any], vector: FloatArray | None) -> FloatArray:
    if chosen.scores is not None:
        return chosen.scores(x)
    assert vector is not None
    return chosen.with_vector(x, vector)


def named(criterion: str) -> Criterion:
    """Find a criterion.

    Raises
    ------
    PatternError
        None of that name.
    """
    if criterion not in CRITERIA:
        raise PatternError(f"criterion={brief(criterion)}: expected one of {', '.join(CRITERIA)}")
    return CRITERIA[criterion]


def matrix(name: str, array: NDArray[Any]) -> FloatArray:
    """Take a matrix as float64, or refuse what is none.

    Raises
    ------
    PatternError
        Not two dimensions, nothing in it, or an element that is NaN or infinite.
    NmsimError
        Not real numbers.
    """
    array = _two_dimensional(name, array)
    dtypes.refuse_not_finite(array, name)
    return array.astype(np.float64)


def row_vector(name: str, array: NDArray[Any], length: int) -> FloatArray:
    """Take a vector of a known length as float64.

    Raises
    ------
    PatternError
        Another shape.

    Examples
    --------
    >>> row_vector("s", np.array([1, 2]), 2).tolist()
    [1.0, 2.0]
    """
    array = np.asarray(array)
    if array.shape != (length,):
        raise PatternError(f"{name} has shape {array.shape}: expected ({length},)")
    return array.astype(np.float64)


def _two_dimensional(name: str, array: NDArray[Any]) -> NDArray[Any]:
    array = np.asarray(array)
    if array.ndim != 2 or not array.size:
        raise PatternError(f"{name} has shape {array.shape}: expected a matrix with something in it")
    return array
