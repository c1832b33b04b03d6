"""Where sparsity loses on the units of today: 2:4 over tokens and weight size, and other patterns through sliding windows.

All products of the map have 16-bit types and are the vendor's 2:4 product, the only sparse product of the libraries of all
these GPUs. In the map, operands come from DRAM, as the weights of a model do. Other patterns run on the same unit through
windows (`hwmodels.estimate.windows`): rows that were measured so say what they bring without new hardware.
"""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

import hwmodels
from hwmodels.estimate.intervals import REGIMES, regime_of
from hwmodels.estimate.windows import NATIVE_ENCODING, through_windows, with_unit
from nmsim.errors import RowError, brief
from nmsim.pattern import Pattern
from validate.judge.row_table import open_row_table
from validate.judge.rows import MORE_FILE

DTYPE = "bf16"
FAMILY = "library"
PATTERN = "2:4"
MAP_TOKENS = tuple(dict.fromkeys(round(2 ** (half / 2)) for half in range(29)))
MAP_SIDES = tuple(64 * round(2 ** (half / 2) / 64) for half in range(20, 29))
"""Out and in features of a square weight matrix, from 1024 to 16384 elements."""
SPEEDUP = "predicted_speedup_vs_dense"


def gpus_with_unit() -> list[str]:
    """Ids of the shipped GPUs on the market whose matrix unit takes 2:4 operands of 16 bits."""
    specs = [hwmodels.load_machine(name) for name in hwmodels.machine_names()]
    return [
        s.id for s in specs if s.family == "gpu" and not s.hypothetical and DTYPE in s.sparse_peak_flop_per_s
    ]


def speedup_map(machines: Sequence[str]) -> pd.DataFrame:
    """Predict a square 2:4 product for all `MAP_TOKENS` and `MAP_SIDES`.

    Parameters
    ----------
    machines : sequence of str
        Ids of GPUs with a sparse matrix unit.

    Returns
    -------
    DataFrame
        `machine`, `regime`, `M` tokens, `side` (N and K, in elements) and `predicted_speedup_vs_dense`, to 4 digits.
    """
    tokens, sides = (grid.ravel() for grid in np.meshgrid(MAP_TOKENS, MAP_SIDES, indexing="ij"))
    shape = pd.DataFrame({"M": tokens, "N": sides, "K": sides})
    inputs = shape.assign(
        dtype=DTYPE, baseline_dtype=DTYPE, pattern=PATTERN, kernel_family=FAMILY, density=0.5, l2_state=""
    )
    return pd.concat(
        [
            pd.DataFrame(
                {
                    "machine": machine,
                    "regime": [regime_of(count) for count in tokens.tolist()],
                    "M": tokens,
                    "side": sides,
                    SPEEDUP: hwmodels.predict_rows(inputs, machine)[SPEEDUP].round(4).to_numpy(),
                }
            )
            for machine in machines
        ],
        ignore_index=True,
    )


def published_points(judged: pd.DataFrame) -> pd.DataFrame:
    """Keep the joined rows that the map is about: 16-bit 2:4 library products without host overhead.

    Returns
    -------
    DataFrame
        The rows, with `side`, the side of a square weight matrix of as many elements.
    """
    chosen = (judged["kernel_family"] == FAMILY) & (judged["dtype_class"] == "16-bit")
    rows = judged[chosen & (judged["mark"] != "host overhead")]
    return rows.assign(side=np.sqrt(rows["N"].astype(float) * rows["K"]))


def losses(points: pd.DataFrame, mapped: pd.DataFrame) -> pd.DataFrame:
    """Count the products that lose, for each machine and regime.

    Parameters
    ----------
    points, mapped : DataFrame
        From `published_points`, predicted by constants fitted without each machine, and from `speedup_map`.

    Returns
    -------
    DataFrame
        `machine`, `regime`, `n_rows` published, and the shares that lie below 1.0: `published_losing` and
        `predicted_losing` of those rows (NaN without rows), `map_losing` of the map.
    """
    out = []
    for machine in mapped["machine"].unique():
        for regime in REGIMES:
            own = points[(points["machine"] == machine) & (points["regime"] == regime)]
            here = mapped[(mapped["machine"] == machine) & (mapped["regime"] == regime)]
            out.append(
                {
                    "machine": machine,
                    "regime": regime,
                    "n_rows": len(own),
                    "published_losing": (own["measured_speedup_vs_dense"] < 1).mean() if len(own) else np.nan,
                    "predicted_losing": (own[SPEEDUP] < 1).mean() if len(own) else np.nan,
                    "map_losing": (here[SPEEDUP] < 1).mean(),
                }
            )
    return pd.DataFrame(out)


def break_even_side(mapped: pd.DataFrame, machine: str, tokens: int) -> int | None:
    """Find the least weight side of the map from which 2:4 wins up to the largest one; None if the largest loses.

    Raises
    ------
    RowError
        The map has no such machine or number of tokens.
    """
    row = mapped[(mapped["machine"] == machine) & (mapped["M"] == tokens)].sort_values("side")
    if row.empty:
        raise RowError(f"map of speedups: nothing for {brief(machine)} and {tokens} tokens")
    losing = np.flatnonzero(row[SPEEDUP].to_numpy() < 1)
    first = losing[-1] + 1 if len(losing) else 0
    return int(row["side"].iloc[first]) if first < len(row) else None


