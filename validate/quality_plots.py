"""The figure of `validate.quality`: error of the output against what a way of pruning brings and takes, beside accuracies."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

import hwmodels
from hwmodels.plots import LIGHT, MARKERS, AxesGrid, Theme, add_legend, panel_grid, pattern_order
from nmsim.errors import RowError
from nmsim.quality.way import UNSTRUCTURED
from validate.quality import ALL, DENSE
from validate.quality_accuracy import beside_quality

ERROR = "relative_output_error"
ERROR_LABEL = "output error |Y - Yd|² / |Yd|² [1]"
PANEL_HEIGHT_IN, BETWEEN_IN, TOP_IN, BOTTOM_IN = 2.1, 0.85, 1.0, 0.8


def quality_cost(
    table: pd.DataFrame, accuracies: pd.DataFrame | None = None, *, theme: Theme = LIGHT
) -> tuple[Figure, AxesGrid]:
    """Draw the error of the output over speedups and over bits: a row an operand and criterion, and the Pareto front.

    Colours are patterns, markers mitigations; the front is that of an operand over all of its criteria, and its own points are
    filled. Dashed: unstructured pruning at the same density, which no panel has a speedup for. With accuracies, a last row
    shows them over our error and over the energy lost; lines join the patterns of one model and way.

    Parameters
    ----------
    table : DataFrame
        From `validate.quality.measure_quality`.
    accuracies : DataFrame, optional
        From `validate.quality_accuracy`.
    theme : Theme

    Returns
    -------
    tuple of Figure and Axes array

    Raises
    ------
    RowError
        Nothing to draw.
    """
    rows = table[(table["layer"] == ALL) & (table["pattern"] != DENSE)]
    sparse = rows[(rows["criterion"] != UNSTRUCTURED) & (rows[ERROR] > 0)]
    if sparse.empty:
        raise RowError("quality: no pruned row with an error above zero, nothing to draw")
    across = _axes_of(sparse)
    pairs = list(dict.fromkeys(zip(sparse["operand"], sparse["criterion"], strict=True)))
    matched = beside_quality(table, accuracies) if accuracies is not None else pd.DataFrame()
    below = int(not matched.empty)
    fig, grid = panel_grid(
        len(pairs) + below, max(len(across), 2 * below), PANEL_HEIGHT_IN, theme, share_y=False
    )
    _spread(fig, len(grid))
    patterns, ways = pattern_order(sparse["pattern"]), list(dict.fromkeys(sparse["mitigation"]))
    errors = rows.loc[rows[ERROR] > 0, ERROR]
    for (operand, criterion), panels in zip(pairs, grid, strict=False):
        own = sparse[sparse["operand"] == operand]
        reference = rows[(rows["operand"] == operand) & (rows["criterion"] == UNSTRUCTURED)]
        for (name, label), ax in zip(across, panels, strict=False):
            least = name == "stored_bits_per_elem"
            front = hwmodels.pareto_front(own, [ERROR, name] if least else [ERROR], [] if least else [name])
            _draw_front(ax, own[front], name, least, theme)
            _draw_points(
                ax, own.assign(on_front=front)[own["criterion"] == criterion], name, patterns, ways, theme
            )
            for error in reference.loc[reference[ERROR] > 0, ERROR].unique():
                ax.axhline(error, color=theme.quiet, linewidth=1.0, linestyle=(0, (4, 2)), zorder=1)
            _log_axis(ax.yaxis, ax.set_yscale)
            ax.set_ylim(errors.min() / 1.25, errors.max() * 1.25)
            _same_width(ax, own[name])
            ax.xaxis.set_major_locator(MaxNLocator(5))
            ax.set_xlabel(label, fontsize=8, color=theme.ink)
        panels[0].set_ylabel(ERROR_LABEL, fontsize=8, color=theme.ink)
        panels[0].set_title(
            f"{operand}, {criterion}", loc="left", fontweight="bold", fontsize=9.5, color=theme.ink
        )
    for panels in grid[: len(pairs)]:
        for ax in panels[len(across) :]:
            ax.set_visible(False)
    if below:
        _accuracy_row(grid[-1], matched, theme)
    add_legend(fig, _handles(patterns, ways, theme), theme)
    height = fig.get_size_inches()[1]
    fig.text(0.008, 0.1 / height, _caption(rows), fontsize=7, color=theme.ink, va="bottom")
    return fig, grid


def _spread(fig: Figure, rows: int) -> None:
    """Make room for the labels under each row of panels, and for a caption."""
    height = TOP_IN + BOTTOM_IN + rows * PANEL_HEIGHT_IN + (rows - 1) * BETWEEN_IN
    fig.set_size_inches(fig.get_size_inches()[0], height)
    fig.subplots_adjust(
        top=1 - TOP_IN / height,
        bottom=BOTTOM_IN / height,
        hspace=BETWEEN_IN / PANEL_HEIGHT_IN,
        left=0.075,
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


def _draw_points(
    ax: Axes, rows: pd.DataFrame, name: str, patterns: Sequence[str], ways: Sequence[str], theme: Theme
) -> None:
    for pattern, way, on_front, x, y in zip(
        rows["pattern"], rows["mitigation"], rows["on_front"], rows[name], rows[ERROR], strict=True
    ):
        look = _look(patterns.index(pattern), ways.index(way), theme)
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


def _look(colour: int, marker: int, theme: Theme) -> dict[str, Any]:
    return {
        "color": theme.series[colour % len(theme.series)],
        "marker": MARKERS[marker % len(MARKERS)],
        "linestyle": "none",
        "markersize": 5.5,
        "markeredgewidth": 1.1,
    }


def _log_axis(axis: Any, set_scale: Any) -> None:
    set_scale("log")
    axis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _accuracy_row(panels: Any, matched: pd.DataFrame, theme: Theme) -> None:
    """Accuracy over the error of the output, and over the energy lost."""
    for ax in panels[2:]:
        ax.set_visible(False)
    models = list(dict.fromkeys(matched["model"]))
    for ax, name, label in (
        (panels[0], ERROR, f"here: {ERROR_LABEL}"),
        (panels[1], "energy_lost_share", "here: share of X's energy lost [1]"),
    ):
        for (model, criterion, mitigation), line in matched.groupby(
            ["model", "criterion", "mitigation"], sort=False
        ):
            line = line.sort_values(name)
            colour = theme.series[models.index(model) % len(theme.series)]
            ax.plot(line[name], line["accuracy"], marker="o", markersize=4.5, color=colour, linewidth=1.0)
            for x, y, pattern in zip(line[name], line["accuracy"], line["pattern"], strict=True):
                text = (
                    f"{criterion} {pattern}"
                    if criterion == UNSTRUCTURED
                    else f"{pattern} {criterion} {mitigation}"
                )
                left = x > matched[name].mean()
                place = {"xytext": (-5 if left else 5, 3), "ha": "right" if left else "left"}
                words = text.removesuffix(" none")
                ax.annotate(words, (x, y), textcoords="offset points", fontsize=5.5, color=theme.ink, **place)
        _log_axis(ax.xaxis, ax.set_xscale)
        ax.margins(0.3, 0.15)
        ax.set_xlabel(label, fontsize=8, color=theme.ink)
        ax.set_ylabel("mean accuracy, elsewhere [1]", fontsize=8.5, color=theme.ink)
    handles = [
        Line2D([], [], color=theme.series[place % len(theme.series)], marker="o", markersize=4.5, label=model)
        for place, model in enumerate(models)
    ]
    panels[0].legend(handles=handles, frameon=False, fontsize=6.5, labelcolor=theme.ink, loc="lower left")
    title = "accuracy of whole models, measured elsewhere, over the errors of this checkpoint"
    panels[0].set_title(title, loc="left", fontweight="bold", fontsize=9.5, color=theme.ink)


def _handles(patterns: Sequence[str], ways: Sequence[str], theme: Theme) -> list[Any]:
    handles: list[Any] = [
        Line2D([], [], color=theme.series[place % len(theme.series)], linewidth=4, label=pattern)
        for place, pattern in enumerate(patterns)
    ]
    for place, way in enumerate(ways):
        look = _look(0, place, theme) | {"color": theme.ink}
        handles.append(Line2D([], [], markerfacecolor=theme.paper, label=way, **look))
    handles.append(Line2D([], [], color=theme.ink, linewidth=0.9, label="Pareto front (filled)"))
    handles.append(
        Line2D([], [], color=theme.quiet, linestyle=(0, (4, 2)), label="unstructured, by magnitude")
    )
    return handles


def _caption(rows: pd.DataFrame) -> str:
    first = rows.iloc[0]
    weights = " X only weighs the error of pruned weights." if set(rows["operand"]) == {"weights"} else ""
    return (
        f"Activations: {first['activations']}. {first['tokens']} tokens, errors of all layers added, one layer at a time: no "
        f"accuracy.{weights} Metadata: {first['encoding']}, {first['packing']}; {first['dtype']} values."
    )
