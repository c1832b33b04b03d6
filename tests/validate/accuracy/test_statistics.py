"""Intervals over windows: they hold what they promise, follow a shift, and keep their order."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nmsim.errors import RowError
from validate import Interval, difference_of_differences, mean_interval, paired_difference
from validate.accuracy.statistics import (
    UNKNOWN,
    compare,
    kendall,
    neighbour_correlation,
    ratio_of_excess,
    ratio_of_means,
    spearman,
)

LOSSES = st.lists(st.floats(0.01, 20.0).map(lambda x: round(x, 6)), min_size=4, max_size=24)


def coverage(interval, truth, draws):
    return float(np.mean([low <= truth <= high for _, low, high in map(interval, draws)]))


@pytest.mark.parametrize("confidence", [0.5, 0.95])
def test_the_interval_holds_the_truth_as_often_as_it_says(confidence):
    """Windows differ by ten times what is looked for; only the difference of a pair is near."""
    generator = np.random.default_rng(7)
    of_window = generator.normal(3.0, 1.0, (300, 32))
    pairs = zip(of_window + generator.exponential(0.1, (300, 32)), of_window, strict=True)
    hit = coverage(lambda pair: paired_difference(*pair, confidence=confidence, resamples=400), 0.1, pairs)
    assert confidence - 0.08 < hit < min(confidence + 0.05, 0.995)


def test_losses_that_are_not_paired_cannot_be_told_apart():
    """The same losses: subtracted in the order of the windows they differ, in another order they do not."""
    generator = np.random.default_rng(3)
    dense = generator.normal(3.0, 1.0, 32)
    pruned = dense + generator.normal(0.1, 0.05, 32)
    assert paired_difference(pruned, dense).sign == 1
    assert paired_difference(np.sort(pruned), np.sort(dense)[::-1]).sign == 0


def test_a_difference_is_that_of_the_textbook_when_it_is_normal():
    """Student's interval of a normal sample is known in closed form; the bootstrap must come near it."""
    from scipy import stats

    values = np.random.default_rng(11).normal(0.2, 0.5, 200)
    _, low, high = mean_interval(values)
    wanted = stats.t.interval(0.95, 199, loc=values.mean(), scale=stats.sem(values))
    assert (low, high) == pytest.approx(wanted, abs=0.01)


@pytest.mark.parametrize("windows", [12, 33])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_intervals_are_those_of_scipy(windows, confidence):
    """Another implementation, with the same draws: means, and ratios of two means that are drawn together."""
    from scipy import stats

    generator = np.random.default_rng(windows)
    first, second = generator.exponential(1.0, windows), generator.normal(3.0, 0.3, windows)
    options = {"n_resamples": 2000, "confidence_level": confidence, "vectorized": True, "method": "BCa"}
    of_mean = stats.bootstrap([first], np.mean, rng=np.random.default_rng(4), **options).confidence_interval
    ours = mean_interval(first, confidence=confidence, resamples=2000, seed=4)
    assert ours[1:] == pytest.approx((of_mean.low, of_mean.high), rel=1e-9)

    def ratio(over, under, axis=-1):
        return np.mean(over, axis=axis) / np.mean(under, axis=axis)

    def excess(over, under, axis=-1):
        return np.expm1(np.mean(over, axis=axis)) / np.expm1(np.mean(under, axis=axis))

    pairs = stats.bootstrap([first, second], excess, paired=True, rng=np.random.default_rng(4), **options)
    ours = ratio_of_excess(first, second, confidence=confidence, resamples=2000, seed=4)
    assert ours[1:] == pytest.approx(
        (pairs.confidence_interval.low, pairs.confidence_interval.high), rel=1e-9
    )
    pairs = stats.bootstrap([first, second], ratio, paired=True, rng=np.random.default_rng(4), **options)
    ours = ratio_of_means(first, second, confidence=confidence, resamples=2000, seed=4)
    assert ours[1:] == pytest.approx(
        (pairs.confidence_interval.low, pairs.confidence_interval.high), rel=1e-9
    )


@settings(deadline=None, max_examples=40)
@given(LOSSES, st.floats(-5.0, 5.0).map(lambda x: round(x, 3)))
def test_what_is_added_to_both_changes_nothing_and_to_one_shifts_by_it(losses, shift):
    reference = np.sqrt(losses)
    plain = paired_difference(losses, reference, resamples=200)
    assert paired_difference(np.add(losses, shift), reference + shift, resamples=200) == pytest.approx(
        plain, abs=1e-9
    )
    shifted = paired_difference(np.add(losses, shift), reference, resamples=200)
    assert shifted == pytest.approx([end + shift for end in plain], abs=1e-9)


@settings(deadline=None, max_examples=40)
@given(LOSSES)
def test_the_other_way_round_is_the_negative(losses):
    reference = np.sqrt(losses)
    there = paired_difference(losses, reference, resamples=200)
    back = paired_difference(reference, losses, resamples=200)
    assert tuple(-back) == pytest.approx(tuple(there), abs=1e-9)


