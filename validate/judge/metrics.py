"""Errors of many rows in a few numbers: of all rows, of a family, or of other groups.

All figures are shares (0.06 is 6 %); errors are predicted / measured - 1. A figure without a row is None.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from hwmodels.estimate.intervals import REGIMES

FAMILY = ("machine", "dtype", "regime", "kernel_family")
"""Columns that make a family of rows."""
WORST = 10
ABOUT_ONE = 0.05
"""A speedup that differs from 1 by no more is neither a win nor a loss: it is about 1."""
COVERAGE = (0.7, 0.9)
"""Shares of rows that intervals of 80 % may hold before a family is warned of."""
COVERAGE_ROWS = 20
"""A family of fewer rows says too little of its intervals."""


def summarise(table: pd.DataFrame) -> dict[str, Any]:
    """Reduce joined rows to their metrics.

    Parameters
    ----------
    table : DataFrame
        From `validate.judge.join.join`.

    Returns
    -------
    dict
        `n_rows`. Medians of absolute errors: `speedup_mdape`, `dense_time_mdape`, `sparse_time_mdape`, and of effective
        bandwidths `dense_bandwidth_mdape`, `sparse_bandwidth_mdape`. `speedup_bias`, the
        median error. `speedup_worst_factor`, predicted / measured, or its inverse, of the worst row. `sign_share`, rows with
        predicted and measured speedup on one side of 1. `side_share`, the same, and rows of which both are about 1 (within
        `ABOUT_ONE`). `about_one_share`, the latter alone. `interval_coverage`, measured speedups inside the predicted
        interval. Counts of rows that are marked, that extrapolate, and whose times are known.

    Examples
    --------
    >>> summarise(pd.DataFrame())["n_rows"]
    0
    """
    if table.empty:
        return {"n_rows": 0}
    measured, predicted = table["measured_speedup_vs_dense"], table["predicted_speedup_vs_dense"]
    one_side = (measured > 1) == (predicted > 1)
    about_one = ((measured - 1).abs() <= ABOUT_ONE) & ((predicted - 1).abs() <= ABOUT_ONE)
    inside = (table["predicted_speedup_low"] <= measured) & (measured <= table["predicted_speedup_high"])
    has_interval = table["predicted_speedup_low"].notna() & table["predicted_speedup_high"].notna()
    return {
        "n_rows": len(table),
        "speedup_mdape": _median(table["speedup_error"].abs()),
        "dense_time_mdape": _median(table["dense_time_error"].abs()),
        "sparse_time_mdape": _median(table["sparse_time_error"].abs()),
        "dense_bandwidth_mdape": _median(table["dense_bandwidth_error"].abs()),
        "sparse_bandwidth_mdape": _median(table["sparse_bandwidth_error"].abs()),
        "speedup_bias": _median(table["speedup_error"]),
        "speedup_worst_factor": float(np.exp(_log_factor(table).max())),
        "sign_share": float(one_side.mean()),
        "side_share": float((one_side | about_one).mean()),
        "about_one_share": float(about_one.mean()),
        "interval_coverage": float(inside[has_interval].mean()) if has_interval.any() else None,
        "n_dense_times": int(table["measured_dense_time_s"].notna().sum()),
        "n_sparse_times": int(table["measured_sparse_time_s"].notna().sum()),
        "n_marked": int((table["mark"] != "").sum()),
        "n_extrapolated": int(table["extrapolates"].astype(bool).sum()),
    }


def grouped(table: pd.DataFrame, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Metrics of each group, its names first, sorted; regimes in their order."""
    groups = [
        (names, summarise(rows)) for names, rows in table.groupby(list(columns), sort=False, observed=True)
    ]
    found = [{**dict(zip(columns, map(str, names), strict=True)), **metrics} for names, metrics in groups]
    return sorted(found, key=lambda group: [_sort_key(group[name]) for name in columns])


def families(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Metrics of each machine x dtype x regime x kernel family."""
    return grouped(table, FAMILY)


def coverage_warnings(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """List families of at least `COVERAGE_ROWS` rows whose intervals hold fewer or more rows than `COVERAGE`.

    Parameters
    ----------
    found : sequence of mapping
        From `families`.

    Returns
    -------
    list of dict
        The columns of `FAMILY`, `n_rows`, `interval_coverage`, and `intervals`: "too narrow" or "too wide". The family
        whose coverage is farthest from the range comes first.
    """
    least, most = COVERAGE
    warned = [
        {name: family[name] for name in (*FAMILY, "n_rows", "interval_coverage")}
        | {"intervals": "too narrow" if family["interval_coverage"] < least else "too wide"}
        for family in found
        if family["n_rows"] >= COVERAGE_ROWS
        and family["interval_coverage"] is not None
        and not least <= family["interval_coverage"] <= most
    ]
    return sorted(
        warned,
        key=lambda family: -max(least - family["interval_coverage"], family["interval_coverage"] - most),
    )


def worst(table: pd.DataFrame, count: int = WORST) -> pd.DataFrame:
    """The rows whose speedup is missed by the largest factor, worst first."""
    order = _log_factor(table).sort_values(ascending=False, kind="stable")
    return table.loc[order.index[:count]]


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as plain dicts of numbers, text and None, for programs; NaN is None.

    Examples
    --------
    >>> records(pd.DataFrame({"pattern": ["2:4", "8:16"], "speedup": [1.5, float("nan")]}))
    [{'pattern': '2:4', 'speedup': 1.5}, {'pattern': '8:16', 'speedup': None}]
    """
    rows: list[dict[str, Any]] = json.loads(table.to_json(orient="records", double_precision=12))
    return rows


def _log_factor(table: pd.DataFrame) -> "pd.Series[float]":
    """Logarithm of the factor between predicted and measured speedup, at least 0."""
    return (table["predicted_speedup_vs_dense"] / table["measured_speedup_vs_dense"]).map(np.log).abs()


def _median(errors: pd.Series) -> float | None:
    return float(errors.median()) if errors.notna().any() else None


def _sort_key(name: str) -> tuple[int, str]:
    return (REGIMES.index(name) if name in REGIMES else 0, name)
