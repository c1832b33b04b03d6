"""The figure of `validate.study.break_even`: where 2:4 loses, a panel a GPU, published points laid over."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from hwmodels.plots.predicted import LIGHT, AxesGrid, Theme, label_axes, panel_grid
from nmsim.errors import RowError
from validate.study.break_even import SPEEDUP

LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.15, 1.3, 1.45, 1.6, 1.75)
"""Edges of the shades: five below 1.0 and five above it, and one beyond at either end."""
LOSS, GAIN = "#D55E00", "#0072B2"
FEW_PANELS = 8
"""Up to so many panels stand four in a row, more of them five."""
MEASURED = "measured_speedup_vs_dense"


def break_even(
    mapped: pd.DataFrame, points: pd.DataFrame, machines: Sequence[str], *, theme: Theme = LIGHT
) -> tuple[Figure, AxesGrid]:
    """Draw predicted speedups over tokens and weight side as shades, their 1.0 line, and published points.

    Parameters
    ----------
    mapped, points : DataFrame
        From `validate.study.break_even.speedup_map` and `published_points`.
    machines : sequence of str
        A panel each.
    theme : Theme

    Returns
    -------
    tuple of Figure and Axes array

    Raises
    ------
    RowError
        No machine, or one without a map.
    """
    missing = sorted(set(machines) - set(mapped["machine"]))
    if missing or not machines:
        raise RowError(f"map of speedups: nothing for {', '.join(missing) or 'no machine at all'}")
    columns = 4 if len(machines) <= FEW_PANELS else 5
    fig, grid = panel_grid(-(-len(machines) // columns), columns, 8.2 / columns, theme, top=1.05)
    shades = _shades(theme)
    drawn: Any = None
    for ax in list(grid.flat)[len(machines) :]:
        ax.set_visible(False)
    for machine, ax in zip(machines, grid.flat, strict=False):
        table = mapped[mapped["machine"] == machine].pivot(index="side", columns="M", values=SPEEDUP)
        x, y, z = table.columns.to_numpy(float), table.index.to_numpy(float), table.to_numpy(float)
        drawn = ax.contourf(x, y, z, levels=LEVELS, colors=shades, extend="both", zorder=1)
        ax.contour(x, y, z, levels=[1.0], colors=[theme.ink], linewidths=1.5, zorder=2)
        own = points[points["machine"] == machine]
        for wins, face in ((True, theme.ink), (False, theme.paper)):
            some = own[(own[MEASURED] > 1) == wins]
            look = {"marker": "o", "markersize": 4.5, "markeredgewidth": 1.1, "markeredgecolor": theme.ink}
            edge = {"markerfacecolor": face, "linestyle": "none", "clip_on": False, "zorder": 4}
            ax.plot(some["M"].clip(upper=x[-1]), some["side"].clip(y[0], y[-1]), **look, **edge)
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xlim(x[0], x[-1])
        ax.set_ylim(y[0], y[-1])
        ticks = ((ax.xaxis, (1, 16, 256, 4096)), (ax.yaxis, (1024, 2048, 4096, 8192, 16384)))
        for axis, values in ticks:
            axis.set_major_locator(FixedLocator(list(values)))
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
        ax.tick_params(labelsize=9, axis="both", length=2.5)
        ax.grid(visible=False)
        ax.set_title(f"{machine}" + (f", {len(own)} rows" if len(own) else ""), loc="left", fontweight="bold",
                     fontsize=9.5, color=theme.ink)  # fmt: skip
    lowest = list(grid.flat)[max(0, len(machines) - columns) : len(machines)]
    label_axes(np.array([lowest]), "tokens M", "", theme)
    label_axes(grid, "", "weight side √(N·K) [elements]", theme)
    _keys(fig, drawn, points[points["machine"].isin(machines)], theme)
    return fig, grid


def _shades(theme: Theme) -> list[Any]:
    """Colours between the levels and beyond them: the stronger, the farther from 1.0; paper is in none of them."""
    out = []
    for colour, strengths in ((LOSS, np.linspace(0.85, 0.16, 6)), (GAIN, np.linspace(0.12, 0.8, 6))):
        ramp = LinearSegmentedColormap.from_list("shades", [theme.paper, colour])
        out += [ramp(float(strength)) for strength in strengths]
    return out


def _keys(fig: Figure, drawn: Any, points: pd.DataFrame, theme: Theme) -> None:
    """A bar of shades and what the marks mean, over all panels."""
    inches = fig.get_figheight()
    bar = fig.add_axes((0.064, 1 - 0.30 / inches, 0.36, 0.14 / inches))
    key = fig.colorbar(drawn, cax=bar, orientation="horizontal", ticks=list(LEVELS))
    key.outline.set_edgecolor(theme.quiet)
    bar.set_xticks(LEVELS, [f"{level:g}" for level in LEVELS])
    bar.tick_params(labelsize=8.5, colors=theme.ink, length=2)
    bar.set_xlabel("predicted speedup vs dense [×]", fontsize=9, color=theme.ink, labelpad=2)
    handles: list[Any] = [Line2D([], [], color=theme.ink, linewidth=1.5, label="predicted break-even, 1.0")]
    if len(points):
        look: dict[str, Any] = {"marker": "o", "markersize": 5, "color": theme.ink, "linestyle": "none"}
        handles.append(Line2D([], [], label="published: wins", **look))
        handles.append(Line2D([], [], label="published: loses", markerfacecolor=theme.paper, **look))
    fig.legend(
        handles=handles, loc="upper left", ncols=len(handles), frameon=False, fontsize=9, labelcolor=theme.ink,
        handletextpad=0.5, columnspacing=1.4, bbox_to_anchor=(0.45, 1 - 0.12 / inches), borderaxespad=0,
    )  # fmt: skip
