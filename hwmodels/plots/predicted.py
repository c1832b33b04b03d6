"""Predicted curves: each function takes a table and gives back `(fig, ax)`. Nothing is shown, saved or kept globally.

The table is that of a whole model, one row a machine, step and way to store the sparse operand, with the columns
`hardware`, `phase`, `tokens` (batch in decode, length of the prompt in prefill), `sparse_operand`, `pattern`
(`"dense"` for the baseline), `encoding`, `execution`, `predicted_dense_time_s`, `predicted_speedup_vs_dense`, and
`predicted_<stage>_bound_s`, the time of the layers that the stage bounds.

Where one row a pattern is drawn, the caller chooses the encoding. Every speedup is a bound, against the dense model on
the same machine. Colours are those of Okabe and Ito, which colour-blind readers tell apart.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, NullLocator
from numpy.typing import NDArray

from hwmodels.estimate.bounds import STAGES
from nmsim.errors import RowError
from nmsim.pattern import Pattern

Step = tuple[str, int]
"""A phase and its tokens: `("decode", 16)`."""

AxesGrid = NDArray[Any]
"""Object array of Axes [rows, columns]."""


@dataclass(frozen=True)
class Theme:
    """Colours of paper, ink and shades; those of curves are common to all themes."""

    paper: str
    ink: str
    faint: str
    loss: str
    quiet: str
    series: tuple[str, ...] = ("#0072B2", "#E69F00", "#CC79A7", "#009E73", "#D55E00", "#56B4E9", "#999999")
    stages: dict[str, str] = field(
        default_factory=lambda: dict(zip(STAGES, ("#56B4E9", "#E69F00", "#CC79A7", "#2CA58D"), strict=True))
    )


LIGHT = Theme(paper="#ffffff", ink="#1b1f24", faint="#dfe3e8", loss="#f6e9e6", quiet="#c3c9d1")
DARK = Theme(paper="#16191d", ink="#e4e7eb", faint="#31373f", loss="#33211f", quiet="#565e69")

DENSE = "dense"
SPEEDUP = "predicted_speedup_vs_dense"
BAR_TEXT = "#101418"
SPEEDUP_LABEL = "speedup vs dense [×]"
PATTERN_LABEL = "pattern, kept : group [elements]"
MAX_STEPS = 4
MARKERS = "osv^DPX"
OPERANDS: dict[str, Any] = {"weights": "-", "activations": (0, (3, 1.8))}
STAGE_NAMES = {
    "memory": "memory",
    "decode": "decoding of codes",
    "select": "online pruning",
    "matrix": "arithmetic",
}


def pattern_order(patterns: Iterable[str]) -> list[str]:
    """Sort patterns by M, then N, each once; the dense baseline is none of them.

    Examples
    --------
    >>> pattern_order(["16:32", "dense", "2:4", "8:16", "2:4"])
    ['2:4', '8:16', '16:32']
    """
    found = {Pattern.parse(text) for text in patterns if text != DENSE}
    return [str(pattern) for pattern in sorted(found, key=lambda pattern: (pattern.m, pattern.n))]


def choose_steps(table: pd.DataFrame, limit: int = MAX_STEPS) -> list[Step]:
    """Choose the steps to show: the ends of decode and of prefill; evenly spread ones where there is one phase.

    Examples
    --------
    >>> steps = [("decode", 1), ("decode", 8), ("decode", 64), ("prefill", 512), ("prefill", 8192)]
    >>> choose_steps(pd.DataFrame(steps, columns=["phase", "tokens"]))
    [('decode', 1), ('decode', 64), ('prefill', 512), ('prefill', 8192)]
    """
    by_phase = [
        [(phase, int(tokens)) for tokens in sorted(table.loc[table["phase"] == phase, "tokens"].unique())]
        for phase in ("decode", "prefill")
    ]
    used = [steps for steps in by_phase if steps]
    room = limit if len(used) == 1 else limit // 2
    places = [np.linspace(0, len(steps) - 1, min(room, len(steps))).round().astype(int) for steps in used]
    return [steps[place] for steps, chosen in zip(used, places, strict=True) for place in chosen]


def step_name(step: Step) -> str:
    """Name a step in words.

    Examples
    --------
    >>> step_name(("decode", 16)), step_name(("prefill", 8192))
    ('decode, batch 16', 'prefill, 8192 tokens')
    """
    phase, tokens = step
    return f"decode, batch {tokens}" if phase == "decode" else f"prefill, {tokens} tokens"


def speedup_vs_pattern(
    table: pd.DataFrame,
    *,
    operand: str = "weights",
    steps: Sequence[Step] | None = None,
    hollow: str = "expanded in software",
    theme: Theme = LIGHT,
) -> tuple[Figure, AxesGrid]:
    """Draw the predicted speedup over patterns: a row a machine, a column a step, a marker an encoding.

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
    fig, grid = panel_grid(len(machines), len(shown), 1.5, theme)
    dodge = np.linspace(-0.27, 0.27, len(encodings)) if len(encodings) > 1 else np.zeros(1)
    for machine, panels in zip(machines, grid, strict=True):
        for step, ax in zip(shown, panels, strict=True):
            speedup_axis(ax, rows[SPEEDUP], theme)
            here = _at(rows, machine, step)
            for place, encoding in enumerate(encodings):
                found = here[here["encoding"] == encoding].set_index("pattern").reindex(patterns)
                at, heights = np.arange(len(patterns)) + dodge[place], found[SPEEDUP].to_numpy(float)
                native = (found["execution"] == "native").to_numpy()
                look = _look(place, theme)
                for where, face in ((native, look["color"]), (~native, theme.paper)):
                    ax.plot(
                        at[where], heights[where], linestyle="none", markerfacecolor=face, zorder=3, **look
                    )
            for edge in range(1, len(patterns)):
                ax.axvline(edge - 0.5, color=theme.faint, linewidth=0.6, zorder=0)
            ax.set_xlim(-0.5, len(patterns) - 0.5)
            ax.set_xticks(range(len(patterns)), patterns)
            ax.tick_params(axis="x", length=0)
    label_axes(grid, PATTERN_LABEL, SPEEDUP_LABEL, theme)
    _titles(grid, machines, [step_name(step) for step in shown], theme)
    handles: list[Any] = [
        Line2D([], [], linestyle="none", label=encoding, **_look(place, theme))
        for place, encoding in enumerate(encodings)
    ]
    plain: dict[str, Any] = {"marker": "o", "linestyle": "none", "color": theme.ink, "markersize": 5}
    handles += [
        Line2D([], [], label="native sparse unit", **plain),
        Line2D([], [], label=hollow, markerfacecolor=theme.paper, **plain),
        Patch(facecolor=theme.loss, label="slower than dense"),
    ]
    add_legend(fig, handles, theme)
    return fig, grid


