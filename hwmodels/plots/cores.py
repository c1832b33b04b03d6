"""Figures of tensor cores from the table of a sweep: speedups, and what each stage of the pipeline does.

The table is that of `hwmodels.sweep`. A table without a column `phase` gets one from its tokens (`labels.PREFILL_FROM`). It
only names the step: the cycles of a product depend on its tokens alone. Refused points are left out.

The Roof-Surface shows what products do, under the roofs of memory, decoding, selection and array. Figures of pruning online
show from how many tokens it pays, and how fast a selector must be.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from hwmodels.plots import style
from hwmodels.plots.labels import (
    DENSE,
    SPEEDUP,
    SPEEDUP_LABEL,
    TOKENS_LABEL,
    Step,
    at_step,
    choose_steps,
    pattern_order,
    refuse_twice,
    rows_of,
    step_name,
)
from hwmodels.plots.predicted import speedup_vs_pattern
from hwmodels.plots.style import LIGHT, AxesGrid, Theme, styled
from hwmodels.tensorcore.answer import STAGE_WORDS, limit_in_words
from hwmodels.tensorcore.cycles import STAGES_OF_LIMIT
from hwmodels.tensorcore.record import SparseTensorCore
from hwmodels.tensorcore.services import STAGES
from nmsim.case import VALUE_BITS
from nmsim.errors import RowError, brief
from nmsim.pattern import Pattern

STORED = ("core", "phase", "tokens", "pattern", "encoding", "sparse_operand")
"""Columns that distinguish the marks of a figure."""
STAGE_HEADS = {
    "dram": "DRAM\nto L2",
    "l2": "L2 to\nshared",
    "shared": "shared to\nregisters",
    "prune": "online\npruning",
    "decode": "decoding",
    "select": "selecting\noperand B",
    "multiply": "multi-\nplying",
    "accumulate": "adding to\nthe sums",
    "write": "writing\nback",
}
LABEL_WIDTH, TIME_WIDTH = 1.55, 1.75
"""Widths of the first two columns, in widths of a stage's."""
BAR_SHARE, BAR_HEIGHT = 0.62, 0.62
"""Share of a stage's column that 100 % fills (the rest is for the number), and height of a bar in lines."""


def one_per_mark(rows: pd.DataFrame, what: str) -> pd.DataFrame:
    """Refuse a table with several rows for one mark, such as a sweep over numbers of a core."""
    return refuse_twice(rows, STORED, what, "keep one value of each other column")


def core_speedup_vs_pattern(
    table: pd.DataFrame,
    *,
    operand: str = "weights",
    steps: Sequence[Step] | None = None,
    theme: Theme = LIGHT,
) -> tuple[Figure, AxesGrid]:
    """Draw speedups vs the dense product on the same core: a row per core, a column per step, a marker per encoding.

    A filled marker says that the array skips what the pattern leaves out, a hollow one that codes are decoded and zeros
    multiplied. The figure is `hwmodels.plots.predicted.speedup_vs_pattern`.

    Parameters
    ----------
    table : DataFrame
        `core`, `tokens`, `pattern`, `encoding`, `sparse_operand`, `execution`, `speedup_vs_dense`.
    operand : {"weights", "activations"}
    steps : sequence of (phase, tokens), optional
    theme : Theme

    Returns
    -------
    tuple of Figure and Axes array [cores, steps]

    Raises
    ------
    RowError
        A column is missing, no sparse row of that operand, or several rows for one marker.

    Examples
    --------
    >>> import hwmodels
    >>> table = hwmodels.sweep({
    ...     "axes": {"core": ["dense", "flexible-8x16"], "pattern": ["2:4", "8:16"], "tokens": [1, 2048]},
    ...     "workload": {"shapes": [[4096, 4096]]},
    ... })
    >>> fig, grid = core_speedup_vs_pattern(table)
    >>> grid.shape
    (2, 2)
    """
    columns = ("core", "tokens", "pattern", "encoding", "sparse_operand", "execution", "speedup_vs_dense")
    what = "speedups of tensor cores"
    rows = one_per_mark(rows_of(table, columns, what), what)
    named = rows.rename(columns={"core": "hardware", "speedup_vs_dense": SPEEDUP})
    return speedup_vs_pattern(
        named, operand=operand, steps=steps, hollow="decoded, zeros multiplied", theme=theme
    )


