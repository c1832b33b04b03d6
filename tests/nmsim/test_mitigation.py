"""Recipes that are refused, parameters that are fitted, and golden models worked by hand."""

import numpy as np
import pytest

from nmsim.errors import PatternError
from nmsim.mitigation import (
    Recipe,
    fit,
    golden,
    rewrite,
    rounding,
    split,
    split_columns,
    split_unstructured,
    weights,
)

X = np.array([[1.0, 5.0, 3.0, 3.0], [-2.0, 0.0, 6.0, 4.0]])
W = np.array([[1.0, 0.0, 2.0, -1.0], [0.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]])


class TestByHand:
    """2:4 of two tokens; the numbers are worked on paper from the formulas."""

    def test_magnitude(self):
        # Kept: 5 and the first 3; 6 and 4.
        assert golden.linear(X, W, "2:4").tolist() == [[6.0, 8.0, 8.0], [8.0, 10.0, 10.0]]

    def test_mean(self):
        # Means 3 and 2. Shifted [-2, 2, 0, 0] keeps -2, 2; [-4, -2, 4, 2] keeps -4, 4. Put back: as they were; [-2, 2, 6, 2].
        found = golden.linear(X, W, "2:4", Recipe(shift="mean"))
        assert found.tolist() == [[4.0, 11.0, 12.0], [8.0, 10.0, 8.0]]

    def test_lower_median(self):
        # Sorted 1 3 3 5 and -2 0 4 6: 3 and 0.
        found = golden.linear(X, W, "2:4", Recipe(shift="median"))
        assert found.tolist() == [[4.0, 11.0, 12.0], [8.0, 10.0, 10.0]]

    def test_one_shift_for_all(self):
        # X - 3: [-2, 2, 0, 0]; [-5, -3, 3, 1] keeps -5, -3. Back: [1, 5, 3, 3]; [-2, 0, 3, 3].
        found = golden.linear(X, W, "2:4", Recipe(shift=3.0))
        assert found.tolist() == [[4.0, 11.0, 12.0], [1.0, 6.0, 4.0]]

    def test_variance(self):
        # Token 1: squares 44, sum 12, Q = 44 - 36 = 8; kept 5, 3: 34 - 16 = 18. Token 2: 56 - 16 = 40; 6, 4: 52 - 25 = 27.
        found = golden.linear(X, W, "2:4", Recipe(variance=True))
        factors = np.sqrt([[8 / 18], [40 / 27]])
        np.testing.assert_allclose(found, factors * [[6.0, 8.0, 8.0], [8.0, 10.0, 10.0]], rtol=1e-15)

    def test_scale_and_bias_come_last(self):
        recipe = Recipe(scale=np.array([1.0, 0.0, -1.0]), bias=np.array([0.5, 0.0, 7.0]))
        assert golden.linear(X, W, "2:4", recipe).tolist() == [[12.5, 8.0, 7.0], [16.5, 10.0, 7.0]]

    def test_biases_of_tokens(self):
        # b = [1, 2, 3, 4]. Kept 5, 3: 10 + 9; dropped 1, 3: 1 + 12.
        b = np.array([1.0, 2.0, 3.0, 4.0])
        assert golden.linear(X, W, "2:4", Recipe(kept_bias=b))[0].tolist() == [25.0, 27.0, 27.0]
        assert golden.linear(X, W, "2:4", Recipe(dropped_bias=b))[0].tolist() == [19.0, 21.0, 21.0]

    def test_low_rank(self):
        # Dropped 1 and 3 at places 1 and 4; B sums them up to 4, A hands out 1, 10, 100 times as much.
        recipe = Recipe(low_rank=(np.array([[1.0], [10.0], [100.0]]), np.ones((1, 4))))
        assert golden.linear(X, W, "2:4", recipe)[0].tolist() == [10.0, 48.0, 408.0]

    def test_static_equalisation(self):
        # X / s = [1, 5, .75, 1.5] keeps 5 and 1.5, that is 5 and 3 at the last place.
        recipe = Recipe(equalise=np.array([1.0, 1.0, 4.0, 2.0]))
        assert golden.linear(X[:1], W, "2:4", recipe).tolist() == [[-3.0, 8.0, 8.0]]

    def test_variance_correction_of_a_row(self):
        # [1, 0, 2, -1] keeps 1 and 2: Q = 6 - 1 = 5 before, 5 - 9/4 = 11/4 after.
        mask = np.array([[True, False, True, False]])
        found = weights.corrected(W[:1], mask)
        np.testing.assert_allclose(found, np.sqrt(20 / 11) * np.array([[1.0, 0.0, 2.0, 0.0]]), rtol=1e-15)


