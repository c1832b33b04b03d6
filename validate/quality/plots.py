"""The figure of `validate.quality`: error of the output against what a way of pruning brings and takes, beside accuracies."""

import textwrap
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

import hwmodels
from hwmodels.plots.predicted import LIGHT, AxesGrid, Theme, panel_grid
from nmsim.errors import RowError
from nmsim.pattern import Pattern
from nmsim.quality.way import NONE, is_reference
from validate.quality.accuracy import QUALITIES, beside_quality
from validate.quality.accuracy_plots import draw_accuracies
from validate.quality.looks import COLOURS, Looks
from validate.quality.measure import ALL, DENSE

ERROR = "relative_output_error"
ERROR_LABEL = "output error |Y - Yd|² / |Yd|² [1]"
PANEL_HEIGHT_IN, BETWEEN_IN, TITLE_IN, LEGEND_LINE_IN, BOTTOM_IN = 2.1, 0.85, 0.5, 0.19, 1.0
LEGEND_LETTERS, HANDLE_LETTERS, CAPTION_LETTERS = 150, 8, 215
"""That a line takes, over the whole width; a symbol of the legend, with room beside it, is as wide as so many letters."""
DASHES: dict[str, Any] = {"unstructured": (0, (4, 2)), "unstructured_global": (0, (1, 1.5))}


