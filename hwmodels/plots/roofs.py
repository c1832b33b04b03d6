"""The Roof-Surface of a tensor core: what its products do, under the roofs of memory, decoding, selection and array."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from hwmodels.plots import predicted as plots
from hwmodels.plots.cores import one_a_way, rows_of
from hwmodels.plots.predicted import DENSE, LIGHT, MARKERS, AxesGrid, Theme, panel_grid
from hwmodels.tensorcore.answer import STAGE_WORDS
from hwmodels.tensorcore.record import SparseTensorCore
from nmsim.case import VALUE_BITS
from nmsim.errors import RowError
from nmsim.pattern import Pattern

ROOF_STAGES = {"dram": "memory", "decode": "decode", "select": "select", "multiply": "matrix"}
"""Stages that have a roof -> the name of their colour in a theme."""
MOVING: dict[str, Any] = {"decode": (0, (1, 1)), "select": (0, (5, 1.5, 1, 1.5))}
"""Stages whose roof depends on what is stored and on the tokens -> the style of their lines."""
TERA = 1e12
ROOM_LEFT = 0.25
"""Left end of the axis, in terms of the least point: room for what is written there."""


def roof_surface(
    table: pd.DataFrame, core: SparseTensorCore, *, theme: Theme = LIGHT
) -> tuple[Figure, AxesGrid]:
    """Draw effectual multiply-adds a second over those a DRAM byte: products of a core, and the roofs over them.

    A marker is a pattern, a point one number of tokens, its colour that of the stage that limits it. Roofs of memory and
    array are those of the core's numbers: DRAM bandwidth, and all multiply-adds of the array, once on kept elements and, at
    each density of the table, on zeros as well. Decoders and the network that selects operand B have a roof for each
    pattern that moves with what is multiplied for each group: a section of the Roof-Surface along the tokens, from the time
    that the stage works.

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
    >>> from hwmodels.tensorcore.core_file import load_core
    >>> found = hwmodels.sweep({
    ...     "core": {"base": "flexible-8x16"},
    ...     "axes": {"pattern": ["dense", "8:16"], "tokens": [1, 64, 2048]},
    ...     "workload": {"shapes": [[4096, 4096]]},
    ... })
    >>> fig, grid = roof_surface(found, load_core("flexible-8x16"))
    >>> grid[0, 0].get_xscale()
    'log'
    """
    what = "roofs"
    rates = (
        "time_s",
        "effectual_macs",
        "dram_read_bytes",
        "dram_write_bytes",
        "decode_cycles",
        "select_cycles",
    )
    rows = rows_of(table, ("core", "dtype", "tokens", "pattern", "encoding", "limit", *rates), what)
    others, dtypes = sorted(set(rows["core"]) - {core.id}), list(rows["dtype"].unique())
    if others or len(dtypes) > 1:
        raise RowError(
            f"{what}: rows of {', '.join([*others, *dtypes])}: expected one value type on {core.id} alone"
        )
    rows = one_a_way(rows, what).sort_values("tokens", kind="stable")
    rows["x"] = rows["effectual_macs"] / (rows["dram_read_bytes"] + rows["dram_write_bytes"])
    rows["y"] = rows["effectual_macs"] / rows["time_s"] / TERA
    fig, grid = panel_grid(1, 1, 4.4, theme, top=0.3)
    ax: Axes = grid[0, 0]
    peak = core.macs_per_cycle(VALUE_BITS[dtypes[0]]) * core.clock_hz / TERA
    ends = (ROOM_LEFT * rows["x"].min(), 2.5 * rows["x"].max())
    _plain_roofs(ax, core, rows, peak, ends, theme)
    order = [DENSE, *plots.pattern_order(rows["pattern"])]
    ways = sorted(
        rows.groupby(["pattern", "encoding"], sort=False), key=lambda way: order.index(str(way[0][0]))
    )
    several = rows.groupby("pattern")["encoding"].nunique().max() > 1
    for place, ((pattern, encoding), some) in enumerate(ways):
        name = f"{pattern} {encoding}" if several and pattern != DENSE else str(pattern)
        for stage in MOVING:
            _moving_roof(ax, some, stage, core.clock_hz, name, theme)
        ax.plot(some["x"], some["y"], color=theme.quiet, linewidth=0.9, zorder=3)
        look: dict[str, Any] = {
            "marker": MARKERS[place % len(MARKERS)],
            "linestyle": "none",
            "markersize": 6.5,
            "markeredgecolor": theme.ink,
            "markeredgewidth": 0.7,
        }
        for point in some.to_dict("records"):
            ax.plot(point["x"], point["y"], color=_limit_colour(point["limit"], theme), zorder=5, **look)
        ax.plot([], [], color=theme.paper, label=name, **look)
    _token_numbers(ax, rows, theme)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlim(*ends)
    ax.set_ylim(0.5 * rows["y"].min(), 2.2 * peak)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    plots.label_axes(
        grid, "effectual multiply-adds / DRAM byte [1/byte]", "effectual multiply-adds / time [10¹²/s]", theme
    )
    title = f"{core.name}, {dtypes[0]}; numbers beside points: tokens"
    ax.set_title(title, loc="left", fontweight="bold", fontsize=9.5, color=theme.ink)
    _roof_legend(ax, rows, theme)
    return fig, grid


def _token_numbers(ax: Axes, rows: pd.DataFrame, theme: Theme) -> None:
    """Write tokens below the lowest point of each number, where the last one written is far enough."""
    last = 0.0
    for tokens, some in rows.groupby("tokens"):
        x, y = some["x"].max(), some["y"].min()
        if x > 1.35 * last:
            ax.annotate(
                f"{tokens}", (x, y), (5, -11), textcoords="offset points", fontsize=7.5, color=theme.ink
            )
            last = x


def _limit_colour(limit: str, theme: Theme) -> str:
    return theme.stages[ROOF_STAGES[limit]] if limit in ROOF_STAGES else theme.quiet


def _plain_roofs(
    ax: Axes, core: SparseTensorCore, rows: pd.DataFrame, peak: float, ends: tuple[float, float], theme: Theme
) -> None:
    """Roofs that are the same for all patterns: memory, and the array at each density."""
    bandwidth = core.dram_bytes_per_cycle * core.clock_hz / TERA
    x = np.array(ends)
    ax.plot(x, bandwidth * x, color=theme.stages["memory"], linewidth=2, zorder=2)
    ax.plot(x, [peak, peak], color=theme.stages["matrix"], linewidth=2, zorder=2)
    say: dict[str, Any] = {"fontsize": 8, "color": theme.ink, "ha": "left", "textcoords": "offset points"}
    ax.annotate("array, dense or zeros skipped", (ends[0], peak), (4, 4), **say)
    densities = {Pattern.parse(text).density for text in set(rows["pattern"]) - {DENSE}}
    for density in sorted(densities):
        ax.plot(
            x,
            [float(density) * peak] * 2,
            color=theme.stages["matrix"],
            linewidth=1.2,
            linestyle=(0, (6, 3)),
            zorder=2,
        )
        ax.annotate(
            f"array, zeros multiplied, density {float(density):g}",
            (ends[0], float(density) * peak),
            (4, 4),
            **say,
        )


def _moving_roof(ax: Axes, some: pd.DataFrame, stage: str, clock_hz: float, name: str, theme: Theme) -> None:
    """The roof of a stage that depends on what is stored and on the tokens; none for a stage without work, none twice."""
    works = some[(some[f"{stage}_cycles"] > 0) & (some["pattern"] != DENSE)]
    y = (works["effectual_macs"] * clock_hz / works[f"{stage}_cycles"] / TERA).to_numpy()
    style, known = MOVING[stage], f"roof of {stage}"
    drawn = (np.asarray(line.get_ydata(), float) for line in ax.lines if line.get_gid() == known)
    if works.empty or any(len(other) == len(y) and np.allclose(y, other) for other in drawn):
        return
    colour = theme.stages[ROOF_STAGES[stage]]
    ax.plot(works["x"], y, color=colour, linestyle=style, linewidth=1.7, zorder=3, gid=known)
    if stage == "decode":
        ax.annotate(f"decoding {name}", (works["x"].iloc[0], y[0]), (-5, 0), textcoords="offset points", fontsize=8,
                    ha="right", va="center", color=theme.ink, zorder=4,
                    bbox={"facecolor": theme.paper, "edgecolor": "none", "pad": 0.8})  # fmt: skip


def _roof_legend(ax: Axes, rows: pd.DataFrame, theme: Theme) -> None:
    points, _ = ax.get_legend_handles_labels()
    handles: list[Any] = [*points]
    style = {"dram": "-", "multiply": "-", **MOVING}
    for stage, name in ROOF_STAGES.items():
        label = f"{STAGE_WORDS[stage]}: roof, and points that it limits"
        look: dict[str, Any] = {"color": theme.stages[name], "marker": "o", "markeredgecolor": theme.ink}
        handles.append(Line2D([], [], linestyle=style[stage], linewidth=1.8, label=label, **look))
    others = [limit for limit in rows["limit"].unique() if limit not in ROOF_STAGES]
    if others:
        words = ", ".join(STAGE_WORDS.get(limit, limit) for limit in others)
        look = {"color": theme.quiet, "marker": "o", "markeredgecolor": theme.ink, "linestyle": "none"}
        handles.append(Line2D([], [], label=f"limited by {words}", **look))
    ax.legend(handles=handles, loc="lower right", frameon=False, fontsize=8.5, labelcolor=theme.ink)
