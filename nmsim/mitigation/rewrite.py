"""A layer of pruned activations as hardware would run it: prepare once, select on the way in, finish on the way out.

Between `select` and `finish` stands one product, of what is kept with weights that nothing touched but what could be folded
into them beforehand. All mitigations are a factor or a term beside it, and no operand becomes dense again. Each step keeps
the dtype of its inputs, float32 or float64.

A score that is computed in another way is rounded in another way. Take two elements whose scores are equal in real numbers.
The golden model and this one may keep different ones, if the score is not the plain magnitude.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nmsim.criteria import CRITERIA, channel_vector, choose, vector_of
from nmsim.errors import PatternError
from nmsim.mask import BoolArray, keep, prune
from nmsim.mitigation.recipe import Recipe
from nmsim.pattern import Pattern, as_pattern
from nmsim.support.jit import njit

PLAIN = Recipe()
Array = NDArray[Any]


class Prepared(NamedTuple):
    """What is made of the weights before any token comes."""

    recipe: Recipe
    criterion: str
    weight: Array
    """[O, K], rotation and static equalisation folded in."""
    vector: Array | None
    """[K], by which magnitudes are ranked."""
    row_sums: Array | None
    """[O], what a shift of 1 adds to Y. None without a shift of the token."""
    gain: Array | None
    """[O], 1 + scale."""
    bias: Array | None
    """[O], of a constant shift and of the learned bias together."""
    column_max: Array | None
    """[K], max_o |w_oj|, for dynamic equalisation."""


class Selected(NamedTuple):
    """What the selector hands on: the sparse operand, and a few numbers of each token."""

    values: Array
    """[L, K], X - eta where it is kept, zero elsewhere."""
    mask: BoolArray
    eta: Array | None
    """[L], the shift of each token."""
    v: Array | None
    """[L], the scale of each token."""
    token_bias: Array | None
    """[L], added to all outputs of a token."""
    side: Array | None
    """[L, r], what was dropped times B^T."""


def linear(
    x: Array,
    weight: Array,
    pattern: Pattern | str,
    recipe: Recipe = PLAIN,
    *,
    criterion: str = "magnitude",
    vector: Array | None = None,
) -> Array:
    """Run the three steps and the product between them.

    Parameters, returns and errors are those of `nmsim.mitigation.golden.linear`; some recipes have no cheap form (`prepare`).

    Examples
    --------
    >>> linear(np.array([[1.0, 5.0, 3.0, 3.0]]), np.eye(4), "2:4", Recipe(shift="mean")).tolist()
    [[1.0, 5.0, 3.0, 3.0]]
    """
    prepared = prepare(weight, recipe, criterion=criterion, vector=vector)
    selected = select(produced(x, recipe), pattern, prepared)
    return finish(selected.values @ prepared.weight.T, selected, prepared)


def prepare(
    weight: Array, recipe: Recipe = PLAIN, *, criterion: str = "magnitude", vector: Array | None = None
) -> Prepared:
    """Make what a recipe needs of the weights.

    Raises
    ------
    PatternError
        Vectors that do not fit the weights. Dynamic equalisation together with a shift, the variance, side paths of kept
        or dropped elements, or a criterion other than the magnitude. Its factors would not cancel, and every token would
        need the weights anew.
    """
    weight = _floats("weight", weight, "[O, K]")
    recipe.check(*weight.shape)
    dynamic = recipe.equalises_dynamically
    if dynamic and (_touches_values(recipe) or criterion != "magnitude"):
        raise PatternError(
            "recipe: dynamic equalisation beside anything that depends on values: no cheap form, expected magnitude alone"
        )
    if recipe.rotation is not None:
        weight = weight @ recipe.rotation.astype(weight.dtype)
    if not isinstance(recipe.equalise, str):
        weight = weight * recipe.equalise.astype(weight.dtype)
    gain = None if recipe.scale is None else 1 + recipe.scale.astype(weight.dtype)
    return Prepared(
        recipe=recipe,
        criterion=criterion,
        weight=weight,
        vector=vector_of(criterion, weight=weight, vector=vector),
        row_sums=weight.sum(axis=1) if recipe.shifts_tokens else None,
        gain=gain,
        bias=_folded_bias(weight, recipe, gain),
        column_max=np.maximum(weight.max(axis=0), -weight.min(axis=0)) if dynamic else None,
    )


def produced(x: Array, recipe: Recipe) -> Array:
    """X as the operation before would hand it over, with rotation and static equalisation folded into that operation."""
    x = _floats("x", x, "[L, K]")
    if recipe.rotation is not None:
        x = x @ recipe.rotation.astype(x.dtype)
    if not isinstance(recipe.equalise, str):
        x = x / recipe.equalise.astype(x.dtype)
    return x


def select(x: Array, pattern: Pattern | str, prepared: Prepared) -> Selected:
    """Choose, and gather the numbers of each token on the way.

    Parameters
    ----------
    x : array [L, K]
        From `produced`.
    pattern : Pattern or str
    prepared : Prepared

    Raises
    ------
    PatternError
        Tokens of another length than the weights have in features, or as `nmsim.criteria.choose`.
    """
    recipe = prepared.recipe
    x = _floats("x", x, f"[L, {prepared.weight.shape[1]}]")
    if x.shape[1] != prepared.weight.shape[1]:
        raise PatternError(
            f"x has shape {np.shape(x)}: expected [L, {prepared.weight.shape[1]}], K of the weights"
        )
    eta = _token_shift(x, recipe)
    if eta is not None:
        x = x - eta[:, None]
    elif not isinstance(recipe.shift, str):
        x = x - np.asarray(recipe.shift, x.dtype)
    mask = _choose(x, as_pattern(pattern), prepared)
    values = keep(x, mask)
    dots = []
    if recipe.kept_bias is not None:
        dots.append(values @ recipe.kept_bias.astype(x.dtype))
    # The dropped elements are gathered only if a side path needs them: they are as large as x.
    needs_dropped = recipe.dropped_bias is not None or recipe.low_rank is not None
    dropped = keep(x, ~mask) if needs_dropped else None
    if dropped is not None and recipe.dropped_bias is not None:
        dots.append(dropped @ recipe.dropped_bias.astype(x.dtype))
    side = None
    if dropped is not None and recipe.low_rank is not None:
        side = dropped @ recipe.low_rank[1].astype(x.dtype).T
    return Selected(
        values,
        mask,
        eta,
        _token_scale(x, values) if recipe.variance else None,
        sum(dots) if dots else None,
        side,
    )


def finish(acc: Array, selected: Selected, prepared: Prepared) -> Array:
    """Run the epilogue: Y = (v_i acc + eta_i r_o + token bias + side A^T) gain_o + bias_o.

    Parameters
    ----------
    acc : array [L, O]
        What is kept times `prepared.weight`^T.
    selected : Selected
    prepared : Prepared

    Returns
    -------
    array [L, O]
    """
    y = acc if selected.v is None else acc * selected.v[:, None]
    if selected.eta is not None:
        assert prepared.row_sums is not None
        y = y + np.multiply.outer(selected.eta, prepared.row_sums)
    if selected.token_bias is not None:
        y = y + selected.token_bias[:, None]
    if selected.side is not None:
        assert prepared.recipe.low_rank is not None
        y = y + selected.side @ prepared.recipe.low_rank[0].astype(acc.dtype).T
    if prepared.gain is not None:
        y = y * prepared.gain
    return y if prepared.bias is None else y + prepared.bias


def _floats(name: str, array: Array, shape: str) -> Array:
    """Take a matrix of float32 or float64, or refuse what is none."""
    array = np.asarray(array)
    if array.ndim != 2 or array.dtype.name not in ("float32", "float64"):
        raise PatternError(
            f"{name} has shape {array.shape} and dtype {array.dtype}: expected {shape} of float32 or float64"
        )
    return array


def _touches_values(recipe: Recipe) -> bool:
    shifted = not isinstance(recipe.shift, str) or recipe.shift != "none"
    beside = (recipe.kept_bias, recipe.dropped_bias, recipe.low_rank)
    return shifted or recipe.variance or any(part is not None for part in beside)


def _folded_bias(weight: Array, recipe: Recipe, gain: Array | None) -> Array | None:
    """What a constant shift adds to Y, and the learned bias."""
    found: Array | None = None
    if not isinstance(recipe.shift, str):
        shift = np.broadcast_to(np.asarray(recipe.shift, weight.dtype), weight.shape[1:])
        found = weight @ shift
        if gain is not None:
            found = found * gain
    if recipe.bias is None:
        return found
    bias = recipe.bias.astype(weight.dtype)
    return bias if found is None else found + bias


def _token_shift(x: Array, recipe: Recipe) -> Array | None:
    if not recipe.shifts_tokens:
        return None
    k = x.shape[1]
    if recipe.shift == "mean":
        mean: Array = x.sum(axis=1) / k
        return mean
    median: Array = np.partition(x, (k - 1) // 2, axis=1)[:, (k - 1) // 2]
    return median


def _choose(x: Array, pattern: Pattern, prepared: Prepared) -> BoolArray:
    """Choose by the simplest score that gives the criterion's choice."""
    criterion, tokens = prepared.criterion, len(x)
    if prepared.column_max is not None:
        column_max, row = prepared.column_max, np.maximum(x.max(axis=0), -x.min(axis=0))
        defined = (column_max > 0) & (row > 0)
        inverse = np.where(defined, column_max, 1) / np.where(defined, row, 1)
        return prune(x, pattern, scores=np.abs(x) * np.sqrt(inverse))
    kind = CRITERIA[criterion]
    if prepared.vector is not None and (kind.among != "group" or kind.with_vector is not channel_vector):
        return choose(x, pattern, criterion, vector=prepared.vector)
    if prepared.vector is not None:
        return prune(x, pattern, scores=np.abs(x) * np.abs(prepared.vector).astype(x.dtype))
    if criterion == "clact":
        if tokens == 1:
            return prune(x, pattern)
        columns = np.sqrt(np.einsum("ij,ij->j", x, x, dtype=np.float64))
        return prune(x, pattern, scores=np.abs(x) * columns)
    if kind.among == "group":
        return prune(x, pattern)
    return choose(x, pattern, criterion)


