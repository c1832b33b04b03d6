"""Pareto fronts: costs of design points with error bars, and measured quality of pruning against its speedups and bits.

Of design points, what is gained by one costs more of the other. The quality is the error of the output of each way of pruning.
"""

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator
from numpy.typing import NDArray

from hwmodels.plots import style
from hwmodels.plots.labels import DENSE, pattern_order, rows_of
from hwmodels.plots.style import LIGHT, AxesGrid, Theme, styled
from hwmodels.sweeps.pareto import pareto_front
from nmsim.errors import RowError
from nmsim.pattern import Pattern
from nmsim.quality.way import NONE, is_reference

SCALES: dict[str, tuple[tuple[float, str], ...]] = {
    "_um2": ((1e6, "mm²"), (1.0, "µm²")),
    "_joules": ((1.0, "J"), (1e-3, "mJ"), (1e-6, "µJ"), (1e-9, "nJ")),
    "_s": ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")),
    "_bytes": ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")),
    "_cycles": ((1e6, "10⁶ cycles"), (1e3, "10³ cycles"), (1.0, "cycles")),
    "_groups": ((1e6, "10⁶ groups"), (1.0, "groups")),
}
"""Suffix of a column -> units to print it in, largest first."""
MEASURED = {
    "loss_increase": "loss increase vs dense [nats/token]",
    "relative_output_error": "output error |Y - Yd|² / |Yd|² [1]",
    "energy_kept_share": "energy kept [1]",
}
"""Columns of measured qualities, whose names do not end in their unit -> what an axis says."""
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
    if name in MEASURED:
        return Scaled(1.0, MEASURED[name])
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
    # Intervals of what was measured are of each point by itself.
    if len(ends) == 2 and name not in MEASURED:
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


ALL_LAYERS = "all"
CHECKPOINT = "checkpoint"
"""In `costs_of`: speedups are those of the layers that were measured."""
ERROR = "relative_output_error"
ERROR_LABEL = "output error |Y - Yd|² / |Yd|² [1]"
STORED_BITS = "stored_bits_per_elem"
PANEL_HEIGHT_IN, BETWEEN_IN, TITLE_IN, LEGEND_LINE_IN, BOTTOM_IN = 2.1, 0.85, 0.5, 0.19, 1.0
LEAST_SPAN = 0.2
"""An axis of costs spans this share of its middle at least."""
LEGEND_LETTERS, HANDLE_LETTERS, CAPTION_LETTERS = 150, 8, 215
"""Letters of a line over the whole width; a symbol of the legend, with room beside it, is as wide as so many letters."""
DASHES: tuple[Any, ...] = (
    style.DASHED,
    (0, (1, 1.5)),
    (0, (6, 1.5, 1, 1.5)),
    (0, (8, 3)),
    (0, (3, 1, 1, 1, 1, 1)),
)
"""Of criteria without groups, in the order in which they appear; they repeat."""
ALIKE = 0.02
"""Speedups on a core count as alike if all lie within this share of each other: no number of a core is as exact."""
COLOURS = (*LIGHT.series, *style.MORE_COLOURS)


@dataclass(frozen=True)
class WayMarks:
    """Marks of the ways of pruning in one figure: a colour per pattern, a marker per mitigation, no two alike.

    Raises
    ------
    RowError
        More patterns than colours, or more mitigations than markers.

    Examples
    --------
    >>> marks = WayMarks.of(["8:16", "2:4"], ["none", "var"])
    >>> marks.patterns, marks.of_way("2:4", "var")["marker"]
    (('2:4', '8:16'), 's')
    """

    patterns: tuple[str, ...]
    mitigations: tuple[str, ...]

    def __post_init__(self) -> None:
        for what, names, most in (
            ("patterns", self.patterns, len(COLOURS)),
            ("mitigations", self.mitigations, len(style.MANY_MARKERS)),
        ):
            if len(names) > most:
                raise RowError(
                    f"a figure of {len(names)} {what}, expected at most {most}: more could not be distinguished"
                )

    @classmethod
    def of(cls, patterns: Iterable[str], mitigations: Iterable[str]) -> "WayMarks":
        """Take each name once."""
        return cls(tuple(pattern_order(patterns)), tuple(dict.fromkeys(mitigations)))

    def of_way(self, pattern: str, mitigation: str) -> dict[str, Any]:
        """Arguments of `Axes.plot` for one point."""
        return {"color": COLOURS[self.patterns.index(pattern)], **self.of_mitigation(mitigation)}

    def of_mitigation(self, mitigation: str) -> dict[str, Any]:
        """The same without the colour."""
        marker = style.MANY_MARKERS[self.mitigations.index(mitigation)]
        return {"marker": marker, "linestyle": "none", "markersize": 5.5, "markeredgewidth": 1.1}


