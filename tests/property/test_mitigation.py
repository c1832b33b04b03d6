"""Every mitigation on two roads: the formula on dense matrices, and the form that hardware would run. Equal to 1e-12."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmsim import Pattern
from nmsim.criteria import CRITERIA, choose
from nmsim.errors import PatternError
from nmsim.mask import prune
from nmsim.mitigation import Recipe, golden, outliers, rewrite, weights

RELATIVE = 1e-12
PATTERNS = [Pattern.parse(text) for text in ("2:4", "4:8", "8:16", "16:32", "3:7", "1:6")]


def layer(seed, tokens, out_features, in_features):
    """Tokens of unlike scale and mean, a few large channels, and weights."""
    rng = np.random.default_rng(seed)
    x = rng.standard_t(5, (tokens, in_features)) * np.exp(0.5 * rng.normal(size=in_features))
    x = (x + rng.normal(0, 0.7, in_features)) * np.exp(rng.normal(size=(tokens, 1)))
    return x, rng.standard_t(6, (out_features, in_features)) / np.sqrt(in_features), rng


def rotation(rng, size):
    return np.linalg.qr(rng.normal(size=(size, size)))[0]


def recipe_of(rng, out_features, in_features, parts):
    """The parts that a test asks for, with parameters drawn."""
    vector = {
        "static shift": {"shift": float(rng.normal())},
        "vector shift": {"shift": rng.normal(0, 0.5, in_features)},
        "mean": {"shift": "mean"},
        "median": {"shift": "median"},
        "variance": {"variance": True},
        "scale": {"scale": rng.normal(0, 0.2, out_features)},
        "bias": {"bias": rng.normal(size=out_features)},
        "kept bias": {"kept_bias": rng.normal(size=in_features)},
        "dropped bias": {"dropped_bias": rng.normal(size=in_features)},
        "low rank": {"low_rank": (rng.normal(size=(out_features, 3)), rng.normal(size=(3, in_features)))},
        "static equalisation": {"equalise": np.exp(rng.normal(size=in_features))},
        "dynamic equalisation": {"equalise": "dynamic"},
        "rotation": {"rotation": rotation(rng, in_features)},
    }
    return Recipe(**{name: value for part in parts for name, value in vector[part].items()})


def assert_equal(found, expected, terms):
    """Equal relative to the size of what is added up: of terms that cancel, nothing is left to be relative to."""
    scale = np.abs(terms).max() + np.abs(expected).max()
    assert np.abs(found - expected).max() <= RELATIVE * scale


def compare(seed, dims, pattern, parts, criterion="magnitude"):
    tokens, out_features, in_features = dims
    x, weight, rng = layer(seed, tokens, out_features, in_features)
    recipe = recipe_of(rng, out_features, in_features, parts)
    vector = np.exp(rng.normal(size=in_features)) if CRITERIA[criterion].takes_vector else None
    expected = golden.linear(x, weight, pattern, recipe, criterion=criterion, vector=vector)
    found = rewrite.linear(x, weight, pattern, recipe, criterion=criterion, vector=vector)
    assert_equal(found, expected, np.abs(x) @ np.abs(weight).T)


ONE_OF = ("none", "static shift", "vector shift", "mean", "median")
BESIDE = (
    "variance",
    "scale",
    "bias",
    "kept bias",
    "dropped bias",
    "low rank",
    "static equalisation",
    "rotation",
)
dims = st.tuples(st.integers(1, 6), st.integers(2, 9), st.integers(2, 70))
seeds = st.integers(0, 2**32)


@pytest.mark.parametrize("part", [*ONE_OF[1:], *BESIDE, "dynamic equalisation"])
@given(seeds, dims, st.sampled_from(PATTERNS))
def test_each_alone(part, seed, size, pattern):
    compare(seed, size, pattern, [part])


@given(seeds, dims, st.sampled_from(PATTERNS), st.sampled_from(ONE_OF), st.sets(st.sampled_from(BESIDE)))
def test_any_together(seed, size, pattern, shift, beside):
    compare(seed, size, pattern, [part for part in (shift, *sorted(beside)) if part != "none"])


@pytest.mark.parametrize("criterion", CRITERIA)
@given(seeds, dims, st.sampled_from(PATTERNS), st.sampled_from(ONE_OF), st.sets(st.sampled_from(BESIDE)))
def test_with_every_criterion(criterion, seed, size, pattern, shift, beside):
    parts = [part for part in (shift, *sorted(beside)) if part != "none"]
    compare(seed, size, pattern, parts, criterion)


class TestNothingIsLost:
    """What each mitigation promises, by itself."""

    x, weight, rng = layer(7, 5, 6, 64)
    dense = x @ weight.T

    def test_a_dense_pattern_leaves_the_layer_as_it_is(self):
        for parts in (
            ["mean"],
            ["median"],
            ["variance"],
            ["vector shift"],
            ["static equalisation"],
            ["rotation"],
        ):
            recipe = recipe_of(self.rng, 6, 64, parts)
            np.testing.assert_allclose(
                golden.linear(self.x, self.weight, "4:4", recipe), self.dense, rtol=1e-12
            )

    def test_shift_puts_the_mean_in_place_of_what_is_dropped(self):
        constant = np.full((2, 64), 3.0)
        found = golden.linear(constant, self.weight, "1:16", Recipe(shift="mean"))
        np.testing.assert_allclose(found, constant @ self.weight.T, rtol=1e-12)

    def test_the_median_is_the_lower_one(self):
        x = np.array([[1.0, 2.0, 30.0, 40.0]])
        by_median = golden.linear(x, np.eye(4), "1:4", Recipe(shift="median"))
        assert by_median.tolist() == [[2.0, 2.0, 2.0, 40.0]]

    def test_variance_gives_a_token_its_variance_back(self):
        y = golden.linear(self.x, np.eye(64), "8:16", Recipe(variance=True))
        np.testing.assert_allclose(y.var(axis=1, ddof=1), self.x.var(axis=1, ddof=1), rtol=1e-12)

    def test_variance_of_a_token_of_zeros_is_no_number_too_many(self):
        x = np.zeros((2, 64))
        for road in (golden, rewrite):
            assert (road.linear(x, self.weight, "8:16", Recipe(variance=True)) == 0).all()

    def test_a_variance_below_the_floor_is_taken_for_the_floor(self):
        """1e-9 of the kept part, of which the formula is literal: below it a token is scaled down."""
        x, tiny = 1e-6 * self.x, np.var(1e-6 * self.x, axis=1, ddof=1)
        y = golden.linear(x, np.eye(64), "16:32", Recipe(variance=True))
        kept = golden.linear(x, np.eye(64), "16:32")
        np.testing.assert_allclose(y, np.sqrt(tiny / 1e-9)[:, None] * kept, rtol=1e-12)
        np.testing.assert_allclose(
            rewrite.linear(x, np.eye(64), "16:32", Recipe(variance=True)), y, rtol=1e-12
        )

    def test_a_full_rank_brings_all_of_it_back(self):
        recipe = Recipe(low_rank=(self.weight, np.eye(64)))
        np.testing.assert_allclose(golden.linear(self.x, self.weight, "2:4", recipe), self.dense, rtol=1e-12)

    def test_equalisation_leaves_only_the_choice(self):
        s = golden.equalisation(self.x, self.weight)
        mask = prune(self.x, "8:16", scores=np.abs(self.x) / s)
        found = golden.linear(self.x, self.weight, "8:16", Recipe(equalise="dynamic"))
        np.testing.assert_allclose(found, np.where(mask, self.x, 0) @ self.weight.T, rtol=1e-12)

    def test_equalisation_of_one_token_ranks_by_magnitude_times_the_largest_weight(self):
        x = self.x[:1]
        mask = choose(x, "8:16", "channel_vector", vector=np.abs(self.weight).max(axis=0))
        found = golden.linear(x, self.weight, "8:16", Recipe(equalise="dynamic"))
        np.testing.assert_allclose(found, np.where(mask, x, 0) @ self.weight.T, rtol=1e-12)

    def test_columns_of_zeros_are_not_divided_by(self):
        x, weight = self.x.copy(), self.weight.copy()
        x[:, :5], weight[:, 3:9] = 0, 0
        for road in (golden, rewrite):
            assert np.isfinite(road.linear(x, weight, "8:16", Recipe(equalise="dynamic"))).all()
        compared = [road.linear(x, weight, "8:16", Recipe(equalise="dynamic")) for road in (golden, rewrite)]
        np.testing.assert_allclose(*compared, rtol=1e-12)


class TestRewritesAreCheap:
    """The hardware road never makes an operand dense again, and hands on what its epilogue needs."""

    x, weight, rng = layer(8, 4, 5, 64)

    @pytest.mark.parametrize("parts", [["mean", "variance"], ["vector shift"], ["low rank", "median"]])
    def test_the_operand_stays_sparse(self, parts):
        prepared = rewrite.prepare(self.weight, recipe_of(self.rng, 5, 64, parts))
        selected = rewrite.select(self.x, "8:16", prepared)
        assert (np.count_nonzero(selected.values.reshape(4, -1, 16), axis=2) == 8).all()
        assert (selected.values[~selected.mask] == 0).all()

    def test_single_precision_stays_single(self):
        x, weight = self.x.astype(np.float32), self.weight.astype(np.float32)
        for parts in (
            ["mean", "variance", "scale", "bias"],
            ["median", "low rank"],
            ["dynamic equalisation"],
            ["rotation"],
        ):
            assert rewrite.linear(x, weight, "8:16", recipe_of(self.rng, 5, 64, parts)).dtype == np.float32

    @pytest.mark.parametrize("parts", [["mean"], ["variance"], ["vector shift"], ["low rank"]])
    def test_what_has_no_cheap_form_is_refused(self, parts):
        recipe = dataclasses.replace(recipe_of(self.rng, 5, 64, parts), equalise="dynamic")
        with pytest.raises(PatternError, match="no cheap form, expected magnitude alone"):
            rewrite.prepare(self.weight, recipe)
        with pytest.raises(PatternError, match="no cheap form"):
            rewrite.prepare(self.weight, Recipe(equalise="dynamic"), criterion="clact")


class TestWeights:
    @given(
        seeds,
        st.integers(2, 9),
        st.integers(2, 70),
        st.sampled_from(PATTERNS),
        st.sampled_from(["row", "column", "tensor"]),
    )
    def test_variance_correction_is_a_factor_beside_the_product(
        self, seed, out_features, in_features, pattern, per
    ):
        x, weight, _ = layer(seed, 3, out_features, in_features)
        mask = prune(weight, pattern)
        expected = x @ weights.corrected(weight, mask, per=per).T
        factors, pruned = weights.correction_factors(weight, mask, per=per), np.where(mask, weight, 0)
        found = (x * factors) @ pruned.T if per == "column" else (x @ pruned.T) * factors
        # A column of one kept weight has a variance like any other; only one that is all zero has none.
        assert_equal(found, expected, np.abs(x) @ np.abs(weight).T * max(1, factors.max()))

    def test_correction_gives_rows_their_variance_back(self):
        _, weight, _ = layer(9, 1, 8, 64)
        found = weights.corrected(weight, prune(weight, "8:16"))
        np.testing.assert_allclose(found.var(axis=1, ddof=1), weight.var(axis=1, ddof=1), rtol=1e-12)

    @pytest.mark.parametrize("per", ["row", "column", "tensor"])
    def test_correction_has_the_same_floor(self, per):
        _, weight, _ = layer(11, 1, 8, 64)
        weight *= 1e-5
        mask = prune(weight, "8:16")
        factors = weights.correction_factors(weight, mask, per=per)
        found = np.where(mask, weight, 0) * (factors if per == "column" else factors.reshape(-1, 1))
        np.testing.assert_allclose(weights.corrected(weight, mask, per=per), found, rtol=1e-12)
        assert factors.min() < 1

    @given(seeds, dims, st.sampled_from(PATTERNS))
    def test_equalised_weights_are_a_choice(self, seed, size, pattern):
        x, weight, _ = layer(seed, *size)
        s = golden.equalisation(x, weight)
        scaled = weight * s
        expected = (x / s) @ np.where(prune(scaled, pattern), scaled, 0).T
        found = x @ np.where(weights.choose_equalised(weight, pattern, s), weight, 0).T
        assert_equal(found, expected, np.abs(x) @ np.abs(weight).T)


class TestOutliers:
    @given(
        seeds,
        st.integers(1, 5),
        st.integers(1, 600),
        st.sampled_from(PATTERNS),
        st.sampled_from(["4:256", "8:256", "16:256"]),
        st.sampled_from(["outliers", "pattern"]),
    )
    def test_two_products_make_one(self, seed, out_features, in_features, pattern, beside, first):
        x, weight, _ = layer(seed, 3, out_features, in_features)
        parts = outliers.split(weight, pattern, beside, first=first)
        assert not (parts.nm & parts.outliers).any()
        leading = (parts.outliers, beside) if first == "outliers" else (parts.nm, pattern)
        np.testing.assert_array_equal(leading[0], prune(weight, leading[1]))
        expected = x @ np.where(parts.kept, weight, 0).T
        found = x @ np.where(parts.nm, weight, 0).T + x @ np.where(parts.outliers, weight, 0).T
        assert_equal(found, expected, np.abs(x) @ np.abs(weight).T)

    @given(seeds, st.integers(1, 5), st.integers(1, 600), st.sampled_from(PATTERNS))
    def test_no_part_keeps_more_than_its_pattern(self, seed, out_features, in_features, pattern):
        _, weight, _ = layer(seed, 1, out_features, in_features)
        for first in ("outliers", "pattern"):
            parts = outliers.split(weight, pattern, "16:256", first=first)
            both = ((parts.nm, pattern, parts.outliers), (parts.outliers, Pattern(16, 256), parts.nm))
            leader = parts.outliers if first == "outliers" else parts.nm
            for mask, its, other in both:
                for start in range(0, in_features, its.m):
                    group = slice(start, start + its.m)
                    free = np.ones_like(other[:, group]) if mask is leader else ~other[:, group]
                    np.testing.assert_array_equal(
                        mask[:, group].sum(axis=1), np.minimum(free.sum(axis=1), its.n)
                    )

    @given(seeds, st.integers(1, 4), st.integers(1, 600), st.sampled_from(PATTERNS))
    def test_the_pattern_first_keeps_most_energy(self, seed, out_features, in_features, pattern):
        _, weight, _ = layer(seed, 1, out_features, in_features)
        kept = {
            first: np.square(weight[outliers.split(weight, pattern, "8:256", first=first).kept]).sum()
            for first in ("outliers", "pattern")
        }
        assert kept["pattern"] >= kept["outliers"] * (1 - 1e-12)

    @given(seeds, st.integers(1, 5), st.integers(4, 70), st.sampled_from(PATTERNS), st.integers(0, 4))
    def test_salient_columns_are_a_dense_product_beside(
        self, seed, out_features, in_features, pattern, columns
    ):
        x, weight, _ = layer(seed, 3, out_features, in_features)
        parts = outliers.split_columns(weight, pattern, columns)
        taken = np.flatnonzero(parts.outliers.all(axis=0))
        assert len(taken) == columns
        assert not (parts.nm & parts.outliers).any()
        energies = np.square(weight).sum(axis=0)
        assert columns in (0, in_features) or energies[taken].min() >= np.delete(energies, taken).max()
        expected = x @ np.where(parts.kept, weight, 0).T
        found = x @ np.where(parts.nm, weight, 0).T + x[:, taken] @ weight[:, taken].T
        assert_equal(found, expected, np.abs(x) @ np.abs(weight).T)

    def test_tokens_have_outliers_too(self):
        x, weight, _ = layer(10, 4, 5, 512)
        parts = outliers.split(x, "2:4", "4:256")
        lost = [
            np.linalg.norm(np.where(mask, x, 0) @ weight.T - x @ weight.T)
            for mask in (prune(x, "2:4"), parts.kept)
        ]
        assert lost[1] < lost[0]


class TestSinglePrecision:
    """What float32 must not spoil."""

    @pytest.mark.parametrize("mean", [0.0, 100.0, 3000.0])
    def test_the_variance_of_tokens_far_from_zero(self, mean):
        x, weight, _ = layer(12, 4, 5, 4096)
        x = (x + mean).astype(np.float32)
        expected = golden.linear(x, weight.astype(np.float32), "8:16", Recipe(variance=True))
        found = rewrite.linear(x, weight.astype(np.float32), "8:16", Recipe(variance=True))
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-5 * np.abs(expected).max())

    @pytest.mark.parametrize("scale", [1e-24, 1e20])
    def test_clact_of_numbers_whose_squares_are_no_float32(self, scale):
        x, weight, _ = layer(13, 6, 5, 64)
        small = rewrite.prepare(weight.astype(np.float32), criterion="clact")
        expected = rewrite.select(x.astype(np.float32), "8:16", small).mask
        np.testing.assert_array_equal(
            rewrite.select((x * scale).astype(np.float32), "8:16", small).mask, expected
        )
