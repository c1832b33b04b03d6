"""Intervals of losses and of what is made of them: bootstrap over windows, paired by window.

Windows of one text differ among each other far more than pruning changes one of them. So losses of two configurations are
subtracted window by window first, and the intervals are those of the differences. Windows are drawn as if they were
independent. Neighbouring windows of one document are not quite so; `neighbour_correlation` says how far they are from it.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nmsim.errors import RowError, brief

CONFIDENCE = 0.95
RESAMPLES = 10_000
DECIMALS = 12
"""Losses have six decimals. Beyond these, a mean is noise of the arithmetic."""
ROUNDED = 4 * 10.0**-DECIMALS
FEWEST_WINDOWS = 8
"""With fewer windows, an interval of the bootstrap is too narrow, and no verdict is made of it."""
UNDECIDED = "cannot be decided"

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
    """Say on which side of zero an interval lies: `greater`, `less`, or `cannot be decided`.

    Examples
    --------
    >>> compare(Interval(0.2, 0.1, 0.3)), compare(Interval(0.2, -0.1, 0.5))
    ('greater', 'cannot be decided')
    """
    return (UNDECIDED, "greater", "less")[difference.sign]


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
        Of no width if all values are equal. Of a single window, the ends are NaN.

    Raises
    ------
    RowError
        No window, a value that is not finite, or a confidence out of range.

    Source
    ------
    Bias-corrected and accelerated bootstrap, Efron 1987. A test compares it with `scipy.stats.bootstrap`, which draws
    anew for each loss and takes twenty times longer.

    Examples
    --------
    >>> mean_interval([3.0, 3.0, 3.0])
    Interval(mean=3.0, low=3.0, high=3.0)
    """
    return _bootstrap(_losses(values), confidence=confidence, resamples=resamples, seed=seed)


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
        Other numbers of windows, none, or a loss that is not finite.

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
    return _bootstrap(over, under, **options)


