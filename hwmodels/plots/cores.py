"""Figures of tensor cores from the table of a sweep: speedups, and what each stage of the pipeline does.

The table is that of `hwmodels.sweep`. A table without a column `phase` gets one from its tokens (`labels.PREFILL_FROM`). It
only names the step: the cycles of a product depend on its tokens alone. Refused points are left out.
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from hwmodels.plots import style
from hwmodels.plots.labels import (
    DENSE,
    SPEEDUP,
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
from hwmodels.tensorcore.services import STAGES
from nmsim.errors import RowError

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
        # A limit may be no stage: "latency" is what none of them works through.
        limiting = [
            name for name in str(row["limit"]).removesuffix(" waiting").split(" and ") if name in busy
        ]
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
