"""Interleaved timing under a clock of our own: order, counts, percentiles."""

import numpy as np
import pytest

from kernels.timing import interleaved as timing


class Clock:
    """Time passes only when somebody says so."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def work(self, seconds):
        def action():
            self.now += seconds

        return action


def test_order_rotates_and_every_contender_runs_in_every_repetition():
    order = []
    samples = {name: lambda name=name: order.append(name) or float(len(order)) for name in "abc"}
    times = timing.interleave(samples, 4)
    assert "".join(order) == "abcbcacababc"
    assert times["a"].tolist() == [1, 6, 8, 10]


def test_enough_is_asked_after_whole_repetitions():
    asked = []
    times = timing.interleave(
        {"a": lambda: 1.0, "b": lambda: 2.0}, 9, lambda done: asked.append(done) or done == 3
    )
    assert asked == [1, 2, 3]
    assert [len(values) for values in times.values()] == [3, 3]


def test_spread_drops_nothing_and_counts_what_is_far_out():
    values = np.array([1.0] * 10 + [1.1] * 10 + [50.0])
    spread = timing.Spread.of(values)
    assert (spread.p20, spread.p80, spread.samples, spread.outliers) == (1.0, 1.1, 21, 1)
    assert timing.Spread.of(np.ones(5)).outliers == 0


def test_a_ratio_within_repetitions_is_not_moved_by_a_slow_spell():
    slow = np.array([1, 1, 7, 9, 1, 1, 3.0])
    assert timing.Spread.of((2 * slow) / slow).p50 == 2


def test_seconds_per_call():
    clock = Clock()
    assert timing.seconds_per_call(clock.work(0.25), 4, clock) == 0.25


@pytest.mark.parametrize("call_s", [3e-6, 1e-3, 0.5])
def test_calls_fill_a_sample(call_s):
    clock = Clock()
    calls = timing.calls_to_fill(clock.work(call_s), 1e-2, clock)
    assert calls * call_s >= 1e-2 * (1 - 1e-6)
    assert calls * call_s <= max(call_s, 9e-2)


def test_calls_have_a_limit_when_the_clock_stands_still():
    assert timing.calls_to_fill(lambda: None, 1.0, lambda: 0.0) == timing.MAX_CALLS