def speedup_vs_tokens(table: pd.DataFrame, *, theme: Theme = LIGHT) -> tuple[Figure, AxesGrid]:
    """Draw the predicted speedup over tokens a step: a panel a machine, a colour a pattern, a line style an operand.

    Decode batches and prefill lengths share the axis, since what counts is how many tokens meet each weight. Of
    curves that coincide, the first pattern's is the widest.

    Parameters
    ----------
    table : DataFrame
        As the module says, with one encoding a machine, step, operand and pattern.
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
    rows = _one_each(_sparse(table, None), keys).sort_values("tokens", kind="stable")
    machines, patterns = list(rows["hardware"].unique()), pattern_order(rows["pattern"])
    operands = [name for name in OPERANDS if (rows["sparse_operand"] == name).any()]
    ticks = sorted(rows["tokens"].unique())
    columns = min(3, len(machines))
    fig, grid = panel_grid(-(-len(machines) // columns), columns, 2.1, theme, top=0.65)
    for ax in list(grid.flat)[len(machines) :]:
        ax.set_visible(False)
    for machine, ax in zip(machines, grid.flat, strict=False):
        speedup_axis(ax, rows[SPEEDUP], theme)
        here = rows[rows["hardware"] == machine]
        for (operand, pattern, _), curve in here.groupby(["sparse_operand", "pattern", "phase"]):
            place = patterns.index(pattern)
            width = 1.1 + (len(patterns) - 1 - place)
            ax.plot(
                curve["tokens"],
                curve[SPEEDUP],
                color=theme.series[place % len(theme.series)],
                linestyle="-" if operand == "weights" else (0, (5 / width, 3 / width)),
                linewidth=width,
                marker="o" if len(curve) == 1 else "",
                dash_capstyle="butt",
                zorder=3 + place,
            )
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_locator(FixedLocator(ticks))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xticklabels([f"{t // 1024}k" if t >= 1024 and t % 1024 == 0 else str(t) for t in ticks])
        ax.set_title(machine, loc="left", fontweight="bold", **_text(theme))
    lowest = list(grid.flat)[max(0, len(machines) - columns) : len(machines)]
    label_axes(np.array([lowest]), "tokens a step (decode batch, prefill length)", "", theme)
    label_axes(grid, "", SPEEDUP_LABEL, theme)
    handles = [
        Line2D([], [], color=theme.series[place % len(theme.series)], linewidth=3, label=pattern)
        for place, pattern in enumerate(patterns)
    ]
    handles += [
        Line2D([], [], color=theme.ink, linestyle=OPERANDS[name], label=f"{name} pruned") for name in operands
    ]
    add_legend(fig, [*handles, Patch(facecolor=theme.loss, label="slower than dense")], theme)
    return fig, grid


def bound_by_stage(
    table: pd.DataFrame,
    *,
    operand: str = "weights",
    steps: Sequence[Step] | None = None,
    theme: Theme = LIGHT,
) -> tuple[Figure, AxesGrid]:
    """Draw the time of a step against the dense one, split by the stage that bounds each layer.

    A row a machine, a column a step; a bar is the dense baseline, or a pattern in the encoding that its bar names,
    outlined where the machine's sparse unit takes it as it is.

    Parameters
    ----------
    table, operand, steps, theme
        As for `speedup_vs_pattern`, with the dense rows too, and one encoding a machine, step and pattern.

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
    chosen = _one_each(rows, ["hardware", "phase", "tokens", "pattern"])
    drawn = pd.concat([table[table["pattern"] == DENSE], chosen])
    top = 1.1 * max(1.0, float((1.0 / drawn[SPEEDUP]).max()))
    fig, grid = panel_grid(len(machines), len(shown), 1.6, theme)
    for machine, panels in zip(machines, grid, strict=True):
        for step, ax in zip(shown, panels, strict=True):
            here = _at(drawn, machine, step).set_index("pattern").reindex(bars)
            bottom = np.zeros(len(bars))
            for stage in STAGES:
                share = here[f"predicted_{stage}_bound_s"] / here["predicted_dense_time_s"]
                heights = share.fillna(0.0).to_numpy()
                ax.bar(range(len(bars)), heights, 0.76, bottom, color=theme.stages[stage], zorder=2)
                bottom += heights
            native = (here["execution"] == "native").to_numpy()
            ax.bar(np.flatnonzero(native), bottom[native], 0.76, fill=False, edgecolor=theme.ink, zorder=3)
            for place, encoding in enumerate(here["encoding"]):
                if isinstance(encoding, str):
                    ax.text(place, 0.04, encoding, rotation=90, ha="center", fontsize=6.5, color=BAR_TEXT)
            ax.axhline(1.0, color=theme.ink, linewidth=0.8, zorder=1)
            ax.set_ylim(0, top)
            ax.set_xticks(range(len(bars)), bars)
            ax.tick_params(axis="x", length=0)
    label_axes(grid, PATTERN_LABEL, "time / dense time [s/s]", theme)
    _titles(grid, machines, [step_name(step) for step in shown], theme)
    used = [stage for stage in STAGES if (drawn[f"predicted_{stage}_bound_s"] > 0).any()]
    handles = [Patch(facecolor=theme.stages[stage], label=f"bound by {STAGE_NAMES[stage]}") for stage in used]
    outline = Patch(fill=False, edgecolor=theme.ink, label="outlined: native sparse unit")
    add_legend(fig, [*handles, outline], theme)
    return fig, grid


