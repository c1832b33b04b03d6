"""Quality on arrays: against the golden formulas in float64, block by block, and entropies of masks that are known."""

import dataclasses
import math

import numpy as np
import pytest

from nmsim import Pattern
from nmsim.criteria import amber_vector, best_of_tokens, choose, weight_variance_vector
from nmsim.errors import PatternError
from nmsim.mask import prune
from nmsim.mitigation import Recipe, fit, golden, split, split_columns
from nmsim.mitigation.recipe import MITIGATIONS
from nmsim.mitigation.weights import corrected
from nmsim.quality import Way, cross, measure_activations, measure_weights, parse_mitigation
from nmsim.quality.layer import GROUPS_PER_MASK, MaskCounter, eigenvectors, entropy_of

TOKENS, OUT, IN = 48, 24, 96
RNG = np.random.default_rng(5)
SCALES = np.exp(RNG.normal(size=IN))
X_FIT, X = ((RNG.normal(size=(2, TOKENS, IN)) + 0.4) * SCALES).astype(np.float32)
WEIGHT = (RNG.standard_t(5, (OUT, IN)) + 0.1).astype(np.float32)
DENSE = X.astype(float) @ WEIGHT.T.astype(float)
ROUNDING = 2e-4
"""Of an error in float32 beside one in float64, relative."""


def way(operand, pattern, criterion, mitigation):
    return Way(operand, Pattern.parse(pattern), criterion, parse_mitigation(mitigation))


def put(array, place, value):
    found = array.copy()
    found[place] = value
    return found


def measured(operand, pattern, criterion, mitigation, **options):
    function = measure_activations if operand == "activations" else measure_weights
    (found,) = function(X_FIT, X, WEIGHT, [way(operand, pattern, criterion, mitigation)], **options)
    return found


def lost(y):
    return float(np.square(y - DENSE).sum() / np.square(DENSE).sum())


def parts(x, pattern, criterion, recipe):
    """Kept and dropped of X - eta, as the golden formulas have them."""
    eta = golden._shift(x, recipe.shift)
    mask = choose(x - eta, pattern, criterion, weight=WEIGHT)
    return np.where(mask, x - eta, 0.0), np.where(mask, 0.0, x - eta)


def expected_recipe(names, pattern, criterion):
    """The recipe of a way, every parameter from calibration tokens in float64 with nothing left out."""
    x, weight = X_FIT.astype(float), WEIGHT.astype(float)
    shift = {"dpts_mean": "mean", "dpts_median": "median"}.get(
        next((n for n in names if "pts" in n), ""), "none"
    )
    shift = fit.static_shift([x]) if "spts" in names else fit.channel_shift(x) if "lpts" in names else shift
    equalise = golden.equalisation(x, weight) if "smooth_static" in names else "none"
    recipe = Recipe(
        shift=shift,
        variance="var" in names,
        equalise="dynamic" if "smooth_dynamic" in names else equalise,
        rotation=eigenvectors(x) if "rotation" in names else None,
    )
    error = x @ weight.T - golden.linear(x, weight, pattern, recipe, criterion=criterion)
    if {"bias1", "bias2", "r_sparse"} & set(names):
        kept, dropped = parts(x, pattern, criterion, recipe)
        changes = {}
        if "bias1" in names:
            changes["kept_bias"] = fit.token_bias(kept, error)
        if "bias2" in names:
            changes["dropped_bias"] = fit.token_bias(dropped, error)
        if "r_sparse" in names:
            changes["low_rank"] = fit.low_rank(dropped, weight, 8)
        recipe = dataclasses.replace(recipe, **changes)
    if "scale_shift" in names:
        y = golden.linear(x, weight, pattern, recipe, criterion=criterion)
        scale, bias = fit.scale_and_bias(y, x @ weight.T)
        recipe = dataclasses.replace(recipe, scale=scale, bias=bias)
    return recipe


OF_ACTIVATIONS = [name for name, kind in MITIGATIONS.items() if kind.sets not in ("correction", "split")]


