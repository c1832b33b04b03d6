"""Rows of one machine beside predictions from its calibration alone: a table and its summary."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from validate.judge.judge import judge_rows
from validate.judge.metrics import records
from validate.judge.names import Machines
from validate.judge.rows import read_rows

ROUND = ("dtype", "M", "N", "K", "threads", "l2_state")
"""What the rows of one round have in common; patterns and encodings vary within."""
OWN_COLUMNS = (
    *ROUND,
    *("pattern", "encoding", "kernel", "baseline", "measured_sparse_time_s", "predicted_sparse_time_s"),
    *("measured_speedup_vs_dense", "measured_speedup_vs_dense_p20", "measured_speedup_vs_dense_p80"),
    *("predicted_speedup_vs_dense", "bound_speedup_vs_dense", "speedup_error"),
)
SUMMARIES = (("pattern", "encoding"), ("dtype", "M", "N", "K", "threads", "l2_state"))
"""Columns by which a verdict is summarised."""
WORST_ROWS = 5


@dataclass(frozen=True)
class OwnMachine:
    """What was measured on this machine: the files, and the doubts that calibration had."""

    rows: Path
    hardware: Path
    doubts: tuple[str, ...] = ()


def own_rows(rows: Path, hardware: Path) -> pd.DataFrame:
    """Join a file of rows with predictions for the machine it was measured on.

    Parameters
    ----------
    rows : Path
        As `nmsim measure` writes it.
    hardware : Path
        As `nmsim calibrate` writes it; its name without .toml is the machine of the rows.

    Returns
    -------
    DataFrame
        `OWN_COLUMNS`, a row each. Times in seconds of one product; `speedup_error` is predicted / measured - 1.

    Raises
    ------
    RowError
        A row that cannot be judged, or a file without one.
    """
    machines = Machines([hardware])
    of_file = read_rows(rows, machines).rows
    judged, measured = judge_rows(of_file, machines), [row.measurement for row in of_file]
    of_row = {
        name: [getattr(row, name) for row in measured]
        for name in (*ROUND, "pattern", "encoding", "kernel", "baseline")
    }
    spread = {
        f"measured_speedup_vs_dense_{part}": [getattr(row, f"speedup_vs_dense_{part}") for row in measured]
        for part in ("p20", "p80")
    }
    bound = judged["bound_dense_time_s"] / judged["bound_sparse_time_s"]
    table = judged.assign(**of_row, **spread, bound_speedup_vs_dense=bound)
    return table[list(OWN_COLUMNS)]


def summarise(table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Summarise rows by some of their columns.

    Parameters
    ----------
    table : DataFrame
        From `own_rows`.
    columns : sequence of str

    Returns
    -------
    DataFrame
        `columns`, `n_rows`, and the medians of measured and predicted speedup. `speedup_mdape` is the median of the absolute
        relative errors, `share_of_bound` the median of measured speedup over that of the bound.
    """
    work = table.assign(
        absolute=table["speedup_error"].abs(),
        share=table["measured_speedup_vs_dense"] / table["bound_speedup_vs_dense"],
    )
    grouped = work.groupby(list(columns), sort=False, dropna=False)
    return grouped.agg(
        n_rows=("absolute", "size"),
        measured_speedup_vs_dense=("measured_speedup_vs_dense", "median"),
        predicted_speedup_vs_dense=("predicted_speedup_vs_dense", "median"),
        speedup_mdape=("absolute", "median"),
        share_of_bound=("share", "median"),
    ).reset_index()


def verdict(
    table: pd.DataFrame, *, hardware: Path, rows: Path, doubts: Sequence[str] = (), wrong: Sequence[str] = ()
) -> dict[str, Any]:
    """Reduce own rows to plain data: all of them, by `SUMMARIES`, and the rows with the greatest errors.

    Parameters
    ----------
    table : DataFrame
        From `own_rows`.
    hardware, rows : Path
        The files it was made of.
    doubts, wrong : sequence of str
        Doubts about the calibration and the rows.

    Returns
    -------
    dict
    """
    worst = table.reindex(table["speedup_error"].abs().sort_values(ascending=False).index).head(WORST_ROWS)
    return {
        "hardware": str(hardware),
        "rows": str(rows),
        "doubts": list(doubts),
        "wrong": list(wrong),
        "overall": records(summarise(table.assign(all="all"), ["all"]))[0],
        **{"by_" + "_".join(names): records(summarise(table, names)) for names in SUMMARIES},
        "worst": records(worst),
    }
