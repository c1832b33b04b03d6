"""Predicted curves: each function takes a table and gives back `(fig, ax)`. Nothing is shown, saved or kept globally.

The tables are those of a whole model, one row a machine, step and way to store the sparse operand:

- `hardware`, `phase`, `tokens` (batch in decode, length of the prompt in prefill), `sparse_operand`, `pattern`
  (`"dense"` for the baseline), `encoding`, `execution`, `predicted_dense_time_s`, `predicted_speedup_vs_dense`, and
  `predicted_<stage>_bound_s`, the time of the layers that the stage bounds;
- for `bytes_per_element` one row a pattern and encoding, in bits an element: `measured_values_bits_per_elem`,
  `measured_metadata_bits_per_elem`, `entropy_bits_per_elem`, `dense_bits_per_elem`.

Every speedup is a bound, against the dense model on the same machine. Colours are those of Okabe and Ito, which
colour-blind readers tell apart.
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

from hwmodels.bounds import STAGES
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
SPEEDUP_LABEL = "speedup vs dense [×]"
PATTERN_LABEL = "pattern, kept : group [elements]"
MAX_STEPS = 4
MARKERS = "osv^DPX"
OPERAND_LINES = {"weights": "-", "activations": (0, (2, 1.2))}
STAGE_NAMES = {"memory": "memory", "decode": "decoding of codes", "select": "online pruning", "matrix": "arithmetic"}


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
    theme: Theme = LIGHT,
) -> tuple[Figure, AxesGrid]:
    """Draw the predicted speedup over patterns: a row a machine, a column a step, a curve an encoding.

    A filled marker says that the machine's sparse unit takes pattern and encoding as they are, a hollow one that
    software expands them.

    Parameters
    ----------
    table : DataFrame
        As the module says.
    operand : {"weights", "activations"}
    steps : sequence of (phase, tokens), optional
        Columns; `choose_steps` of the table when absent.
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
    fig, grid = _grid(len(machines), len(shown), 1.5, theme)
    dodge = np.linspace(-0.27, 0.27, len(encodings)) if len(encodings) > 1 else np.zeros(1)
    for machine, panels in zip(machines, grid, strict=True):
        for step, ax in zip(shown, panels, strict=True):
            _speedup_axis(ax, rows[SPEEDUP], theme)
            here = _at(rows, machine, step)
            for place, encoding in enumerate(encodings):
                found = here[here["encoding"] == encoding].set_index("pattern").reindex(patterns)
                _curve(ax, np.arange(len(patterns)) + dodge[place], found, _look(place, theme), theme)
            ax.set_xlim(-0.5, len(patterns) - 0.5)
            ax.set_xticks(range(len(patterns)), patterns)
    _label(grid, PATTERN_LABEL, SPEEDUP_LABEL, theme)
    _titles(grid, machines, [step_name(step) for step in shown], theme)
    handles: list[Any] = [
        Line2D([], [], linewidth=0.9, label=encoding, **_look(place, theme)) for place, encoding in enumerate(encodings)
    ]
    plain: dict[str, Any] = {"marker": "o", "linestyle": "none", "color": theme.ink, "markersize": 5}
    handles += [
        Line2D([], [], label="native sparse unit", **plain),
        Line2D([], [], label="expanded in software", markerfacecolor=theme.paper, **plain),
        Patch(facecolor=theme.loss, label="slower than dense"),
    ]
    _legend(fig, handles, theme)
    return fig, grid


