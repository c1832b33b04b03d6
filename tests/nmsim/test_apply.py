"""What a way makes of a layer, against the golden formulas in float64: every criterion and mitigation, two roads."""

import dataclasses

import numpy as np
import pytest

from nmsim import Pattern
from nmsim.criteria import CRITERIA, best_of_tokens, choose
from nmsim.mask import prune
from nmsim.mitigation import Recipe, fit, golden, split, split_columns, split_unstructured
from nmsim.mitigation.recipe import MITIGATIONS
from nmsim.mitigation.weights import corrected
from nmsim.quality import (
    TokenPruner,
    Way,
    cross,
    parse_mitigation,
    parse_rounding,
    pruned_weight,
)
from nmsim.quality.layer import eigenvectors

TOKENS, OUT = 150, 20
WIDTHS = (48, 64, 100)
WITHIN = 3e-5
"""Of an output in float32 beside one in float64, relative to the greatest."""


def layer(in_features):
    """Tokens of unlike scale and mean, and weights: calibration tokens, tokens, weights."""
    rng = np.random.default_rng(in_features)
    scales = np.exp(rng.normal(0, 0.7, in_features))
    x_fit, x = ((rng.normal(size=(2, TOKENS, in_features)) + 0.4) * scales).astype(np.float32)
    return x_fit, x, (rng.standard_t(5, (OUT, in_features)) + 0.1).astype(np.float32)


def way(operand, pattern, criterion, mitigation, values=None):
    rounding = parse_rounding(values) if values else None
    return Way(operand, Pattern.parse(pattern), criterion, parse_mitigation(mitigation), rounding)


def sized(name):
    """A mitigation with a size that fits these layers."""
    sizes = {"r_sparse": "=6", "outliers": "=3:32", "outliers_unstructured": "=3:32", "salient_columns": "=5"}
    return name + sizes.get(name, "")


def ways_of(operand, pattern="4:8"):
    """Every criterion with every mitigation that goes with it, and what is often used together."""
    together = {
        "activations": ["dpts_mean+var", "lpts+var+scale_shift", "rotation+dpts_median+var", "smooth_static+spts",
                        "lpts+var+bias1+bias2+r_sparse=6+scale_shift", "smooth_dynamic+rotation+scale_shift"],
        "weights": ["weight_correction+scale_shift", "outliers=3:32+weight_correction", "smooth_static+scale_shift",
                    "outliers_unstructured=3:32+weight_correction+scale_shift"],
    }[operand]  # fmt: skip
    names = ["none", *map(sized, MITIGATIONS), *together]
    return [one for one in cross(operand, [pattern], CRITERIA, names)[0] if one.pattern]


def near(found, expected):
    """Equal but for rounding in float32."""
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() <= WITHIN * np.abs(expected).max()


def golden_recipe(one, x_fit, weight, pattern):
    """Every parameter from calibration tokens in float64, by the formulas."""
    names, x, weight = one.names, x_fit.astype(float), weight.astype(float)
    shifts = {"dpts_mean": "mean", "dpts_median": "median"}
    shift = next((shifts[name] for name in names if name in shifts), "none")
    shift = fit.static_shift([x]) if "spts" in names else fit.channel_shift(x) if "lpts" in names else shift
    equalise = "dynamic" if "smooth_dynamic" in names else "none"
    turned = x
    rotation = None
    if "rotation" in names:
        rotation = eigenvectors(x)
        turned = x @ rotation
    if "smooth_static" in names:
        equalise = golden.equalisation(x, weight)
        turned = x / equalise
    if "spts" in names:
        shift = fit.static_shift([turned])
    if "lpts" in names:
        shift = fit.channel_shift(turned)
    recipe = Recipe(shift=shift, variance="var" in names, equalise=equalise, rotation=rotation)
    seen = weight if rotation is None else weight @ rotation
    seen = seen * equalise if "smooth_static" in names else seen
    error = x @ weight.T - golden.linear(x, weight, pattern, recipe, criterion=one.criterion)
    eta = golden._shift(turned, shift)
    if {"bias1", "bias2", "r_sparse"} & set(names):
        mask = choose(turned - eta, pattern, one.criterion, weight=seen)
        kept, dropped = np.where(mask, turned - eta, 0.0), np.where(mask, 0.0, turned - eta)
        changes = {}
        if {"bias1", "bias2"} <= set(names):
            both = fit.token_bias(np.hstack([kept, dropped]), error)
            changes["kept_bias"], changes["dropped_bias"] = np.split(both, 2)
        elif "bias1" in names:
            changes["kept_bias"] = fit.token_bias(kept, error)
        elif "bias2" in names:
            changes["dropped_bias"] = fit.token_bias(dropped, error)
        if low_rank := one.find("r_sparse"):
            changes["low_rank"] = fit.low_rank(dropped, seen, low_rank.number)
        recipe = dataclasses.replace(recipe, **changes)
    if "scale_shift" in names:
        y = golden.linear(x, weight, pattern, recipe, criterion=one.criterion)
        scale, bias = fit.scale_and_bias(y, x @ weight.T)
        recipe = dataclasses.replace(recipe, scale=scale, bias=bias)
    return recipe