def with_values(mitigation: str, values: Any) -> str:
    """Name a mitigation and a rounding together: they share a marker.

    Examples
    --------
    >>> with_values("none", ""), with_values("none", "int8/64/before"), with_values("var", "int4/64/after")
    ('none', 'int8/64/before', 'var, int4/64/after')
    """
    parts = [mitigation, values] if isinstance(values, str) and values else [mitigation]
    return ", ".join(part for part in parts if part != NONE) or NONE


@styled
def quality_cost(table: pd.DataFrame, *, theme: Theme = LIGHT) -> tuple[Figure, AxesGrid]:
    """Draw the error of the output over speedups and over bits: a row per operand and criterion, with its Pareto front.

    Colours are patterns, markers mitigations. Ways that none of the operand beats, of any criterion, are filled. Bars are the
    ranges of predicted speedups. Speedups of an operand on a machine are alike if their ranges have a part in common. Those
    on a core are alike if they differ by less than `ALIKE`. Then the panel says so, has no front, and only the least error is
    filled. Dashed lines are criteria without groups, at each density and without mitigation, which have no speedup. A way
    with an error of 0 has no place on a logarithmic axis: the caption says how many there are.

    Parameters
    ----------
    table : DataFrame
        From `validate.quality.measure.measure_quality`.
    theme : Theme

    Returns
    -------
    tuple of Figure and Axes array

    Raises
    ------
    RowError
        Nothing to draw, or more patterns or mitigations than can be distinguished.
    """
    rows = table[(table["layer"] == ALL_LAYERS) & (table["pattern"] != DENSE)]
    rows = rows.assign(reference=[is_reference(criterion) for criterion in rows["criterion"]])
    rows = rows.assign(mitigation=list(map(with_values, rows["mitigation"], rows["values"])))
    drawn = rows[rows[ERROR] > 0]
    sparse = drawn[~drawn["reference"]]
    references = drawn[drawn["reference"] & (drawn["mitigation"] == NONE)]
    if sparse.empty:
        raise RowError("quality: no pruned row with an error above zero, nothing to draw")
    marks = WayMarks.of(sparse["pattern"], sparse["mitigation"])
    costs = _costs(sparse)
    pairs = list(dict.fromkeys(zip(sparse["operand"], sparse["criterion"], strict=True)))
    handles = _way_handles(marks, references, any(_has_ranges(sparse, name) for name, _ in costs), theme)
    columns = _legend_columns([len(handle.get_label()) + HANDLE_LETTERS for handle in handles])
    fig, grid = style.panel_grid(len(pairs), len(costs), PANEL_HEIGHT_IN, share_y=False)
    _make_room(fig, len(grid), -(-len(handles) // columns))
    errors = pd.concat([sparse, references])[ERROR]
    dashes = _dashes(references)
    for (operand, criterion), panels in zip(pairs, grid, strict=True):
        own = sparse[sparse["operand"] == operand]
        in_panel = own["criterion"] == criterion
        for (name, label), ax in zip(costs, panels, strict=True):
            alike = _alike(own, name)
            on_front = own[ERROR] == own[ERROR].min() if alike else _on_front(own, name)
            if alike:
                _say_alike(ax, theme)
            else:
                # Of the criterion alone, so that the line passes through points of its panel.
                of_criterion = own[in_panel]
                _draw_front(ax, of_criterion[_on_front(of_criterion, name)], name, theme)
            _draw_ranges(ax, own[in_panel], name, theme)
            _draw_points(ax, own.assign(on_front=on_front)[in_panel], name, marks, theme)
            _draw_references(ax, references[references["operand"] == operand], dashes, theme)
            ax.set_yscale("log")
            ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
            style.plain_numbers(ax.yaxis)
            ax.set_ylim(errors.min() / 1.25, errors.max() * 1.25)
            ax.set_xlim(*_limits(own, name))
            ax.ticklabel_format(axis="x", useOffset=False)
            ax.xaxis.set_major_locator(MaxNLocator(5))
            ax.set_xlabel(label, fontsize=8)
        panels[0].set_ylabel(ERROR_LABEL, fontsize=8)
        panels[0].set_title(f"{operand}, {criterion}")
    style.add_legend(fig, handles, columns, bbox_to_anchor=None)
    words = textwrap.fill(_caption(rows), CAPTION_LETTERS)
    fig.text(0.008, 0.1 / fig.get_figheight(), words, fontsize=7, va="bottom")
    return fig, grid


def cost_limits(values: Any, room: float = 0.12) -> tuple[float, float]:
    """Ends of an axis of costs, with room beside the points, and at least `LEAST_SPAN` of its middle wide.

    Differences of some thousandths are less than the error of any estimate: they look small.

    Examples
    --------
    >>> cost_limits([1.0, 2.0]), cost_limits([0.5, 0.5])
    ((0.88, 2.12), (0.45, 0.55))
    """
    numbers = np.asarray(values, float)
    low, high = float(numbers.min()), float(numbers.max())
    middle, half = (low + high) / 2, (high - low) * (0.5 + room)
    half = max(half, LEAST_SPAN / 2 * abs(middle), 1e-9)
    return middle - half, middle + half


def _legend_columns(letters: list[int]) -> int:
    """One line if all fits, else columns that are as wide as the widest."""
    return len(letters) if sum(letters) <= LEGEND_LETTERS else max(1, LEGEND_LETTERS // max(letters))


def _make_room(fig: Figure, rows: int, legend_lines: int) -> None:
    """Make room for the labels under each row of panels, for the legend and for a caption."""
    top = TITLE_IN + legend_lines * LEGEND_LINE_IN
    height = top + BOTTOM_IN + rows * PANEL_HEIGHT_IN + (rows - 1) * BETWEEN_IN
    fig.set_size_inches(fig.get_figwidth(), height)
    margins = {"top": 1 - top / height, "bottom": BOTTOM_IN / height, "left": 0.075, "right": 0.965}
    fig.subplots_adjust(**margins, hspace=BETWEEN_IN / PANEL_HEIGHT_IN, wspace=0.25)


def _costs(sparse: pd.DataFrame) -> list[tuple[str, str]]:
    """Columns that can be drawn, with their labels: speedups on the core if one was asked for, else on the machine."""
    costs = []
    for phase in ("decode", "prefill"):
        tokens = "1 token" if phase == "decode" else f"{int(sparse['tokens_prefill'].iloc[0])} tokens"
        of = "" if sparse["costs_of"].iloc[0] == CHECKPOINT else f"{sparse['costs_of'].iloc[0]} on "
        for column, on in (
            (f"core_{phase}_speedup_vs_dense", "core"),
            (f"predicted_{phase}_speedup_vs_dense", "hardware"),
        ):
            if sparse[column].notna().all():
                costs.append((column, f"{phase}, {tokens}, {of}{sparse[on].iloc[0]}: speedup vs dense [×]"))
                break
    return [*costs, (STORED_BITS, "stored bits of the operand [bits/element]")]


def _draw_points(ax: Axes, rows: pd.DataFrame, name: str, marks: WayMarks, theme: Theme) -> None:
    columns = ("pattern", "mitigation", "on_front", name, ERROR)
    for pattern, mitigation, on_front, x, y in zip(*(rows[column] for column in columns), strict=True):
        mark = marks.of_way(pattern, mitigation)
        face, alpha, zorder = (mark["color"], 1.0, 4) if on_front else (theme.paper, 0.6, 3)
        ax.plot([x], [y], markerfacecolor=face, alpha=alpha, zorder=zorder, **mark)


def _on_front(rows: pd.DataFrame, name: str) -> Any:
    """Ways that no other way of the rows beats in error and in a cost."""
    least = name == STORED_BITS
    return pareto_front(rows, minimise=[ERROR, name] if least else [ERROR], maximise=[] if least else [name])


def _range_of(rows: pd.DataFrame, name: str) -> pd.DataFrame:
    """Columns `low` and `high` of a speedup's range, NaN if it is not known."""
    ends = {end: f"{name.removesuffix('_vs_dense')}_{end}" for end in ("low", "high")}
    found = {end: rows.get(column, np.nan) for end, column in ends.items()}
    return pd.DataFrame(found, index=rows.index, dtype=float)


def _has_ranges(rows: pd.DataFrame, name: str) -> bool:
    return bool(_range_of(rows, name).notna().all(axis=1).any())


def _alike(rows: pd.DataFrame, name: str) -> bool:
    """Whether the speedups of an operand differ by less than their noise; bits are exact."""
    if name == STORED_BITS:
        return False
    known = _range_of(rows, name)
    low, high = known["low"].fillna(rows[name]), known["high"].fillna((1 + ALIKE) * rows[name])
    return bool(low.max() <= high.min())


def _say_alike(ax: Axes, theme: Theme) -> None:
    ax.annotate(
        "speedups alike within their noise: no front", (0.5, 1), (0, -3), "axes fraction", "offset points",
        ha="center", va="top", fontsize=6.5, bbox={"facecolor": theme.paper, "edgecolor": "none", "pad": 1.0},
    )  # fmt: skip


def _limits(rows: pd.DataFrame, name: str) -> tuple[float, float]:
    """Limits that all panels of an operand share: of points and ranges, with room beside them."""
    known = _range_of(rows, name)
    return cost_limits(pd.concat([known["low"].fillna(rows[name]), known["high"].fillna(rows[name])]))


def _draw_ranges(ax: Axes, rows: pd.DataFrame, name: str, theme: Theme) -> None:
    """Bars from low to high at the points whose range is known."""
    known = _range_of(rows, name)
    rows = rows[known.notna().all(axis=1)]
    if not rows.empty:
        lengths = np.abs([rows[name] - known["low"][rows.index], known["high"][rows.index] - rows[name]])
        look: dict[str, Any] = {
            "fmt": "none",
            "ecolor": theme.quiet,
            "elinewidth": 0.6,
            "alpha": 0.5,
            "zorder": 1,
        }
        ax.errorbar(rows[name], rows[ERROR], xerr=lengths, **look)


def _draw_front(ax: Axes, front: pd.DataFrame, name: str, theme: Theme) -> None:
    """Steps through the front: what is reached at a cost is reached at all greater ones."""
    least = name == STORED_BITS
    front = front.sort_values([name, ERROR], ascending=[least, True], kind="stable")
    ax.step(front[name], front[ERROR], where="post", color=theme.ink, linewidth=0.9, zorder=2)


def _dashes(references: pd.DataFrame) -> dict[str, Any]:
    criteria = dict.fromkeys(references["criterion"])
    return {criterion: DASHES[place % len(DASHES)] for place, criterion in enumerate(criteria)}


def _draw_references(ax: Axes, references: pd.DataFrame, dashes: dict[str, Any], theme: Theme) -> None:
    """A line per criterion and density; patterns of one density are one way without groups."""
    densities = [float(Pattern.parse(pattern).density) for pattern in references["pattern"]]
    once = references.assign(density=densities).drop_duplicates(["criterion", "density"])
    several = once["density"].nunique() > 1
    for criterion, density, error in zip(once["criterion"], once["density"], once[ERROR], strict=True):
        ax.axhline(error, color=theme.quiet, linewidth=1.0, linestyle=dashes[criterion], zorder=1)
        if several and criterion == once["criterion"].iloc[0]:
            ax.annotate(
                f"{density:.0%}", (1, error), xycoords=("axes fraction", "data"), xytext=(2, 0),
                textcoords="offset points", va="center", fontsize=5.5,
            )  # fmt: skip


def _way_handles(marks: WayMarks, references: pd.DataFrame, ranges: bool, theme: Theme) -> list[Any]:
    handles = [
        style.line_key(pattern, color=colour, linewidth=4)
        for colour, pattern in zip(COLOURS, marks.patterns, strict=False)
    ]
    for mitigation in marks.mitigations:
        mark = marks.of_mitigation(mitigation)
        handles.append(style.mark_key(mitigation, color=theme.ink, markerfacecolor=theme.paper, **mark))
    handles.append(style.line_key("Pareto front of a criterion", color=theme.ink, linewidth=0.9))
    handles.append(style.mark_key("beaten by none", color=theme.ink))
    if ranges:
        handles.append(style.line_key("range of a speedup", color=theme.quiet, linewidth=1))
    return handles + [
        style.line_key(criterion, color=theme.quiet, linestyle=look)
        for criterion, look in _dashes(references).items()
    ]


def _caption(rows: pd.DataFrame) -> str:
    first = rows.iloc[0]
    words = [
        f"Activations: {first['activations']}. {first['tokens']} tokens, errors of all layers added, one layer at a time: no "
        "accuracy."
    ]
    if set(rows["operand"]) == {"weights"}:
        words.append("X only weighs the error of pruned weights.")
    encodings = "; ".join(
        f"{', '.join(pattern_order(some['pattern']))} {name}, {packing}"
        for (name, packing), some in rows.groupby(["encoding", "packing"], sort=False)
    )
    words.append(f"Metadata as stored: {encodings}. {first['dtype']} values.")
    words.append(
        "Line: Pareto front of the criterion of a panel. Filled: beaten by no way of the operand, of any criterion."
    )
    if first["costs_of"] != CHECKPOINT:
        words.append(f"Speedups: the pruned layers of {first['costs_of']} together.")
    if hidden := int((~(rows[ERROR] > 0)).sum()):
        words.append(f"Ways with an error of 0, or without an output, not drawn: {hidden} of {len(rows)}.")
    if rows.loc[rows["reference"], "pattern"].map(lambda text: Pattern.parse(text).density).nunique() > 1:
        words.append("Beside the lines of criteria without groups: the share that is kept.")
    if mitigated := int((rows["reference"] & (rows["mitigation"] != NONE)).sum()):
        words.append(f"Criteria without groups that have a mitigation, not drawn: {mitigated}.")
    return " ".join(words)
