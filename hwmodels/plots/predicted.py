"""Figures of predicted speedups of whole models.

A table has one row per machine, step and stored form of the sparse operand. Its columns are `hardware`, `phase`, `tokens`,
`sparse_operand`, `pattern` (`"dense"` for the baseline), `encoding`, `execution`, `predicted_dense_time_s`,
`predicted_speedup_vs_dense`, and `predicted_<stage>_bound_s`. `tokens` is the batch in decode, and the length of the prompt
in prefill. The last is the time of the layers that the stage limits.

A figure that draws one row per pattern leaves the choice of the encoding to the caller. Every speedup is against the dense
model on the same machine.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from hwmodels.estimate.bounds import STAGES
from hwmodels.plots import style
from hwmodels.plots.labels import (
    DENSE,
    OPERANDS,
    PATTERN_LABEL,
    SPEEDUP,
    SPEEDUP_LABEL,
    STAGE_NAMES,
    TOKENS_LABEL,
    Step,
    at_step,
    choose_steps,
    pattern_order,
    refuse_twice,
    step_name,
)
from hwmodels.plots.style import LIGHT, AxesGrid, Theme, styled
from nmsim.errors import RowError

WHAT = "table of predictions"
BAR_TEXT = "#101418"
DASHES: dict[str, Any] = {"weights": "-", "activations": (0, (3, 1.8))}


@styled
def speedup_vs_pattern(
    table: pd.DataFrame,
    *,
    operand: str = "weights",
    steps: Sequence[Step] | None = None,
    hollow: str = "expanded in software",
    theme: Theme = LIGHT,
) -> tuple[Figure, AxesGrid]:
    """Draw the predicted speedup over patterns: a row per machine, a column per step, a marker per encoding.

    A filled marker says that the machine's sparse unit takes pattern and encoding as they are, a hollow one that it
    does not.

    Parameters
    ----------
    table : DataFrame
        As the module says.
    operand : {"weights", "activations"}
    steps : sequence of (phase, tokens), optional
        Columns; `choose_steps` of the table when absent.
    hollow : str
        What the legend says of hollow markers.
    theme : Theme

    Returns
    -------
    tuple of Figure and Axes array [machines, steps]

    Raises
    ------
    RowError
        No sparse row of that operand.
    """
    rows = _sparse(table, operand)
    shown = list(steps) if steps is not None else choose_steps(rows)
    machines, encodings = list(rows["hardware"].unique()), list(rows["encoding"].unique())
    patterns = pattern_order(rows["pattern"])
    marks = [theme.mark(place, size=4.8) | {"markeredgewidth": 1.3} for place in range(len(encodings))]
    # Encodings of one pattern are drawn beside each other, because many have nearly the same speedup.
    offsets = style.side_by_side(len(encodings), 0.27)
    fig, grid = style.panel_grid(len(machines), len(shown), 1.5)
    for machine, panels in zip(machines, grid, strict=True):
        for step, ax in zip(shown, panels, strict=True):
            style.speedup_axis(ax, rows[SPEEDUP], theme)
            here = at_step(rows[rows["hardware"] == machine], step)
            for encoding, mark, offset in zip(encodings, marks, offsets, strict=True):
                own = here[here["encoding"] == encoding].set_index("pattern").reindex(patterns)
                at, heights = np.arange(len(patterns)) + offset, own[SPEEDUP].to_numpy(float)
                native = (own["execution"] == "native").to_numpy()
                for where, face in ((native, mark["color"]), (~native, theme.paper)):
                    ax.plot(at[where], heights[where], markerfacecolor=face, zorder=3, **mark)
            style.named_axis(ax, patterns, theme, divided=True)
    style.label_axes(grid, PATTERN_LABEL, SPEEDUP_LABEL)
    style.title_panels(grid, machines, [step_name(step) for step in shown])
    handles: list[Any] = [
        style.mark_key(encoding, **mark) for encoding, mark in zip(encodings, marks, strict=True)
    ]
    plain: dict[str, Any] = {"color": theme.ink, "markersize": 5}
    handles.append(style.mark_key("native sparse unit", **plain))
    handles.append(style.mark_key(hollow, markerfacecolor=theme.paper, **plain))
    style.add_legend(fig, [*handles, style.slower_key(theme)])
    return fig, grid


@styled
def speedup_vs_tokens(table: pd.DataFrame, *, theme: Theme = LIGHT) -> tuple[Figure, AxesGrid]:
    """Draw the predicted speedup over tokens: a panel per machine, a colour per pattern, a line style per operand.

    Decode batches and prefill lengths share the axis, since what counts is how many tokens meet each weight. Of
    curves that coincide, the first pattern's is the widest.

    Parameters
    ----------
    table : DataFrame
        As the module says, with one encoding per machine, step, operand and pattern.
    theme : Theme

    Returns
    -------
    tuple of Figure and Axes array

    Raises
    ------
    RowError
        No sparse row, or several for one point.
    """
    keys = ["hardware", "sparse_operand", "pattern", "phase", "tokens"]
    rows = refuse_twice(_sparse(table, None), keys, WHAT, "choose an encoding")
    rows = rows.sort_values("tokens", kind="stable")
    machines, patterns = list(rows["hardware"].unique()), pattern_order(rows["pattern"])
    fig, grid, panels, lowest = style.panels_in_rows(len(machines), 3, 2.1, top=0.65)
    for machine, ax in zip(machines, panels, strict=True):
        style.speedup_axis(ax, rows[SPEEDUP], theme)
        here = rows[rows["hardware"] == machine]
        for (operand, pattern, _), curve in here.groupby(["sparse_operand", "pattern", "phase"]):
            place = patterns.index(pattern)
            width = 1.1 + (len(patterns) - 1 - place)
            # Dashes are given in line widths: wide and narrow curves get dashes of one length.
            dashes: Any = "-" if operand == "weights" else (0, (5 / width, 3 / width))
            ax.plot(
                curve["tokens"], curve[SPEEDUP], color=theme.colour(place), linestyle=dashes, linewidth=width,
                marker="o" if len(curve) == 1 else "", dash_capstyle="butt", zorder=3 + place,
            )  # fmt: skip
        ax.set_xscale("log", base=2)
        style.fixed_ticks(ax.xaxis, sorted(rows["tokens"].unique()), _in_thousands)
        ax.set_title(machine)
    style.label_axes(np.array([lowest]), x=TOKENS_LABEL)
    style.label_axes(grid, y=SPEEDUP_LABEL)
    handles: list[Any] = [
        style.line_key(pattern, color=theme.colour(place), linewidth=3)
        for place, pattern in enumerate(patterns)
    ]
    handles += [
        style.line_key(f"{operand} pruned", color=theme.ink, linestyle=DASHES[operand])
        for operand in OPERANDS
        if (rows["sparse_operand"] == operand).any()
    ]
    style.add_legend(fig, [*handles, style.slower_key(theme)])
    return fig, grid


@styled
def bound_by_stage(
    table: pd.DataFrame,
    *,
    operand: str = "weights",
    steps: Sequence[Step] | None = None,
    theme: Theme = LIGHT,
) -> tuple[Figure, AxesGrid]:
    """Draw the time of a step against the dense one, split by the stage that limits each layer.

    A row per machine, a column per step. A bar is the dense baseline, or a pattern in the encoding that is written on it.
    It is outlined if the machine's sparse unit takes the format as it is.

    Parameters
    ----------
    table, operand, steps, theme
        As for `speedup_vs_pattern`, with the dense rows too, and one encoding per machine, step and pattern.

    Returns
    -------
    tuple of Figure and Axes array [machines, steps]

    Raises
    ------
    RowError
        No sparse row of that operand, or several for one bar.
    """
    rows = _sparse(table, operand)
    shown = list(steps) if steps is not None else choose_steps(rows)
    machines, bars = list(rows["hardware"].unique()), [DENSE, *pattern_order(rows["pattern"])]
    chosen = refuse_twice(rows, ["hardware", "phase", "tokens", "pattern"], WHAT, "choose an encoding")
    drawn = pd.concat([table[table["pattern"] == DENSE], chosen])
    # All panels share the height of the tallest bar.
    top = 1.1 * max(1.0, float((1.0 / drawn[SPEEDUP]).max()))
    fig, grid = style.panel_grid(len(machines), len(shown), 1.6)
    for machine, panels in zip(machines, grid, strict=True):
        for step, ax in zip(shown, panels, strict=True):
            here = at_step(drawn[drawn["hardware"] == machine], step).set_index("pattern").reindex(bars)
            bottom = np.zeros(len(bars))
            for stage in STAGES:
                share = here[f"predicted_{stage}_bound_s"] / here["predicted_dense_time_s"]
                heights = share.fillna(0.0).to_numpy()
                ax.bar(range(len(bars)), heights, 0.76, bottom, color=style.STAGE_COLOURS[stage], zorder=2)
                bottom += heights
            native = (here["execution"] == "native").to_numpy()
            ax.bar(np.flatnonzero(native), bottom[native], 0.76, fill=False, edgecolor=theme.ink, zorder=3)
            for place, encoding in enumerate(here["encoding"]):
                if isinstance(encoding, str):
                    ax.text(place, 0.04, encoding, rotation=90, ha="center", fontsize=6.5, color=BAR_TEXT)
            ax.axhline(1.0, color=theme.ink, linewidth=0.8, zorder=1)
            style.named_axis(ax, bars, theme)
            ax.set_ylim(0, top)
    style.label_axes(grid, PATTERN_LABEL, "time / dense time [s/s]")
    style.title_panels(grid, machines, [step_name(step) for step in shown])
    handles = [
        Patch(facecolor=style.STAGE_COLOURS[stage], label=f"limited by {STAGE_NAMES[stage]}")
        for stage in STAGES
        if (drawn[f"predicted_{stage}_bound_s"] > 0).any()
    ]
    outline = Patch(fill=False, edgecolor=theme.ink, label="outlined: native sparse unit")
    style.add_legend(fig, [*handles, outline])
    return fig, grid


def _sparse(table: pd.DataFrame, operand: str | None) -> pd.DataFrame:
    rows = table[table["pattern"] != DENSE]
    if operand is not None:
        rows = rows[rows["sparse_operand"] == operand]
    if rows.empty:
        raise RowError(f"{WHAT}: no sparse row to draw (operand: {operand or 'any'})")
    return rows


def _in_thousands(tokens: float) -> str:
    return f"{tokens // 1024:.0f}k" if tokens >= 1024 and tokens % 1024 == 0 else f"{tokens:.0f}"
