"""Pareto fronts of design points: what is gained by one cost more of the other, with error bars where costs have ranges."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter
from numpy.typing import NDArray

from hwmodels.plots.cores import rows_of
from hwmodels.plots.predicted import (
    DENSE,
    LIGHT,
    MARKERS,
    AxesGrid,
    Theme,
    add_legend,
    panel_grid,
    pattern_order,
)
from nmsim.errors import RowError

SCALES: dict[str, tuple[tuple[float, str], ...]] = {
    "_um2": ((1e6, "mm²"), (1.0, "µm²")),
    "_joules": ((1.0, "J"), (1e-3, "mJ"), (1e-6, "µJ"), (1e-9, "nJ")),
    "_s": ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")),
    "_bytes": ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")),
    "_cycles": ((1e6, "10⁶ cycles"), (1e3, "10³ cycles"), (1.0, "cycles")),
    "_groups": ((1e6, "10⁶ groups"), (1.0, "groups")),
}
"""Suffix of a column -> units to print it in, largest first."""
TEXT_POINTS = 7.5
"""Height of the letters of a name, in typographic points."""


class Scaled(NamedTuple):
    """How a column is printed: divided by `factor`, under `label`."""

    factor: float
    label: str


def scaled(name: str, values: Any) -> Scaled:
    """Choose the unit of a column by its suffix and median, and say it in words.

    Examples
    --------
    >>> scaled("area_um2", [1.4e8]), scaled("time_s", [2.5e-5]).label
    (Scaled(factor=1000000.0, label='area [mm²]'), 'time [µs]')
    """
    for suffix, units in SCALES.items():
        if f"_{name}".endswith(suffix):
            text = f"_{name}".removesuffix(suffix).strip("_").replace("_", " ") or "time"
            middle = float(np.nanmedian(np.abs(np.asarray(values, float))))
            factor, unit = next((unit for unit in units if middle >= unit[0]), units[-1])
            return Scaled(factor, f"{text} [{unit}]")
    if name.startswith("speedup_vs_"):
        return Scaled(1.0, f"speedup vs {name.removeprefix('speedup_vs_').replace('_', ' ')} [×]")
    return Scaled(1.0, f"{name.replace('_', ' ')} [1]")


def pareto(
    table: pd.DataFrame,
    x: str,
    y: str,
    front: NDArray[np.bool_],
    *,
    within: Sequence[str] = (),
    by_pattern: bool = False,
    bars: bool = False,
    label: Sequence[str] = ("core", "pattern", "encoding"),
    theme: Theme = LIGHT,
) -> tuple[Figure, AxesGrid]:
    """Draw design points by two of their columns, and the front: filled, named at a few points, and joined by steps.

    Where the table has `<column>_low` and `<column>_high`, the axis says how wide the range is. Bars are drawn when asked for:
    most of the error is common to all designs, so that they differ by less than their bars overlap.

    Parameters
    ----------
    table : DataFrame
        With the columns `x`, `y`, `pattern` and those of `within` and `label`.
    x, y : str
        Numeric columns; `x` is a cost, less is better.
    front : bool array [rows]
        From `hwmodels.pareto_front`, with the same `within`.
    within : sequence of str
        Columns that tell works apart: a panel for each.
    by_pattern : bool
        The front is that of each pattern by itself (`within` of `pareto_front` has the pattern too): a line for each.
    bars : bool
        Draw bars from low to high at the named points.
    label : sequence of str
        Columns that name a point; those with one value only are left out.
    theme : Theme

    Returns
    -------
    tuple of Figure and Axes array [1, works]

    Raises
    ------
    RowError
        A column is missing, there is no row, or the front is of another table.

    Examples
    --------
    >>> table = pd.DataFrame({"pattern": ["dense", "2:4"], "area_um2": [1e6, 2e6], "time_s": [2e-5, 1e-5]})
    >>> fig, grid = pareto(table, "area_um2", "time_s", np.array([True, True]), label=["pattern"])
    >>> grid[0, 0].get_xlabel(), grid[0, 0].get_ylabel()
    ('area [mm²]', 'time [µs]')
    """
    what = f"Pareto front of {x} and {y}"
    if len(front) != len(table):
        raise RowError(f"{what}: front of {len(front)} rows: expected the {len(table)} of the table")
    marked = table.assign(on_front=np.asarray(front, bool))
    rows = rows_of(marked, (x, y, "pattern", *within, *label), what)
    names = [name for name in label if rows[name].nunique() > 1]
    order = [*([DENSE] if (rows["pattern"] == DENSE).any() else []), *pattern_order(rows["pattern"])]
    works = list(rows.groupby(list(within), sort=False)) if within else [((), rows)]
    fig, grid = panel_grid(1, len(works), 3.6, theme, top=0.75, share_y=False)
    for (work, some), ax in zip(works, grid[0], strict=True):
        across, up = scaled(x, some[x]), scaled(y, some[y])
        _points(ax, some, (x, across.factor), (y, up.factor), order, theme)
        fronts = [some[some["on_front"] & (some["pattern"] == name)] for name in order] if by_pattern else []
        for place, found in enumerate(fronts or [some[some["on_front"]]]):
            colour = theme.series[place % len(theme.series)] if by_pattern else theme.ink
            _front(ax, found, (x, across.factor), (y, up.factor), colour, theme)
        ax.set_xlabel(across.label + _range(some, x), fontsize=8.5, color=theme.ink)
        ax.set_ylabel(up.label + _range(some, y), fontsize=8.5, color=theme.ink)
        ax.margins(0.1, 0.12)
        ax.grid(axis="x", color=theme.faint, linewidth=0.6)
        title = ", ".join(
            f"{name.replace('_', ' ')}: {value}" for name, value in zip(within, work, strict=True)
        )
        ax.set_title(title, loc="left", fontweight="bold", fontsize=9.5, color=theme.ink)
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())
        named = _names(ax, some[some["on_front"]], (x, across.factor), (y, up.factor), names, theme)
        if bars:
            _bars(ax, named, (x, across.factor), (y, up.factor), theme)
    add_legend(fig, _handles(order, bars, theme), theme)
    return fig, grid


def _points(
    ax: Axes, some: pd.DataFrame, x: tuple[str, float], y: tuple[str, float], order: list[str], theme: Theme
) -> None:
    for place, pattern in enumerate(order):
        own = some[some["pattern"] == pattern]
        for on_front in (False, True):
            found = own[own["on_front"] == on_front]
            look = _look(place, theme) | {"alpha": 1.0 if on_front else 0.45, "zorder": 4 if on_front else 2}
            face = look["color"] if on_front else theme.paper
            ax.plot(found[x[0]] / x[1], found[y[0]] / y[1], markerfacecolor=face, **look)


def _look(place: int, theme: Theme) -> dict[str, Any]:
    colour, marker = theme.series[place % len(theme.series)], MARKERS[place % len(MARKERS)]
    return {"color": colour, "marker": marker, "linestyle": "none", "markersize": 5.5}


def _front(
    ax: Axes, found: pd.DataFrame, x: tuple[str, float], y: tuple[str, float], colour: str, theme: Theme
) -> None:
    """Steps between the points of a front."""
    found = found.sort_values([x[0], y[0]], kind="stable")
    across, up = found[x[0]].to_numpy(float) / x[1], found[y[0]].to_numpy(float) / y[1]
    ax.step(across, up, where="post", color=colour, linewidth=1.1, zorder=3)


def _names(
    ax: Axes, front: pd.DataFrame, x: tuple[str, float], y: tuple[str, float], names: list[str], theme: Theme
) -> pd.DataFrame:
    """Name points of a front, its ends first, where the name has room; give back those that are named."""
    found = front.sort_values([x[0], y[0]], kind="stable")
    at = np.column_stack([found[x[0]] / x[1], found[y[0]] / y[1]])
    ax.autoscale_view()
    shown = ax.transData.transform(at) * 72.0 / ax.figure.dpi
    edge = ax.bbox.x1 * 72.0 / ax.figure.dpi
    taken: dict[int, tuple[float, float]] = {}
    for place in dict.fromkeys([0, len(found) - 1, *range(len(found))]):
        words = (str(found[name].iloc[place]) for name in names)
        text = " ".join(word for word in words if word != "none")
        width = 0.6 * TEXT_POINTS * len(text)
        inside = shown[place][0] + width < edge
        left = shown[place][0] - (0.0 if inside else width)
        if any(
            abs(shown[place][1] - shown[other][1]) < 1.4 * TEXT_POINTS and left < end and start < left + width
            for other, (start, end) in taken.items()
        ):
            continue
        taken[place] = (left, left + width)
        ax.annotate(text, tuple(at[place]), (5 if inside else -5, 5), textcoords="offset points",
                    fontsize=TEXT_POINTS, color=theme.ink, ha="left" if inside else "right", zorder=6)  # fmt: skip
    return found.iloc[sorted(taken)]


def _bars(ax: Axes, named: pd.DataFrame, x: tuple[str, float], y: tuple[str, float], theme: Theme) -> None:
    lengths: dict[str, Any] = {}
    for axis, (name, factor) in (("xerr", x), ("yerr", y)):
        if {f"{name}_low", f"{name}_high"} <= set(named):
            middle = named[name]
            ends = [middle - named[f"{name}_low"], named[f"{name}_high"] - middle]
            lengths[axis] = np.array(ends, float) / factor
    look: dict[str, Any] = {"fmt": "none", "ecolor": theme.quiet, "elinewidth": 1, "zorder": 1}
    ax.errorbar(named[x[0]] / x[1], named[y[0]] / y[1], **lengths, **look)


def _range(some: pd.DataFrame, name: str) -> str:
    """How wide the range of a column is, in words; nothing where it has none."""
    if not {f"{name}_low", f"{name}_high"} <= set(some):
        return ""
    low, high = ((some[f"{name}_{end}"] / some[name]).median() for end in ("low", "high"))
    return f"; range: {low:.2g} to {high:.2g} times, mostly common to all"


def _handles(order: list[str], bars: bool, theme: Theme) -> list[Any]:
    handles: list[Any] = [
        Line2D([], [], label=name, **_look(place, theme)) for place, name in enumerate(order)
    ]
    plain: dict[str, Any] = {"marker": "o", "color": theme.ink, "markersize": 5.5}
    handles.append(Line2D([], [], linewidth=1.1, label="Pareto front", **plain))
    hollow = {**plain, "linestyle": "none", "markerfacecolor": theme.paper, "alpha": 0.45}
    handles.append(Line2D([], [], label="beaten by another", **hollow))
    if bars:
        handles.append(Line2D([], [], color=theme.quiet, linewidth=1, label="low to high"))
    return handles