def quality_cost(
    table: pd.DataFrame, accuracies: pd.DataFrame | None = None, *, theme: Theme = LIGHT
) -> tuple[Figure, AxesGrid]:
    """Draw the error of the output over speedups and over bits: a row an operand and criterion, and the Pareto front.

    Colours are patterns, markers mitigations; the front is that of an operand over all of its criteria, and its own points are
    filled. Dashed: criteria without groups, at each density and without mitigation, which have no speedup. With accuracies, a
    last row shows them over our error and over the energy lost; lines join the patterns of one model and way. What has an
    error of 0 is on no logarithmic axis: the caption says how many ways that are.

    Parameters
    ----------
    table : DataFrame
        From `validate.quality.measure.measure_quality`.
    accuracies : DataFrame, optional
        From `validate.quality.accuracy`.
    theme : Theme

    Returns
    -------
    tuple of Figure and Axes array

    Raises
    ------
    RowError
        Nothing to draw, or more patterns or mitigations than can be told apart.
    """
    rows = table[(table["layer"] == ALL) & (table["pattern"] != DENSE)]
    rows = rows.assign(reference=[is_reference(criterion) for criterion in rows["criterion"]])
    drawn = rows[rows[ERROR] > 0]
    sparse = drawn[~drawn["reference"]]
    references = drawn[drawn["reference"] & (drawn["mitigation"] == NONE)]
    if sparse.empty:
        raise RowError("quality: no pruned row with an error above zero, nothing to draw")
    looks = Looks.of(sparse["pattern"], sparse["mitigation"])
    across = _axes_of(sparse)
    pairs = list(dict.fromkeys(zip(sparse["operand"], sparse["criterion"], strict=True)))
    matched = beside_quality(table, accuracies) if accuracies is not None else pd.DataFrame()
    if not matched.empty:
        matched = matched[(matched[list(QUALITIES)] > 0).all(axis=1)]
    below = int(not matched.empty)
    handles = _handles(looks, references, theme)
    fig, grid = panel_grid(
        len(pairs) + below, max(len(across), 2 * below), PANEL_HEIGHT_IN, theme, share_y=False
    )
    columns = _legend_columns([len(handle.get_label()) + HANDLE_LETTERS for handle in handles])
    _make_room(fig, len(grid), -(-len(handles) // columns))
    shown = pd.concat([sparse, references])[ERROR]
    for (operand, criterion), panels in zip(pairs, grid, strict=False):
        own = sparse[sparse["operand"] == operand]
        for (name, label), ax in zip(across, panels, strict=False):
            least = name == "stored_bits_per_elem"
            front = hwmodels.pareto_front(own, [ERROR, name] if least else [ERROR], [] if least else [name])
            _draw_front(ax, own[front], name, least, theme)
            _draw_points(ax, own.assign(on_front=front)[own["criterion"] == criterion], name, looks, theme)
            _draw_references(ax, references[references["operand"] == operand], theme)
            _log_axis(ax.yaxis, ax.set_yscale)
            ax.set_ylim(shown.min() / 1.25, shown.max() * 1.25)
            _same_width(ax, own[name])
            ax.ticklabel_format(axis="x", useOffset=False)
            ax.xaxis.set_major_locator(MaxNLocator(5))
            ax.set_xlabel(label, fontsize=8, color=theme.ink)
        panels[0].set_ylabel(ERROR_LABEL, fontsize=8, color=theme.ink)
        _title(panels[0], f"{operand}, {criterion}", theme)
    for panels in grid[: len(pairs)]:
        for ax in panels[len(across) :]:
            ax.set_visible(False)
    if below:
        _accuracy_row(grid[-1], matched, looks, theme)
    fig.legend(
        handles=handles, loc="upper center", ncols=columns, frameon=False, fontsize=8.5, labelcolor=theme.ink
    )
    height = fig.get_size_inches()[1]
    words = textwrap.fill(_caption(rows, matched), CAPTION_LETTERS)
    fig.text(0.008, 0.1 / height, words, fontsize=7, color=theme.ink, va="bottom")
    return fig, grid


def _legend_columns(letters: list[int]) -> int:
    """One line where all fits, else columns that are as wide as the widest."""
    return len(letters) if sum(letters) <= LEGEND_LETTERS else max(1, LEGEND_LETTERS // max(letters))


def _make_room(fig: Figure, rows: int, legend_lines: int) -> None:
    """Make room for the labels under each row of panels, for the legend and for a caption."""
    top = TITLE_IN + legend_lines * LEGEND_LINE_IN
    height = top + BOTTOM_IN + rows * PANEL_HEIGHT_IN + (rows - 1) * BETWEEN_IN
    fig.set_size_inches(fig.get_size_inches()[0], height)
    fig.subplots_adjust(
        top=1 - top / height,
        bottom=BOTTOM_IN / height,
        hspace=BETWEEN_IN / PANEL_HEIGHT_IN,
        left=0.075,
        right=0.965,
        wspace=0.25,
    )


def _axes_of(sparse: pd.DataFrame) -> list[tuple[str, str]]:
    """Columns that can be drawn, and what to call them: of the core where one was asked, else of the machine."""
    found = []
    for phase in ("decode", "prefill"):
        tokens = "1 token" if phase == "decode" else f"{int(sparse['tokens_prefill'].iloc[0])} tokens"
        for column, on in (
            (f"core_{phase}_speedup_vs_dense", "core"),
            (f"predicted_{phase}_speedup_vs_dense", "hardware"),
        ):
            if sparse[column].notna().all():
                found.append((column, f"{phase}, {tokens}, {sparse[on].iloc[0]}: speedup vs dense [×]"))
                break
    return [*found, ("stored_bits_per_elem", "stored bits of the operand [bits/element]")]


def _same_width(ax: Axes, values: "pd.Series[float]") -> None:
    """Limits that all rows of an operand share, with room beside the points."""
    low, high = float(values.min()), float(values.max())
    room = 0.12 * (high - low) or 0.05 * high
    ax.set_xlim(low - room, high + room)


def _draw_points(ax: Axes, rows: pd.DataFrame, name: str, looks: Looks, theme: Theme) -> None:
    for pattern, way, on_front, x, y in zip(
        rows["pattern"], rows["mitigation"], rows["on_front"], rows[name], rows[ERROR], strict=True
    ):
        look = looks.look(pattern, way)
        face = look["color"] if on_front else theme.paper
        ax.plot(
            [x],
            [y],
            markerfacecolor=face,
            alpha=1.0 if on_front else 0.6,
            zorder=4 if on_front else 3,
            **look,
        )


def _draw_front(ax: Axes, front: pd.DataFrame, name: str, least: bool, theme: Theme) -> None:
    """Steps through the front: what is reached at a cost is reached at all greater ones."""
    front = front.sort_values([name, ERROR], ascending=[least, True], kind="stable")
    ax.step(front[name], front[ERROR], where="post", color=theme.ink, linewidth=0.9, zorder=2)


def _draw_references(ax: Axes, references: pd.DataFrame, theme: Theme) -> None:
    """A line a criterion and density; patterns of one density are one way without groups."""
    densities = [float(Pattern.parse(pattern).density) for pattern in references["pattern"]]
    each = references.assign(density=densities).drop_duplicates(["criterion", "density"])
    several = each["density"].nunique() > 1
    for criterion, density, error in zip(each["criterion"], each["density"], each[ERROR], strict=True):
        ax.axhline(error, color=theme.quiet, linewidth=1.0, linestyle=DASHES[criterion], zorder=1)
        if several and criterion == each["criterion"].iloc[0]:
            ax.annotate(
                f"{density:.0%}", (1, error), xycoords=("axes fraction", "data"), xytext=(2, 0),
                textcoords="offset points", va="center", fontsize=5.5, color=theme.ink,
            )  # fmt: skip


def _log_axis(axis: Any, set_scale: Any) -> None:
    set_scale("log")
    axis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _title(ax: Axes, text: str, theme: Theme) -> None:
    ax.set_title(text, loc="left", fontweight="bold", fontsize=9.5, color=theme.ink)


def _accuracy_row(panels: Any, matched: pd.DataFrame, looks: Looks, theme: Theme) -> None:
    """Accuracy over the error of the output, and over the energy lost."""
    for ax in panels[2:]:
        ax.set_visible(False)
    labels = (f"here: {ERROR_LABEL}", "here: share of X's energy lost [1]")
    for ax, name, label in zip(panels, QUALITIES, labels, strict=False):
        _log_axis(ax.xaxis, ax.set_xscale)
        draw_accuracies(ax, matched, name, looks, theme)
        ax.set_xlabel(label, fontsize=8, color=theme.ink)
    title = "accuracy of whole models, measured elsewhere, over the errors of this checkpoint"
    _title(panels[0], title, theme)


def _handles(looks: Looks, references: pd.DataFrame, theme: Theme) -> list[Any]:
    handles: list[Any] = [
        Line2D([], [], color=colour, linewidth=4, label=pattern)
        for colour, pattern in zip(COLOURS, looks.patterns, strict=False)
    ]
    for mitigation in looks.mitigations:
        look = looks.mark(mitigation) | {"color": theme.ink}
        handles.append(Line2D([], [], markerfacecolor=theme.paper, label=mitigation, **look))
    handles.append(Line2D([], [], color=theme.ink, linewidth=0.9, label="Pareto front (filled)"))
    return handles + [
        Line2D([], [], color=theme.quiet, linestyle=DASHES[criterion], label=criterion)
        for criterion in dict.fromkeys(references["criterion"])
    ]


def _caption(rows: pd.DataFrame, matched: pd.DataFrame) -> str:
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
    tasks = [text for text in dict.fromkeys(matched.get("tasks", [])) if text]
    words += [
        f"Accuracies that the authors of arXiv 2509.22166 logged: means of {text.replace(',', ', ')}."
        for text in tasks
    ]
    return " ".join(words)
