"""What a way makes of one layer of a real model: pruned weights, or a pruner of tokens, in the exact cheap form.

`measure_weights` and `measure_activations` choose, fit and finish by the same functions. Here the result is not measured but
handed on, so that a whole model can be run with it.
"""

import dataclasses
from collections.abc import Hashable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nmsim import criteria
from nmsim.criteria import named
from nmsim.errors import PatternError
from nmsim.mitigation import fit, rewrite
from nmsim.quality.activations import fitted_choice, folded_recipe, looks_across_tokens
from nmsim.quality.layer import Calibration, Columns, Layer, needed, tokens_of
from nmsim.quality.way import Way
from nmsim.quality.weights import corrections, prune_rows

SLAB_ELEMS = 1 << 16
"""Elements of the output that are finished together: what is made of them on the way stays in a core's own cache."""

Floats = NDArray[np.float32]
Tokens = Calibration | NDArray[Any] | None
"""Calibration tokens: a record that layers may share, an array [L, K], or none."""


class PrunedWeight(NamedTuple):
    """The weights that a layer is run with."""

    weight: Floats
    """[O, K], zero where it is pruned; factors of rows and columns multiplied in."""
    bias: Floats | None
    """[O], added to the output; None without one."""
    kept_share: float
    """Share of the weights that are kept, outliers included."""


def pruned_weight(weight: NDArray[Any], way: Way, calibration: Tokens = None) -> PrunedWeight:
    """Prune the weights of one layer, and fold all mitigations into one matrix and one bias.

    Parameters
    ----------
    weight : array [O, K]
        Any dtype of floats.
    way : Way
        Of weights.
    calibration : Calibration or array [L, K], optional
        Calibration tokens. Needed if `way.fitted` names something.

    Returns
    -------
    PrunedWeight

    Raises
    ------
    PatternError
        A way of activations, shapes that do not fit together, a number that is not finite, or no tokens to fit to.

    Source
    ------
    As `nmsim.quality.measure_weights`.

    Examples
    --------
    >>> from nmsim.pattern import Pattern
    >>> pruned_weight(np.array([[1.0, -4.0, 3.0, 2.0]]), Way("weights", Pattern(2, 4)))
    PrunedWeight(weight=array([[ 0., -4.,  3.,  0.]], dtype=float32), bias=None, kept_share=0.5)
    """
    _refuse_other(way, "weights")
    block, known = _matrix(weight), _calibration(calibration, weight)
    if way.fitted:
        needed(way, known)
    # Columns take a pass over the weights, which most ways do without.
    uses_columns = way.criterion == "ria" or way.find("smooth_static") or way.find("salient_columns")
    columns = Layer(block).columns() if uses_columns else _no_columns(block.shape[1])
    pruned = prune_rows(way, block, columns, known)
    found = pruned.values
    if way.find("weight_correction"):
        found = found * corrections(way, pruned)[:, None]
    bias: Floats | None = None
    if way.find("scale_shift"):
        x_fit = needed(way, known).tokens
        scale, wide_bias = fit.scale_and_bias(x_fit @ found.T, x_fit @ block.T)
        found, bias = found * (1 + scale.astype(np.float32))[:, None], wide_bias.astype(np.float32)
    kept_share = float(np.count_nonzero(pruned.parts.kept) / block.size)
    return PrunedWeight(np.ascontiguousarray(found), bias, kept_share)


