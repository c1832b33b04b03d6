"""The Roof-Surface of a tensor core: what its products do, under the roofs of memory, decoding, selection and array."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hwmodels.plots import style
from hwmodels.plots.cores import one_per_mark
from hwmodels.plots.labels import DENSE, pattern_order, rows_of
from hwmodels.plots.style import LIGHT, AxesGrid, Theme, styled
from hwmodels.tensorcore.answer import STAGE_WORDS
from hwmodels.tensorcore.record import SparseTensorCore
from nmsim.case import VALUE_BITS
from nmsim.errors import RowError
from nmsim.pattern import Pattern

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
            ha="right", va="center", zorder=4, bbox=box,
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
        words = ", ".join(STAGE_WORDS.get(limit, limit) for limit in others)
        grey: dict[str, Any] = {"color": theme.quiet, "markeredgecolor": theme.ink, "markersize": 6}
        handles.append(style.mark_key(f"limited by {words}", **grey))
    ax.legend(handles=handles, loc="lower right")
