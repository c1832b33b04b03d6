"""Intervals of losses and of what is made of them: bootstrap over windows, paired by window.

Windows of one text differ among each other far more than pruning changes one of them. So losses of two configurations are
subtracted window by window first, and the intervals are those of the differences. Windows are drawn as if they were
independent. Neighbouring windows of one document are not quite so; `neighbour_correlation` says how far they are from it.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nmsim.errors import RowError, brief

CONFIDENCE = 0.95
RESAMPLES = 10_000
DECIMALS = 12
"""Losses have six decimals. Beyond these, a mean is noise of the arithmetic."""
FEWEST_WINDOWS = 8
"""With fewer windows, an interval of the bootstrap is too narrow, and no verdict is made of it."""
CANNOT_BE_TOLD = "cannot be told"

FloatArray = NDArray[np.float64]


class Interval(NamedTuple):
    """A mean over windows, and the ends of its interval, in the unit of the mean."""

    mean: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """1 if the whole interval lies above zero, -1 if it lies below, 0 if zero is in it or an end is unknown."""
        return int(self.low > 0) - int(self.high < 0)

    @property
    def ratio(self) -> "Interval":
        """The exponential: a difference of losses becomes a ratio of perplexities.

        Examples
        --------
        >>> Interval(0.0, 0.0, 0.0).ratio
        Interval(mean=1.0, low=1.0, high=1.0)
        """
        return Interval(*(float(np.exp(end)) for end in self))

    def __neg__(self) -> "Interval":
        """The reference minus the losses."""
        return Interval(-self.mean, -self.high, -self.low)


UNKNOWN = Interval(float("nan"), float("nan"), float("nan"))
"""What cannot be computed."""


def compare(difference: Interval) -> str:
    """Say on which side of zero an interval lies: `greater`, `less`, or `cannot be told`.

    Examples
    --------
    >>> compare(Interval(0.2, 0.1, 0.3)), compare(Interval(0.2, -0.1, 0.5))
    ('greater', 'cannot be told')
    """
    return (CANNOT_BE_TOLD, "greater", "less")[difference.sign]


def mean_interval(
    values: ArrayLike, *, confidence: float = CONFIDENCE, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """The mean of one value per window, such as a loss, and its interval.

    Parameters
    ----------
    values : array [windows]
    confidence : float
        Between 0 and 1.
    resamples : int
    seed : int
        The same seed and values give the same interval.

    Returns
    -------
    Interval
        Of no width if all values are equal.

    Raises
    ------
    RowError
        Fewer than two windows, a value that is not finite, or a confidence out of range.

    Source
    ------
    `scipy.stats.bootstrap`, bias-corrected and accelerated (Efron 1987).

    Examples
    --------
    >>> mean_interval([3.0, 3.0, 3.0])
    Interval(mean=3.0, low=3.0, high=3.0)
    """
    return _bootstrap(_mean, (values,), confidence=confidence, resamples=resamples, seed=seed)


def paired_difference(
    losses: ArrayLike,
    reference: ArrayLike,
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """The mean of `losses` minus `reference`, paired by window, and its interval.

    Parameters
    ----------
    losses, reference : array [windows]
        Losses of the same windows in the same order, nats per token.
    confidence : float
        Between 0 and 1.
    resamples : int
    seed : int
        The same seed and losses give the same interval.

    Returns
    -------
    Interval
        Nats per token. Its `ratio` is that of the perplexities.

    Raises
    ------
    RowError
        Other numbers of windows, fewer than two, or a loss that is not finite.

    Examples
    --------
    >>> paired_difference([3.0, 5.0, 4.0], [2.5, 4.5, 3.5])
    Interval(mean=0.5, low=0.5, high=0.5)
    """
    first, second = _same_windows(losses, reference)
    return mean_interval(first - second, confidence=confidence, resamples=resamples, seed=seed)


def difference_of_differences(
    first: tuple[ArrayLike, ArrayLike],
    second: tuple[ArrayLike, ArrayLike],
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """The difference of one pair minus that of another, all four paired by window.

    Parameters
    ----------
    first, second : tuple of two arrays [windows]
        Losses, and the reference that is subtracted from them.
    confidence, resamples, seed
        As in `paired_difference`.

    Returns
    -------
    Interval
        Below zero if the first pair differs less than the second. With losses minus those without a mitigation, it is
        below zero if the mitigation brings more in the first pair.

    Raises
    ------
    RowError
        As `paired_difference`.

    Examples
    --------
    >>> difference_of_differences(([5.0, 6.0], [6.0, 7.0]), ([3.0, 4.0], [3.5, 4.5])).mean
    -0.5
    """
    ours, theirs = (np.subtract(*_same_windows(*pair)) for pair in (first, second))
    return paired_difference(ours, theirs, confidence=confidence, resamples=resamples, seed=seed)


def ratio_of_means(
    numerator: ArrayLike,
    denominator: ArrayLike,
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """The mean of one difference over the mean of another, both per window and paired, and its interval.

    Parameters
    ----------
    numerator, denominator : array [windows]
        Differences of losses per window.
    confidence, resamples, seed
        As in `paired_difference`.

    Returns
    -------
    Interval
        `UNKNOWN` if the interval of the denominator has zero in it: the ratio may then have any value.

    Raises
    ------
    RowError
        As `paired_difference`.

    Examples
    --------
    >>> ratio_of_means([2.0, 4.0], [1.0, 2.0])
    Interval(mean=2.0, low=2.0, high=2.0)
    """
    over, under = _same_windows(numerator, denominator)
    options: dict[str, Any] = {"confidence": confidence, "resamples": resamples, "seed": seed}
    if mean_interval(under, **options).sign == 0:
        return UNKNOWN
    return _bootstrap(_mean_ratio, (over, under), **options)


def neighbour_correlation(values: ArrayLike) -> float:
    """Correlation of each window's value with the next one's: near zero if windows may be drawn as independent.

    Returns
    -------
    float
        NaN with fewer than three windows, or if all values are equal.

    Examples
    --------
    >>> neighbour_correlation([1.0, -1.0, 1.0, -1.0])
    -0.75
    """
    centred = _losses(values) - np.mean(np.asarray(values, float))
    squares = float(np.square(centred).sum())
    if len(centred) < 3 or squares == 0:
        return float("nan")
    return float((centred[1:] * centred[:-1]).sum() / squares)


def bootstrap_of_rows(
    statistic: Callable[[FloatArray], float],
    rows: Sequence[Sequence[float]],
    *,
    confidence: float = CONFIDENCE,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Ends of the interval of any statistic of rows, such as a rank correlation; whole rows are drawn.

    Parameters
    ----------
    statistic : function
        Takes an array [rows, columns] and gives a number. A draw that gives NaN is left out.
    rows : sequence of sequence of float
    confidence, resamples, seed
        As in `paired_difference`.

    Returns
    -------
    low, high : float
        Quantiles of the draws; NaN if fewer than half of them give a number.

    Examples
    --------
    >>> bootstrap_of_rows(lambda rows: float(rows[:, 0].mean()), [[1.0], [1.0]])
    (1.0, 1.0)
    """
    table, generator = np.asarray(rows, float), np.random.default_rng(seed)
    draws = generator.integers(len(table), size=(resamples, len(table))) if len(table) else ()
    found = np.array([statistic(table[draw]) for draw in draws], float)
    found = found[np.isfinite(found)]
    if 2 * len(found) <= resamples:
        return float("nan"), float("nan")
    low, high = np.quantile(found, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _mean(values: FloatArray, axis: int = -1) -> Any:
    """Rounded, so that equal means are equal: the correction of the bias counts the draws below the mean and at it."""
    return np.round(np.mean(values, axis=axis), DECIMALS)


def _mean_ratio(numerator: FloatArray, denominator: FloatArray, axis: int = -1) -> Any:
    return np.round(np.mean(numerator, axis=axis) / np.mean(denominator, axis=axis), DECIMALS)


def _bootstrap(
    statistic: Callable[..., Any],
    samples: Sequence[ArrayLike],
    *,
    confidence: float,
    resamples: int,
    seed: int,
) -> Interval:
    if not 0 < confidence < 1:
        raise RowError(f"confidence={brief(confidence)}: expected a number between 0 and 1")
    keys = tuple(_losses(sample).tobytes() for sample in samples)
    return _cached(statistic, keys, confidence, resamples, seed)


@functools.lru_cache(maxsize=4096)
def _cached(
    statistic: Callable[..., Any], keys: tuple[bytes, ...], confidence: float, resamples: int, seed: int
) -> Interval:
    """Pages and claims ask for the same intervals again and again; each takes some milliseconds."""
    from scipy import stats

    samples = [np.frombuffer(key) for key in keys]
    centre = float(statistic(*samples))
    # Without spread the correction of the bias would be 0 / 0.
    if _is_constant(statistic, samples, centre):
        return Interval(centre, centre, centre)
    found = stats.bootstrap(
        samples,
        statistic,
        n_resamples=resamples,
        paired=len(samples) > 1,
        vectorized=True,
        confidence_level=confidence,
        method="BCa",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(centre, float(found.low), float(found.high))


def _is_constant(statistic: Callable[..., Any], samples: Sequence[FloatArray], centre: float) -> bool:
    """Whether the statistic is the same without any of the windows, as a ratio of proportional differences."""
    without = [
        statistic(*(np.delete(sample, place) for sample in samples)) for place in range(len(samples[0]))
    ]
    return bool(np.allclose(without, centre, rtol=1e-12, atol=1e-15))


def _losses(values: ArrayLike) -> FloatArray:
    losses = np.ascontiguousarray(values, np.float64)
    if losses.ndim != 1 or len(losses) < 2:
        raise RowError(f"{losses.size} windows: expected at least two, one loss each")
    if not np.isfinite(losses).all():
        raise RowError("losses of windows: one is infinite or not a number, expected finite losses")
    return losses


def _same_windows(first: ArrayLike, second: ArrayLike) -> tuple[FloatArray, FloatArray]:
    ours, theirs = _losses(first), _losses(second)
    if len(ours) != len(theirs):
        raise RowError(
            f"losses of {len(ours)} and of {len(theirs)} windows: expected those of the same windows"
        )
    return ours, theirs
