"""Interleaved timing: each repetition runs every contender once, in an order that rotates, and is compared within itself.

Machines are busy and clocks change. Calls of one repetition run on a machine in much the same state. So a ratio is
taken per repetition. A busy period then widens the percentiles, and changes the median little.
"""

import math
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Key = TypeVar("Key", bound=Hashable)
Clock = Callable[[], float]
Floats = NDArray[np.float64]

OUTLIER_SPREADS = 3.0
"""A sample is called an outlier when it lies so many times p80 - p20 away from the median."""
MAX_CALLS = 1 << 16


@dataclass(frozen=True)
class Spread:
    """Median, 20th and 80th percentile, and how many samples lie far out. Nothing is dropped."""

    p50: float
    p20: float
    p80: float
    samples: int
    outliers: int

    @classmethod
    def of(cls, values: Floats) -> "Spread":
        """Sum samples up.

        Examples
        --------
        >>> Spread.of(np.array([3.0, 1.0, 2.0, 5.0, 4.0, 90.0]))
        Spread(p50=3.5, p20=2.0, p80=5.0, samples=6, outliers=1)
        """
        p20, p50, p80 = (float(value) for value in np.percentile(values, [20, 50, 80]))
        far = np.abs(values - p50) > OUTLIER_SPREADS * (p80 - p20)
        return cls(p50, p20, p80, len(values), int(np.count_nonzero(far)))


@dataclass(frozen=True)
class Figure:
    """One measured number: the median and its spread, in the unit given, and how it came about."""

    p50: float
    p20: float
    p80: float
    unit: str
    cores: int
    repetitions: int
    how: str


def interleave(
    samples: Mapping[Key, Callable[[], float]],
    repetitions: int,
    enough: Callable[[int], bool] = lambda done: False,
) -> dict[Key, Floats]:
    """Take one sample of each contender in every repetition.

    Parameters
    ----------
    samples : mapping of key to callable
        Runs a contender and gives back the seconds it took.
    repetitions : int
    enough : callable
        Called with the repetitions done after each; True ends the work before all are done.

    Returns
    -------
    dict of key to float64 array [repetitions done]
        In seconds. Entry i of every array is of the same repetition.
    """
    keys = list(samples)
    taken: dict[Key, list[float]] = {key: [] for key in keys}
    for repetition in range(repetitions):
        first = repetition % len(keys)
        for key in keys[first:] + keys[:first]:
            taken[key].append(samples[key]())
        if enough(repetition + 1):
            break
    return {key: np.array(values) for key, values in taken.items()}


def seconds_per_call(action: Callable[[], Any], calls: int = 1, clock: Clock = time.perf_counter) -> float:
    """Time some calls in a row; the seconds of one."""
    started = clock()
    for _ in range(calls):
        action()
    return (clock() - started) / calls


def calls_to_fill(action: Callable[[], Any], least_s: float, clock: Clock = time.perf_counter) -> int:
    """Count the calls in a row that take at least `least_s`, so that the clock's resolution does not matter."""
    calls = 1
    while calls < MAX_CALLS:
        took_s = seconds_per_call(action, calls, clock) * calls
        if took_s >= least_s:
            break
        growth = least_s / took_s * 1.2 if took_s > 0 else 8.0
        calls = min(MAX_CALLS, max(calls + 1, math.ceil(calls * min(growth, 8.0))))
    return calls