class TestFit:
    rng = np.random.default_rng(3)
    x, weight = rng.normal(1, 1, (40, 32)), rng.normal(size=(12, 32))
    dense = x @ weight.T

    def error(self, recipe):
        return np.square(golden.linear(self.x, self.weight, "2:4", recipe) - self.dense).sum()

    def test_scale_and_bias_are_the_best_there_are(self):
        s, b = fit.scale_and_bias(golden.linear(self.x, self.weight, "2:4"), self.dense)
        best = self.error(Recipe(scale=s, bias=b))
        assert best < self.error(Recipe())
        for step in (1e-3, -1e-3):
            assert self.error(Recipe(scale=s + step, bias=b)) > best
            assert self.error(Recipe(scale=s, bias=b + step)) > best

    def test_a_constant_output_is_left_alone(self):
        s, b = fit.scale_and_bias(np.full((3, 1), 2.0), np.array([[5.0], [6.0], [7.0]]))
        assert (s.tolist(), b.tolist()) == ([0.0], [4.0])

    def test_low_rank_is_the_best_of_its_rank(self):
        dropped = np.where(np.abs(self.x) < 1, self.x, 0)
        wanted = dropped @ self.weight.T
        values = np.linalg.svd(wanted, compute_uv=False)
        for rank in (1, 5, 12):
            a, b = fit.low_rank(dropped, self.weight, rank)
            assert (a.shape, b.shape) == ((12, rank), (rank, 32))
            left = np.square(wanted - dropped @ b.T @ a.T).sum()
            assert left == pytest.approx(np.square(values[rank:]).sum(), abs=1e-9)

    def test_token_bias_lowers_the_mean_error(self):
        plain = golden.linear(self.x, self.weight, "2:4")
        kept = rewrite.select(self.x, "2:4", rewrite.prepare(self.weight)).values
        b = fit.token_bias(kept, self.dense - plain)
        assert self.error(Recipe(kept_bias=b)) < self.error(Recipe())

    def test_static_shift_is_a_mean_of_means_of_lower_medians(self):
        batches = [np.array([[0.0, 1.0, 5.0, 9.0]]), np.array([[2.0, 2.0, 3.0, 4.0], [4.0, 4.0, 4.0, 4.0]])]
        assert fit.static_shift(batches) == 2.0  # (1 + (2 + 4) / 2) / 2
        assert fit.static_shift(batches, calls=1) == 1.0

    def test_channel_shift(self):
        assert fit.channel_shift(X).tolist() == [-0.5, 2.5, 4.5, 3.5]

    @pytest.mark.parametrize(
        "shape", [(40, 32, 12), (40, 12, 32), (12, 40, 32), (12, 32, 40), (32, 12, 40), (32, 40, 12)]
    )
    def test_low_rank_takes_the_smallest_matrix_that_will_do(self, shape):
        """Tokens, in features and out features in any order; singular values that are zero at the end."""
        tokens, in_features, out_features = shape
        dropped, weight = (
            self.rng.normal(size=(tokens, in_features)),
            self.rng.normal(size=(out_features, in_features)),
        )
        dropped[:, ::3] = 0
        right = np.linalg.svd(dropped @ weight.T, full_matrices=False)[2][:7]
        a, b = fit.low_rank(dropped, weight, 7)
        np.testing.assert_allclose(a @ b, right.T @ right @ weight, atol=1e-10)
        a, _ = fit.low_rank(np.zeros_like(dropped), weight, 7)
        np.testing.assert_allclose(a.T @ a, np.eye(7), atol=1e-10)


class TestUnstructuredOutliers:
    @pytest.mark.parametrize("scored", [False, True])
    def test_they_are_the_greatest_of_a_row_and_the_pattern_chooses_among_the_rest(self, scored):
        x = np.random.default_rng(4).standard_t(4, (6, 100)).astype(np.float32)
        scores = np.abs(x) * np.linspace(1, 2, 100) if scored else np.abs(x)
        parts = split_unstructured(x, "2:4", "8:256", scores=scores if scored else None)
        for row, ranks in enumerate(scores.tolist()):
            taken = sorted(range(100), key=lambda j: (-ranks[j], j))[:3]  # 100 * 8 / 256, rounded down
            assert np.flatnonzero(parts.outliers[row]).tolist() == sorted(taken)
            for first in range(0, 100, 4):
                rest = [j for j in range(first, first + 4) if j not in taken]
                kept = sorted(rest, key=lambda j: (-ranks[j], j))[:2]
                assert np.flatnonzero(parts.nm[row, first : first + 4]).tolist() == sorted(
                    j - first for j in kept
                )

    def test_a_row_of_them_is_not_held_back_by_a_window(self):
        x = np.ones((1, 512))
        x[0, 256:264] = 9.0
        assert split_unstructured(x, "2:4", "4:256").outliers.sum() == 8
        assert split_unstructured(x, "2:4", "4:256").outliers[0, 256:264].all()
        assert split(x, "2:4", "4:256").outliers[0, 256:].sum() == 4