def _sparse(table: pd.DataFrame, operand: str | None) -> pd.DataFrame:
    rows = table[table["pattern"] != DENSE]
    if operand is not None:
        rows = rows[rows["sparse_operand"] == operand]
    if rows.empty:
        raise RowError(f"table of predictions: no sparse row to draw (operand: {operand or 'any'})")
    return rows


def _at(rows: pd.DataFrame, machine: str, step: Step) -> pd.DataFrame:
    return rows[(rows["hardware"] == machine) & (rows["phase"] == step[0]) & (rows["tokens"] == step[1])]


def _look(place: int, theme: Theme) -> dict[str, Any]:
    colour, marker = theme.series[place % len(theme.series)], MARKERS[place % len(MARKERS)]
    return {"color": colour, "marker": marker, "markersize": 4.8, "markeredgewidth": 1.3}


def _one_each(rows: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Refuse a table that says two things where one is drawn."""
    twice = rows.duplicated(keys)
    if twice.any():
        where = ", ".join(str(value) for value in rows.loc[twice, keys].iloc[0])
        raise RowError(f"table of predictions: several rows for {where}; expected one (choose an encoding)")
    return rows


def panel_grid(
    rows: int, columns: int, panel_height_in: float, theme: Theme, *, top: float = 0.82, share_y: bool = True
) -> tuple[Figure, AxesGrid]:
    """Make panels of one size, `panel_height_in` inches high, under `top` inches for titles and a legend."""
    width, gap = 11.0, 0.18 if share_y else 0.75
    left, right, bottom, between = 0.7, 0.12, 0.55, 0.45
    height = top + bottom + rows * panel_height_in + (rows - 1) * between
    fig = Figure(figsize=(width, height), facecolor=theme.paper)
    panel = (width - left - right - (columns - 1) * gap) / columns
    margins = {"left": left / width, "right": 1 - right / width}
    margins |= {"top": 1 - top / height, "bottom": bottom / height}
    fig.subplots_adjust(**margins, wspace=gap / panel, hspace=between / panel_height_in)
    grid: AxesGrid = fig.subplots(rows, columns, squeeze=False, sharey=share_y)
    for ax in grid.flat:
        ax.set_facecolor(theme.paper)
        ax.grid(axis="y", color=theme.faint, linewidth=0.6)
        ax.set_axisbelow(True)
        ax.tick_params(colors=theme.ink, labelsize=8, length=2.5)
        if share_y and ax not in grid[:, 0]:
            ax.tick_params(axis="y", length=0)
        ax.spines[["top", "right"]].set_visible(False)
        for side in ("left", "bottom"):
            ax.spines[side].set_color(theme.quiet)
    return fig, grid


def speedup_axis(ax: Axes, speedups: Any, theme: Theme) -> None:
    """Make room for speedups from a little below 1 up, and shade what is slower than dense."""
    low, high = min(0.9, float(speedups.min()) - 0.06), max(1.1, float(speedups.max()) + 0.1)
    ax.axhspan(low, 1.0, color=theme.loss, zorder=0)
    ax.axhline(1.0, color=theme.ink, linewidth=0.8, zorder=1)
    ax.set_ylim(low, high)


def label_axes(grid: AxesGrid, x: str, y: str, theme: Theme) -> None:
    """Name the axes, with units: x under the last row of panels, y beside the first column."""
    for ax in grid[-1] if x else ():
        ax.set_xlabel(x, fontsize=8.5, color=theme.ink)
    for ax in grid[:, 0] if y else ():
        ax.set_ylabel(y, fontsize=8.5, color=theme.ink)


def _text(theme: Theme) -> dict[str, Any]:
    return {"fontsize": 9.5, "color": theme.ink}


def _titles(grid: AxesGrid, rows: Sequence[str], columns: Sequence[str], theme: Theme) -> None:
    for name, ax in zip(rows, grid[:, 0], strict=True):
        ax.set_title(name, loc="left", fontweight="bold", **_text(theme))
    for name, ax in zip(columns, grid[0], strict=True):
        ax.annotate(name, (0.5, 1), (0, 20), "axes fraction", "offset points", ha="center", **_text(theme))


def add_legend(fig: Figure, handles: Sequence[Any], theme: Theme) -> None:
    """Put one legend over all panels."""
    fig.legend(
        handles=list(handles), loc="upper center", ncols=min(len(handles), 8), frameon=False, fontsize=8.5,
        labelcolor=theme.ink, handletextpad=0.5, columnspacing=1.4, bbox_to_anchor=(0.5, 1.0),
    )  # fmt: skip