class TestActivations:
    @pytest.mark.parametrize("pattern", ["2:4", "8:16"])
    @pytest.mark.parametrize(
        "mitigation",
        [
            "none",
            *(f"{name}=8" if name == "r_sparse" else name for name in OF_ACTIVATIONS),
            "dpts_mean+var",
            "lpts+var+scale_shift",
            "dpts_mean+bias1+scale_shift",
            "dpts_median+r_sparse=8",
            "rotation+dpts_mean+var",
            "smooth_static+dpts_mean",
            "smooth_dynamic+scale_shift",
        ],
    )
    def test_error_is_that_of_the_golden_formulas(self, mitigation, pattern):
        names = way("activations", pattern, "magnitude", mitigation).names
        recipe = expected_recipe(names, pattern, "magnitude")
        found = measured("activations", pattern, "magnitude", mitigation)
        assert found.relative_output_error == pytest.approx(
            lost(golden.linear(X, WEIGHT, pattern, recipe)), rel=ROUNDING
        )

    @pytest.mark.parametrize(
        "criterion", ["clact", "amber", "weight_variance", "unstructured", "unstructured_global"]
    )
    @pytest.mark.parametrize("mitigation", ["none", "dpts_mean+var", "r_sparse=8"])
    def test_error_under_every_criterion(self, criterion, mitigation):
        names = way("activations", "4:8", criterion, mitigation).names
        recipe = expected_recipe(names, "4:8", criterion)
        y = golden.linear(X, WEIGHT, "4:8", recipe, criterion=criterion)
        found = measured("activations", "4:8", criterion, mitigation)
        assert found.relative_output_error == pytest.approx(lost(y), rel=ROUNDING)

    @pytest.mark.parametrize(
        ("criterion", "vector"),
        [("magnitude", None), ("amber", amber_vector), ("weight_variance", weight_variance_vector)],
    )
    def test_outliers_and_columns(self, criterion, vector):
        scores = None if vector is None else np.abs(X) * vector(WEIGHT)
        kept = split(X, "4:8", "8:96", scores=scores).kept
        found = measured("activations", "4:8", criterion, "outliers=8:96")
        assert found.relative_output_error == pytest.approx(
            lost(np.where(kept, X, 0.0) @ WEIGHT.T), rel=ROUNDING
        )
        assert found.energy_kept == pytest.approx(np.square(X[kept].astype(float)).sum())
        saliency = np.square(X_FIT.astype(float)).sum(axis=0)
        kept = split_columns(X, "4:8", 6, saliency=saliency, scores=scores).kept
        found = measured("activations", "4:8", criterion, "salient_columns=6")
        assert found.relative_output_error == pytest.approx(
            lost(np.where(kept, X, 0.0) @ WEIGHT.T), rel=ROUNDING
        )

    def test_dense_has_no_error_and_keeps_all(self):
        found = measure_activations(X_FIT, X, WEIGHT, [Way("activations", None)], block_elems=500)[0]
        assert (found.relative_output_error, found.energy_kept_share, found.entropy) == (0.0, 1.0, None)
        assert found.output_energy == pytest.approx(np.square(DENSE).sum())

    def test_energy_is_that_of_x_where_the_mask_is(self):
        eta = X.mean(axis=1, keepdims=True)
        kept = np.square(X[prune(X - eta, "2:4")].astype(float)).sum()
        found = measured("activations", "2:4", "magnitude", "dpts_mean")
        assert (found.energy_kept, found.elems) == (pytest.approx(kept), X.size)
        assert found.energy == pytest.approx(np.square(X.astype(float)).sum())

    @pytest.mark.parametrize("block_elems", [1, 300, 10_000])
    def test_blocks_of_any_size_give_the_same(self, block_elems):
        ways, _ = cross("activations", ["2:4", "8:16"], ["magnitude", "amber"],
                        ["none", "dpts_mean+var", "scale_shift", "bias1", "r_sparse=8", "smooth_static", "smooth_dynamic",
                         "rotation"])  # fmt: skip
        whole = measure_activations(X_FIT, X, WEIGHT, ways)
        for one, other in zip(
            whole, measure_activations(X_FIT, X, WEIGHT, ways, block_elems=block_elems), strict=True
        ):
            assert one.way == other.way
            assert other.output_error == pytest.approx(one.output_error, rel=1e-5)

    def test_energies_are_of_the_tokens_as_they_were_given(self):
        ways, _ = cross(
            "activations", ["8:16"], ["magnitude"], ["none", "smooth_static", "dpts_mean", "outliers"]
        )
        found = measure_activations(X_FIT, X, WEIGHT, ways)
        assert [one.energy for one in found] == pytest.approx([np.square(X).sum()] * len(ways), rel=1e-6)
        assert all(0.5 < one.energy_kept_share <= 1 for one in found)

    def test_results_are_in_the_order_of_the_ways(self):
        ways, _ = cross("activations", ["8:16", "2:4"], ["magnitude"], ["smooth_static", "none"])
        assert [one.way for one in measure_activations(X_FIT, X, WEIGHT, ways)] == ways

    @pytest.mark.parametrize(
        ("x", "weight", "message"),
        [
            (X[:, :5], WEIGHT, r"x has shape \(48, 5\), weight \(24, 96\): expected"),
            (put(X, (5, 7), np.nan), WEIGHT, r"x\[5, 7\] is nan, expected finite numbers"),
            (
                put(X, (5, 7), 1e30),
                WEIGHT,
                r"x\[5, 7\] is 1e\+30, expected finite numbers of at most 1.9e\+18",
            ),
            (put(X.astype(float), (5, 7), -1e300), WEIGHT, r"x\[5, 7\] is -1e\+300"),
            (X, put(WEIGHT, (20, 3), np.inf), r"weight\[20, 3\] is inf"),
            (X, put(WEIGHT, (20, 3), 1e30), r"weight\[20, 3\] is 1e\+30"),
        ],
    )
    def test_what_cannot_be_measured_is_refused(self, x, weight, message):
        for operand, function in (("activations", measure_activations), ("weights", measure_weights)):
            with np.errstate(over="raise", invalid="raise"), pytest.raises(PatternError, match=message):
                function(X_FIT, x, weight, [way(operand, "2:4", "magnitude", "none")], block_elems=5 * IN)

    def test_the_largest_that_is_taken_overflows_nothing(self):
        largest = np.float32(0.99) * np.float32(np.sqrt(np.finfo(np.float32).max / IN))
        names = ["none", "var", "dpts_mean+bias1+bias2+scale_shift"]
        ways, _ = cross("activations", ["2:4"], ["magnitude", "clact"], names)
        with np.errstate(over="raise", invalid="raise"):
            found = measure_activations(np.sign(X_FIT) * largest, np.sign(X) * largest, WEIGHT, ways)
        assert all(math.isfinite(one.relative_output_error) for one in found)