class TestRounding:
    def test_by_hand(self):
        """Scales 7 / 7 and 0.5 / 7; half a step goes to the even neighbour; the tail of one is its own group."""
        x = np.array([[7.0, 2.5, -3.5, 0.4, 0.5, 0.0, -0.2, 0.0, 0.3]])
        found = rounding.round_values(x, bits=4, group=4)
        np.testing.assert_allclose(
            found, [[7.0, 2.0, -4.0, 0.0, 0.5, 0.0, -3 * 0.5 / 7, 0.0, 0.3]], rtol=1e-15
        )

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize("bits", range(2, 9))
    @pytest.mark.parametrize("group", [1, 5, 16, 64, 1000])
    def test_both_roads_give_the_same_bits(self, dtype, bits, group):
        rng = np.random.default_rng(bits)
        x = (rng.standard_t(3, (7, 70)) * (rng.random((7, 70)) < 0.7)).astype(dtype)
        x[3] = 0
        found = rounding.round_values(x, bits=bits, group=group)
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, golden.rounded(x, bits=bits, group=group).astype(dtype))

    def test_what_is_rounded_stays_and_is_off_by_half_a_step_at_most(self):
        x = np.random.default_rng(0).normal(size=(9, 64)).astype(np.float32)
        found = rounding.round_values(x, bits=6, group=32)
        steps = np.abs(x).reshape(9, 2, 32).max(axis=2, keepdims=True) / 31
        assert (np.abs(found - x).reshape(9, 2, 32) <= steps / 2 * (1 + 1e-6)).all()
        assert len(np.unique(np.rint(found.reshape(9, 2, 32) / steps))) <= 63
        np.testing.assert_allclose(rounding.round_values(found, bits=6, group=32), found, rtol=1e-6)

    def test_the_smallest_numbers_stay_as_they_are(self):
        x = np.full((1, 2), 5e-324)
        assert rounding.round_values(x, bits=4, group=2).tolist() == x.tolist()


class TestOddNumbers:
    def test_the_least_integer_is_the_greatest_magnitude(self):
        x = np.array([[-128, 5, 3, -128]], np.int8)
        for first in ("outliers", "pattern"):
            assert split(x, "1:4", "1:4", first=first).kept.tolist() == [[True, False, False, True]]

    def test_integers_that_no_float_tells_apart(self):
        x = np.array([[2**62, 2**62 + 1, 5, 7]], np.int64)
        assert split(x, "1:4", "1:4").nm.tolist() == [[True, False, False, False]]
        assert split(x[:, [0, 2, 1, 3]], "1:4", "1:4", first="pattern").outliers.tolist() == [
            [True, False, False, False]
        ]

    def test_the_least_number_ranks_above_what_is_taken(self):
        parts = split(np.zeros((1, 4)), "2:4", "1:4")
        assert parts.outliers.tolist() == [[True, False, False, False]]
        assert parts.nm.tolist() == [[False, True, True, False]]

    def test_infinity_and_nan_are_refused(self):
        x = np.array([[np.inf, 1.0, np.nan, 2.0]], np.float32)
        with pytest.raises(PatternError, match=r"x\[0, 0\] is inf, the first of 2 of 4 elements"):
            split(x, "1:4", "1:4")


