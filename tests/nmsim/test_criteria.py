"""Criteria: formulas against plain loops, what has been proven of them, ties, and the energy that a choice loses."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmsim import NmsimError, Pattern, criteria, prune
from nmsim.criteria import CRITERIA, choose

RNG_SAMPLES = 3_200_000


def drawn(seed, rows, columns):
    rng = np.random.default_rng(seed)
    return rng.standard_t(4, (rows, columns)) * np.exp(rng.normal(size=columns)) + rng.normal(0, 0.3, columns)


def norm(numbers):
    return math.sqrt(math.fsum(number * number for number in numbers))


shapes = st.tuples(st.integers(0, 2**32), st.integers(1, 9), st.integers(1, 70))
patterns = st.sampled_from([Pattern.parse(text) for text in ("2:4", "4:8", "8:16", "16:32", "3:7", "1:5")])


class TestFormulas:
    """Each score, element by element, from the text of its docstring."""

    x, weight = drawn(1, 5, 13), drawn(2, 11, 13)

    def test_magnitude(self):
        assert criteria.magnitude(self.x).tolist() == [[abs(one) for one in row] for row in self.x.tolist()]

    def test_clact(self):
        rows = self.x.tolist()
        expected = [
            [abs(row[j]) * norm(other[j] for other in rows) / norm(row) for j in range(13)] for row in rows
        ]
        np.testing.assert_allclose(criteria.clact(self.x), expected, rtol=1e-14)

    def test_amber(self):
        everything = sorted(self.weight.ravel().tolist())
        ends = []
        for share in (0.005, 0.995):  # linear between the two nearest of sorted numbers
            place = share * (len(everything) - 1)
            low = math.floor(place)
            ends.append(everything[low] + (place - low) * (everything[low + 1] - everything[low]))
        inner = [one for one in everything if ends[0] <= one <= ends[1]]
        assert len(inner) == len(everything) - 2
        mu = math.fsum(inner) / len(inner)
        sigma = math.sqrt(math.fsum((one - mu) ** 2 for one in inner) / (len(inner) - 1))
        norms = [norm((row[j] - mu) / sigma for row in self.weight.tolist()) for j in range(13)]
        expected = [one / min(norms) for one in norms]
        np.testing.assert_allclose(criteria.amber_vector(self.weight), expected, rtol=1e-12)

    def test_weight_variance(self):
        expected = []
        for column in self.weight.T.tolist():
            mean = math.fsum(column) / len(column)
            expected.append(math.fsum((one - mean) ** 2 for one in column) / (len(column) - 1))
        np.testing.assert_allclose(criteria.weight_variance_vector(self.weight), expected, rtol=1e-13)

    def test_channel_vector_ranks_by_magnitude_whatever_the_sign_of_the_vector(self):
        f = np.linspace(-2, 3, 13)
        expected = [[abs(x * fj) for x, fj in zip(row, f, strict=True)] for row in self.x]
        np.testing.assert_array_equal(criteria.channel_vector(self.x, f), expected)

    def test_ria(self):
        f, rows = np.linspace(-2, 3, 13), np.abs(self.x).tolist()
        columns = [math.fsum(row[j] for row in rows) for j in range(13)]
        expected = [
            [(one / math.fsum(row) + one / columns[j]) * math.sqrt(abs(f[j])) for j, one in enumerate(row)]
            for row in rows
        ]
        np.testing.assert_allclose(criteria.ria(self.x, f), expected, rtol=1e-14)
        part = criteria.ria(self.x[2:4], f, column_sums=np.array(columns))
        np.testing.assert_allclose(part, expected[2:4], rtol=1e-14)

    def test_ria_of_a_row_and_a_column_of_zeros(self):
        x = np.array([[0.0, 0.0], [0.0, 2.0]])
        assert criteria.ria(x, np.ones(2)).tolist() == [[0.0, 0.0], [0.0, 2.0]]

    def test_n_counts_what_is_kept(self):
        """The authors' CLACT drops N of M, which shows at any pattern but N = M/2."""
        for name, chosen in CRITERIA.items():
            mask = choose(drawn(3, 4, 24), "1:4", name, weight=drawn(4, 6, 24), vector=np.arange(1.0, 25.0))
            kept = {"group": mask.reshape(-1, 4), "token": mask, "all": mask.reshape(1, -1)}[chosen.among]
            assert (kept.sum(axis=1) * 4 == kept.shape[1]).all(), name


