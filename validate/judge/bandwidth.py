"""Bandwidth of measured and predicted calls: their least traffic over their time, and its share of the DRAM's peak.

The least traffic moves values, metadata, dense operand and output once. So the bandwidth is an *effective* one. It is the rate
of the DRAM only if a kernel streams each byte once and nothing lies in a cache. `TRAFFIC` says for which families that holds.
The error of a bandwidth is that of the time turned over. What it adds is the distance to the peak, of rows that bytes limit.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from hwmodels.estimate.intervals import REGIMES

PRODUCTS = ("dense", "sparse")
LIMITS = ("memory", "work")
"""What the bound of a product rests on: its bytes, or its operations with decoding and selection."""
TRAFFIC: Mapping[str, str] = {
    "library": "2:4 values with two 2-bit indices per group. Waves of tiles read operands again at many tokens: not the DRAM's "
    "rate there.",
    "sliding": "As the library, of the windows: both the weights and X are longer. Not the DRAM's rate at many tokens.",
    "column-nm": "2:4 values and indices of the chosen columns, and all of X. Numbers of columns are left out, under 1 % of "
    "the weights. Not the DRAM's rate at many tokens.",
    "delta-gemv": "Values with 4 bits of distance each. One pass over the weights: the DRAM's rate unless a cache holds them.",
    "vector-nm": "Kept values. Indices of whole vectors are left out, few bits each. Tiles read X again: not the DRAM's rate.",
    "csr": "Kept values with 16-bit columns. Offsets of rows are left out. Each row gathers X again: not the DRAM's rate.",
    "software": "As `predict` counts values, metadata, operand and output. One pass at few tokens.",
    "auto": "As `predict` counts values, metadata, operand and output. One pass at few tokens.",
}
"""Kernel family -> what its least traffic holds, and whether the bandwidth is that of the DRAM."""


def bandwidth_columns(answers: pd.DataFrame, measured: pd.DataFrame, dram_bytes_per_s: Any) -> pd.DataFrame:
    """Compute bandwidths of both calls of each row.

    Parameters
    ----------
    answers : DataFrame
        Of all products of each row: `{dense,sparse}_bytes`, and `predicted_` and `bound_{dense,sparse}_time_s`.
    measured : DataFrame
        `measured_{dense,sparse}_time_s`, NaN if not measured.
    dram_bytes_per_s : float64 array [rows]
        Of each row's machine.

    Returns
    -------
    DataFrame
        `dram_bytes_per_s`. For `dense` and `sparse`: `measured_` and `predicted_{}_bytes_per_s`, each over the peak of the
        DRAM as `_dram_share`, `{}_bandwidth_error` (predicted / measured - 1), and `{}_limit`, one of `LIMITS`. A share above
        1 means that some operands came from a cache.
    """
    peak = np.asarray(dram_bytes_per_s, np.float64)
    columns: dict[str, Any] = {"dram_bytes_per_s": peak}
    for product in PRODUCTS:
        moved = answers[f"{product}_bytes"]
        for kind, times in (("measured", measured), ("predicted", answers)):
            rate = moved / times[f"{kind}_{product}_time_s"]
            columns |= {f"{kind}_{product}_bytes_per_s": rate, f"{kind}_{product}_dram_share": rate / peak}
        columns[f"{product}_bandwidth_error"] = (
            columns[f"predicted_{product}_bytes_per_s"] / columns[f"measured_{product}_bytes_per_s"] - 1
        )
        # The bound is the longest of its parts. It equals the time of the bytes if they take longest, except for rounding.
        by_bytes = moved / peak >= answers[f"bound_{product}_time_s"] * (1 - 1e-9)
        columns[f"{product}_limit"] = np.where(by_bytes, *LIMITS)
    return pd.DataFrame(columns)


def bandwidths_by(table: pd.DataFrame, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Summarise bandwidths by some columns, for each product and limit.

    Parameters
    ----------
    table : DataFrame
        From `validate.judge.join.join`.
    columns : sequence of str
        Such as `kernel_family` and `regime`.

    Returns
    -------
    list of dict
        `columns`, `product`, `limit`, and `n_rows` with a measured time. Medians over rows: `measured_` and
        `predicted_bytes_per_s`, `measured_` and `predicted_dram_share`, `bandwidth_mdape` (of absolute errors) and
        `bandwidth_bias`. `above_peak_share` is the share of rows that were measured above the peak of the DRAM.
    """
    found = []
    for product in PRODUCTS:
        own = table[table[f"measured_{product}_bytes_per_s"].notna()]
        for names, rows in own.groupby([*columns, f"{product}_limit"], sort=False, observed=True):
            *keys, limit = names
            shares = {
                f"{kind}_{figure}": float(rows[f"{kind}_{product}_{figure}"].median())
                for figure in ("bytes_per_s", "dram_share")
                for kind in ("measured", "predicted")
            }
            error = rows[f"{product}_bandwidth_error"]
            found.append(
                dict(zip(columns, map(str, keys), strict=True))
                | {"product": product, "limit": str(limit), "n_rows": len(rows), **shares}
                | {
                    "bandwidth_mdape": float(error.abs().median()),
                    "bandwidth_bias": float(error.median()),
                    "above_peak_share": float((rows[f"measured_{product}_dram_share"] > 1).mean()),
                }
            )
    order = (*REGIMES, *PRODUCTS, *LIMITS)
    places = {name: f"{place:03d}" for place, name in enumerate(order)}
    keyed = (*columns, "limit", "product")
    return sorted(found, key=lambda group: [places.get(group[name], group[name]) for name in keyed])