@styled
def core_time_by_stage(
    table: pd.DataFrame, *, steps: Sequence[Step] | None = None, theme: Theme = LIGHT
) -> tuple[Figure, AxesGrid]:
    """Draw where the time goes: a panel per core and step, a line per stored form, a small bar for what each stage does.

    Stages overlap, so their times do not add up to the whole. Each small bar is the share of the cycles in which one stage
    works. The first bar of a line is the time over the dense time. It consists of the cycles of the busiest stage and of the
    rest. In the rest, the pipeline fills, drains or waits, or, in a sum over layers, another stage is the busiest. The stage
    that limits is in colour. Two stages are in colour if the room between them limits.

    Parameters
    ----------
    table : DataFrame
        `core`, `tokens`, `pattern`, `encoding`, `limit`, `cycles`, `dense_cycles`, `<stage>_cycles`.
    steps : sequence of (phase, tokens), optional
        The ends of decode and of prefill when absent.
    theme : Theme

    Returns
    -------
    tuple of Figure and Axes array [cores x steps, 1]

    Raises
    ------
    RowError
        A column is missing, there is no row, or several for one line.

    Examples
    --------
    >>> import hwmodels
    >>> table = hwmodels.sweep({
    ...     "core": {"base": "flexible-8x16"},
    ...     "axes": {"pattern": ["dense", "8:16"], "tokens": [1, 2048]},
    ...     "workload": {"shapes": [[4096, 4096]]},
    ... })
    >>> fig, grid = core_time_by_stage(table)
    >>> grid.shape
    (2, 1)
    """
    what = "times by stage"
    needed = ("core", "tokens", "pattern", "encoding", "limit", "cycles", "dense_cycles")
    rows = rows_of(table, (*needed, *(f"{stage}_cycles" for stage in STAGES)), what)
    rows = one_per_mark(rows, what)
    shown = list(steps) if steps is not None else choose_steps(rows)
    panels = [
        (f"{core}: {step_name(step)}", _in_order(own))
        for core in rows["core"].unique()
        for step in shown
        if len(own := at_step(rows[rows["core"] == core], step))
    ]
    if not panels:
        raise RowError(f"{what}: no row at {', '.join(step_name(step) for step in shown)}")
    # A stage without work in any row gets no column.
    stages = [stage for stage in STAGES if (rows[f"{stage}_cycles"] > 0).any()]
    lines = max(len(own) for _, own in panels)
    fig, grid = style.panel_grid(len(panels), 1, 0.205 * lines, top=1.05, share_y=False)
    longest = max(1.0, *((own["cycles"] / own["dense_cycles"]).max() for _, own in panels))
    for (name, own), ax in zip(panels, grid[:, 0], strict=True):
        _pipeline_panel(ax, own, stages, longest, theme)
        ax.set_title(name)
        ax.set_ylim(lines - 0.5, -0.5)
    _column_heads(grid[0, 0], stages)
    grid[-1, 0].set_xlabel(
        "time: time / dense time on the same core [s/s]; stages: share of the cycles in which a stage works [%]"
    )
    handles = [
        Patch(facecolor=theme.series[0], label="what limits"),
        Patch(facecolor=theme.quiet, label="another stage"),
        Patch(label="filling, draining, waiting", **_waiting(theme)),
        style.line_key("dense time, 1.0", color=theme.ink, linewidth=0.8),
    ]
    style.add_legend(fig, handles)
    return fig, grid


def _waiting(theme: Theme) -> dict[str, Any]:
    """Look of the time in which the busiest stage does not work."""
    return {"facecolor": theme.paper, "edgecolor": theme.quiet, "hatch": "/////"}


