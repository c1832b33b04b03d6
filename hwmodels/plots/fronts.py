"""Pareto fronts of design points: what is gained by one cost more of the other, with error bars where costs have ranges."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hwmodels.plots import style
from hwmodels.plots.labels import DENSE, pattern_order, rows_of
from hwmodels.plots.style import LIGHT, AxesGrid, Theme, styled
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


@styled
def pareto(
    table: pd.DataFrame,
    *,
    x: str,
    y: str,
    front: NDArray[np.bool_],
    within: Sequence[str] = (),
    by_pattern: bool = False,
    bars: bool = False,
    label: Sequence[str] = ("core", "pattern", "encoding"),
    theme: Theme = LIGHT,
) -> tuple[Figure, AxesGrid]:
    """Draw design points by two of their columns, and the front: filled, named at a few points, and joined by steps.

    If the table has `<column>_low` and `<column>_high`, the axis says how wide the range is. Bars are drawn on request only:
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
        Columns that distinguish works: a panel for each.
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
    >>> fig, grid = pareto(table, x="area_um2", y="time_s", front=np.array([True, True]), label=["pattern"])
    >>> grid[0, 0].get_xlabel(), grid[0, 0].get_ylabel()
    ('area [mm²]', 'time [µs]')
    """
    what = f"Pareto front of {x} and {y}"
    if len(front) != len(table):
        raise RowError(f"{what}: front of {len(front)} rows: expected the {len(table)} of the table")
    marked = table.assign(on_front=np.asarray(front, bool))
    rows = rows_of(marked, (x, y, "pattern", *within, *label), what)
    # A name says what differs between the points; what all have in common would only take room.
    names = [name for name in label if rows[name].nunique() > 1]
    order = [*([DENSE] if (rows["pattern"] == DENSE).any() else []), *pattern_order(rows["pattern"])]
    works = list(rows.groupby(list(within), sort=False)) if within else [((), rows)]
    fig, grid = style.panel_grid(1, len(works), 3.6, top=0.75, share_y=False)
    for (work, own), ax in zip(works, grid[0], strict=True):
        points, x_label = _in_units(own, x, "x")
        points, y_label = _in_units(points, y, "y")
        points["name"] = [
            " ".join(str(cell) for cell in cells if cell != "none") for cells in own[names].to_numpy()
        ]
        _points(ax, points, order, theme)
        fronts = points[points["on_front"]].sort_values([x, y], kind="stable")
        if by_pattern:
            for place, pattern in enumerate(order):
                _front(ax, fronts[fronts["pattern"] == pattern], theme.colour(place))
        else:
            _front(ax, fronts, theme.ink)
        ax.set_xlabel(x_label)
        ax.set_ylabel(y_label)
        ax.margins(0.1, 0.12)
        ax.grid(visible=True, axis="x")
        title = (f"{name.replace('_', ' ')}: {value}" for name, value in zip(within, work, strict=True))
        ax.set_title(", ".join(title))
        for axis in (ax.xaxis, ax.yaxis):
            style.plain_numbers(axis)
        named = _names(ax, fronts)
        if bars:
            _bars(ax, named, theme)
    style.add_legend(fig, _handles(order, bars, theme))
    return fig, grid


def _in_units(rows: pd.DataFrame, name: str, axis: str) -> tuple[pd.DataFrame, str]:
    """Add the column `axis` in the unit of its label, with `<axis>_low` and `<axis>_high` if the table has a range."""
    factor, label = scaled(name, rows[name])
    ends = {
        f"{axis}_{end}": rows[f"{name}_{end}"] / factor for end in ("low", "high") if f"{name}_{end}" in rows
    }
    if len(ends) == 2:
        low, high = ((rows[f"{name}_{end}"] / rows[name]).median() for end in ("low", "high"))
        label += f"; range: {low:.2g} to {high:.2g} times, mostly common to all"
    return rows.assign(**{axis: rows[name] / factor}, **ends), label


def _points(ax: Axes, points: pd.DataFrame, order: list[str], theme: Theme) -> None:
    for place, pattern in enumerate(order):
        mark = theme.mark(place)
        for on_front in (False, True):
            own = points[(points["pattern"] == pattern) & (points["on_front"] == on_front)]
            face, alpha = (mark["color"], 1.0) if on_front else (theme.paper, 0.45)
            look: dict[str, Any] = {"markerfacecolor": face, "alpha": alpha, "zorder": 4 if on_front else 2}
            ax.plot(own["x"], own["y"], **mark, **look)


def _front(ax: Axes, front: pd.DataFrame, colour: str) -> None:
    """Steps between the points of a front."""
    ax.step(front["x"], front["y"], where="post", color=colour, linewidth=1.1, zorder=3)


def _names(ax: Axes, front: pd.DataFrame) -> pd.DataFrame:
    """Name points of a front, its ends first, if the name has room; give back those that are named."""
    at = front[["x", "y"]].to_numpy(float)
    ax.autoscale_view()
    shown = ax.transData.transform(at) * 72.0 / ax.figure.dpi
    edge = ax.bbox.x1 * 72.0 / ax.figure.dpi
    taken: dict[int, tuple[float, float]] = {}
    for place in dict.fromkeys([0, len(front) - 1, *range(len(front))]):
        text = front["name"].iloc[place]
        width = 0.6 * TEXT_POINTS * len(text)
        inside = shown[place][0] + width < edge
        left = shown[place][0] - (0.0 if inside else width)
        if any(
            abs(shown[place][1] - shown[other][1]) < 1.4 * TEXT_POINTS and left < end and start < left + width
            for other, (start, end) in taken.items()
        ):
            continue
        taken[place] = (left, left + width)
        ax.annotate(
            text, tuple(at[place]), (5 if inside else -5, 5), textcoords="offset points", fontsize=TEXT_POINTS,
            ha="left" if inside else "right", zorder=6,
        )  # fmt: skip
    return front.iloc[sorted(taken)]


def _bars(ax: Axes, named: pd.DataFrame, theme: Theme) -> None:
    lengths: dict[str, Any] = {
        f"{axis}err": np.abs([named[axis] - named[f"{axis}_low"], named[f"{axis}_high"] - named[axis]])
        for axis in "xy"
        if {f"{axis}_low", f"{axis}_high"} <= set(named)
    }
    look: dict[str, Any] = {"fmt": "none", "ecolor": theme.quiet, "elinewidth": 1, "zorder": 1}
    ax.errorbar(named["x"], named["y"], **lengths, **look)


def _handles(order: list[str], bars: bool, theme: Theme) -> list[Any]:
    handles = [style.mark_key(name, **theme.mark(place)) for place, name in enumerate(order)]
    handles.append(style.mark_key("Pareto front", color=theme.ink, linestyle="-", linewidth=1.1))
    handles.append(
        style.mark_key("beaten by another", color=theme.ink, markerfacecolor=theme.paper, alpha=0.45)
    )
    return handles + ([style.line_key("low to high", color=theme.quiet, linewidth=1)] if bars else [])
