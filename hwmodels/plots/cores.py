"""Figures of tensor cores from the table of a sweep: speedups, and what each stage does. Each gives `(fig, ax)`.

The table is that of `hwmodels.sweep`. Where it has no column `phase`, a row counts as decode below `PREFILL_FROM` tokens and
as prefill from there on; this only names the step, the cycles of a product depend on its tokens alone. Refused points are
left out. Conventions and colours are those of `hwmodels.plots.predicted`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from hwmodels.plots import predicted as plots
from hwmodels.plots.predicted import DENSE, LIGHT, AxesGrid, Step, Theme, add_legend, panel_grid
from hwmodels.tensorcore.services import STAGES
from nmsim.errors import RowError

PREFILL_FROM = 256
"""Tokens from which on a step without a phase is called prefill."""
WAY = ("core", "phase", "tokens", "pattern", "encoding", "sparse_operand")
"""What tells the rows of a figure apart."""
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


def rows_of(table: pd.DataFrame, columns: Sequence[str], what: str) -> pd.DataFrame:
    """Check a table and keep the rows that can be drawn, with texts as plain objects and a column `phase`.

    Raises
    ------
    RowError
        A column is missing, or no row is left.

    Examples
    --------
    >>> rows_of(pd.DataFrame({"tokens": [1, 512]}), ["tokens"], "an example").phase.tolist()
    ['decode', 'prefill']
    """
    columns = tuple(dict.fromkeys(columns))
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise RowError(
            f"{what}: no column {', '.join(missing)}: expected {', '.join(columns)}, as in the table of a sweep"
        )
    rows = table[table["refused"].astype(str) == ""] if "refused" in table.columns else table
    if rows.empty:
        raise RowError(f"{what}: no row to draw: expected a table of at least one point that is not refused")
    texts = [name for name in rows.columns if not pd.api.types.is_numeric_dtype(rows[name])]
    rows = rows.assign(**{name: rows[name].astype(object) for name in texts})
    if "phase" not in rows.columns and "tokens" in rows.columns:
        rows["phase"] = np.where(rows["tokens"] < PREFILL_FROM, "decode", "prefill")
        rows["phase"] = rows["phase"].astype(object)
    return rows


def one_a_way(rows: pd.DataFrame, what: str) -> pd.DataFrame:
    """Refuse a table that says two things of one mark, such as a sweep over numbers of a core."""
    keys = [name for name in WAY if name in rows.columns]
    twice = rows.duplicated(keys)
    if twice.any():
        where = ", ".join(str(value) for value in rows.loc[twice, keys].iloc[0])
        raise RowError(
            f"{what}: several rows for {where}: expected one (keep one value of each other column)"
        )
    return rows


def speedup_vs_pattern(
    table: pd.DataFrame,
    *,
    operand: str = "weights",
    steps: Sequence[Step] | None = None,
    theme: Theme = LIGHT,
) -> tuple[Figure, AxesGrid]:
    """Draw speedups vs the dense product on the same core: a row a core, a column a step, a marker an encoding.

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
    >>> found = hwmodels.sweep({
    ...     "axes": {"core": ["dense", "flexible-8x16"], "pattern": ["2:4", "8:16"], "tokens": [1, 2048]},
    ...     "workload": {"shapes": [[4096, 4096]]},
    ... })
    >>> fig, grid = speedup_vs_pattern(found)
    >>> grid.shape
    (2, 2)
    """
    columns = ("core", "tokens", "pattern", "encoding", "sparse_operand", "execution", "speedup_vs_dense")
    what = "speedups of tensor cores"
    rows = one_a_way(rows_of(table, columns, what), what)
    named = rows.rename(columns={"core": "hardware", "speedup_vs_dense": plots.SPEEDUP})
    return plots.speedup_vs_pattern(
        named, operand=operand, steps=steps, hollow="decoded, zeros multiplied", theme=theme
    )


def time_by_stage(
    table: pd.DataFrame, *, steps: Sequence[Step] | None = None, theme: Theme = LIGHT
) -> tuple[Figure, AxesGrid]:
    """Draw where the time goes: a panel a core and step, a line a way to store, a small bar for what each stage does.

    Stages overlap, so that their times do not add up to the whole: a stack of all of them would be longer than the time, and
    each bar here is the share of the cycles in which one stage works. What can be stacked stands first: the time over the
    dense time, made of the cycles of the busiest stage and of the rest, in which the pipeline fills, drains or waits, or, in
    a sum over layers, another stage is the busiest. The stage that limits is in colour; two are where the room between
    them does.

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
    >>> found = hwmodels.sweep({
    ...     "core": {"base": "flexible-8x16"},
    ...     "axes": {"pattern": ["dense", "8:16"], "tokens": [1, 2048]},
    ...     "workload": {"shapes": [[4096, 4096]]},
    ... })
    >>> fig, grid = time_by_stage(found)
    >>> grid.shape
    (2, 1)
    """
    what = "times by stage"
    needed = ("core", "tokens", "pattern", "encoding", "limit", "cycles", "dense_cycles")
    rows = rows_of(table, (*needed, *(f"{stage}_cycles" for stage in STAGES)), what)
    rows = one_a_way(rows, what)
    shown = list(steps) if steps is not None else plots.choose_steps(rows)
    here = [rows[(rows["phase"] == phase) & (rows["tokens"] == tokens)] for phase, tokens in shown]
    panels = [
        (f"{core}: {plots.step_name(step)}", _in_order(some[some["core"] == core]))
        for core in rows["core"].unique()
        for step, some in zip(shown, here, strict=True)
        if (some["core"] == core).any()
    ]
    if not panels:
        raise RowError(f"{what}: no row at {', '.join(plots.step_name(step) for step in shown)}")
    stages = [stage for stage in STAGES if (rows[f"{stage}_cycles"] > 0).any()]
    most = max(len(found) for _, found in panels)
    fig, grid = panel_grid(len(panels), 1, 0.205 * most, theme, top=1.05, share_y=False)
    longest = max(1.0, *((found["cycles"] / found["dense_cycles"]).max() for _, found in panels))
    for (name, found), ax in zip(panels, grid[:, 0], strict=True):
        _pipeline_panel(ax, found, stages, longest, theme)
        ax.set_title(name, loc="left", fontweight="bold", fontsize=9.5, color=theme.ink)
        ax.set_ylim(most - 0.5, -0.5)
    _column_heads(grid[0, 0], stages, theme)
    grid[-1, 0].set_xlabel(
        "time: time / dense time on the same core [s/s]; stages: share of the cycles in which a stage works [%]",
        fontsize=8.5,
        color=theme.ink,
    )
    handles = [
        Patch(facecolor=theme.series[0], label="what limits"),
        Patch(facecolor=theme.quiet, label="another stage"),
        Patch(
            facecolor=theme.paper, edgecolor=theme.quiet, hatch="/////", label="filling, draining, waiting"
        ),
        Line2D([], [], color=theme.ink, linewidth=0.8, label="dense time, 1.0"),
    ]
    add_legend(fig, handles, theme)
    return fig, grid


LABEL_WIDTH, TIME_WIDTH = 1.55, 1.75
"""Widths of the first two columns, in widths of a stage's."""
BAR_SHARE = 0.62
"""Share of a stage's column that 100 % fills; the rest is for the number."""


