"""Error bars: how far measured speedups lay from predictions of machines that had no part in the fit.

`nmsim fit` writes `data/residuals.csv`. It has a line for each kind of kernel, value width, regime and group of machines. A
line holds the 10th, 50th and 90th percentile of the errors of its rows. Rows of one machine err together. So the error of a
stranger has two parts: groups lie apart from each other, and rows lie apart from the middle of their group. An interval adds
both. The first part is known from few groups, so it uses Student's t. A group counts once, however many rows it has.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hwmodels.machine.spec import group_of
from nmsim.case import VALUE_BITS
from nmsim.pattern import Pattern

UNIT_PATTERN = Pattern(2, 4)
"""The pattern of all sparse matrix units that were measured."""
RESIDUALS_FILE = Path(__file__).parents[1] / "data" / "residuals.csv"
INTERVAL_SHARE = 0.8
"""Share of the rows of a stranger machine that an interval should hold."""
T_QUANTILES = (3.078, 1.886, 1.638, 1.533, 1.476, 1.440, 1.415, 1.397, 1.383, 1.372)
"""Quantile (1 + `INTERVAL_SHARE`) / 2 of Student's t with 1, 2, ... degrees of freedom; the last one stands for more."""
FEWEST_ROWS = 8
"""Fewer rows than this make no interval of their own: the next wider set is taken."""
FEWEST_GROUP_ROWS = 4
"""Fewer rows of a group have no percentiles that mean anything: the group is left out if others have more."""
DECODE_TOKENS, PREFILL_TOKENS = 64, 1024
REGIMES = ("decode", "middle", "prefill")
WIDTHS = ("16-bit", "8-bit", "4-bit", "other")
ALL = "all"
"""In the place of a width or regime: rows of all of them."""
SPREAD_COLUMNS = (
    *("family", "width", "regime", "group", "rows", "speedup_low", "speedup_middle", "speedup_high"),
    *("dense_time_middle", "sparse_time_middle"),
)
"""Columns of `residuals.csv`. The last five are logarithms of predicted over measured: three percentiles, and two medians."""
ROAD_FAMILIES = {"unit": "library", "fused": "delta-gemv", "expanded": ""}
"""Method of the estimate on a GPU -> the nearest measured family; no kernel like the last was ever published."""
STAND_INS = {"column-nm": "library", "sliding": "library"}
"""Family -> the family whose formula it uses, whose errors stand in if its own rows are too few."""
CPU_FAMILY = "cpu"
UNMEASURED_WIDENING = 2.25
"""Factor on a range, on a logarithmic scale, for products of a vendor's library whose generation nobody measured. With it the
ranges hold `INTERVAL_SHARE` of published rows whose generation is left out of `libraries.toml`."""
VENDOR_FAMILIES = ("library", "sliding")
"""Families that run the vendor's library for 2:4."""


class Interval(NamedTuple):
    """Factors around a predicted speedup, and the number of measurements behind them (NaN and 0: none).

    `widened` says that those are also of another regime, width of values or family, if rows are missing.
    """

    low: float
    high: float
    rows: int
    widened: bool = False


NONE = Interval(float("nan"), float("nan"), 0, True)


def regime_of(tokens: int) -> str:
    """Name the regime of a number of tokens: decode up to 64, prefill from 1024.

    Examples
    --------
    >>> regime_of(1), regime_of(512), regime_of(2048)
    ('decode', 'middle', 'prefill')
    """
    return REGIMES[(tokens > DECODE_TOKENS) + (tokens >= PREFILL_TOKENS)]


def width_of(dtype: str) -> str:
    """Group value types by what the estimate makes of them.

    Examples
    --------
    >>> width_of("bf16"), width_of("fp8"), width_of("fp32")
    ('16-bit', '8-bit', 'other')
    """
    return {16: "16-bit", 8: "8-bit", 4: "4-bit"}.get(VALUE_BITS[dtype], "other")


def spread(residuals: pd.DataFrame) -> pd.DataFrame:
    """Reduce residuals to what intervals need.

    Parameters
    ----------
    residuals : DataFrame
        One row per measurement: `family`, `width`, `regime`, `machine`, and `log_speedup_error`, `log_dense_time_error` and
        `log_sparse_time_error` (predicted over measured).

    Returns
    -------
    DataFrame
        `SPREAD_COLUMNS`, sorted: lines of each width and regime, of all regimes of a width, and of all widths.
    """
    table = residuals.assign(group=[group_of(str(machine)) for machine in residuals["machine"]])
    levels = (table, table.assign(regime=ALL), table.assign(width=ALL, regime=ALL))
    tail = (1 - INTERVAL_SHARE) / 2
    lines = []
    for level in levels:
        for names, rows in level.groupby(list(SPREAD_COLUMNS[:4]), sort=True):
            low, middle, high = np.quantile(rows["log_speedup_error"], [tail, 0.5, 1 - tail])
            times = (rows[f"log_{name}_error"].median() for name in ("dense_time", "sparse_time"))
            lines.append(
                (*names, len(rows), *(round(float(number), 4) for number in (low, middle, high, *times)))
            )
    return pd.DataFrame(lines, columns=list(SPREAD_COLUMNS))


