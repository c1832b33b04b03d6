"""Figures of whole models in a serving engine: predicted beside measured ratios of tokens per second."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from hwmodels.plots import style
from hwmodels.plots.judged import MEASURED, PREDICTED
from hwmodels.plots.labels import pattern_order, refuse_empty
from hwmodels.plots.style import LIGHT, AxesGrid, Theme, styled

PHASES = ("decode", "prefill")
RATIOS = (0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 1.75, 2.0)
BAND = 0.08
"""Relative error that is shaded around agreement: the goal for the median."""


@styled
def whole_models(table: pd.DataFrame, *, theme: Theme = LIGHT) -> tuple[Figure, AxesGrid]:
    """Draw predicted over measured ratios of tokens per second, sparse to dense: a column per machine, a row per phase.

    Parameters
    ----------
    table : DataFrame
        From `validate.whole_models.errors.judge_whole_models`: `machine`, `phase`, `pattern`,
        `measured_speedup_vs_dense`, `predicted_speedup_vs_dense`.
    theme : Theme

    Returns
    -------
    tuple of Figure and Axes array [2, machines]

    Raises
    ------
    RowError
        No row.
    """
    refuse_empty(table, "table of runs of whole models")
    machines, patterns = sorted(table["machine"].unique()), pattern_order(table["pattern"])
    both = table[[MEASURED, PREDICTED]].to_numpy(float)
    low, high = 0.97 * both.min(), 1.03 * both.max()
    fig, grid = style.panel_grid(len(PHASES), len(machines), 2.3, top=0.95)
    ticks = [value for value in RATIOS if low <= value <= high]
    for row, phase in enumerate(PHASES):
        for column, machine in enumerate(machines):
            ax, own = grid[row, column], table[(table["phase"] == phase) & (table["machine"] == machine)]
            line = np.array([low, high])
            ax.fill_between(
                line,
                line / (1 + BAND),
                line * (1 + BAND),
                color=theme.faint,
                alpha=0.55,
                linewidth=0,
                zorder=0,
            )
            ax.plot(line, line, color=theme.ink, linewidth=0.9, zorder=1)
            for draw in (ax.axhline, ax.axvline):
                draw(1.0, color=theme.quiet, linewidth=0.8, zorder=1)
            for place, pattern in enumerate(patterns):
                runs = own[own["pattern"] == pattern]
                look: dict[str, Any] = {
                    "color": theme.colour(place),
                    "marker": style.MARKERS[place],
                    "alpha": 0.6,
                }
                ax.scatter(runs[MEASURED], runs[PREDICTED], s=9, linewidths=0, zorder=3, **look)
            ax.set_xscale("log")
            ax.set_yscale("log")
            ax.set_xlim(low, high)
            ax.set_ylim(low, high)
            # Both axes are short: every second ratio has its number below them.
            for axis, shown in ((ax.xaxis, ticks[::2]), (ax.yaxis, ticks)):
                style.fixed_ticks(axis, shown, lambda value: f"{value:g}")
            if len(own):
                error = (own[PREDICTED] / own[MEASURED] - 1).abs().median()
                words = f"{len(own)} runs\nmedian error {100 * error:.1f} %"
                ax.text(0.04, 0.96, words, transform=ax.transAxes, va="top", fontsize=7)
    style.title_panels(grid, list(PHASES), machines)
    style.label_axes(grid, "measured ratio [×]", "predicted ratio [×]")
    handles = [
        style.mark_key(pattern, color=theme.colour(place), marker=style.MARKERS[place], markersize=6)
        for place, pattern in enumerate(patterns)
    ]
    style.add_legend(fig, handles)
    return fig, grid
