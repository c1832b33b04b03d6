"""What a way makes of a layer, against the golden formulas in float64: every criterion and mitigation, two roads."""

import dataclasses

import numpy as np
import pytest

from nmsim import Pattern
from nmsim.criteria import CRITERIA, best_of_tokens, choose
from nmsim.errors import PatternError
from nmsim.mask import prune
from nmsim.mitigation import Recipe, fit, golden, rewrite, split, split_columns, split_unstructured
from nmsim.mitigation.recipe import MITIGATIONS
from nmsim.mitigation.rounding import round_values
from nmsim.mitigation.weights import corrected
from nmsim.quality import (
    Calibration,
    TokenPruner,
    Way,
    cross,
    measure_activations,
    measure_weights,
    parse_mitigation,
    parse_rounding,
    pruned_weight,
)
from nmsim.quality import activations as activations_module
from nmsim.quality import weights as weights_module
from nmsim.quality.layer import eigenvectors

TOKENS, OUT = 130, 20
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


FEW = [
    one
    for one in ways_of("activations", "2:4")
    if one.criterion in ("magnitude", "clact", "amber", "unstructured_global")
]
"""Of each kind of criterion one: of an element, of the call, of the weights, of all tokens."""


class TestTokens:
    @pytest.mark.parametrize("one", ways_of("activations"), ids=str)
    def test_a_layer_is_that_of_the_golden_formulas(self, one):
        for in_features in WIDTHS:
            x_fit, x, weight = layer(in_features)
            near(run(one, x_fit, x, weight), expected_tokens(one, x_fit, x, weight))


def run(one, x_fit, x, weight):
    pruner = TokenPruner(one, weight, x_fit)
    selected = pruner.select(x)
    return pruner.finish(selected.values @ pruner.weight.T, selected)