@settings(deadline=None, max_examples=40)
@given(LOSSES)
def test_the_ends_are_in_order_and_a_wider_confidence_holds_a_narrower_one(losses):
    half, most = (mean_interval(losses, confidence=c, resamples=400) for c in (0.5, 0.95))
    ends = [min(losses), most.low, half.low, half.high, most.high, max(losses)]
    assert all(a <= b + 1e-9 for a, b in pairwise(ends)), ends
    assert most.mean == pytest.approx(np.mean(losses))


def test_losses_without_spread_have_an_interval_without_width():
    assert paired_difference([3.1, 2.1, 5.1], [3.0, 2.0, 5.0]) == pytest.approx((0.1, 0.1, 0.1))
    assert ratio_of_means([2.0, 4.0, 6.0], [1.0, 2.0, 3.0]) == pytest.approx((2.0, 2.0, 2.0))


def test_a_difference_of_losses_is_a_ratio_of_perplexities():
    dense, pruned = np.array([2.0, 3.0, 2.5]), np.array([2.4, 3.2, 2.6])
    ratio = paired_difference(pruned, dense).ratio
    assert ratio.mean == pytest.approx(math.exp(pruned.mean()) / math.exp(dense.mean()))
    assert ratio.low < ratio.mean < ratio.high


def test_a_difference_of_differences_compares_two_gains():
    generator = np.random.default_rng(5)
    coarse = generator.normal(5.0, 1.0, 24)
    fine = coarse - 2.0 + generator.normal(0.0, 0.1, 24)
    gains = [generator.normal(gain, 0.1, 24) for gain in (0.5, 0.2)]
    found = difference_of_differences((coarse - gains[0], coarse), (fine - gains[1], fine))
    assert found.mean == pytest.approx(np.mean(gains[1] - gains[0]))
    assert compare(found) == "less"
    assert compare(-found) == "greater"


def test_a_ratio_needs_a_denominator_that_is_not_zero():
    generator = np.random.default_rng(6)
    assert ratio_of_means(generator.normal(1, 0.1, 16), generator.normal(0, 1, 16)) == pytest.approx(
        UNKNOWN, nan_ok=True
    )
    assert UNKNOWN.sign == 0
    of_five = ratio_of_means(generator.normal(5, 0.1, 16), generator.normal(1, 0.1, 16))
    assert of_five.low < 5 < of_five.high


def test_zero_in_the_interval_gives_no_verdict():
    assert compare(Interval(0.1, -0.01, 0.3)) == "cannot be decided"
    assert compare(Interval(-0.1, -0.3, -0.01)) == "less"
    assert compare(Interval(0.0, 0.0, 0.0)) == "cannot be decided"


def test_neighbours_that_are_alike_are_seen():
    walk = np.cumsum(np.random.default_rng(2).normal(size=200))
    assert neighbour_correlation(walk) > 0.8
    assert abs(neighbour_correlation(np.random.default_rng(2).normal(size=200))) < 0.2
    assert math.isnan(neighbour_correlation([1.0, 1.0, 1.0]))


def test_rank_correlations_are_those_of_scipy_draw_by_draw():
    """Ties in both quantities; the draws are made again, and scipy ranks each of them."""
    from scipy import stats

    generator = np.random.default_rng(1)
    x, y = generator.integers(0, 6, 15).astype(float), generator.integers(0, 6, 15).astype(float)
    draws = np.random.default_rng(3).integers(0, 15, size=(200, 15))
    for ours, theirs in ((spearman, stats.spearmanr), (kendall, stats.kendalltau)):
        found = ours(x, y, resamples=200, seed=3)
        drawn = [theirs(x[draw], y[draw])[0] for draw in draws]
        wanted = (theirs(x, y)[0], *np.quantile(drawn, [0.025, 0.975]))
        assert tuple(found) == pytest.approx(wanted, rel=1e-9)


def test_a_rank_correlation_that_is_not_there_has_zero_in_its_interval():
    generator = np.random.default_rng(9)
    x = generator.normal(size=40)
    assert spearman(x, generator.normal(size=40)).sign == 0
    assert kendall(x, x + 0.5 * generator.normal(size=40)).sign == 1
    assert spearman(x, np.ones(40)) == pytest.approx(UNKNOWN, nan_ok=True)


@pytest.mark.parametrize(
    ("losses", "reference", "said"),
    [
        ([1.0, 2.0], [1.0, 2.0, 3.0], "losses of 2 and of 3 windows: expected those of the same windows"),
        ([], [], r"losses of shape \(0,\): expected a list of at least one, one loss per window"),
        ([1.0, float("nan")], [1.0, 2.0], "one is infinite or not a number"),
        ([[1.0, 2.0]], [1.0, 2.0], r"losses of shape \(1, 2\)"),
    ],
)
def test_what_is_no_list_of_losses_is_refused(losses, reference, said):
    with pytest.raises(RowError, match=said):
        paired_difference(losses, reference)


def test_one_window_has_a_mean_and_no_interval():
    found = paired_difference([3.0], [2.5])
    assert found == pytest.approx((0.5, math.nan, math.nan), nan_ok=True)
    assert compare(found) == "cannot be decided"


def test_a_confidence_out_of_range_is_refused():
    with pytest.raises(RowError, match="confidence=95: expected a number between 0 and 1"):
        mean_interval([1.0, 2.0], confidence=95)