WINDOWED = ("4:8", "8:16")
"""Patterns without a unit of their own, whose work through windows was measured."""
PAIRED_DTYPES = ("fp4",)
"""Types whose sparse units keep values in pairs alone, paired 4:8."""
MEASURED = "measured_speedup_vs_dense"
NATIVE = "native_bound_speedup_vs_dense"
SPREAD = (0.1, 0.5, 0.9)


def window_rows(judged: pd.DataFrame, pattern: str) -> pd.DataFrame:
    """Keep the joined rows of sliding windows that any mask of a pattern fits in.

    Parameters
    ----------
    judged : DataFrame
        From `validate.judge.join.join`.
    pattern : str
        Such as `8:16`, whose rows are those of 14:16.

    Returns
    -------
    DataFrame
        The rows, with `native_bound_speedup_vs_dense`: what a unit for the pattern itself brings at most, as a ratio of
        two bounds. It is NaN on machines that do not ship. Rows of types whose unit keeps values in pairs are left out:
        windows of pairs do not hold any mask.
    """
    runs_as = through_windows(Pattern.parse(pattern))
    held = ~judged["dtype"].isin(PAIRED_DTYPES)
    rows = judged[held & (judged["kernel_family"] == "sliding") & (judged["pattern"] == str(runs_as))]
    native = pd.Series(np.nan, index=rows.index)
    shipped = hwmodels.machine_names()
    for machine, own in rows.groupby("machine", sort=False):
        if machine in shipped:
            cases = own[["M", "N", "K", "dtype"]].assign(pattern=pattern, encoding=NATIVE_ENCODING)
            spec = with_unit(hwmodels.load_machine(str(machine)), Pattern.parse(pattern))
            native[own.index] = hwmodels.predict(cases, spec)["bound_speedup_vs_dense"]
    return rows.assign(**{NATIVE: native})


def windows_by(judged: pd.DataFrame, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Summarise the rows of sliding windows of all `WINDOWED` patterns by some columns.

    Parameters
    ----------
    judged : DataFrame
        From `validate.judge.join.join`.
    columns : sequence of str
        Such as `machine`, `dtype` and `regime`.

    Returns
    -------
    list of dict
        `pattern`, `runs_as` (the measured pattern), `columns`, `n_rows`. The measured speedup: `measured_low`,
        `measured_median` and `measured_high` (10th, 50th and 90th percentile), and `winning_share` above 1. Medians:
        `predicted_speedup_vs_dense`, `speedup_mdape` (of absolute errors), `native_bound_speedup_vs_dense`.
    """
    found = []
    for pattern in WINDOWED:
        for names, rows in window_rows(judged, pattern).groupby(list(columns), observed=True):
            measured, native = rows[MEASURED], rows[NATIVE].median()
            spread = zip(("low", "median", "high"), measured.quantile(list(SPREAD)), strict=True)
            found.append(
                {"pattern": pattern, "runs_as": str(through_windows(Pattern.parse(pattern)))}
                | dict(zip(columns, names, strict=True))
                | {"n_rows": len(rows), **{f"measured_{name}": float(value) for name, value in spread}}
                | {
                    "winning_share": float((measured > 1).mean()),
                    SPEEDUP: float(rows[SPEEDUP].median()),
                    "speedup_mdape": float(rows["speedup_error"].abs().median()),
                    NATIVE: float(native) if native == native else None,
                }
            )
    return found


@functools.cache
def _published_windows() -> pd.DataFrame:
    names = ["machine", "dtype", "M", "kernel_family", "nm_pattern", "dense_time_s", "sparse_time_s"]
    table: pd.DataFrame = open_row_table(MORE_FILE).select(names).to_pandas()
    rows = table[(table["kernel_family"] == "sliding").to_numpy()]
    return rows.assign(
        regime=[regime_of(tokens) for tokens in rows["M"]],
        speedup=rows["dense_time_s"] / rows["sparse_time_s"],
    )


def published_windows(pattern: Pattern, *, machine: str, dtype: str, tokens: int) -> dict[str, float] | None:
    """Find what was measured of a pattern's windows near a question: same machine, value type and regime.

    Parameters
    ----------
    pattern : Pattern
    machine, dtype : str
    tokens : int

    Returns
    -------
    dict of str to float, or None
        `n_rows`, and `low`, `median` and `high` of the measured speedup: its 10th, 50th and 90th percentile. The rows are
        those of `data/published_more.parquet`. None if there are none.
    """
    rows = _published_windows()
    near = (rows["machine"] == machine) & (rows["dtype"] == dtype) & (rows["regime"] == regime_of(tokens))
    found = rows.loc[near & (rows["nm_pattern"] == str(through_windows(pattern))), "speedup"]
    if found.empty:
        return None
    spread = zip(("low", "median", "high"), found.quantile(list(SPREAD)), strict=True)
    return {"n_rows": len(found), **{name: float(value) for name, value in spread}}