class TestProven:
    @given(shapes, patterns)
    def test_the_row_norm_of_clact_changes_no_choice(self, shape, pattern):
        x = drawn(*shape)
        without = np.abs(x) * np.sqrt(np.square(x).sum(axis=0))
        np.testing.assert_array_equal(choose(x, pattern, "clact"), prune(x, pattern, scores=without))

    @given(st.integers(0, 2**32), st.integers(1, 70), patterns)
    def test_clact_of_one_token_is_the_magnitude(self, seed, columns, pattern):
        x = drawn(seed, 1, columns)
        np.testing.assert_array_equal(choose(x, pattern, "clact"), choose(x, pattern, "magnitude"))

    def test_clact_of_many_tokens_is_not(self):
        x = drawn(5, 8, 64)
        assert (choose(x, "8:16", "clact") != choose(x, "8:16")).any()

    def test_clact_is_not_causal(self):
        """A token that comes later, or of another batch, changes what an earlier one keeps."""
        x = drawn(6, 8, 64)
        changed = x.copy()
        changed[-1] = np.linspace(0, 50, 64)
        assert (choose(x, "8:16", "clact")[0] != choose(changed, "8:16", "clact")[0]).any()

    @given(shapes, patterns)
    def test_what_amber_divides_all_by_changes_no_choice(self, shape, pattern):
        x = drawn(*shape)
        weight = drawn(shape[0] + 1, 12, shape[2])
        low, high = np.quantile(weight, (0.005, 0.995))
        mu = weight[(weight >= low) & (weight <= high)].mean()
        plain = np.abs(x) * np.sqrt(np.square(weight - mu).sum(axis=0))
        np.testing.assert_array_equal(
            choose(x, pattern, "amber", weight=weight), prune(x, pattern, scores=plain)
        )

    def test_amber_is_static(self):
        weight = drawn(7, 40, 32)
        np.testing.assert_array_equal(criteria.amber_vector(weight), criteria.amber_vector(weight.copy()))

    @given(shapes)
    def test_unstructured_of_one_group_is_the_pattern(self, shape):
        seed, rows, columns = shape
        x = drawn(seed, rows, columns)
        pattern = Pattern(max(1, columns // 2), columns)
        np.testing.assert_array_equal(choose(x, pattern, "unstructured"), choose(x, pattern))

    def test_no_pattern_keeps_more_energy_than_no_pattern_at_all(self):
        x = drawn(8, 16, 512)
        kept = [np.square(x[choose(x, text)]).sum() for text in ("2:4", "4:8", "8:16", "16:32")]
        kept += [
            np.square(x[choose(x, "1:2", name)]).sum() for name in ("unstructured", "unstructured_global")
        ]
        assert kept == sorted(kept)
        assert len(set(kept)) == len(kept)


class TestTies:
    @pytest.mark.parametrize("name", CRITERIA)
    def test_the_first_of_equals_is_kept(self, name):
        x = np.ones((2, 8))
        mask = choose(x, "2:4", name, weight=np.array([[1.0] * 8, [3.0] * 8, [4.0] * 8]), vector=np.ones(8))
        expected = {
            "group": [[1, 1, 0, 0, 1, 1, 0, 0]] * 2,
            "token": [[1, 1, 1, 1, 0, 0, 0, 0]] * 2,
            "all": [[1] * 8, [0] * 8],
        }[CRITERIA[name].among]
        assert mask.astype(int).tolist() == expected

    def test_of_a_long_row_too(self):
        mask = criteria.best_of_tokens(np.tile([0.0, 1.0], (2, 300)), 100)
        assert np.flatnonzero(mask[1]).tolist() == list(range(1, 200, 2))

    @given(st.integers(0, 2**32), st.integers(1, 5), st.integers(1, 300), st.data())
    def test_as_sorting_a_row_has_it(self, seed, rows, columns, data):
        """Few different scores, so that most rows have equals at the threshold."""
        scores = (
            np.random.default_rng(seed)
            .integers(-3, 4, (rows, columns))
            .astype(data.draw(st.sampled_from([np.float32, float])))
        )
        scores[scores < -2] = -np.inf
        count = data.draw(st.integers(0, columns))
        best = np.argsort(-scores, axis=1, kind="stable")[:, :count]
        expected = np.zeros(scores.shape, bool)
        np.put_along_axis(expected, best, True, axis=1)
        np.testing.assert_array_equal(criteria.best_of_tokens(scores, count), expected)

    def test_a_token_of_zeros_still_keeps_n(self):
        mask = choose(np.zeros((3, 8)), "2:4", "clact")
        assert mask.sum() == 12


@pytest.mark.parametrize(
    ("sample", "lost"),
    [
        ("standard_normal", {"2:4": 0.132, "4:8": 0.103, "8:16": 0.087, "16:32": 0.079}),
        ("laplace", {"2:4": 0.080, "4:8": 0.056, "8:16": 0.044, "16:32": 0.039}),
    ],
)
def test_energy_lost_of_independent_numbers(sample, lost):
    """arXiv 2509.22166's patterns on 3.2 million samples; the four figures were computed apart, to three digits."""
    rng = np.random.default_rng(2026)
    x = getattr(rng, sample)(size=RNG_SAMPLES).reshape(1000, -1)
    total = np.square(x).sum()
    for text, expected in lost.items():
        found = np.square(x[~prune(x, text)]).sum() / total
        assert found == pytest.approx(expected, abs=0.001), text


class TestErrors:
    x, weight = np.ones((2, 4)), np.ones((3, 4))

    @pytest.mark.parametrize(
        ("call", "said"),
        [
            (
                lambda self: choose(self.x, "2:4", "cosine"),
                "criterion='cosine': expected one of magnitude, clact",
            ),
            (lambda self: choose(self.x, "2:4", "amber"), "weight is missing, expected the weights [O, K]"),
            (
                lambda self: choose(self.x, "2:4", "amber", weight=self.weight * np.nan),
                "weight[0, 0] is nan, the first of",
            ),
            (lambda self: choose(self.x, "2:4", "channel_vector"), "vector is missing, expected [K] numbers"),
            (
                lambda self: choose(self.x, "2:4", "channel_vector", vector=np.ones(5)),
                "vector has shape (5,): expected (4,)",
            ),
            (
                lambda self: choose(self.x, "2:4", "amber", weight=self.weight),
                "all equal, expected some that differ",
            ),
            (
                lambda self: choose(
                    self.x, "2:4", "amber", weight=np.array([[0.0, 2.0, 1.0, 1.0], [0.0, -2.0, -1.0, -1.0]])
                ),
                "column 0 of the weights equals their mean throughout",
            ),
            (
                lambda self: choose(self.x, "2:4", "weight_variance", weight=self.x[:1]),
                "expected at least two",
            ),
            (lambda self: choose(np.ones(4), "2:4"), "x has shape (4,): expected a matrix"),
            (lambda self: criteria.clact(np.ones((0, 4))), "x has shape (0, 4): expected a matrix"),
            (lambda self: criteria.clact(np.full((1, 4), 1j)), "dtype complex128: expected one of"),
            (
                lambda self: choose(self.x * np.nan, "2:4", "clact"),
                "x[0, 0] is nan, the first of",
            ),
            (lambda self: choose(self.x * np.nan, "2:4", "unstructured"), "x[0, 0] is nan, the first of"),
            (lambda self: choose(self.x, "2:4", "ria"), "criterion='ria': vector is missing"),
            (lambda self: criteria.ria(self.x, np.ones(3)), "vector has shape (3,): expected (4,)"),
            (
                lambda self: criteria.ria(self.x, np.ones(4), column_sums=np.ones(3)),
                "column_sums has shape (3,)",
            ),
            (lambda self: criteria.best_of_tokens(self.x * np.nan, 2), "a NaN among them"),
            (lambda self: criteria.best_of_tokens(self.x, 5), "count=5: expected an int from 0 to 4"),
        ],
    )
    def test_says_what_and_what_was_expected(self, call, said):
        with pytest.raises(NmsimError) as error:
            call(self)
        assert said in str(error.value)
