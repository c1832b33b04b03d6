"""Measured quality beside costs: a panel per cost, intervals on both axes, and the front of what is worth its cost.

A table has one row per way to prune, with `operand` and `pattern` as text, the quality, and costs. Any of these columns may
have ends of an interval, `<column>_low` and `<column>_high`, NaN if they are not known.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from hwmodels.plots import style
from hwmodels.plots.fronts import COLOURS, cost_limits
from hwmodels.plots.labels import DENSE, OPERANDS, pattern_order
from hwmodels.plots.style import LIGHT, AxesGrid, Theme, styled
from hwmodels.sweeps.pareto import pareto_front
from nmsim.errors import RowError

LOSS, LOSS_LABEL = "loss_increase", "loss increase vs dense\n[nats/token]"
MARKS = {"weights": "o", "activations": "s"}
COLUMNS, LEGEND_COLUMNS = 4, 10
PANEL_HEIGHT_IN, BETWEEN_IN, TOP_IN, BOTTOM_IN = 2.0, 0.62, 0.7, 0.55
LOG_FROM_RATIO = 4.0
"""Qualities that differ by less have a linear axis, which begins at zero."""
ROOM = 0.08
DIGITS = 3
"""Costs that are the same in so many digits count as equal: no estimate is better than that."""


@dataclass(frozen=True)
class CostPanel:
    """A panel: the column of a cost, its axis and heading, and the rows that belong in it.

    Parameters
    ----------
    column : str
    label : str
        Of the axis, with the unit.
    title : str
    most : bool
        More is better, as of a speedup.
    where : mapping
        Column -> value that the rows of the panel have.
    dense : float, optional
        What the dense model has. It is drawn as a line, and the dense model then competes for the front.
    """

    column: str
    label: str
    title: str = ""
    most: bool = False
    where: Mapping[str, Any] = field(default_factory=dict)
    dense: float | None = None


@styled
def quality_beside_cost(
    table: pd.DataFrame,
    *,
    panels: Sequence[CostPanel],
    quality: str = LOSS,
    label: str = LOSS_LABEL,
    least: bool = True,
    dense_quality: float = 0.0,
    theme: Theme = LIGHT,
) -> tuple[Figure, AxesGrid]:
    """Draw a measured quality over costs, with the intervals of both, and the Pareto front of each panel.

    Colours are patterns, markers operands. Points of the front are filled. The front is that of the nominal values: points
    whose intervals overlap may change places. Costs are compared in three digits. A panel without a
    point stays empty and says so.

    Parameters
    ----------
    table : DataFrame
        As the module says. Rows of the pattern `dense` are left out.
    panels : sequence of CostPanel
        At most four stand beside each other.
    quality : str
        Column of the quality.
    label : str
        Its name with the unit.
    least : bool
        Less of it is better.
    dense_quality : float
        Quality of the dense model.
    theme : Theme

    Returns
    -------
    tuple of Figure and Axes array

    Raises
    ------
    RowError
        A column is missing, more patterns than colours, or no row that can be drawn.

    Examples
    --------
    >>> table = pd.DataFrame({"operand": ["weights"], "pattern": ["2:4"], "loss_increase": [1.5], "bits": [0.75]})
    >>> fig, grid = quality_beside_cost(table, panels=[CostPanel("bits", "metadata [bits/element]")])
    >>> grid[0, 0].get_xlabel()
    'metadata [bits/element]'
    """
    rows = _rows(table, panels, quality)
    order = pattern_order(rows["pattern"])
    if len(order) > len(COLOURS):
        raise RowError(f"a figure of {len(order)} patterns, expected at most {len(COLOURS)}")
    operands = [name for name in OPERANDS if (rows["operand"] == name).any()]
    fig, grid = _grid(len(panels))
    axes = list(grid.flat)
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    for panel, ax in zip(panels, axes, strict=False):
        own = _of_panel(rows, panel)
        own = own[own[panel.column].notna()]
        _draw_panel(ax, own, panel, (quality, least, dense_quality), order, theme)
        _quality_axis(ax, rows, quality)
        ax.set_title(panel.title, fontsize=8.5)
        ax.set_xlabel(panel.label, fontsize=8)
    for row in grid:
        row[0].set_ylabel(label, fontsize=8)
    known = any(
        _ends(row, name) for name in (quality, *(one.column for one in panels)) for _, row in rows.iterrows()
    )
    handles = _handles(order, operands, known, any(one.dense is not None for one in panels), theme)
    style.add_legend(fig, handles, LEGEND_COLUMNS)
    return fig, grid


def _rows(table: pd.DataFrame, panels: Sequence[CostPanel], quality: str) -> pd.DataFrame:
    """The rows that can be drawn, after a check of the columns."""
    if not panels:
        raise RowError("quality beside cost: no panel, expected at least one")
    wanted = ["operand", "pattern", quality]
    for panel in panels:
        wanted += [panel.column, *panel.where]
    if missing := [name for name in dict.fromkeys(wanted) if name not in table.columns]:
        raise RowError(
            f"quality beside cost: no column {', '.join(missing)}: expected {', '.join(dict.fromkeys(wanted))}"
        )
    rows = table[(table["pattern"] != DENSE) & table[quality].notna()]
    if rows.empty:
        raise RowError("quality beside cost: no pruned row with a quality, expected at least one")
    return rows


def _of_panel(rows: pd.DataFrame, panel: CostPanel) -> pd.DataFrame:
    for name, value in panel.where.items():
        rows = rows[rows[name] == value]
    return rows


def _grid(count: int) -> tuple[Figure, AxesGrid]:
    """Panels of one size, with room for a label under and a heading over each."""
    columns = min(COLUMNS, count)
    lines = -(-count // columns)
    height = TOP_IN + BOTTOM_IN + lines * PANEL_HEIGHT_IN + (lines - 1) * BETWEEN_IN
    fig, grid = style.panel_grid(lines, columns, PANEL_HEIGHT_IN, top=TOP_IN)
    fig.set_size_inches(fig.get_figwidth(), height)
    fig.subplots_adjust(
        top=1 - TOP_IN / height, bottom=BOTTOM_IN / height, hspace=BETWEEN_IN / PANEL_HEIGHT_IN, left=0.075
    )
    return fig, grid


def _draw_panel(
    ax: Axes,
    own: pd.DataFrame,
    panel: CostPanel,
    of: tuple[str, bool, float],
    order: list[str],
    theme: Theme,
) -> None:
    """Points, bars and the front of one panel; only what the panel has is drawn."""
    if own.empty:
        ax.text(
            0.5,
            0.5,
            "not known",
            transform=ax.transAxes,
            ha="center",
            va="center",
            color=theme.quiet,
            fontsize=8,
        )
        ax.set_xticks([])
        return
    quality, least, dense_quality = of
    known = own
    if panel.dense is not None:
        # A way that costs more than dense and loses more than dense is not worth its cost.
        known = pd.concat(
            [own, pd.DataFrame([{panel.column: panel.dense, quality: dense_quality}])], ignore_index=True
        )
        ax.plot(
            [panel.dense],
            [dense_quality],
            marker="D",
            color=theme.ink,
            markersize=4.5,
            linestyle="none",
            zorder=3,
        )
        ax.axvline(panel.dense, color=theme.quiet, linewidth=0.8, linestyle=style.DASHED, zorder=0)
    minimise = [name for name, wanted in ((quality, least), (panel.column, not panel.most)) if wanted]
    maximise = [name for name in (quality, panel.column) if name not in minimise]
    rounded = [float(f"{cost:.{DIGITS}g}") for cost in known[panel.column]]
    on_front = pareto_front(known.assign(**{panel.column: rounded}), minimise=minimise, maximise=maximise)
    front = known[on_front].sort_values(
        [panel.column, quality], ascending=[not panel.most, True], kind="stable"
    )
    ax.step(front[panel.column], front[quality], where="post", color=theme.ink, linewidth=0.8, zorder=2)
    for place, (_, row) in enumerate(own.iterrows()):
        colour = COLOURS[order.index(row["pattern"])]
        bars: dict[str, Any] = {
            f"{axis}err": ends
            for axis, name in (("x", panel.column), ("y", quality))
            if (ends := _ends(row, name))
        }
        if bars:
            ax.errorbar(
                row[panel.column],
                row[quality],
                fmt="none",
                ecolor=colour,
                elinewidth=0.8,
                alpha=0.55,
                zorder=1,
                **bars,
            )
        face = colour if on_front[place] else theme.paper
        ax.plot(
            [row[panel.column]], [row[quality]], marker=MARKS[row["operand"]], color=colour, markerfacecolor=face,
            markersize=5.5, markeredgewidth=1.2, linestyle="none", zorder=3,
        )  # fmt: skip
    ax.set_xlim(*_limits(own, panel))
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.ticklabel_format(axis="x", useOffset=False)


def _ends(row: "pd.Series[Any]", name: str) -> list[list[float]]:
    """Lengths of a bar to both sides, as matplotlib takes them; empty if the ends are not known."""
    low, high = row.get(f"{name}_low", np.nan), row.get(f"{name}_high", np.nan)
    if not np.isfinite([low, high]).all():
        return []
    return [[max(0.0, row[name] - low)], [max(0.0, high - row[name])]]


def _limits(own: pd.DataFrame, panel: CostPanel) -> tuple[float, float]:
    """Ends of the axis of a cost: all points and bars, the dense model, and no narrower than `cost_limits` says."""
    names = [panel.column, f"{panel.column}_low", f"{panel.column}_high"]
    values = own[[name for name in names if name in own]].to_numpy(float).ravel()
    values = np.append(values[np.isfinite(values)], [] if panel.dense is None else [panel.dense])
    return cost_limits(values, ROOM)


def _quality_axis(ax: Axes, rows: pd.DataFrame, quality: str) -> None:
    """One axis of the quality for all panels: logarithmic if values differ by factors, else from zero on."""
    names = [quality, f"{quality}_low", f"{quality}_high"]
    values = rows[[name for name in names if name in rows]].to_numpy(float).ravel()
    values = values[np.isfinite(values)]
    nominal = rows[quality]
    if nominal.min() <= 0 or nominal.max() < LOG_FROM_RATIO * nominal.min():
        low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
        ax.set_ylim(low - ROOM * (high - low) * (low < 0), high + ROOM * (high - low))
        return
    # A bar that reaches zero or below ends at the edge of the axis.
    positive = values[values > 0]
    least = max(float(positive.min()), float(nominal.min()) / LOG_FROM_RATIO)
    ax.set_yscale("log")
    ax.set_ylim(least / 1.25, float(values.max()) * 1.25)
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    style.plain_numbers(ax.yaxis)
    ax.yaxis.set_minor_locator(NullLocator())


def _handles(
    order: list[str], operands: list[str], intervals: bool, has_dense: bool, theme: Theme
) -> list[Any]:
    handles: list[Any] = [
        style.line_key(pattern, color=colour, linewidth=4)
        for colour, pattern in zip(COLOURS, order, strict=False)
    ]
    for operand in operands:
        mark = {"marker": MARKS[operand], "color": theme.ink, "markerfacecolor": theme.paper}
        handles.append(style.mark_key(f"pruned {operand}", **mark))
    if has_dense:
        handles.append(style.mark_key("dense", marker="D", color=theme.ink, markersize=4.5))
    handles.append(style.line_key("Pareto front (filled)", color=theme.ink, linewidth=0.8))
    if intervals:
        handles.append(style.line_key("interval", color=theme.quiet, linewidth=0.8))
    return handles
