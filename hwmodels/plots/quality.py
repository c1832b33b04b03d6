"""The figure of measured quality: error of the output against the speedups and the bits of each way of pruning."""

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from hwmodels.plots import style
from hwmodels.plots.labels import DENSE, pattern_order
from hwmodels.plots.style import LIGHT, AxesGrid, Theme, styled
from hwmodels.sweeps.pareto import pareto_front
from nmsim.errors import RowError
from nmsim.pattern import Pattern
from nmsim.quality.way import NONE, is_reference

ALL_LAYERS = "all"
ERROR = "relative_output_error"
ERROR_LABEL = "output error |Y - Yd|² / |Yd|² [1]"
STORED_BITS = "stored_bits_per_elem"
PANEL_HEIGHT_IN, BETWEEN_IN, TITLE_IN, LEGEND_LINE_IN, BOTTOM_IN = 2.1, 0.85, 0.5, 0.19, 1.0
LEGEND_LETTERS, HANDLE_LETTERS, CAPTION_LETTERS = 150, 8, 215
"""Letters of a line over the whole width; a symbol of the legend, with room beside it, is as wide as so many letters."""
DASHES: dict[str, Any] = {"unstructured": style.DASHED, "unstructured_global": (0, (1, 1.5))}
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


@styled
def quality_cost(table: pd.DataFrame, *, theme: Theme = LIGHT) -> tuple[Figure, AxesGrid]:
    """Draw the error of the output over speedups and over bits: a row per operand and criterion, and the Pareto front.

    Colours are patterns, markers mitigations. The front is that of an operand over all of its criteria; its own points are
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
    drawn = rows[rows[ERROR] > 0]
    sparse = drawn[~drawn["reference"]]
    references = drawn[drawn["reference"] & (drawn["mitigation"] == NONE)]
    if sparse.empty:
        raise RowError("quality: no pruned row with an error above zero, nothing to draw")
    marks = WayMarks.of(sparse["pattern"], sparse["mitigation"])
    costs = _costs(sparse)
    pairs = list(dict.fromkeys(zip(sparse["operand"], sparse["criterion"], strict=True)))
    handles = _handles(marks, references, theme)
    columns = _legend_columns([len(handle.get_label()) + HANDLE_LETTERS for handle in handles])
    fig, grid = style.panel_grid(len(pairs), len(costs), PANEL_HEIGHT_IN, share_y=False)
    _make_room(fig, len(grid), -(-len(handles) // columns))
    errors = pd.concat([sparse, references])[ERROR]
    for (operand, criterion), panels in zip(pairs, grid, strict=True):
        own = sparse[sparse["operand"] == operand]
        for (name, label), ax in zip(costs, panels, strict=True):
            least = name == STORED_BITS
            front = pareto_front(
                own, minimise=[ERROR, name] if least else [ERROR], maximise=[] if least else [name]
            )
            _draw_front(ax, own[front], name, least, theme)
            _draw_points(ax, own.assign(on_front=front)[own["criterion"] == criterion], name, marks, theme)
            _draw_references(ax, references[references["operand"] == operand], theme)
            ax.set_yscale("log")
            ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
            style.plain_numbers(ax.yaxis)
            ax.set_ylim(errors.min() / 1.25, errors.max() * 1.25)
            # Limits that all rows of an operand share, with room beside the points.
            low, high = float(own[name].min()), float(own[name].max())
            room = 0.12 * (high - low) or 0.05 * high
            ax.set_xlim(low - room, high + room)
            ax.ticklabel_format(axis="x", useOffset=False)
            ax.xaxis.set_major_locator(MaxNLocator(5))
            ax.set_xlabel(label, fontsize=8)
        panels[0].set_ylabel(ERROR_LABEL, fontsize=8)
        panels[0].set_title(f"{operand}, {criterion}")
    style.add_legend(fig, handles, columns, bbox_to_anchor=None)
    words = textwrap.fill(_caption(rows), CAPTION_LETTERS)
    fig.text(0.008, 0.1 / fig.get_figheight(), words, fontsize=7, va="bottom")
    return fig, grid


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
        for column, on in (
            (f"core_{phase}_speedup_vs_dense", "core"),
            (f"predicted_{phase}_speedup_vs_dense", "hardware"),
        ):
            if sparse[column].notna().all():
                costs.append((column, f"{phase}, {tokens}, {sparse[on].iloc[0]}: speedup vs dense [×]"))
                break
    return [*costs, (STORED_BITS, "stored bits of the operand [bits/element]")]


def _draw_points(ax: Axes, rows: pd.DataFrame, name: str, marks: WayMarks, theme: Theme) -> None:
    columns = ("pattern", "mitigation", "on_front", name, ERROR)
    for pattern, mitigation, on_front, x, y in zip(*(rows[column] for column in columns), strict=True):
        mark = marks.of_way(pattern, mitigation)
        face, alpha, zorder = (mark["color"], 1.0, 4) if on_front else (theme.paper, 0.6, 3)
        ax.plot([x], [y], markerfacecolor=face, alpha=alpha, zorder=zorder, **mark)


def _draw_front(ax: Axes, front: pd.DataFrame, name: str, least: bool, theme: Theme) -> None:
    """Steps through the front: what is reached at a cost is reached at all greater ones."""
    front = front.sort_values([name, ERROR], ascending=[least, True], kind="stable")
    ax.step(front[name], front[ERROR], where="post", color=theme.ink, linewidth=0.9, zorder=2)


def _draw_references(ax: Axes, references: pd.DataFrame, theme: Theme) -> None:
    """A line per criterion and density; patterns of one density are one way without groups."""
    densities = [float(Pattern.parse(pattern).density) for pattern in references["pattern"]]
    once = references.assign(density=densities).drop_duplicates(["criterion", "density"])
    several = once["density"].nunique() > 1
    for criterion, density, error in zip(once["criterion"], once["density"], once[ERROR], strict=True):
        ax.axhline(error, color=theme.quiet, linewidth=1.0, linestyle=DASHES[criterion], zorder=1)
        if several and criterion == once["criterion"].iloc[0]:
            ax.annotate(
                f"{density:.0%}", (1, error), xycoords=("axes fraction", "data"), xytext=(2, 0),
                textcoords="offset points", va="center", fontsize=5.5,
            )  # fmt: skip


def _handles(marks: WayMarks, references: pd.DataFrame, theme: Theme) -> list[Any]:
    handles = [
        style.line_key(pattern, color=colour, linewidth=4)
        for colour, pattern in zip(COLOURS, marks.patterns, strict=False)
    ]
    for mitigation in marks.mitigations:
        mark = marks.of_mitigation(mitigation)
        handles.append(style.mark_key(mitigation, color=theme.ink, markerfacecolor=theme.paper, **mark))
    handles.append(style.line_key("Pareto front (filled)", color=theme.ink, linewidth=0.9))
    return handles + [
        style.line_key(criterion, color=theme.quiet, linestyle=DASHES[criterion])
        for criterion in dict.fromkeys(references["criterion"])
    ]


def _caption(rows: pd.DataFrame) -> str:
    first = rows.iloc[0]
    words = [
        f"Activations: {first['activations']}. {first['tokens']} tokens, errors of all layers added, one layer at a time: no "
        "accuracy."
    ]
    if set(rows["operand"]) == {"weights"}:
        words.append("X only weighs the error of pruned weights.")
    words.append(f"Metadata: {first['encoding']}, {first['packing']}; {first['dtype']} values.")
    words.append(
        "The Pareto front is that of all criteria of an operand, and the same in the panels of each."
    )
    if hidden := int((~(rows[ERROR] > 0)).sum()):
        words.append(f"Ways with an error of 0, or without an output, not drawn: {hidden} of {len(rows)}.")
    if rows.loc[rows["reference"], "pattern"].map(lambda text: Pattern.parse(text).density).nunique() > 1:
        words.append("Beside the lines of criteria without groups: the share that is kept.")
    if mitigated := int((rows["reference"] & (rows["mitigation"] != NONE)).sum()):
        words.append(f"Criteria without groups that have a mitigation, not drawn: {mitigated}.")
    return " ".join(words)