class TestWeights:
    @pytest.mark.parametrize("one", ways_of("weights"), ids=str)
    def test_a_layer_is_that_of_the_golden_formulas(self, one):
        for in_features in WIDTHS:
            x_fit, _, weight = layer(in_features)
            found = pruned_weight(weight, one, x_fit)
            expected, bias, mask = expected_weight(one, x_fit, weight)
            near(found.weight, expected)
            assert (found.bias is None) is (one.find("scale_shift") is None)
            if found.bias is not None:
                near(found.bias, bias)
            assert found.kept_share == mask.mean()

    @pytest.mark.parametrize("criterion", ["unstructured", "unstructured_channel_vector"])
    @pytest.mark.parametrize("in_features", [*WIDTHS, 3])
    def test_a_share_of_a_row_is_rounded_down(self, criterion, in_features):
        """70 % pruned as 3:10, of widths that 10 does not divide."""
        x_fit, _, weight = layer(in_features)
        found = pruned_weight(weight, way("weights", "3:10", criterion, "none"), x_fit)
        assert (np.count_nonzero(found.weight, axis=1) == in_features * 3 // 10).all()

    def test_ria_sees_sums_of_all_rows_however_the_rows_are_cut(self):
        x_fit, x, weight = layer(64)
        ria = way("weights", "4:8", "ria", "none")
        whole, cut = (
            measure_weights(x_fit, x, weight, [ria], block_elems=size)[0] for size in (1 << 20, 200)
        )
        assert cut.energy_kept == pytest.approx(whole.energy_kept, rel=1e-12)

    def test_a_dense_way_keeps_all(self):
        _, _, weight = layer(48)
        found = pruned_weight(weight.astype(float), Way("weights", None))
        assert (found.weight.tolist(), found.bias, found.kept_share) == (weight.tolist(), None, 1.0)


class TestMeasuring:
    """What is handed on is what is measured."""

    @pytest.mark.parametrize("values", [None, "int4/16/before", "int4/16/after"])
    def test_weights(self, values):
        x_fit, x, weight = layer(100)
        ways = [one._replace(values=values and parse_rounding(values)) for one in ways_of("weights")]
        dense = x.astype(float) @ weight.T.astype(float)
        for measured in measure_weights(x_fit, x, weight, ways):
            found = pruned_weight(weight, measured.way, x_fit)
            y = x @ found.weight.T.astype(float) + (0.0 if found.bias is None else found.bias)
            assert measured.output_error == pytest.approx(np.square(y - dense).sum(), rel=1e-3), measured.way

    @pytest.mark.parametrize("values", [None, "int4/16/before", "int4/16/after"])
    def test_tokens(self, values):
        x_fit, x, weight = layer(100)
        ways = [one._replace(values=values and parse_rounding(values)) for one in FEW]
        dense = x.astype(float) @ weight.T.astype(float)
        for measured in measure_activations(x_fit, x, weight, ways):
            y = run(measured.way, x_fit, x, weight)
            assert measured.output_error == pytest.approx(np.square(y - dense).sum(), rel=1e-3), measured.way


class TestRounding:
    X_FIT, X, WEIGHT = layer(100)

    def test_weights_before_and_after(self):
        rounded = golden.rounded(self.WEIGHT, bits=4, group=16)
        before = pruned_weight(self.WEIGHT, way("weights", "4:8", "magnitude", "none", "int4/16/before"))
        mask = prune(rounded.astype(np.float32), "4:8")
        near(before.weight, np.where(mask, rounded, 0.0))
        after = pruned_weight(self.WEIGHT, way("weights", "4:8", "magnitude", "none", "int4/16/after"))
        kept = np.where(prune(self.WEIGHT, "4:8"), self.WEIGHT, 0.0)
        near(after.weight, golden.rounded(kept, bits=4, group=16))

    def test_equalised_weights_are_rounded_as_they_are_stored(self):
        factors = golden.equalisation(self.X_FIT, self.WEIGHT)
        found = pruned_weight(
            self.WEIGHT, way("weights", "4:8", "magnitude", "smooth_static", "int4/16/after"), self.X_FIT
        )
        stored = self.WEIGHT * factors
        stored = np.where(prune(self.WEIGHT, "4:8", scores=np.abs(stored)), stored, 0.0)
        near(found.weight, golden.rounded(stored, bits=4, group=16) / factors)

    @pytest.mark.parametrize("mitigation", ["none", "dpts_mean+var", "lpts", "outliers=3:32", "scale_shift"])
    def test_tokens_before(self, mitigation):
        one = way("activations", "4:8", "magnitude", mitigation)
        rounded_fit, rounded = (
            golden.rounded(x, bits=4, group=16).astype(np.float32) for x in (self.X_FIT, self.X)
        )
        found = run(one._replace(values=parse_rounding("int4/16/before")), self.X_FIT, self.X, self.WEIGHT)
        expected = expected_tokens(one, rounded_fit, rounded, self.WEIGHT)
        if mitigation == "scale_shift":  # the aim is the output of tokens that are not rounded
            plain = expected_tokens(one._replace(mitigation=()), rounded_fit, rounded_fit, self.WEIGHT)
            scale, bias = fit.scale_and_bias(plain, self.X_FIT.astype(float) @ self.WEIGHT.T)
            plain = expected_tokens(one._replace(mitigation=()), rounded_fit, rounded, self.WEIGHT)
            expected = plain * (1 + scale) + bias
        near(found, expected)

    def test_tokens_after(self):
        """The product sees rounded values; the factor of the variance is of those before."""
        one = way("activations", "4:8", "magnitude", "dpts_mean+var", "int8/16/after")
        eta = self.X.mean(axis=1, keepdims=True)
        shifted = self.X - eta
        kept = np.where(prune(shifted, "4:8"), shifted, 0.0).astype(float)
        v = np.sqrt(shifted.var(axis=1, ddof=1) / kept.var(axis=1, ddof=1))[:, None]
        y = (v * golden.rounded(kept, bits=8, group=16) + eta) @ self.WEIGHT.T.astype(float)
        near(run(one, self.X_FIT, self.X, self.WEIGHT), y)

    def test_tokens_that_are_only_rounded(self):
        one = Way("activations", None, values=parse_rounding("int4/16/before"))
        y = golden.rounded(self.X, bits=4, group=16) @ self.WEIGHT.T.astype(float)
        near(run(one, None, self.X, self.WEIGHT), y)


class TestSharing:
    X_FIT, X, WEIGHT = layer(64)
    OTHER = WEIGHT[::-1][:7] * 3

    @pytest.mark.parametrize("one", FEW, ids=str)
    def test_layers_of_one_key_select_the_same(self, one):
        first, second = (TokenPruner(one, weight, self.X_FIT) for weight in (self.WEIGHT, self.OTHER))
        same = [first.select(self.X), second.select(self.X)]
        differ = any(
            not np.array_equal(a, b) for a, b in zip(*same, strict=True) if a is not None or b is not None
        )
        assert (first.shares_selection == second.shares_selection is not None) != differ

    def test_what_depends_on_weights_or_on_other_tokens_has_another_key(self):
        keys = [
            TokenPruner(way("activations", "2:4", *names), self.WEIGHT, fit_to).shares_selection
            for names, fit_to in (
                (("magnitude", "none"), None), (("clact", "none"), None), (("magnitude", "var"), None),
                (("magnitude", "lpts"), self.X_FIT), (("magnitude", "lpts"), self.X),
            )
        ]  # fmt: skip
        assert None not in keys
        assert len(set(keys)) == len(keys)
        for names in (
            ("amber", "none"),
            ("weight_variance", "var"),
            ("magnitude", "bias1"),
            ("magnitude", "r_sparse=4"),
        ):
            assert (
                TokenPruner(way("activations", "2:4", *names), self.WEIGHT, self.X_FIT).shares_selection
                is None
            )

    @pytest.mark.parametrize("one", FEW, ids=str)
    def test_what_looks_at_one_token_selects_the_same_from_each_alone(self, one):
        pruner = TokenPruner(one, self.WEIGHT, self.X_FIT)
        whole = pruner.select(self.X).mask
        alone = np.vstack([pruner.select(self.X[[row]]).mask for row in range(TOKENS)])
        assert pruner.looks_across_tokens is not np.array_equal(whole, alone)

    def test_a_record_of_tokens_and_the_tokens_give_the_same(self):
        one = way("activations", "2:4", "magnitude", "lpts+scale_shift")
        shared = Calibration(self.X_FIT)
        for weight in (self.WEIGHT, self.OTHER):
            np.testing.assert_array_equal(
                run(one, shared, self.X, weight), run(one, self.X_FIT, self.X, weight)
            )


class TestRefusals:
    X_FIT, X, WEIGHT = layer(48)

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda self: pruned_weight(self.WEIGHT, way("activations", "2:4", "magnitude", "none")),
             "is a way of activations, expected one of weights"),
            (lambda self: TokenPruner(way("weights", "2:4", "magnitude", "none"), self.WEIGHT),
             "is a way of weights, expected one of activations"),
            (lambda self: pruned_weight(self.WEIGHT, way("weights", "2:4", "ria", "scale_shift")),
             "no calibration tokens, expected some to fit ria, scale_shift to"),
            (lambda self: TokenPruner(way("activations", "2:4", "magnitude", "spts"), self.WEIGHT),
             "no calibration tokens, expected some to fit spts to"),
            (lambda self: TokenPruner(way("activations", "2:4", "magnitude", "spts"), self.WEIGHT, self.X[:, :9]),
             "calibration has shape"),
            (lambda self: TokenPruner(way("activations", "2:4", "magnitude", "spts"), self.WEIGHT,
                                      Calibration(self.X[:, :9])), "calibration tokens have shape"),
            (lambda self: pruned_weight(self.WEIGHT[0], way("weights", "2:4", "magnitude", "none")), "expected a matrix"),
            (lambda self: pruned_weight(self.WEIGHT * np.nan, way("weights", "2:4", "magnitude", "none")), "nan"),
            (lambda self: run(way("activations", "2:4", "magnitude", "none"), None, self.X * np.inf, self.WEIGHT), "inf"),
        ],
    )  # fmt: skip
    def test_with_the_reason(self, call, message):
        with np.errstate(invalid="ignore"), pytest.raises(PatternError, match=message):
            call(self)