def _in_order(found: pd.DataFrame) -> pd.DataFrame:
    """Rows by pattern, the dense one first, encodings in the order of the table."""
    order = {name: place for place, name in enumerate([DENSE, *plots.pattern_order(found["pattern"])])}
    return found.sort_values("pattern", key=lambda column: column.map(order), kind="stable")


def _pipeline_panel(ax: Axes, found: pd.DataFrame, stages: list[str], longest: float, theme: Theme) -> None:
    scale = (TIME_WIDTH - 0.55) / longest
    text: dict[str, Any] = {"va": "center", "fontsize": 7.5, "color": theme.ink}
    for place, row in enumerate(found.to_dict("records")):
        dense = row["pattern"] == DENSE
        ax.text(0, place, DENSE if dense else f"{row['pattern']} {row['encoding']}", **text)
        busy = {stage: row[f"{stage}_cycles"] for stage in STAGES}
        most, time = max(busy.values()) / row["dense_cycles"], row["cycles"] / row["dense_cycles"]
        limiting = str(row["limit"]).removesuffix(" waiting").split(" and ")
        blue = any(busy[stage] == max(busy.values()) for stage in limiting)
        ax.barh(
            place, scale * most, 0.62, LABEL_WIDTH, color=theme.series[0] if blue else theme.quiet, zorder=2
        )
        ax.barh(
            place, scale * (time - most), 0.62, LABEL_WIDTH + scale * most, facecolor=theme.paper,
            edgecolor=theme.quiet, hatch="/////", linewidth=0, zorder=2,
        )  # fmt: skip
        ax.text(LABEL_WIDTH + scale * max(time, 1.0) + 0.06, place, f"{time:.2f}", **text)
        for column, stage in enumerate(stages):
            left = LABEL_WIDTH + TIME_WIDTH + column
            share = busy[stage] / row["cycles"]
            limits = stage in limiting
            ax.barh(
                place,
                BAR_SHARE * share,
                0.62,
                left,
                color=theme.series[0] if limits else theme.quiet,
                zorder=2,
            )
            weight = "bold" if limits else "normal"
            ax.text(
                left + BAR_SHARE * share + 0.05,
                place,
                f"{100 * share:.0f}" if share else "–",
                fontweight=weight,
                **text,
            )
    ax.plot([LABEL_WIDTH + scale] * 2, [-0.45, len(found) - 0.55], color=theme.ink, linewidth=0.8, zorder=3)
    for column in range(len(stages)):
        left = LABEL_WIDTH + TIME_WIDTH + column
        ax.plot([left, left], [-0.45, len(found) - 0.55], color=theme.quiet, linewidth=0.7, zorder=1)
    ax.set_xlim(0, LABEL_WIDTH + TIME_WIDTH + len(stages))
    ax.set_xticks([])
    ax.set_yticks([])
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)


def _column_heads(ax: Axes, stages: list[str], theme: Theme) -> None:
    """Name the columns over the first panel."""
    text: dict[str, Any] = {
        "ha": "left",
        "va": "bottom",
        "fontsize": 8,
        "color": theme.ink,
        "linespacing": 1.05,
    }
    heads = [(LABEL_WIDTH, "time")]
    heads += [(LABEL_WIDTH + TIME_WIDTH + column, STAGE_HEADS[stage]) for column, stage in enumerate(stages)]
    for left, head in heads:
        ax.annotate(head, (left, 1.0), (0, 19), ("data", "axes fraction"), "offset points", **text)
