"""Figures of the judge: predictions beside what was measured. Each function takes a table and gives back `(fig, ax)`.

The table is that of `validate.judge.join.join`, or columns of it as `judged_columns` keeps them. Nothing is shown, saved or
kept globally. A machine has its colour and its marker, so that neither alone has to tell machines apart.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from hwmodels.estimate.intervals import DECODE_TOKENS, PREFILL_TOKENS, REGIMES
from hwmodels.plots.predicted import LIGHT, MARKERS, AxesGrid, Theme, add_legend, label_axes, panel_grid
from nmsim.errors import RowError

BANDS = (0.1, 0.2)
"""Relative errors that are shaded around agreement."""
FACTORS = (0.25, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 4.0)
UNIT_FAMILIES = ("library", "sliding")
"""Kernels that run 2:4 products as they are, on the sparse matrix unit."""
EXTRA_COLOUR = "#8a7a00"
"""A ninth colour beside those of the theme."""
COLUMNS_OF_LEGEND = 6
PREDICTED, MEASURED = "predicted_speedup_vs_dense", "measured_speedup_vs_dense"
LABELS = 9.0
"""Size of the text of axes, in points; figures are 11 inches wide and read at 800 pixels."""

_KEPT = (
    *("row", "machine", "kernel", "kernel_family", "written_pattern", "dtype", "dtype_class", "regime"),
    *("M", "N", "K", "l2_state", "mark"),
)
_FIGURES = (
    *(f"{kind}_{product}_time_s" for kind in ("measured", "predicted", "bound") for product in ("dense", "sparse")),
    *(MEASURED, PREDICTED, "predicted_speedup_low", "predicted_speedup_high"),
)  # fmt: skip


def judged_columns(table: pd.DataFrame) -> pd.DataFrame:
    """Keep what figures and pages need of joined rows, numbers to 5 digits."""
    rounded = {name: [float(f"{value:.5g}") for value in table[name]] for name in _FIGURES}
    return table[list(_KEPT)].assign(**rounded)


def machine_looks(machines: Sequence[str], theme: Theme) -> dict[str, dict[str, Any]]:
    """Give each machine a colour and a marker of its own."""
    colours = (*theme.series, theme.ink, EXTRA_COLOUR)
    return {
        name: {"color": colours[place % len(colours)], "marker": MARKERS[place % len(MARKERS)]}
        for place, name in enumerate(machines)
    }


def speedup_scatter(table: pd.DataFrame, *, theme: Theme = LIGHT) -> tuple[Figure, AxesGrid]:
    """Draw predicted over published speedups: 16-bit 2:4 products, other 16-bit patterns, other value types.

    Hollow is what its source speaks against.

    Returns
    -------
    tuple of Figure and Axes array [1, 3]

    Raises
    ------
    RowError
        No row.
    """
    _refuse_empty(table)
    wide, unit = table["dtype_class"] == "16-bit", table["kernel_family"].isin(UNIT_FAMILIES)
    panels = (
        ("16-bit, 2:4", wide & unit),
        ("16-bit, other patterns", wide & ~unit),
        ("8-bit and fp32", ~wide),
    )
    fig, grid = panel_grid(1, len(panels), 3.15, theme, top=_legend_room(table), share_y=False)
    looks = _looks(table, theme)
    for ax, (title, chosen) in zip(grid[0], panels, strict=True):
        rows = table[chosen]
        low, high = _limits(rows, [MEASURED, PREDICTED], (0.5, 2.0))
        _agreement(ax, low, high, theme)
        _points(ax, rows, MEASURED, PREDICTED, looks)
        for draw in (ax.axhline, ax.axvline):
            draw(1.0, color=theme.quiet, linewidth=0.9, zorder=1)
        finest = (0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0) if high < 6 * low else 2.0 ** np.arange(-6, 8)
        ticks = [float(value) for value in finest if low <= value <= high]
        _log_axes(ax, (low, high), (low, high), ticks, ticks, lambda value, _: f"{value:g}×")
        _title(ax, f"{title}, {len(rows)} rows", theme)
        _name_axes(ax, "published speedup vs dense [×]", "", theme)
    label_axes(grid, "", "predicted speedup vs dense [×]", theme)
    _legend(fig, table, theme)
    return fig, grid


def time_scatter(table: pd.DataFrame, *, theme: Theme = LIGHT) -> tuple[Figure, AxesGrid]:
    """Draw predicted over published times, dense and sparse, in seconds on logarithmic axes.

    Returns
    -------
    tuple of Figure and Axes array [1, 2]

    Raises
    ------
    RowError
        No row.
    """
    _refuse_empty(table)
    fig, grid = panel_grid(1, 2, 4.6, theme, top=_legend_room(table), share_y=False)
    for ax, product in zip(grid[0], ("dense", "sparse"), strict=True):
        x, y = f"measured_{product}_time_s", f"predicted_{product}_time_s"
        rows = table[table[x].notna()]
        low, high = _limits(rows, [x, y], (1e-5, 1e-3))
        _agreement(ax, low, high, theme)
        _points(ax, rows, x, y, _looks(table, theme))
        ticks = [10.0**power for power in range(-7, 3) if low <= 10.0**power <= high]
        _log_axes(
            ax, (low, high), (low, high), ticks, ticks, lambda value, _: f"$10^{{{round(np.log10(value))}}}$"
        )
        _title(ax, f"{product} products, {len(rows)} rows", theme)
        _name_axes(ax, f"published {product} time [s]", f"predicted {product} time [s]", theme)
    _legend(fig, table, theme)
    return fig, grid


def residuals_by_tokens(table: pd.DataFrame, *, theme: Theme = LIGHT) -> tuple[Figure, AxesGrid]:
    """Draw predicted / published speedup over the tokens M, and its median in each regime.

    Returns
    -------
    tuple of Figure and Axes array [1, 1]

    Raises
    ------
    RowError
        No row.
    """
    _refuse_empty(table)
    rows = table.assign(ratio=table[PREDICTED] / table[MEASURED])
    fig, grid = panel_grid(1, 1, 4.0, theme, top=_legend_room(table) - 0.2)
    ax = grid[0, 0]
    low, high = _limits(rows, ["ratio"], (0.5, 2.0))
    for band in BANDS[::-1]:
        ax.axhspan(1 - band, 1 + band, color=theme.faint, alpha=0.55, linewidth=0, zorder=0)
    ax.axhline(1.0, color=theme.ink, linewidth=0.9, zorder=1)
    tokens = rows["M"].to_numpy(float)
    spread = 2 ** (0.3 * (_jitter(len(rows)) - 0.5))
    _points(ax, rows.assign(at=tokens * spread), "at", "ratio", _looks(table, theme))
    ends = (0.8, DECODE_TOKENS * 2**0.5, PREFILL_TOKENS / 2**0.5, 1.35 * max(tokens.max(), PREFILL_TOKENS))
    for place, regime in enumerate(REGIMES):
        found = rows.loc[rows["regime"] == regime, "ratio"]
        if place:
            ax.axvline(ends[place], color=theme.quiet, linewidth=0.8, linestyle=(0, (2, 2)), zorder=1)
        middle = (ends[place] * ends[place + 1]) ** 0.5
        ax.text(middle, high / 1.06, regime, ha="center", va="top", fontsize=LABELS, color=theme.ink)
        if len(found):
            ax.plot(ends[place : place + 2], [found.median()] * 2, color=theme.ink, linewidth=2.2, zorder=5)
    x_ticks = [2.0**power for power in range(0, 24, 2) if 2.0**power <= 0.8 * ends[-1]]
    y_ticks = [value for value in FACTORS if low <= value <= high]
    _log_axes(ax, (ends[0], ends[-1]), (low, high), x_ticks, y_ticks, lambda value, _: f"{value:g}")
    _name_axes(ax, "tokens M", "predicted / published speedup [×/×]", theme)
    _legend(fig, table, theme, (Line2D([], [], color=theme.ink, linewidth=2.2, label="median of a regime"),))
    return fig, grid


def residuals_by(table: pd.DataFrame, column: str, *, theme: Theme = LIGHT) -> tuple[Figure, AxesGrid]:
    """Draw predicted / published speedup of each group: all rows, their middle half, and the median.

    Parameters
    ----------
    table : DataFrame
    column : str
        Whose values make the groups, such as `machine`, `regime` or `kernel_family`.
    theme : Theme

    Returns
    -------
    tuple of Figure and Axes array [1, 1]

    Raises
    ------
    RowError
        No row.
    """
    _refuse_empty(table)
    rows = table.assign(ratio=table[PREDICTED] / table[MEASURED])
    names = [name for name in REGIMES if (rows[column] == name).any()] or sorted(rows[column].unique())
    fig, grid = panel_grid(1, 1, 0.35 * len(names) + 0.35, theme, top=0.5)
    fig.subplots_adjust(left=0.15)
    ax = grid[0, 0]
    low, high = _limits(rows, ["ratio"], (0.5, 2.0))
    for band in BANDS[::-1]:
        ax.axvspan(1 - band, 1 + band, color=theme.faint, alpha=0.55, linewidth=0, zorder=0)
    ax.axvline(1.0, color=theme.ink, linewidth=0.9, zorder=1)
    for place, name in enumerate(names):
        found = rows.loc[rows[column] == name, "ratio"].to_numpy(float)
        first, median, third = np.quantile(found, (0.25, 0.5, 0.75))
        box = {"facecolor": theme.paper, "edgecolor": theme.ink, "linewidth": 1.1}
        ax.barh(place, third - first, 0.62, first, zorder=2, **box)
        heights = place + 0.5 * (_jitter(len(found)) - 0.5)
        ax.plot(
            found,
            heights,
            "o",
            color=theme.series[0],
            markersize=3.2,
            alpha=0.75,
            markeredgewidth=0,
            zorder=3,
        )
        ax.plot([median] * 2, [place - 0.31, place + 0.31], color=theme.series[4], linewidth=2.6, zorder=4)
    x_ticks = [value for value in FACTORS if low <= value <= high]
    _log_axes(ax, (low, high), None, x_ticks, [], lambda value, _: f"{value:g}")
    ax.set_ylim(len(names) - 0.45, -0.55)
    counts = rows[column].value_counts()
    ax.set_yticks(range(len(names)), [f"{name} ({counts[name]})" for name in names])
    ax.grid(axis="y", visible=False)
    _name_axes(ax, "predicted / published speedup [×/×]", f"{column.replace('_', ' ')} (rows)", theme)
    handles: list[Any] = [
        Line2D([], [], marker="o", linestyle="none", color=theme.series[0], markersize=4, label="a row"),
        Patch(facecolor=theme.paper, edgecolor=theme.ink, label="middle half"),
        Line2D([], [], color=theme.series[4], linewidth=2.6, label="median"),
        Patch(facecolor=theme.faint, label=_band_words()),
    ]
    add_legend(fig, handles, theme)
    return fig, grid


def _refuse_empty(table: pd.DataFrame) -> None:
    if table.empty:
        raise RowError("table of judged rows: no row to draw")


def _limits(rows: pd.DataFrame, columns: Sequence[str], least: tuple[float, float]) -> tuple[float, float]:
    """Ends of a logarithmic axis that all of these columns fit on."""
    values = rows[list(columns)].to_numpy(float)
    low, high = (np.nanmin(values), np.nanmax(values)) if values.size else least
    return float(min(low / 1.15, least[0])), float(max(high * 1.15, least[1]))


def _agreement(ax: Axes, low: float, high: float, theme: Theme) -> None:
    ends = np.array([low, high])
    for band in BANDS[::-1]:
        ax.fill_between(
            ends, ends * (1 - band), ends * (1 + band), color=theme.faint, alpha=0.55, linewidth=0, zorder=0
        )
    ax.plot(ends, ends, color=theme.ink, linewidth=0.9, zorder=1)


def _looks(table: pd.DataFrame, theme: Theme) -> dict[str, dict[str, Any]]:
    return machine_looks(sorted(table["machine"].unique()), theme)


def _points(ax: Axes, rows: pd.DataFrame, x: str, y: str, looks: Mapping[str, Mapping[str, Any]]) -> None:
    for name, look in looks.items():
        own = rows[rows["machine"] == name]
        marked = (own["mark"] != "").to_numpy()
        for where, face in ((~marked, look["color"]), (marked, "none")):
            ax.plot(
                own.loc[where, x], own.loc[where, y], linestyle="none", markersize=4.5, markeredgewidth=0.9,
                markerfacecolor=face, alpha=0.8, zorder=3, **look,
            )  # fmt: skip


def _log_axes(
    ax: Axes,
    x: tuple[float, float],
    y: tuple[float, float] | None,
    x_ticks: Sequence[float],
    y_ticks: Sequence[float],
    text: Any,
) -> None:
    ax.set_xscale("log")
    ax.set_xlim(*x)
    axes: list[tuple[Any, Sequence[float]]] = [(ax.xaxis, x_ticks)]
    if y is not None:
        ax.set_yscale("log")
        ax.set_ylim(*y)
        axes.append((ax.yaxis, y_ticks))
    for axis, ticks in axes:
        axis.set_major_locator(FixedLocator(list(ticks)))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(text))


def _jitter(count: int) -> Any:
    """Spread points between 0 and 1 without chance: the golden ratio's multiples."""
    return (np.arange(count) * 0.6180339887) % 1.0