class TestPlantedFaults:
    """The comparison above notices what would be wrong with a layer."""

    X_FIT, X, WEIGHT = layer(64)

    def notices(self, mitigation):
        one = way("activations", "4:8", "magnitude", mitigation)
        with pytest.raises(AssertionError):
            near(
                run(one, self.X_FIT, self.X, self.WEIGHT),
                expected_tokens(one, self.X_FIT, self.X, self.WEIGHT),
            )

    @pytest.mark.parametrize("mitigation", ["none", "dpts_mean+var", "scale_shift"])
    def test_a_mask_along_the_wrong_axis(self, mitigation, monkeypatch):
        monkeypatch.setattr(rewrite, "prune", lambda x, pattern, **rest: prune(x.T, pattern, **rest).T)
        self.notices(mitigation)

    def test_weights_pruned_along_the_wrong_axis(self, monkeypatch):
        monkeypatch.setattr(weights_module, "prune", lambda x, pattern, **rest: prune(x, pattern, axis=0))
        one = way("weights", "4:8", "magnitude", "none")
        with pytest.raises(AssertionError):
            near(pruned_weight(self.WEIGHT, one).weight, expected_weight(one, self.X_FIT, self.WEIGHT)[0])

    @pytest.mark.parametrize(
        ("mitigation", "left_out"),
        [("dpts_mean", {"eta": None}), ("dpts_median+var", {"eta": None}), ("var", {"v": None}),
         ("bias1", {"token_bias": None}), ("r_sparse=6", {"side": None})],
    )  # fmt: skip
    def test_a_term_left_out_of_the_epilogue(self, mitigation, left_out, monkeypatch):
        plain = TokenPruner.finish
        monkeypatch.setattr(
            TokenPruner,
            "finish",
            lambda self, product, selected: plain(self, product, selected._replace(**left_out)),
        )
        self.notices(mitigation)

    @pytest.mark.parametrize("mitigation", ["spts", "lpts"])
    def test_the_bias_of_a_constant_shift_left_out(self, mitigation, monkeypatch):
        monkeypatch.setattr(rewrite, "_folded_bias", lambda *_: None)
        self.notices(mitigation)

    def test_scales_along_the_wrong_axis(self, monkeypatch):
        one = way("activations", "4:8", "magnitude", "none", "int4/16/before")
        monkeypatch.setattr(
            activations_module,
            "round_values",
            lambda x, **how: round_values(np.ascontiguousarray(x.T), **how).T,
        )
        rounded = golden.rounded(self.X, bits=4, group=16).astype(np.float32)
        with pytest.raises(AssertionError):
            near(
                run(one, None, self.X, self.WEIGHT),
                expected_tokens(one._replace(values=None), self.X_FIT, rounded, self.WEIGHT),
            )