class _Line(NamedTuple):
    """A group's rows of one kind; its errors as logarithms of measured over predicted."""

    group: str
    rows: int
    low: float
    middle: float
    high: float


@functools.cache
def _lines() -> Mapping[tuple[str, str, str], Sequence[_Line]]:
    """Lines of `residuals.csv` by family, width and regime."""
    return by_kind(pd.read_csv(RESIDUALS_FILE))


def by_kind(table: pd.DataFrame) -> Mapping[tuple[str, str, str], Sequence[_Line]]:
    """Sort lines of `spread` by family, width and regime."""
    found: dict[tuple[str, str, str], list[_Line]] = {}
    kinds = table[["family", "width", "regime"]].astype(str).itertuples(index=False, name=None)
    groups, rows = table["group"].astype(str), table["rows"].astype(int)
    errors = -table[["speedup_high", "speedup_middle", "speedup_low"]].to_numpy(np.float64)
    for (family, width, regime), group, count, (low, middle, high) in zip(
        kinds, groups, rows, errors.tolist(), strict=True
    ):
        found.setdefault((family, width, regime), []).append(_Line(group, count, low, middle, high))
    return found


@functools.lru_cache(maxsize=4096)
def interval(family: str, width: str, regime: str, without: str = "", *, measured: bool = True) -> Interval:
    """Look up the interval of a kind of kernel.

    Parameters
    ----------
    family : str
        As in `hwmodels.estimate.families`, or `"cpu"`.
    width, regime : str
    without : str
        A group of machines (`hwmodels.machine.spec.group_of`) whose rows are left out of the range too.
    measured : bool
        Whether the libraries of the machine's generation were measured (`hwmodels.machine.libraries.measured`).

    Returns
    -------
    Interval
        Of the rows of this family, width and regime. If those are fewer than `FEWEST_ROWS`, it is of all regimes. If
        those are still fewer, it is of all widths, and then of the family in `STAND_INS`. If no set has enough rows, it is
        `NONE`.
    """
    known = _lines()
    kinds = [(family, width, regime), (family, width, ALL), (family, ALL, ALL)]
    # Another family says little of a width or regime, and its library is one more stranger.
    kinds += [(STAND_INS[family], ALL, ALL)] if family in STAND_INS else []
    for place, kind in enumerate(kinds):
        lines = [line for line in known.get(kind, ()) if line.group != without]
        rows = sum(line.rows for line in lines)
        if rows >= FEWEST_ROWS:
            wider = UNMEASURED_WIDENING if family in VENDOR_FAMILIES and not measured else 1.0
            low, high = stranger_range(lines, 1 if kind[0] == family else 2, wider)
            return Interval(float(np.exp(low)), float(np.exp(high)), rows, place > 0)
    return NONE


def stranger_range(lines: Sequence[_Line], strangers: int = 1, wider: float = 1.0) -> tuple[float, float]:
    """Range of the logarithms of measured over predicted speedups of a machine that is in none of the groups.

    Parameters
    ----------
    lines : sequence
        One entry per group.
    strangers : int
        How often the groups' deviation counts: twice if the library is unknown as well.
    wider : float
        Factor on the range.

    Returns
    -------
    tuple of float
        It lies around the median of the groups' middles. Its half width is the root of the sum of two squares. One is of
        the mean range of a group. The other is of the range of a further middle: Student's t x the groups' deviation
        x √(1 + 1 / groups). If there is only one group, groups are taken to deviate as much as its rows.
    """
    lines = [line for line in lines if line.rows >= FEWEST_GROUP_ROWS] or list(lines)
    middles = np.array([line.middle for line in lines])
    below = float(np.mean([line.middle - line.low for line in lines]))
    above = float(np.mean([line.high - line.middle for line in lines]))
    count, middle = len(lines), float(np.median(middles))
    if count == 1:
        between = np.sqrt(2.0) * (below + above) / 2
    else:
        quantile = T_QUANTILES[min(count - 1, len(T_QUANTILES)) - 1]
        between = quantile * float(middles.std(ddof=1)) * np.sqrt(1 + 1 / count)
    between *= np.sqrt(strangers)
    return middle - wider * float(np.hypot(below, between)), middle + wider * float(np.hypot(above, between))


def intervals(
    family: str,
    dtypes: Iterable[str],
    tokens: NDArray[np.float64],
    without: str = "",
    *,
    measured: bool = True,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Look up the intervals of many rows: one look-up per width and regime.

    Parameters
    ----------
    family : str
    dtypes : iterable of str [rows]
        Value types.
    tokens : float64 array [rows]
    without, measured
        As for `interval`.

    Returns
    -------
    tuple of array [rows]
        Low and high factors, and whether rows of other kinds stand in.
    """
    width, widths = pd.factorize(pd.Series(list(dtypes), dtype=object).map(width_of))
    regime = np.searchsorted([DECODE_TOKENS + 1, PREFILL_TOKENS], tokens, side="right")
    found = [
        [interval(family, name, kind, without, measured=measured) for kind in REGIMES] for name in widths
    ]
    low, high, _, widened = np.moveaxis(np.array(found, np.float64).reshape(-1, len(REGIMES), 4), 2, 0)
    return low[width, regime], high[width, regime], widened[width, regime] > 0