def _title(ax: Axes, text: str, theme: Theme) -> None:
    ax.set_title(text, loc="left", fontweight="bold", fontsize=9.5, color=theme.ink)


def _name_axes(ax: Axes, x: str, y: str, theme: Theme) -> None:
    label_axes(np.array([[ax]]), x, y, theme)
    for axis in (ax.xaxis, ax.yaxis):
        axis.label.set_fontsize(LABELS + 0.5)
    ax.tick_params(labelsize=LABELS)
    ax.grid(axis="both", color=theme.faint, linewidth=0.6)


def _band_words() -> str:
    return "within " + " and ".join(f"{100 * band:.0f} %" for band in BANDS)


def _legend_room(table: pd.DataFrame) -> float:
    """Inches for a legend of machines over the panels."""
    return 0.5 + 0.2 * -(-(table["machine"].nunique() + 3) // COLUMNS_OF_LEGEND)


def _legend(fig: Figure, table: pd.DataFrame, theme: Theme, more: Sequence[Any] = ()) -> None:
    handles: list[Any] = [
        Line2D([], [], linestyle="none", markersize=6, label=name, **look)
        for name, look in _looks(table, theme).items()
    ]
    if (table["mark"] != "").any():
        hollow: dict[str, Any] = {
            "marker": "o",
            "color": theme.ink,
            "markerfacecolor": "none",
            "markersize": 6,
        }
        handles.append(Line2D([], [], linestyle="none", label="hollow: marked by its source", **hollow))
    handles += [Patch(facecolor=theme.faint, label=_band_words()), *more]
    fig.legend(
        handles=handles, loc="upper center", ncols=COLUMNS_OF_LEGEND, frameon=False, fontsize=LABELS,
        labelcolor=theme.ink, handletextpad=0.5, columnspacing=1.4, bbox_to_anchor=(0.5, 1.0), borderaxespad=0.2,
    )  # fmt: skip