class TestErrors:
    @pytest.mark.parametrize(
        ("call", "said"),
        [
            (lambda: Recipe(shift="mode"), "shift='mode': expected one of none, mean, median, or numbers"),
            (lambda: Recipe(equalise="static"), "equalise='static': expected one of none, dynamic"),
            (lambda: Recipe(shift=None), "shift is of type NoneType, dtype object: expected numbers"),
            (lambda: Recipe(equalise=None), "equalise is of type NoneType"),
            (lambda: Recipe(bias="a"), "bias is of type str, dtype <U1: expected numbers"),
            (lambda: Recipe(variance="yes"), "variance='yes': expected True or False"),
            (
                lambda: Recipe(rotation=2 * np.eye(4)),
                "rotation is not orthogonal, Q^T Q is 3 off the unit matrix",
            ),
            (lambda: Recipe(rotation=np.ones((4, 3))), "rotation has shape (4, 3): expected [K, K]"),
            (
                lambda: rewrite.linear([1, 2], W, "2:4"),
                "x has shape (2,) and dtype int64: expected [L, K] of float32",
            ),
            (lambda: Recipe(shift=np.nan), "shift holds what is no finite number"),
            (lambda: Recipe(scale=np.array(["a"])), "scale is of type ndarray, dtype <U1: expected numbers"),
            (lambda: Recipe(equalise=np.zeros(4)), "a factor of zero or less"),
            (
                lambda: Recipe(low_rank=(np.ones((3, 2)), np.ones((3, 4)))),
                "(3, 2) and (3, 4): expected [O, r] and [r, K]",
            ),
            (
                lambda: golden.linear(X, W, "2:4", Recipe(scale=np.ones(4))),
                "scale has shape (4,): expected (3,)",
            ),
            (
                lambda: golden.linear(X, W, "2:4", Recipe(bias=np.ones(4))),
                "bias has shape (4,): expected (3,)",
            ),
            (
                lambda: rewrite.linear(X, W, "2:4", Recipe(shift=np.ones(3))),
                "shift has shape (3,): expected (4,)",
            ),
            (
                lambda: golden.linear(X, W, "2:4", Recipe(low_rank=(np.ones((2, 1)), np.ones((1, 4))))),
                "low_rank A has shape (2, 1): expected (3, 1)",
            ),
            (
                lambda: golden.linear(X[:, :1], W[:, :1], "1:1", Recipe(variance=True)),
                "variance with one in feature",
            ),
            (lambda: golden.linear(X[:, :3], W, "2:4"), "x has 3 in features, weight 4: expected the same"),
            (
                lambda: rewrite.linear(X[:, :3], W, "2:4"),
                "x has shape (2, 3): expected [L, 4], K of the weights",
            ),
            (lambda: rewrite.prepare(W.astype(int)), "dtype int64: expected [O, K] of float32 or float64"),
            (lambda: split(X, "2:4", first="rows"), "first='rows': expected one of outliers, pattern"),
            (lambda: split(X, "2:4", scores=np.full_like(X, np.inf)), "not finite"),
            (lambda: split_columns(X, "2:4", 5), "columns=5: expected an int from 0 to 4"),
            (
                lambda: split_columns(X, "2:4", 1, saliency=np.ones(3)),
                "saliency has shape (3,): expected (4,)",
            ),
            (
                lambda: weights.corrected(W, np.ones((3, 3), bool)),
                "mask has shape (3, 3): expected that of the weights",
            ),
            (
                lambda: weights.corrected(W, W > 0, per="group"),
                "per='group': expected one of row, column, tensor",
            ),
            (lambda: weights.correction_factors(W[:1], W[:1] > 0, per="column"), "a variance of one number"),
            (lambda: weights.choose_equalised(W, "2:4", np.zeros(4)), "expected all above zero"),
            (lambda: fit.static_shift([]), "no batch of tokens"),
            (lambda: fit.scale_and_bias(X, W), "y has shape (2, 4), target (3, 4)"),
            (lambda: fit.token_bias(X, W), "part has 2 tokens, error 3"),
            (lambda: split_unstructured(X[0], "2:4"), "x has shape (4,): expected a matrix"),
            (lambda: split_unstructured(X, "2:4", scores=np.full_like(X, np.inf)), "not finite"),
            (lambda: split_unstructured(X * np.nan, "2:4"), "x[0, 0] is nan"),
            (
                lambda: rounding.round_values(X[0], bits=4, group=4),
                "x has shape (4,) and dtype float64: expected [L, K]",
            ),
            (lambda: rounding.round_values(X, bits=9, group=4), "bits=9: expected an int from 2 to 8"),
            (lambda: rounding.round_values(X, bits=4, group=0), "group=0: expected an int of at least 1"),
            (lambda: rounding.round_values(np.full_like(X, np.inf), bits=4, group=4), "x[0, 0] is "),
            (lambda: fit.low_rank(X, W, 3), "rank=3: expected an int from 1 to 2"),
        ],
    )
    def test_says_what_and_what_was_expected(self, call, said):
        with pytest.raises(PatternError) as error:
            call()
        assert said in str(error.value)