class TokenPruner:
    """Prunes the tokens of one layer: fitted once, then `select`, one product with `weight`, and `finish`.

    Parameters
    ----------
    way : Way
        Of activations.
    weight : array [O, K]
        Any dtype of floats; pruned beforehand if both operands are sparse. What is fitted aims at its output.
    calibration : Calibration or array [L, K], optional
        Calibration tokens, as they come to the layer. Needed if `way.fitted` names something.

    Raises
    ------
    PatternError
        A way of weights, shapes that do not fit together, a number that is not finite, or no tokens to fit to.

    Source
    ------
    As `nmsim.quality.measure_activations`.

    Examples
    --------
    >>> from nmsim.pattern import Pattern
    >>> from nmsim.quality.way import parse_mitigation
    >>> way = Way("activations", Pattern(2, 4), mitigation=parse_mitigation("dpts_mean"))
    >>> pruner = TokenPruner(way, np.eye(4))
    >>> selected = pruner.select(np.array([[1.0, 5.0, 3.0, 3.0]], np.float32))
    >>> pruner.finish(selected.values @ pruner.weight.T, selected).tolist()
    [[1.0, 5.0, 3.0, 3.0]]
    """

    def __init__(
        self,
        way: Way,
        weight: NDArray[Any],
        calibration: Tokens = None,
    ) -> None:
        _refuse_other(way, "activations")
        block, known = _matrix(weight), _calibration(calibration, weight)
        if way.fitted:
            needed(way, known)
        self.way = way
        columns = Layer(block).columns()
        self._fold = folded_recipe(way, known, columns)
        # Folded once: products with a rotation are the longest part of it.
        whole = np.ascontiguousarray(Layer(block, self._fold, block.size).whole())
        layer = Layer(whole, block_elems=block.size)
        folded_columns = layer.columns() if way.find("rotation") or way.find("smooth_static") else columns
        vector = criteria.vector_of(way.criterion, weight=whole) if way.pattern else None
        x_fit = rewrite.produced(known.tokens, self._fold) if known is not None and way.fitted else None
        self._choice, fit_chosen = fitted_choice(way, x_fit, layer, columns=folded_columns, vector=vector)
        recipe = self._choice.recipe
        self._prepared = rewrite.prepare(whole, recipe)
        if fit_chosen is not None and x_fit is not None:
            y_fit = rewrite.finish(fit_chosen.values @ whole.T, fit_chosen, self._prepared)
            scale, bias = fit.scale_and_bias(y_fit, x_fit @ whole.T)
            self._prepared = rewrite.prepare(whole, dataclasses.replace(recipe, scale=scale, bias=bias))
        self._norms = known.norms.tobytes() if known is not None and way.fitted else b""

    @property
    def weight(self) -> Floats:
        """[O, K], that the product is made with: rotation and equalisation folded in."""
        return self._prepared.weight

    @property
    def looks_across_tokens(self) -> bool:
        """Whether a choice depends on the other tokens of the call, so that windows are to be handed in one by one."""
        return looks_across_tokens(self.way)

    @property
    def shares_selection(self) -> Hashable:
        """A key: layers with the same key select the same from the same tokens. None if the weights enter the choice.

        Numbers that are fitted to calibration tokens are shared only if those have the same norms.
        """
        of_weights = {"smooth_static", "smooth_dynamic", "bias1", "bias2", "r_sparse"} & set(self.way.names)
        if of_weights or (self.way.pattern and named(self.way.criterion).vector):
            return None
        on_tokens = tuple(one for one in self.way.mitigation if one.name != "scale_shift")
        norms = self._norms if {"spts", "lpts", "rotation", "salient_columns"} & set(self.way.names) else b""
        return (self.way._replace(mitigation=on_tokens), norms)

    def select(self, x: Floats) -> rewrite.Selected:
        """Choose among tokens [L, K], as they come to the layer.

        Returns
        -------
        Selected
            Its values [L, K] are those of the product with `weight`.

        Raises
        ------
        PatternError
            Another type or length, or an element that is not finite.
        """
        return self._choice.select(rewrite.produced(x, self._fold))[0]

    def finish(self, product: Floats, selected: rewrite.Selected) -> Floats:
        """Run the epilogue on `selected.values` times `weight`^T, [L, O]."""
        parts = (selected.eta, selected.v, selected.token_bias, selected.side)
        beside = self._prepared
        if all(part is None for part in (*parts, beside.gain, beside.bias)):
            return product
        found = np.empty(product.shape, np.float32)
        step = max(1, SLAB_ELEMS // product.shape[1])
        for first in range(0, len(product), step):
            rows = slice(first, first + step)
            eta, v, token_bias, side = (None if part is None else part[rows] for part in parts)
            some = rewrite.Selected(selected.values[rows], selected.mask[rows], eta, v, token_bias, side)
            found[rows] = rewrite.finish(product[rows], some, beside)
        return found


def _refuse_other(way: Way, operand: str) -> None:
    if way.operand != operand:
        raise PatternError(f"{way}: is a way of {way.operand}, expected one of {operand}")


def _matrix(weight: NDArray[Any]) -> Floats:
    weight = np.asarray(weight)
    if weight.ndim != 2 or not weight.size:
        raise PatternError(f"weight has shape {weight.shape}: expected a matrix with something in it")
    return np.ascontiguousarray(weight, np.float32)


def _calibration(tokens: Tokens, weight: NDArray[Any]) -> Calibration | None:
    if tokens is None:
        return None
    if not isinstance(tokens, Calibration):
        return Calibration(tokens_of("calibration", tokens, weight))
    if tokens.tokens.shape[1:] != weight.shape[1:]:
        raise PatternError(
            f"calibration tokens have shape {tokens.tokens.shape}, weight {weight.shape}: expected [L, K] and [O, K]"
        )
    return tokens


def _no_columns(in_features: int) -> Columns:
    """Stands where no way looks at columns: NaN would show if one did."""
    nothing = np.full(in_features, np.nan)
    return Columns(nothing.astype(np.float32), nothing, nothing, nothing)