def _in_order(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows by pattern, the dense one first, encodings in the order of the table."""
    order = {name: place for place, name in enumerate([DENSE, *pattern_order(rows["pattern"])])}
    return rows.sort_values("pattern", key=lambda column: column.map(order), kind="stable")


def _pipeline_panel(ax: Axes, rows: pd.DataFrame, stages: list[str], longest: float, theme: Theme) -> None:
    # Columns of bars and their numbers share one axis, so that they need one panel only.
    scale = (TIME_WIDTH - 0.55) / longest
    lefts = [LABEL_WIDTH + TIME_WIDTH + column for column in range(len(stages))]

    def bar(line: int, left: float, width: float, limits: bool) -> None:
        colour = theme.series[0] if limits else theme.quiet
        ax.barh(line, width, BAR_HEIGHT, left, color=colour, zorder=2)

    def write(left: float, line: int, text: str, weight: str = "normal") -> None:
        ax.text(left, line, text, va="center", fontsize=7.5, fontweight=weight)

    for line, row in enumerate(rows.to_dict("records")):
        write(0, line, DENSE if row["pattern"] == DENSE else f"{row['pattern']} {row['encoding']}")
        busy = {stage: row[f"{stage}_cycles"] for stage in STAGES}
        most, time = max(busy.values()) / row["dense_cycles"], row["cycles"] / row["dense_cycles"]
        limiting = STAGES_OF_LIMIT[row["limit"]]
        bar(line, LABEL_WIDTH, scale * most, any(busy[stage] == max(busy.values()) for stage in limiting))
        rest = LABEL_WIDTH + scale * most
        ax.barh(line, scale * (time - most), BAR_HEIGHT, rest, linewidth=0, zorder=2, **_waiting(theme))
        write(LABEL_WIDTH + scale * max(time, 1.0) + 0.06, line, f"{time:.2f}")
        for stage, left in zip(stages, lefts, strict=True):
            share = busy[stage] / row["cycles"]
            bar(line, left, BAR_SHARE * share, stage in limiting)
            text = f"{100 * share:.0f}" if share else "–"
            write(left + BAR_SHARE * share + 0.05, line, text, "bold" if stage in limiting else "normal")
    ends = [-0.45, len(rows) - 0.55]
    ax.plot([LABEL_WIDTH + scale] * 2, ends, color=theme.ink, linewidth=0.8, zorder=3)
    for left in lefts:
        ax.plot([left, left], ends, color=theme.quiet, linewidth=0.7, zorder=1)
    ax.set_xlim(0, LABEL_WIDTH + TIME_WIDTH + len(stages))
    ax.set_xticks([])
    ax.set_yticks([])
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)


def _column_heads(ax: Axes, stages: list[str]) -> None:
    """Name the columns over the first panel."""
    heads = [(LABEL_WIDTH, "time")]
    heads += [(LABEL_WIDTH + TIME_WIDTH + column, STAGE_HEADS[stage]) for column, stage in enumerate(stages)]
    for left, head in heads:
        ax.annotate(
            head, (left, 1.0), (0, 19), ("data", "axes fraction"), "offset points", va="bottom", fontsize=8,
            linespacing=1.05,
        )  # fmt: skip


ROOF_COLOURS = {
    "dram": style.STAGE_COLOURS["memory"],
    "decode": style.STAGE_COLOURS["decode"],
    "select": style.STAGE_COLOURS["select"],
    "multiply": style.STAGE_COLOURS["matrix"],
}
"""Stages that have a roof -> its colour."""
MOVING: dict[str, Any] = {"decode": (0, (1, 1)), "select": (0, (5, 1.5, 1, 1.5))}
"""Stages whose roof depends on what is stored and on the tokens -> the style of their lines."""
COLUMNS = (
    *("core", "dtype", "tokens", "pattern", "encoding", "limit", "time_s", "effectual_macs"),
    *("dram_read_bytes", "dram_write_bytes", "decode_cycles", "select_cycles"),
)
TERA = 1e12
ROOM_LEFT = 0.25
"""Left end of the axis, as a share of the least point: room for what is written there."""


@styled
def roof_surface(
    table: pd.DataFrame, *, core: SparseTensorCore, theme: Theme = LIGHT
) -> tuple[Figure, AxesGrid]:
    """Draw effectual multiply-adds per second over those per DRAM byte: products of a core, and the roofs over them.

    A marker is a pattern, a point one number of tokens, its colour that of the stage that limits it. Roofs of memory and
    array follow from the core's numbers: DRAM bandwidth, and all multiply-adds of the array. The array has one roof for kept
    elements alone and one, at each density of the table, for zeros that are multiplied as well. Decoders and the network that
    selects operand B have a roof for each pattern. It moves with what is multiplied per group: a section of the Roof-Surface
    along the tokens, from the time that the stage works.

    Parameters
    ----------
    table : DataFrame
        Rows of one core: `core`, `dtype`, `tokens`, `pattern`, `encoding`, `limit`, `time_s`, `effectual_macs`,
        `dram_read_bytes`, `dram_write_bytes`, `decode_cycles`, `select_cycles`.
    core : SparseTensorCore
    theme : Theme

    Returns
    -------
    tuple of Figure and Axes array [1, 1]

    Raises
    ------
    RowError
        A column is missing, there is no row, several for one point, or rows of another core or of several value types.

    Source
    ------
    Roofs of memory, decoding and array over one another: the Roof-Surface of DECA, arXiv 2505.19349.

    Examples
    --------
    >>> import hwmodels
    >>> from hwmodels.tensorcore.record import load_core
    >>> table = hwmodels.sweep({
    ...     "core": {"base": "flexible-8x16"},
    ...     "axes": {"pattern": ["dense", "8:16"], "tokens": [1, 64, 2048]},
    ...     "workload": {"shapes": [[4096, 4096]]},
    ... })
    >>> fig, grid = roof_surface(table, core=load_core("flexible-8x16"))
    >>> grid[0, 0].get_xscale()
    'log'
    """
    what = "roofs"
    rows = rows_of(table, COLUMNS, what)
    others, dtypes = sorted(set(rows["core"]) - {core.id}), list(rows["dtype"].unique())
    if others or len(dtypes) > 1:
        raise RowError(
            f"{what}: rows of {', '.join([*others, *dtypes])}: expected one value type on {core.id} alone"
        )
    rows = one_per_mark(rows, what).sort_values("tokens", kind="stable")
    # Both axes count effectual multiply-adds alone, so that all patterns stand under the same roofs.
    rows["x"] = rows["effectual_macs"] / (rows["dram_read_bytes"] + rows["dram_write_bytes"])
    rows["y"] = rows["effectual_macs"] / rows["time_s"] / TERA
    fig, grid = style.panel_grid(1, 1, 4.4, top=0.3)
    ax: Axes = grid[0, 0]
    peak = core.macs_per_cycle(VALUE_BITS[dtypes[0]]) * core.clock_hz / TERA
    ends = (ROOM_LEFT * rows["x"].min(), 2.5 * rows["x"].max())
    _plain_roofs(ax, core, rows, peak, ends)
    order = [DENSE, *pattern_order(rows["pattern"])]
    curves = sorted(
        rows.groupby(["pattern", "encoding"], sort=False), key=lambda curve: order.index(str(curve[0][0]))
    )
    several = rows.groupby("pattern")["encoding"].nunique().max() > 1
    for place, ((pattern, encoding), points) in enumerate(curves):
        name = f"{pattern} {encoding}" if several and pattern != DENSE else str(pattern)
        for stage in MOVING:
            _moving_roof(ax, points, stage, core.clock_hz, name, theme)
        ax.plot(points["x"], points["y"], color=theme.quiet, linewidth=0.9, zorder=3)
        look: dict[str, Any] = {
            "marker": style.MARKERS[place % len(style.MARKERS)],
            "linestyle": "none",
            "markersize": 6.5,
        }
        look |= {"markeredgecolor": theme.ink, "markeredgewidth": 0.7}
        for x, y, limit in zip(points["x"], points["y"], points["limit"], strict=True):
            ax.plot(x, y, color=ROOF_COLOURS.get(limit, theme.quiet), zorder=5, **look)
        ax.plot([], [], color=theme.paper, label=name, **look)
    names = [text for text in ax.texts if text.get_gid() == NAME_OF_ROOF]
    if len(names) == 1:  # patterns that share a roof have no name of their own on it
        names[0].set_text("decoding")
    _token_numbers(ax, rows)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlim(*ends)
    ax.set_ylim(0.5 * rows["y"].min(), 2.2 * peak)
    for axis in (ax.xaxis, ax.yaxis):
        style.plain_numbers(axis)
    style.label_axes(
        grid, "effectual multiply-adds / DRAM byte [1/byte]", "effectual multiply-adds / time [10¹²/s]"
    )
    ax.set_title(f"{core.name}, {dtypes[0]}; numbers beside points: tokens")
    _roof_legend(ax, rows, theme)
    return fig, grid


def _token_numbers(ax: Axes, rows: pd.DataFrame) -> None:
    """Write the tokens below the lowest point of each number, if the last number written is far enough."""
    last = 0.0
    for tokens, points in rows.groupby("tokens"):
        x, y = points["x"].max(), points["y"].min()
        if x > 1.35 * last:
            ax.annotate(f"{tokens}", (x, y), (5, -11), textcoords="offset points", fontsize=7.5)
            last = x


NAME_OF_ROOF = "name of a roof of decoding"


def _plain_roofs(
    ax: Axes, core: SparseTensorCore, rows: pd.DataFrame, peak: float, ends: tuple[float, float]
) -> None:
    """Roofs that are the same for all patterns: memory, and the array at each density."""
    bandwidth = core.dram_bytes_per_cycle * core.clock_hz / TERA
    x = np.array(ends)
    ax.plot(x, bandwidth * x, color=ROOF_COLOURS["dram"], linewidth=2, zorder=2)
    roofs: list[tuple[str, float, dict[str, Any]]] = [
        ("array, dense or zeros skipped", peak, {"linewidth": 2})
    ]
    densities = sorted({float(Pattern.parse(text).density) for text in set(rows["pattern"]) - {DENSE}})
    for density in densities:
        dashed = {"linewidth": 1.2, "linestyle": (0, (6, 3))}
        roofs.append((f"array, zeros multiplied, density {density:g}", density * peak, dashed))
    for name, height, look in roofs:
        ax.plot(x, [height, height], color=ROOF_COLOURS["multiply"], zorder=2, **look)
        ax.annotate(name, (ends[0], height), (4, 4), textcoords="offset points", fontsize=8)


def _moving_roof(
    ax: Axes, points: pd.DataFrame, stage: str, clock_hz: float, name: str, theme: Theme
) -> None:
    """The roof of a stage that depends on what is stored and on the tokens; none for a stage without work, none twice."""
    works = points[(points[f"{stage}_cycles"] > 0) & (points["pattern"] != DENSE)]
    y = (works["effectual_macs"] * clock_hz / works[f"{stage}_cycles"] / TERA).to_numpy()
    group = f"roof of {stage}"
    drawn = (np.asarray(line.get_ydata(), float) for line in ax.lines if line.get_gid() == group)
    if works.empty or any(len(other) == len(y) and np.allclose(y, other) for other in drawn):
        return
    colour = ROOF_COLOURS[stage]
    ax.plot(works["x"], y, color=colour, linestyle=MOVING[stage], linewidth=1.7, zorder=3, gid=group)
    if stage == "decode":
        box = {"facecolor": theme.paper, "edgecolor": "none", "pad": 0.8}
        ax.annotate(
            f"decoding {name}", (works["x"].iloc[0], y[0]), (-5, 0), textcoords="offset points", fontsize=8,
            ha="right", va="center", zorder=4, bbox=box, gid=NAME_OF_ROOF,
        )  # fmt: skip


def _roof_legend(ax: Axes, rows: pd.DataFrame, theme: Theme) -> None:
    points, _ = ax.get_legend_handles_labels()
    handles: list[Any] = [*points]
    for stage, colour in ROOF_COLOURS.items():
        label = f"{STAGE_WORDS[stage]}: roof, and points that it limits"
        look: dict[str, Any] = {"color": colour, "marker": "o", "markeredgecolor": theme.ink}
        handles.append(style.line_key(label, linestyle=MOVING.get(stage, "-"), linewidth=1.8, **look))
    others = [limit for limit in rows["limit"].unique() if limit not in ROOF_COLOURS]
    if others:
        words = ", ".join(map(limit_in_words, others))
        grey: dict[str, Any] = {"color": theme.quiet, "markeredgecolor": theme.ink, "markersize": 6}
        handles.append(style.mark_key(f"limited by {words}", **grey))
    ax.legend(handles=handles, loc="lower right")


GAIN = 1.05
"""Speedup vs dense that counts as a gain."""
PANEL = ("core", "pattern", "encoding")
"""Columns that may be added to a table of `hwmodels.online.break_even`: each of their values is drawn by itself."""
PLACEMENTS: dict[str, Any] = {"producer": "-", "consumer": style.DASHED}
"""Where a selector may stand -> the style of its curve."""


@styled
def break_even_batch(
    table: pd.DataFrame, *, at_least: float = GAIN, theme: Theme = LIGHT
) -> tuple[Figure, AxesGrid]:
    """Draw the speedup of pruned activations over tokens, beside that of pruned weights, and mark where it stops paying.

    Marked are the last number of tokens up to which all rows gain, and the first from which on all do. They are exact if
    the table has the numbers beside them.

    Parameters
    ----------
    table : DataFrame
        Of `hwmodels.online.break_even.batch_table`: `tokens`, `placement`, `speedup_vs_dense`,
        `speedup_vs_sparse_weights`. Several may be put together, with columns `core`, `pattern`, `encoding` that distinguish
        them: a panel each.
    at_least : float
        Speedup vs dense that counts as a gain.
    theme : Theme

    Returns
    -------
    tuple of Figure and Axes array [1, panels]

    Raises
    ------
    RowError
        A column is missing, there is no row, or several for one point.

    Examples
    --------
    >>> from hwmodels.online.break_even import batch_table
    >>> from hwmodels.tensorcore.record import load_core
    >>> from nmsim.case import Case, GemmShape
    >>> case = Case(GemmShape(1, 4096, 4096), "8:16", sparse_operand="activations")
    >>> fig, grid = break_even_batch(batch_table(case, load_core("flexible-8x16"), [1, 2, 64, 1024]))
    >>> grid.shape
    (1, 1)
    """
    what = "break-even in tokens"
    columns = ("tokens", "placement", "speedup_vs_dense", "speedup_vs_sparse_weights")
    rows = _points(table, columns, what)
    rows["weights"] = rows["speedup_vs_dense"] / rows["speedup_vs_sparse_weights"]
    # Panels share the y axis, so that speedups of cores can be compared.
    panels = _panels(rows)
    dotted: dict[str, Any] = {"color": theme.ink, "linewidth": 0.7, "linestyle": style.DOTTED}
    fig, grid = style.panel_grid(1, len(panels), 2.7, top=0.75)
    for (name, own), ax in zip(panels, grid[0], strict=True):
        style.speedup_axis(ax, rows[["speedup_vs_dense", "weights"]].stack(), theme)
        ax.axhline(at_least, zorder=1, **dotted)
        for placement, curve in own.groupby("placement", sort=False):
            look = _look(str(placement), theme)
            ax.plot(curve["tokens"], curve["speedup_vs_dense"], zorder=4, **look)
            _mark_ends(ax, curve, at_least, str(placement), theme)
        weights = own.drop_duplicates("tokens")
        ax.plot(weights["tokens"], weights["weights"], color=theme.series[-1], linewidth=1.6, zorder=3)
        ax.set_xscale("log", base=2)
        powers = range(0, int(own["tokens"].max()).bit_length(), 2)
        ticks = [1 << power for power in powers if own["tokens"].min() <= 1 << power]
        style.fixed_ticks(ax.xaxis, ticks, lambda value: f"{value:.0f}")
        ax.set_title(name)
    style.label_axes(grid, TOKENS_LABEL, SPEEDUP_LABEL)
    handles: list[Any] = [
        style.line_key(f"activations pruned, selector at the {name}", **_look(name, theme))
        for name in PLACEMENTS
        if (rows["placement"] == name).any()
    ]
    handles.append(style.line_key("weights pruned", color=theme.series[-1], linewidth=1.6))
    handles.append(style.line_key(f"a gain of {100 * (at_least - 1):.0f} %", **dotted))
    style.add_legend(fig, [*handles, style.slower_key(theme)])
    return fig, grid


@styled
def selector_need(
    table: pd.DataFrame, *, built_elements_per_cycle: float | None = None, theme: Theme = LIGHT
) -> tuple[Figure, AxesGrid]:
    """Draw how fast a selector must be: to be as fast as the dense product (hollow), and to cost next to nothing (filled).

    Parameters
    ----------
    table : DataFrame
        Of `hwmodels.online.break_even.selector_table`: `tokens`, `placement`, `as_fast_as_dense`, `near_free`, in elements
        per cycle and core. Several may be put together with a column `pattern`: a marker each. If no selector is fast
        enough, a triangle points out of the panel.
    built_elements_per_cycle : float, optional
        What a core has, drawn as a line.
    theme : Theme

    Returns
    -------
    tuple of Figure and Axes array [1, placements]

    Raises
    ------
    RowError
        A column is missing, there is no row, or several for one point.

    Examples
    --------
    >>> from hwmodels.online.break_even import selector_table
    >>> from hwmodels.tensorcore.record import load_core
    >>> from nmsim.case import Case, GemmShape
    >>> case = Case(GemmShape(1, 4096, 4096), "8:16", sparse_operand="activations")
    >>> fig, grid = selector_need(selector_table(case, load_core("flexible-8x16"), [1, 64]))
    >>> grid.shape
    (1, 2)
    """
    rows = _points(table, ("tokens", "placement", "as_fast_as_dense", "near_free"), "rate of a selector")
    if "pattern" not in rows.columns:
        rows["pattern"] = ""
    patterns = pattern_order(rows["pattern"]) if rows["pattern"].all() else [""]
    placements = [name for name in PLACEMENTS if (rows["placement"] == name).any()]
    tokens = sorted(rows["tokens"].unique())
    rates = rows[["as_fast_as_dense", "near_free"]].to_numpy(float)
    built = [built_elements_per_cycle] if built_elements_per_cycle else []
    finite = [*rates[np.isfinite(rates)], *built] or [1.0]
    low, high = 0.5 * min(finite), 4.0 * max(finite)
    # A rate that no selector reaches is infinite: its triangle stands near the upper edge.
    beyond = high / 1.5
    line: dict[str, Any] = {"color": theme.ink, "linewidth": 0.9, "linestyle": style.DASHED}
    fig, grid = style.panel_grid(1, len(placements), 2.9, top=0.75)
    offsets = style.side_by_side(len(patterns), 0.28)
    for placement, ax in zip(placements, grid[0], strict=True):
        here = rows[rows["placement"] == placement]
        for place, pattern in enumerate(patterns):
            own = here[here["pattern"] == pattern].set_index("tokens").reindex(tokens)
            colour, at = theme.colour(place), np.arange(len(tokens)) + offsets[place]
            dense, free = own["as_fast_as_dense"].to_numpy(float), own["near_free"].to_numpy(float)
            ends = np.minimum(dense, beyond), np.minimum(free, beyond)
            ax.vlines(at, *ends, color=colour, linewidth=1.6, zorder=3)
            for rate, face in ((dense, theme.paper), (free, colour)):
                look: dict[str, Any] = {
                    "color": colour,
                    "markerfacecolor": face,
                    "linestyle": "none",
                    "zorder": 4,
                }
                never = np.isinf(rate)
                ax.plot(at, np.where(never, np.nan, rate), marker="o", markersize=5.5, **look)
                ax.plot(at[never], [beyond] * int(never.sum()), marker="^", **look)
        for height in built:
            ax.axhline(height, zorder=1, **line)
        style.named_axis(ax, tokens, theme, divided=True)
        ax.set_yscale("log")
        ax.set_ylim(low, high)
        style.plain_numbers(ax.yaxis)
        ax.set_title(f"selector at the {placement}")
    style.label_axes(grid, TOKENS_LABEL, "selector of a core [elements/cycle]")
    handles: list[Any] = [
        style.line_key(pattern, color=theme.colour(place), linewidth=3) for place, pattern in enumerate(patterns) if pattern
    ]  # fmt: skip
    handles.append(style.mark_key("as fast as dense", markerfacecolor=theme.paper, color=theme.ink))
    handles.append(style.mark_key("within 1 % of one that takes no time", color=theme.ink))
    if np.isinf(rates).any():
        handles.append(style.mark_key("none is fast enough", marker="^", color=theme.ink))
    handles += [style.line_key(f"what the core has, {rate:g}", **line) for rate in built]
    style.add_legend(fig, handles)
    return fig, grid


def _look(placement: str, theme: Theme) -> dict[str, Any]:
    colour = theme.series[0 if placement == "producer" else 4]
    return {"color": colour, "linewidth": 2, "linestyle": PLACEMENTS[placement]}


def _points(table: pd.DataFrame, columns: Sequence[str], what: str) -> pd.DataFrame:
    rows = rows_of(table, columns, what)
    unknown = sorted(set(rows["placement"]) - set(PLACEMENTS))
    if unknown:
        raise RowError(f"{what}: placement {brief(unknown[0])}: expected one of {', '.join(PLACEMENTS)}")
    keys = (*PANEL, "tokens", "placement")
    rows = refuse_twice(rows, keys, what, "add a column that tells them apart")
    return rows.sort_values("tokens", kind="stable")


def _panels(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    keys = [name for name in PANEL if name in rows.columns]
    if not keys:
        return [("", rows)]
    order = rows[keys].drop_duplicates()
    if "pattern" in keys:
        place = {name: at for at, name in enumerate(pattern_order(rows["pattern"]))}
        order = order.sort_values("pattern", key=lambda column: column.map(place), kind="stable")
    groups = rows.groupby(keys, sort=False)
    return [
        (" ".join(map(str, names)), groups.get_group(tuple(names))) for names in order.itertuples(index=False)
    ]


def _mark_ends(ax: Axes, curve: pd.DataFrame, at_least: float, placement: str, theme: Theme) -> None:
    """Mark the last row before a loss and the first after the last one, with their tokens."""
    gains = (curve["speedup_vs_dense"] >= at_least).tolist()
    tokens, speedup = curve["tokens"].tolist(), curve["speedup_vs_dense"].tolist()
    if all(gains) or not any(gains):
        return
    first_loss, last_loss = gains.index(False), len(gains) - 1 - gains[::-1].index(False)
    above, colour = placement == "producer", _look(placement, theme)["color"]
    box = {"facecolor": theme.paper, "edgecolor": "none", "pad": 0.6, "alpha": 0.8}
    for place, text, right in ((first_loss - 1, "up to {}", above), (last_loss + 1, "from {}", False)):
        if not 0 <= place < len(gains):
            continue
        at = (tokens[place], speedup[place])
        ax.plot(*at, "o", color=colour, markersize=6, markeredgecolor=theme.paper, zorder=6)
        offset = (7 if right else -7, 6 if above else -14)
        ax.annotate(
            text.format(tokens[place]), at, offset, textcoords="offset points", fontsize=8,
            ha="left" if right else "right", zorder=7, bbox=box,
        )  # fmt: skip