class TestWeights:
    FACTORS = golden.equalisation(X_FIT, WEIGHT)
    NORMS = np.sqrt(np.square(X_FIT.astype(float)).sum(axis=0))

    def masks(self, mitigation, scores):
        names = way("weights", "4:8", "magnitude", mitigation).names
        if "outliers" in names:
            return split(WEIGHT, "4:8", "8:96", scores=scores).kept
        if "salient_columns" in names:
            return split_columns(WEIGHT, "4:8", 6, scores=scores).kept
        return prune(WEIGHT, "4:8", scores=scores)

    @pytest.mark.parametrize("criterion", ["magnitude", "channel_vector"])
    @pytest.mark.parametrize(
        "mitigation",
        ["none", "weight_correction", "smooth_static", "outliers=8:96", "salient_columns=6", "outliers=8:96+weight_correction",
         "scale_shift", "weight_correction+scale_shift"],
    )  # fmt: skip
    def test_error_is_that_of_the_formulas(self, criterion, mitigation):
        vector = {
            "magnitude": self.FACTORS if mitigation == "smooth_static" else None,
            "channel_vector": self.NORMS,
        }[criterion]
        mask = self.masks(mitigation, None if vector is None else np.abs(WEIGHT) * vector)
        pruned = corrected(WEIGHT, mask) if "weight_correction" in mitigation else np.where(mask, WEIGHT, 0.0)
        y = X.astype(float) @ pruned.T
        if "scale_shift" in mitigation:
            scale, bias = fit.scale_and_bias(X_FIT @ pruned.T, X_FIT.astype(float) @ WEIGHT.T)
            y = y * (1 + scale) + bias
        found = measured("weights", "4:8", criterion, mitigation)
        assert found.relative_output_error == pytest.approx(lost(y), rel=ROUNDING)
        assert found.energy_kept == pytest.approx(np.square(WEIGHT[mask].astype(float)).sum())
        assert (found.elems, found.energy) == (
            WEIGHT.size,
            pytest.approx(np.square(WEIGHT.astype(float)).sum()),
        )

    def test_every_mitigation_of_weights_is_tried_above(self):
        assert {name for name, kind in MITIGATIONS.items() if kind.of_weights} == {
            "weight_correction",
            "smooth_static",
            "outliers",
            "outliers_unstructured",
            "salient_columns",
            "scale_shift",
        }

    def test_references(self):
        dense, loose = measure_weights(
            X_FIT, X, WEIGHT, cross("weights", ["2:4"], ["magnitude"], ["none"])[0][:2]
        )
        assert (dense.relative_output_error, dense.energy_kept_share) == (0.0, 1.0)
        mask = best_of_tokens(np.abs(WEIGHT), IN // 2)
        assert loose.relative_output_error == pytest.approx(
            lost(X.astype(float) @ np.where(mask, WEIGHT, 0.0).T), rel=ROUNDING
        )
        assert loose.entropy is None

    def test_blocks_of_any_size_give_the_same(self):
        ways, _ = cross("weights", ["2:4", "8:16"], ["magnitude", "channel_vector"],
                        ["none", "weight_correction", "smooth_static", "outliers", "salient_columns=6",
                         "scale_shift"])  # fmt: skip
        whole, cut = (measure_weights(X_FIT, X, WEIGHT, ways, block_elems=size) for size in (1 << 20, 300))
        for one, other in zip(whole, cut, strict=True):
            assert (other.output_error, other.energy_kept) == pytest.approx(
                (one.output_error, one.energy_kept), rel=1e-5
            )
            assert other.entropy == one.entropy

    def test_sixteen_bit_weights_are_taken_as_they_are(self):
        import ml_dtypes

        short = WEIGHT.astype(ml_dtypes.bfloat16)
        ways, _ = cross("weights", ["2:4"], ["magnitude"], ["none", "outliers"])
        for one, other in zip(measure_weights(X_FIT, X, short, ways),
                              measure_weights(X_FIT, X, short.astype(np.float32), ways), strict=True):  # fmt: skip
            assert one == other


class TestEntropy:
    def test_one_mask_has_none(self):
        assert entropy_of(np.tile([True, False, False, True], (99, 5)), Pattern(2, 4)).bits_per_elem == 0.0

    def test_two_masks_half_and_half(self):
        """One bit a group, and the correction (2 - 1) / (2 groups ln 2)."""
        mask = np.tile([True, True, False, False, False, False, True, True], (32, 1))
        found = entropy_of(mask, Pattern(2, 4))
        assert found.kind == "miller_madow"
        assert found.bits == pytest.approx(64 * (1 + 1 / (2 * 64 * math.log(2))))

    def test_even_masks_reach_the_most_and_no_more(self):
        mask = prune(np.random.default_rng(0).normal(size=(500, 400)), "2:4")
        assert entropy_of(mask, Pattern(2, 4)).bits_per_elem == pytest.approx(math.log2(6) / 4, rel=1e-4)
        assert entropy_of(mask, Pattern(2, 4)).bits_per_elem <= math.log2(6) / 4

    def test_few_groups_give_a_bound_of_the_positions(self):
        mask = np.zeros((10, 16), np.bool_)
        mask[:, :8] = True
        mask[:5, 7:9] = [False, True]  # two positions are kept half the time: two bits a group
        found = entropy_of(mask, Pattern(8, 16))
        corrected = 2.0 + 2 / (2 * 10 * math.log(2))  # each with the first-order bias of ten rows
        assert (found.kind, found.bits) == ("upper_bound", pytest.approx(10 * corrected))

    def test_columns_that_are_always_kept_need_no_bits(self):
        """Columns far apart, so that groups of one row differ, but rows do not."""
        x = np.random.default_rng(2).normal(size=(100, 512)) * np.exp(
            4 * np.random.default_rng(3).normal(size=512)
        )
        even = entropy_of(prune(np.random.default_rng(4).normal(size=(100, 512)), "8:16"), Pattern(8, 16))
        found = entropy_of(prune(x, "8:16"), Pattern(8, 16))
        assert found.bits_per_elem < 0.5 * even.bits_per_elem

    def test_a_bound_is_never_above_that_of_even_masks(self):
        mask = prune(np.random.default_rng(0).normal(size=(500, 16)), "8:16")
        assert entropy_of(mask, Pattern(8, 16)).bits == pytest.approx(500 * math.log2(12870), rel=1e-12)

    @pytest.mark.parametrize(
        ("groups", "kind"), [(GROUPS_PER_MASK * 6 - 1, "upper_bound"), (GROUPS_PER_MASK * 6, "miller_madow")]
    )
    def test_rule_of_many_groups(self, groups, kind):
        assert entropy_of(np.tile([True, False, True, False], (groups, 1)), Pattern(2, 4)).kind == kind

    def test_tails_are_left_out_and_blocks_add_up(self):
        mask = prune(np.random.default_rng(1).normal(size=(64, 42)), "2:4")
        counter = MaskCounter(Pattern(2, 4), 64 * 10)
        for rows in (slice(0, 7), slice(7, 64)):
            counter.add(mask[rows])
        assert counter.entropy() == entropy_of(mask[:, :40], Pattern(2, 4))
        assert counter.entropy().elems == 64 * 40

    def test_no_whole_group(self):
        found = entropy_of(np.ones((4, 3), np.bool_), Pattern(2, 4))
        assert (found.bits, found.elems, math.isnan(found.bits_per_elem)) == (0.0, 0, True)

    def test_groups_that_keep_fewer_are_completed(self):
        assert entropy_of(np.zeros((99, 4), np.bool_), Pattern(2, 4)).bits == 0.0


class TestWays:
    def test_sizes_are_read_and_written(self):
        assert [str(one) for one in parse_mitigation("r_sparse=64+outliers=4:256")] == [
            "r_sparse=64",
            "outliers",
        ]
        assert parse_mitigation("none") == ()

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("vra", "'vra': expected none, or some of dpts_mean"),
            ("none+var", "'none': expected none, or some of"),
            ("var=3", "var has no size; those that have one: r_sparse, outliers, outliers_unstructured"),
            ("r_sparse=0", "mitigation r_sparse='0': expected a positive whole number"),
            ("outliers=9:8", "expected 1 <= N <= M"),
            ("dpts_mean+spts", "dpts_mean and spts set the same"),
            ("var+var", "var and var set the same"),
        ],
    )
    def test_what_is_no_mitigation(self, text, message):
        with pytest.raises(PatternError, match=message):
            parse_mitigation(text)

    @pytest.mark.parametrize(
        ("operand", "criterion", "mitigation", "why"),
        [
            ("weights", "magnitude", "var", "var is of pruned activations"),
            ("weights", "amber", "none", "amber is a criterion of activations"),
            ("weights", "unstructured", "outliers", "unstructured leaves no groups"),
            ("activations", "magnitude", "weight_correction", "weight_correction is of pruned weights"),
            ("activations", "channel_vector", "none", "needs a vector"),
            ("activations", "magnitude", "var+outliers", "measured alone"),
            ("activations", "unstructured", "outliers", "unstructured leaves no groups"),
            ("activations", "clact", "smooth_dynamic", "no cheap form"),
            ("activations", "magnitude", "smooth_dynamic+var", "no cheap form"),
            ("activations", "magnitude", "rotation+smooth_static", "both change X"),
        ],
    )
    def test_what_does_not_go_together_is_left_out_with_its_reason(self, operand, criterion, mitigation, why):
        ways, left_out = cross(operand, ["2:4"], [criterion], [mitigation])
        assert len(ways) == 2
        assert why in left_out[f"{criterion}, {mitigation}"]

    def test_one_unstructured_reference_a_density(self):
        ways, _ = cross("weights", ["2:4", "8:16", "2:8"], ["magnitude", "unstructured"], ["none"])
        loose = [str(one.pattern) for one in ways if one.criterion == "unstructured"]
        assert loose == ["2:4", "2:8", "8:16"]
        assert len(set(ways)) == len(ways)

    def test_what_is_fitted(self):
        assert way("activations", "2:4", "amber", "lpts+var+scale_shift").fitted == ("lpts", "scale_shift")
        assert way("weights", "2:4", "channel_vector", "smooth_static").fitted == (
            "channel_vector",
            "smooth_static",
        )
        assert way("weights", "2:4", "magnitude", "salient_columns").fitted == ()