def ratio_of_excess(
    numerator: ArrayLike,
    denominator: ArrayLike,
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """The increase of one perplexity over that of another, both relative to the same dense one, and its interval.

    Parameters
    ----------
    numerator, denominator : array [windows]
        Differences of losses to dense per window. exp of their mean, minus 1, is the relative increase of the perplexity.
    confidence, resamples, seed
        As in `paired_difference`.

    Returns
    -------
    Interval
        `UNKNOWN` if the interval of the denominator has zero in it.

    Raises
    ------
    RowError
        As `paired_difference`.

    Examples
    --------
    >>> round(ratio_of_excess(np.log([4.0, 4.0]), np.log([2.0, 2.0])).mean, 9)
    3.0
    """
    over, under = _same_windows(numerator, denominator)
    options: dict[str, Any] = {"confidence": confidence, "resamples": resamples, "seed": seed}
    if mean_interval(under, **options).sign == 0:
        return UNKNOWN
    return _bootstrap(over, under, transform=np.expm1, **options)


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


def spearman(
    x: ArrayLike, y: ArrayLike, *, confidence: float = CONFIDENCE, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Spearman's rank correlation of two quantities of the same points, and its interval; points are drawn.

    Parameters
    ----------
    x, y : array [points]
    confidence, resamples, seed
        As in `paired_difference`.

    Returns
    -------
    Interval
        Quantiles of the draws. `UNKNOWN` if all points agree in one of both.

    Source
    ------
    Correlation of average ranks, as `scipy.stats.spearmanr`. A test compares both.

    Examples
    --------
    >>> spearman([1.0, 2.0, 3.0, 4.0], [1.0, 4.0, 9.0, 16.0])
    Interval(mean=1.0, low=1.0, high=1.0)
    """
    return _of_points(_spearman, x, y, confidence=confidence, resamples=resamples, seed=seed)


def kendall(
    x: ArrayLike, y: ArrayLike, *, confidence: float = CONFIDENCE, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Kendall's rank correlation tau-b of two quantities of the same points, and its interval; points are drawn.

    Parameters
    ----------
    x, y : array [points]
    confidence, resamples, seed
        As in `paired_difference`.

    Returns
    -------
    Interval
        Quantiles of the draws. `UNKNOWN` if all points agree in one of both.

    Source
    ------
    As `scipy.stats.kendalltau`. A test compares both.

    Examples
    --------
    >>> kendall([1.0, 2.0, 3.0, 4.0], [1.0, 4.0, 9.0, 16.0])
    Interval(mean=1.0, low=1.0, high=1.0)
    """
    return _of_points(_kendall, x, y, confidence=confidence, resamples=resamples, seed=seed)


def _of_points(
    statistic: Callable[[FloatArray, FloatArray, FloatArray], FloatArray],
    x: ArrayLike,
    y: ArrayLike,
    *,
    confidence: float,
    resamples: int,
    seed: int,
) -> Interval:
    ours, theirs = _same_windows(x, y)
    if np.ptp(ours) == 0 or np.ptp(theirs) == 0:
        return UNKNOWN
    times = _draws(len(ours), resamples, seed)
    (centre,) = statistic(ours, theirs, np.ones((1, len(ours))))
    # A draw of few points that all agree has no correlation; it is left out.
    drawn = statistic(ours, theirs, times)
    ends = np.nanquantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(centre), float(ends[0]), float(ends[1]))


def _spearman(x: FloatArray, y: FloatArray, times: FloatArray) -> FloatArray:
    """Of every draw at once: a point that is drawn several times ties with itself."""
    ranks = [times @ (one[:, None] < one) + (times @ (one[:, None] == one) + 1) / 2 for one in (x, y)]
    centred = [rank - (times * rank).sum(axis=1, keepdims=True) / len(x) for rank in ranks]
    products = [(times * centred[i] * centred[j]).sum(axis=1) for i, j in ((0, 1), (0, 0), (1, 1))]
    return _quotient(*products)


def _kendall(x: FloatArray, y: FloatArray, times: FloatArray) -> FloatArray:
    """Of every draw at once: pairs in one order minus pairs in opposite orders, over the pairs that differ."""
    orders = [np.sign(one[:, None] - one) for one in (x, y)]
    products = [((times @ (orders[i] * orders[j])) * times).sum(axis=1) for i, j in ((0, 1), (0, 0), (1, 1))]
    return _quotient(*products)


def _quotient(both: FloatArray, first: FloatArray, second: FloatArray) -> FloatArray:
    below = np.sqrt(first * second)
    found: FloatArray = np.divide(both, below, out=np.full(len(both), np.nan), where=below > 0)
    return found


def _bootstrap(
    *samples: FloatArray,
    confidence: float,
    resamples: int,
    seed: int,
    transform: Callable[[Any], Any] = np.asarray,
) -> Interval:
    """The interval of a mean, or of a ratio of two transformed means, of windows that are drawn together."""
    if not 0 < confidence < 1:
        raise RowError(f"confidence={brief(confidence)}: expected a number between 0 and 1")
    return _cached(tuple(one.tobytes() for one in samples), confidence, resamples, seed, transform)


@functools.lru_cache(maxsize=8192)
def _cached(
    data: tuple[bytes, ...],
    confidence: float,
    resamples: int,
    seed: int,
    transform: Callable[[Any], Any],
) -> Interval:
    """Tables, claims and figures ask for the same intervals."""
    samples = [np.frombuffer(one) for one in data]
    count = len(samples[0])

    def of_means(first: Any, second: Any = None) -> Any:
        return _round(transform(first) if second is None else transform(first) / transform(second))

    centre = of_means(*(one.mean() for one in samples))
    if count < 2:
        return Interval(float(centre), float("nan"), float("nan"))
    # Each window left out once: how much the statistic depends on single windows corrects for its skewness.
    without = of_means(*((one.sum() - one) / (count - 1) for one in samples))
    if np.ptp(without) <= ROUNDED:
        return Interval(float(centre), float(centre), float(centre))
    from scipy import special

    # One matrix of draws serves all losses of as many windows. A draw of a loss is then a product with it.
    times = _draws(count, resamples, seed)
    drawn = of_means(*(times @ one / count for one in samples))
    bias = special.ndtri((np.mean(drawn < centre) + np.mean(drawn <= centre)) / 2)
    centred = without.mean() - without
    skewness = (centred**3).sum() / (6 * (centred**2).sum() ** 1.5)
    tails = bias + special.ndtri([(1 - confidence) / 2, (1 + confidence) / 2])
    low, high = np.quantile(drawn, special.ndtr(bias + tails / (1 - skewness * tails)))
    return Interval(float(centre), float(low), float(high))


@functools.lru_cache(maxsize=8)
def _draws(count: int, resamples: int, seed: int) -> FloatArray:
    """How many times each draw has each window [resamples, windows]."""
    chosen = np.random.default_rng(seed).integers(0, count, size=(resamples, count))
    places = chosen + count * np.arange(resamples)[:, None]
    return np.bincount(places.ravel(), minlength=resamples * count).reshape(resamples, count).astype(float)


def _round(means: Any) -> Any:
    """Equal means become equal: the correction of the bias counts the draws below the mean and those at it."""
    return np.round(means, DECIMALS)


def _losses(values: ArrayLike) -> FloatArray:
    losses = np.ascontiguousarray(values, np.float64)
    if losses.ndim != 1 or not len(losses):
        raise RowError(
            f"losses of shape {brief(losses.shape)}: expected a list of at least one, one loss per window"
        )
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