def _token_scale(x: Array, values: Array) -> Array:
    """sqrt(Q(x) / max(Q(kept), 1e-9 (K - 1))), Q(x) = sum x^2 - (sum x)^2 / K: running sums, no second pass.

    Sums are float64. Their error grows with (mean / deviation)^2 of the token: a shift by the mean takes that away.
    """
    k = x.shape[1]
    sums = np.empty((len(x), 4))
    _moments(np.ascontiguousarray(x), np.ascontiguousarray(values), sums)
    both = [sums[:, 1] - np.square(sums[:, 0]) / k, sums[:, 3] - np.square(sums[:, 2]) / k]
    found: Array = np.sqrt(np.maximum(both[0], 0) / np.maximum(both[1], 1e-9 * (k - 1))).astype(x.dtype)
    return found


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _moments(x, values, sums):  # type: ignore[no-untyped-def]
    """Sum and sum of squares of each row of both, in any order: four sums in one pass."""
    for row in range(x.shape[0]):
        total = total_squares = kept = kept_squares = 0.0
        for j in range(x.shape[1]):
            one, other = np.float64(x[row, j]), np.float64(values[row, j])
            total += one
            total_squares += one * one
            kept += other
            kept_squares += other * other
        sums[row, 0], sums[row, 1], sums[row, 2], sums[row, 3] = total, total_squares, kept, kept_squares