def expected_tokens(one, x_fit, x, weight):
    """Output of a layer of pruned tokens, by the formulas."""
    if split_by := one.find("outliers") or one.find("outliers_unstructured") or one.find("salient_columns"):
        vector = CRITERIA[one.criterion].vector
        scores = None if vector is None else np.abs(x) * vector(weight)
        scores = CRITERIA["clact"].scores(x) if one.criterion == "clact" else scores
        if split_by.name == "salient_columns":
            saliency = np.square(x_fit.astype(float)).sum(axis=0)
            parts = split_columns(x, one.pattern, split_by.number, saliency=saliency, scores=scores)
        else:
            function = split if split_by.name == "outliers" else split_unstructured
            parts = function(x, one.pattern, split_by.size, scores=scores)
        return np.where(parts.kept, x, 0.0).astype(float) @ weight.T.astype(float)
    recipe = golden_recipe(one, x_fit, weight, one.pattern)
    return golden.linear(x, weight, one.pattern, recipe, criterion=one.criterion)


def expected_weight(one, x_fit, weight):
    """Pruned weights and bias in float64, by the formulas."""
    x = x_fit.astype(float)
    vector = np.sqrt(np.square(x).sum(axis=0))
    equalised = golden.equalisation(x, weight) if one.find("smooth_static") else None
    scores = CRITERIA[one.criterion].scores
    if CRITERIA[one.criterion].takes_vector:
        scores = CRITERIA[one.criterion].with_vector(weight, vector)
    else:
        scores = np.abs(weight.astype(float)) * (1.0 if equalised is None else equalised)
    if one.find("salient_columns"):
        mask = split_columns(weight, one.pattern, one.find("salient_columns").number, scores=scores).kept
    elif one.find("outliers"):
        mask = split(weight, one.pattern, one.find("outliers").size, scores=scores).kept
    elif one.find("outliers_unstructured"):
        mask = split_unstructured(
            weight, one.pattern, one.find("outliers_unstructured").size, scores=scores
        ).kept
    elif CRITERIA[one.criterion].among == "token":
        mask = best_of_tokens(scores, weight.shape[1] * one.pattern.n // one.pattern.m)
    else:
        mask = prune(weight, one.pattern, scores=scores)
    found = (
        corrected(weight, mask)
        if one.find("weight_correction")
        else np.where(mask, weight, 0.0).astype(float)
    )
    if not one.find("scale_shift"):
        return found, np.zeros(len(weight)), mask
    scale, bias = fit.scale_and_bias(x @ found.T, x @ weight.T.astype(float))
    return found * (1 + scale)[:, None], bias, mask


class TestTokens:
    @pytest.mark.parametrize("in_features", WIDTHS)
    @pytest.mark.parametrize("one", ways_of("activations"), ids=str)
    def test_a_layer_is_that_of_the_golden_formulas(self, one, in_features):
        x_fit, x, weight = layer(in_features)
        near(run(one, x_fit, x, weight), expected_tokens(one, x_fit, x, weight))


def run(one, x_fit, x, weight):
    pruner = TokenPruner(one, weight, x_fit)
    selected = pruner.select(x)
    return pruner.finish(selected.values @ pruner.weight.T, selected)


class TestWeights:
    @pytest.mark.parametrize("in_features", WIDTHS)
    @pytest.mark.parametrize("one", ways_of("weights"), ids=str)
    def test_a_layer_is_that_of_the_golden_formulas(self, one, in_features):
        x_fit, _, weight = layer(in_features)
        found = pruned_weight(weight, one, x_fit)
        expected, bias, mask = expected_weight(one, x_fit, weight)
        near(found.weight, expected)
        assert (found.bias is None) is (one.find("scale_shift") is None)
        if found.bias is not None:
            near(found.bias, bias)
        assert found.kept_share == mask.mean()
