"""One machine's own rows beside what is predicted from its calibration alone: a table, its summary, a figure."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from hwmodels.plots.predicted import (
    LIGHT,
    MARKERS,
    PATTERN_LABEL,
    AxesGrid,
    Theme,
    add_legend,
    label_axes,
    panel_grid,
    pattern_order,
)
from nmsim.errors import RowError
from nmsim.rows import measurement_file
from validate.judge.judge import judge_rows
from validate.judge.machine_names import Machines
from validate.judge.rows import as_rows

ROUND = ("dtype", "M", "N", "K", "threads", "l2_state")
"""What rows of one panel have in common; patterns and encodings vary within."""
OWN_COLUMNS = (
    *ROUND,
    *("pattern", "encoding", "kernel", "baseline", "measured_sparse_time_s", "predicted_sparse_time_s"),
    *("measured_speedup_vs_dense", "measured_speedup_vs_dense_p20", "measured_speedup_vs_dense_p80"),
    *("predicted_speedup_vs_dense", "bound_speedup_vs_dense", "speedup_error"),
)
PANELS_A_ROW = 3
FIGURE = "measured_on_predicted"


@dataclass(frozen=True)
class OwnMachine:
    """What was measured on the machine at hand: the files, and the doubts that calibration had."""

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
    measured = measurement_file.read(rows)
    judged = judge_rows(as_rows(measured, str(rows)), Machines([hardware]))
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
        `columns`, `n_rows`, medians of measured and predicted speedup, `speedup_mdape` (median of the absolute
        relative errors) and `share_of_bound` (median of measured speedup over that of the bound).
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


def measured_on_predicted(table: pd.DataFrame, *, theme: Theme = LIGHT) -> tuple[Figure, AxesGrid]:
    """Draw measured speedups, with 20th to 80th percentile, on the predicted ones, a panel a round.

    Parameters
    ----------
    table : DataFrame
        From `own_rows`.
    theme : Theme

    Returns
    -------
    tuple of Figure and Axes array

    Raises
    ------
    RowError
        No row.
    """
    if table.empty:
        raise RowError("table of measured rows: no row to draw")
    rounds = list(table.groupby(list(ROUND), sort=False, dropna=False))
    wide = min(len(rounds), PANELS_A_ROW)
    fig, grid = panel_grid(-(-len(rounds) // wide), wide, 2.5, theme, top=0.5, share_y=True)
    encodings = list(table["encoding"].unique())
    for ax, (key, rows) in zip(grid.flat, rounds, strict=False):
        _panel(ax, rows, encodings, theme)
        dtype, M, N, K, threads, state = cast(tuple[str, int, int, int, int, str], key)
        cores = "1 core" if threads == 1 else f"{threads} cores"
        ax.set_title(
            f"{dtype}, {N}×{K}, {M} token{'s' * (M > 1)}, {cores}, {state}", fontsize=8, color=theme.ink
        )
    for ax in list(grid.flat)[len(rounds) :]:
        ax.set_visible(False)
    label_axes(grid, PATTERN_LABEL, "speedup vs best dense call [×]", theme)
    handles: list[Any] = [
        Line2D([], [], color=theme.series[i], marker=MARKERS[i], linestyle="", label=f"{name}, measured")
        for i, name in enumerate(encodings)
    ]
    handles.append(Line2D([], [], color=theme.ink, linestyle=(0, (4, 2)), label="predicted from calibration"))
    add_legend(fig, handles, theme)
    return fig, grid


def _panel(ax: Any, rows: pd.DataFrame, encodings: Sequence[str], theme: Theme) -> None:
    patterns = pattern_order(rows["pattern"])
    places = {name: place for place, name in enumerate(patterns)}
    width = 0.7 / max(len(encodings), 1)
    ax.axhline(1.0, color=theme.quiet, linewidth=1, zorder=1)
    for i, encoding in enumerate(encodings):
        found = rows[rows["encoding"] == encoding]
        at = np.array([places[name] for name in found["pattern"]]) + (i - (len(encodings) - 1) / 2) * width
        middle = found["measured_speedup_vs_dense"].to_numpy(float)
        low = found["measured_speedup_vs_dense_p20"].to_numpy(float)
        high = found["measured_speedup_vs_dense_p80"].to_numpy(float)
        spread = np.abs(np.vstack([middle - low, high - middle]))
        ax.errorbar(
            at, middle, spread, color=theme.series[i], marker=MARKERS[i], markersize=5, linestyle="", linewidth=1.2,
            zorder=3,
        )  # fmt: skip
        ax.hlines(
            found["predicted_speedup_vs_dense"], at - width / 2, at + width / 2, color=theme.ink, linewidth=1.3,
            linestyle=(0, (4, 2)), zorder=2,
        )  # fmt: skip
    ax.set_xticks(range(len(patterns)), patterns)
    ax.set_xlim(-0.5, len(patterns) - 0.5)