def speedup_vs_tokens(table: pd.DataFrame, *, theme: Theme = LIGHT) -> tuple[Figure, AxesGrid]:
    """Draw the predicted speedup over tokens a step: a panel a machine, a colour a pattern, a line style an operand.

    Each point is the fastest encoding there. Decode batches and prefill lengths share the axis, since what counts
    is how many tokens meet each weight. Of curves that coincide, the first pattern's is the widest.

    Parameters
    ----------
    table : DataFrame
        As the module says.
    theme : Theme

    Returns
    -------
    tuple of Figure and Axes array

    Raises
    ------
    RowError
        No sparse row.
    """
    rows = _sparse(table, None)
    machines, patterns = list(rows["hardware"].unique()), pattern_order(rows["pattern"])
    operands = [name for name in OPERAND_LINES if (rows["sparse_operand"] == name).any()]
    best = rows.groupby(["hardware", "sparse_operand", "pattern", "phase", "tokens"])[SPEEDUP].max()
    ticks = sorted(rows["tokens"].unique())
    columns = min(3, len(machines))
    fig, grid = _grid(-(-len(machines) // columns), columns, 2.1, theme)
    for ax in list(grid.flat)[len(machines) :]:
        ax.set_visible(False)
    for machine, ax in zip(machines, grid.flat, strict=False):
        _speedup_axis(ax, best, theme)
        for (operand, pattern, _), curve in best[machine].groupby(level=[0, 1, 2]):
            place = patterns.index(pattern)
            ax.plot(
                curve.index.get_level_values("tokens"),
                curve.to_numpy(),
                color=theme.series[place % len(theme.series)],
                linestyle=OPERAND_LINES[operand],
                linewidth=1.3 + 1.5 * (len(patterns) - 1 - place),
                marker="o" if len(curve) == 1 else "",
                dash_capstyle="butt",
                zorder=3 + place,
            )
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_locator(FixedLocator(ticks))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xticklabels([f"{t // 1024}k" if t >= 1024 and t % 1024 == 0 else str(t) for t in ticks])
        ax.set_title(machine, loc="left", fontsize=9.5, fontweight="bold", color=theme.ink)
    _label(grid, "tokens a step (decode batch, prefill length)", SPEEDUP_LABEL, theme)
    handles = [
        Line2D([], [], color=theme.series[place % len(theme.series)], linewidth=3, label=pattern)
        for place, pattern in enumerate(patterns)
    ]
    handles += [
        Line2D([], [], color=theme.ink, linestyle=OPERAND_LINES[name], label=f"{name} pruned") for name in operands
    ]
    _legend(fig, [*handles, Patch(facecolor=theme.loss, label="slower than dense")], theme)
    return fig, grid


def bound_by_stage(
    table: pd.DataFrame,
    *,
    operand: str = "weights",
    steps: Sequence[Step] | None = None,
    theme: Theme = LIGHT,
) -> tuple[Figure, AxesGrid]:
    """Draw the time of a step against the dense one, split by the stage that bounds each layer.

    A row a machine, a column a step; a bar is the dense baseline, or a pattern in its fastest encoding, whose name
    stands in the bar.

    Parameters
    ----------
    table, operand, steps, theme
        As for `speedup_vs_pattern`; the table needs the dense rows too.

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
    machines, bars = list(rows["hardware"].unique()), [DENSE, *pattern_order(rows["pattern"])]
    best = rows.loc[rows.groupby(["hardware", "phase", "tokens", "pattern"])[SPEEDUP].idxmax().to_numpy()]
    drawn = pd.concat([table[table["pattern"] == DENSE], best])
    top = 1.1 * max(1.0, float((1.0 / drawn[SPEEDUP]).max()))
    fig, grid = _grid(len(machines), len(shown), 1.6, theme)
    for machine, panels in zip(machines, grid, strict=True):
        for step, ax in zip(shown, panels, strict=True):
            here = _at(drawn, machine, step).set_index("pattern").reindex(bars)
            bottom = np.zeros(len(bars))
            for stage in STAGES:
                share = (here[f"predicted_{stage}_bound_s"] / here["predicted_dense_time_s"]).fillna(0.0).to_numpy()
                ax.bar(range(len(bars)), share, 0.76, bottom, color=theme.stages[stage], zorder=2)
                bottom += share
            for place, encoding in enumerate(here["encoding"]):
                if isinstance(encoding, str):
                    ax.text(place, 0.04, encoding, rotation=90, ha="center", va="bottom", fontsize=6.5, color="#101418")
            ax.axhline(1.0, color=theme.ink, linewidth=0.8, zorder=1)
            ax.set_ylim(0, top)
            ax.set_xticks(range(len(bars)), bars)
    _label(grid, PATTERN_LABEL, "time / dense time [s/s]", theme)
    _titles(grid, machines, [step_name(step) for step in shown], theme)
    used = [stage for stage in STAGES if (drawn[f"predicted_{stage}_bound_s"] > 0).any()]
    handles = [Patch(facecolor=theme.stages[stage], label=f"bound by {STAGE_NAMES[stage]}") for stage in used]
    _legend(fig, handles, theme)
    return fig, grid


def bytes_per_element(bits: pd.DataFrame, *, theme: Theme = LIGHT) -> tuple[Figure, AxesGrid]:
    """Draw what is stored: all bytes an element beside the dense ones, and the metadata bits beside their entropy.

    Parameters
    ----------
    bits : DataFrame
        As the module says.
    theme : Theme

    Returns
    -------
    tuple of Figure and Axes array [1, 2]

    Raises
    ------
    RowError
        No row.
    """
    if bits.empty:
        raise RowError("table of bits: no row to draw")
    patterns, encodings = pattern_order(bits["pattern"]), list(bits["encoding"].unique())
    fig, grid = _grid(1, 2, 3.2, theme, share_y=False)
    whole, metadata = grid[0]
    width, top = 0.86 / len(encodings), float(bits["measured_metadata_bits_per_elem"].max())
    for place, encoding in enumerate(encodings):
        found = bits[bits["encoding"] == encoding].set_index("pattern").reindex(patterns)
        at = np.arange(len(patterns)) - 0.43 + (place + 0.5) * width
        values = found["measured_values_bits_per_elem"].to_numpy(float) / 8
        codes = found["measured_metadata_bits_per_elem"].to_numpy(float)
        colour = theme.series[place % len(theme.series)]
        whole.bar(at, values, 0.9 * width, color=theme.quiet, zorder=2)
        whole.bar(at, codes / 8, 0.9 * width, values, color=colour, zorder=2)
        drawn = metadata.bar(at, codes, 0.9 * width, color=colour, zorder=2)
        numbers = [f"{bit:.3g}" if np.isfinite(bit) else "" for bit in codes]
        metadata.bar_label(drawn, numbers, rotation=90, padding=2, fontsize=7, color=theme.ink)
    entropy = bits.groupby("pattern")["entropy_bits_per_elem"].first()
    for place, pattern in enumerate(patterns):
        metadata.hlines(entropy[pattern], place - 0.47, place + 0.47, color=theme.ink, linewidth=1.3, zorder=4)
    dense = float(bits["dense_bits_per_elem"].iloc[0]) / 8
    whole.axhline(dense, color=theme.ink, linewidth=1, linestyle=(0, (4, 2)), zorder=3)
    whole.annotate("dense", (0.01, dense), ("axes fraction", "data"), (0, 3), textcoords="offset points",
                   fontsize=8, color=theme.ink)  # fmt: skip
    whole.set_ylim(0, 1.12 * dense)
    metadata.set_ylim(0, 1.2 * top if top else 1.0)
    for ax, text in ((whole, "stored [bytes / element]"), (metadata, "metadata [bits / element]")):
        ax.set_xlim(-0.5, len(patterns) - 0.5)
        ax.set_xticks(range(len(patterns)), patterns)
        ax.tick_params(axis="x", length=0)
        _label(np.array([[ax]]), PATTERN_LABEL, text, theme)
    handles: list[Any] = [Patch(facecolor=theme.quiet, label="values")]
    handles += [
        Patch(facecolor=theme.series[place % len(theme.series)], label=f"metadata, {name}")
        for place, name in enumerate(encodings)
    ]
    _legend(fig, [*handles, Line2D([], [], color=theme.ink, linewidth=1.3, label="entropy, log₂ C(M, N)")], theme)
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
    return {"color": theme.series[place % len(theme.series)], "marker": MARKERS[place % len(MARKERS)], "markersize": 4.6}


def _curve(ax: Axes, at: NDArray[Any], found: pd.DataFrame, look: dict[str, Any], theme: Theme) -> None:
    """One encoding: a faint line, and on it a marker a pattern, filled where the sparse unit takes it as it is."""
    heights = found[SPEEDUP].to_numpy(float)
    ax.plot(at, heights, color=look["color"], linewidth=0.9, alpha=0.55, zorder=2)
    native = (found["execution"] == "native").to_numpy()
    for where, face in ((native, look["color"]), (~native, theme.paper)):
        ax.plot(at[where], heights[where], linestyle="none", markeredgewidth=1.2, markerfacecolor=face, zorder=3, **look)


def _grid(rows: int, columns: int, panel_height_in: float, theme: Theme, *, share_y: bool = True) -> tuple[Figure, AxesGrid]:
    """Panels of one size under room for titles and a legend, all margins in inches."""
    width, gap = 11.0, 0.18 if share_y else 0.75
    left, right, top, bottom, between = 0.7, 0.12, 0.95, 0.55, 0.45
    height = top + bottom + rows * panel_height_in + (rows - 1) * between
    fig = Figure(figsize=(width, height), facecolor=theme.paper)
    panel = (width - left - right - (columns - 1) * gap) / columns
    place = {"left": left / width, "right": 1 - right / width, "top": 1 - top / height, "bottom": bottom / height}
    grid: AxesGrid = fig.subplots(
        rows, columns, squeeze=False, sharey=share_y, gridspec_kw={**place, "wspace": gap / panel, "hspace": between / panel_height_in},
    )  # fmt: skip
    for ax in grid.flat:
        ax.set_facecolor(theme.paper)
        ax.grid(axis="y", color=theme.faint, linewidth=0.6)
        ax.set_axisbelow(True)
        ax.tick_params(colors=theme.ink, labelsize=8, length=2.5)
        ax.spines[["top", "right"]].set_visible(False)
        for side in ("left", "bottom"):
            ax.spines[side].set_color(theme.quiet)
    return fig, grid


def _speedup_axis(ax: Axes, speedups: Any, theme: Theme) -> None:
    low, high = min(0.9, float(speedups.min()) - 0.06), max(1.1, float(speedups.max()) + 0.1)
    ax.axhspan(low, 1.0, color=theme.loss, zorder=0)
    ax.axhline(1.0, color=theme.ink, linewidth=0.8, zorder=1)
    ax.set_ylim(low, high)


def _label(grid: AxesGrid, x: str, y: str, theme: Theme) -> None:
    for ax in grid[-1]:
        ax.set_xlabel(x, fontsize=8.5, color=theme.ink)
    for ax in grid[:, 0]:
        ax.set_ylabel(y, fontsize=8.5, color=theme.ink)


def _titles(grid: AxesGrid, rows: Sequence[str], columns: Sequence[str], theme: Theme) -> None:
    for name, ax in zip(rows, grid[:, 0], strict=True):
        ax.set_title(name, loc="left", fontsize=9.5, fontweight="bold", color=theme.ink)
    for name, ax in zip(columns, grid[0], strict=True):
        ax.annotate(name, (0.5, 1), (0, 24), "axes fraction", "offset points", ha="center", fontsize=9.5, color=theme.ink)


def _legend(fig: Figure, handles: Sequence[Any], theme: Theme) -> None:
    fig.legend(
        handles=list(handles), loc="upper center", ncols=min(len(handles), 8), frameon=False, fontsize=8.5,
        labelcolor=theme.ink, handletextpad=0.5, columnspacing=1.4, bbox_to_anchor=(0.5, 1.0),
    )  # fmt: skip
