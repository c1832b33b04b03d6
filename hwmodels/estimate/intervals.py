"""Error bars: how far measured speedups lay from predictions of machines that had no part in the fit.

The residuals are data, written by `nmsim fit`: one row per judged row, of kernels like those of the estimate. A
prediction's interval is its speedup times the middle `INTERVAL_SHARE` of measured over predicted. It uses the rows of its
kind of kernel, value width and regime. It is widened so that it holds for a machine that is not among them.
"""

import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from hwmodels.machine.spec import group_of
from nmsim.case import VALUE_BITS
from nmsim.pattern import Pattern

UNIT_PATTERN = Pattern(2, 4)
"""The pattern of all sparse matrix units that were measured."""
RESIDUALS_FILE = Path(__file__).parents[1] / "data" / "residuals.csv"
INTERVAL_SHARE = 0.8
"""Share of comparable measurements that an interval held."""
WIDENING = 1.6
"""Factor by which the middle share of the residuals is widened on a logarithmic scale. Machines differ more than the
rows of one machine. With this factor the ranges hold `INTERVAL_SHARE` of the rows of a die that was left out of
them."""
FEWEST_ROWS = 8
"""Fewer rows than this make no interval of their own: the next wider set is taken."""
DECODE_TOKENS, PREFILL_TOKENS = 64, 1024
REGIMES = ("decode", "middle", "prefill")
WIDTHS = ("16-bit", "8-bit", "other")
ROAD_FAMILIES = {"unit": "library", "fused": "delta-gemv", "expanded": ""}
"""Method of the estimate on a GPU -> the nearest measured family; no kernel like the last was ever published."""
CPU_FAMILY = "cpu"


class Interval(NamedTuple):
    """Factors around a predicted speedup, and the number of measurements behind them (NaN and 0: none).

    `widened` says that those are also of another regime or width of values, if rows are missing.
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
    return {16: "16-bit", 8: "8-bit"}.get(VALUE_BITS[dtype], "other")


@functools.cache
def _residuals() -> pd.DataFrame:
    return pd.read_csv(RESIDUALS_FILE)


@functools.lru_cache(maxsize=4096)
def interval(family: str, width: str, regime: str, without: str = "") -> Interval:
    """Look up the interval of a kind of kernel.

    Parameters
    ----------
    family : str
        As in `hwmodels.estimate.families`, or `"cpu"`.
    width, regime : str
    without : str
        A group of machines (`hwmodels.machine.spec.group_of`) whose rows are left out of the range too.

    Returns
    -------
    Interval
        Of the rows of this family, width and regime. If those are fewer than `FEWEST_ROWS`, it is of all regimes. If
        those are still fewer, it is of all widths. If the family has too few rows, it is `NONE`.
    """
    table = _residuals()
    table = table[table["family"] == family]
    if without:
        table = table[[group_of(machine) != without for machine in table["machine"]]]
    same_width = table[table["width"] == width]
    for place, rows in enumerate((same_width[same_width["regime"] == regime], same_width, table)):
        if len(rows) >= FEWEST_ROWS:
            tail = (1 - INTERVAL_SHARE) / 2
            low, middle, high = np.quantile(-rows["log_speedup_error"], [tail, 0.5, 1 - tail])
            low, high = middle - WIDENING * (middle - low), middle + WIDENING * (high - middle)
            return Interval(float(np.exp(low)), float(np.exp(high)), len(rows), place > 0)
    return NONE
