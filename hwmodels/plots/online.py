"""Figures of pruning online: from how many tokens it pays, and how fast a selector must be. Each gives `(fig, ax)`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from hwmodels.plots.cores import rows_of
from hwmodels.plots.predicted import (
    LIGHT,
    SPEEDUP_LABEL,
    AxesGrid,
    Theme,
    add_legend,
    label_axes,
    panel_grid,
    pattern_order,
    speedup_axis,
)
from nmsim.errors import RowError

GAIN = 1.05
"""Speedup vs dense that counts as a gain."""
PANEL = ("core", "pattern", "encoding")
"""Columns that may be added to a table of `hwmodels.online.break_even`: each of their values is drawn by itself."""
PLACEMENTS: dict[str, Any] = {"producer": "-", "consumer": (0, (4, 2))}


def break_even_batch(
    table: pd.DataFrame, *, at_least: float = GAIN, theme: Theme = LIGHT
) -> tuple[Figure, AxesGrid]:
    """Draw the speedup of pruned activations over tokens, beside that of pruned weights, and mark where it stops paying.

    Marked are the last number of tokens up to which all rows gain, and the first from which on all do; they are exact where
    the table has the numbers beside them.

    Parameters
    ----------
    table : DataFrame
        Of `hwmodels.online.break_even.batch_table`: `tokens`, `placement`, `speedup_vs_dense`,
        `speedup_vs_sparse_weights`. Several may be put together, with columns `core`, `pattern`, `encoding` that tell them
        apart: a panel each.
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
    >>> from hwmodels.tensorcore.core_file import load_core
    >>> from nmsim.case import Case, GemmShape
    >>> case = Case(GemmShape(1, 4096, 4096), pattern="8:16", sparse_operand="activations")
    >>> fig, grid = break_even_batch(batch_table(case, load_core("flexible-8x16"), [1, 2, 64, 1024]))
    >>> grid.shape
    (1, 1)
    """
    what = "break-even in tokens"
    columns = ("tokens", "placement", "speedup_vs_dense", "speedup_vs_sparse_weights")
    rows = _points(table, columns, what)
    rows["weights"] = rows["speedup_vs_dense"] / rows["speedup_vs_sparse_weights"]
    panels = _panels(rows)
    fig, grid = panel_grid(1, len(panels), 2.7, theme, top=0.75)
    for (name, some), ax in zip(panels, grid[0], strict=True):
        speedup_axis(ax, rows[["speedup_vs_dense", "weights"]].stack(), theme)
        ax.axhline(at_least, color=theme.ink, linewidth=0.7, linestyle=(0, (1, 2)), zorder=1)
        for placement, curve in some.groupby("placement", sort=False):
            colour = _placement_colour(str(placement), theme)
            ax.plot(curve["tokens"], curve["speedup_vs_dense"], color=colour, linewidth=2, zorder=4,
                    linestyle=PLACEMENTS[str(placement)])  # fmt: skip
            _mark_ends(ax, curve, at_least, str(placement), theme)
        weights = some.drop_duplicates("tokens")
        ax.plot(weights["tokens"], weights["weights"], color=theme.series[-1], linewidth=1.6, zorder=3)
        _token_axis(ax, some["tokens"])
        ax.set_title(name, loc="left", fontweight="bold", fontsize=9.5, color=theme.ink)
    label_axes(grid, "tokens a step (decode batch, prefill length)", SPEEDUP_LABEL, theme)
    handles: list[Any] = [
        Line2D(
            [],
            [],
            color=_placement_colour(name, theme),
            linewidth=2,
            linestyle=PLACEMENTS[name],
            label=f"activations pruned, selector at the {name}",
        )
        for name in PLACEMENTS
        if (rows["placement"] == name).any()
    ]
    dotted = {"color": theme.ink, "linewidth": 0.7, "linestyle": (0, (1, 2))}
    handles += [
        Line2D([], [], color=theme.series[-1], linewidth=1.6, label="weights pruned"),
        Line2D([], [], **dotted, label=f"a gain of {100 * (at_least - 1):.0f} %"),  # type: ignore[arg-type]
        Patch(facecolor=theme.loss, label="slower than dense"),
    ]
    add_legend(fig, handles, theme)
    return fig, grid


def _placement_colour(placement: str, theme: Theme) -> str:
    return theme.series[0 if placement == "producer" else 4]


def _points(table: pd.DataFrame, columns: Sequence[str], what: str) -> pd.DataFrame:
    rows = rows_of(table, columns, what)
    unknown = sorted(set(rows["placement"]) - set(PLACEMENTS))
    if unknown:
        raise RowError(f"{what}: placement {unknown[0]!r}: expected one of {', '.join(PLACEMENTS)}")
    keys = [*(name for name in PANEL if name in rows.columns), "tokens", "placement"]
    twice = rows.duplicated(keys)
    if twice.any():
        where = ", ".join(str(value) for value in rows.loc[twice, keys].iloc[0])
        raise RowError(f"{what}: several rows for {where}: expected one (add a column that tells them apart)")
    return rows.sort_values("tokens", kind="stable")


def _panels(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    keys = [name for name in PANEL if name in rows.columns]
    if not keys:
        return [("", rows)]
    order = rows[keys].drop_duplicates()
    if "pattern" in keys:
        place = {name: at for at, name in enumerate(pattern_order(rows["pattern"]))}
        order = order.sort_values("pattern", key=lambda column: column.map(place), kind="stable")
    found = rows.groupby(keys, sort=False)
    return [
        (" ".join(map(str, names)), found.get_group(tuple(names))) for names in order.itertuples(index=False)
    ]


def _mark_ends(ax: Axes, curve: pd.DataFrame, at_least: float, placement: str, theme: Theme) -> None:
    """Mark the last row before a loss and the first after the last one, with their tokens."""
    gains = (curve["speedup_vs_dense"] >= at_least).tolist()
    tokens, speedup = curve["tokens"].tolist(), curve["speedup_vs_dense"].tolist()
    if all(gains) or not any(gains):
        return
    first_loss, last_loss = gains.index(False), len(gains) - 1 - gains[::-1].index(False)
    above, colour = placement == "producer", _placement_colour(placement, theme)
    for place, text, right in ((first_loss - 1, "up to {}", above), (last_loss + 1, "from {}", False)):
        if not 0 <= place < len(gains):
            continue
        ax.plot(
            tokens[place],
            speedup[place],
            "o",
            color=colour,
            markersize=6,
            markeredgecolor=theme.paper,
            zorder=6,
        )
        offset = (7 if right else -7, 6 if above else -14)
        ax.annotate(text.format(tokens[place]), (tokens[place], speedup[place]), offset, textcoords="offset points",
                    fontsize=8, color=theme.ink, ha="left" if right else "right", zorder=7,
                    bbox={"facecolor": theme.paper, "edgecolor": "none", "pad": 0.6, "alpha": 0.8})  # fmt: skip


def _token_axis(ax: Axes, tokens: pd.Series) -> None:
    ax.set_xscale("log", base=2)
    most = int(tokens.max())
    ticks = [1 << power for power in range(0, most.bit_length(), 2)]
    ax.xaxis.set_major_locator(FixedLocator([tick for tick in ticks if tokens.min() <= tick]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))


def selector_need(
    table: pd.DataFrame, *, built_groups_per_cycle: float | None = None, theme: Theme = LIGHT
) -> tuple[Figure, AxesGrid]:
    """Draw how fast a selector must be: to be as fast as the dense product (hollow), and to cost next to nothing (filled).

    Parameters
    ----------
    table : DataFrame
        Of `hwmodels.online.break_even.selector_table`: `tokens`, `placement`, `as_fast_as_dense`, `near_free`, in groups
        a cycle and core. Several may be put together with a column `pattern`: a marker each. Where no selector is fast enough
        a triangle points out of the panel.
    built_groups_per_cycle : float, optional
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
    >>> from hwmodels.tensorcore.core_file import load_core
    >>> from nmsim.case import Case, GemmShape
    >>> case = Case(GemmShape(1, 4096, 4096), pattern="8:16", sparse_operand="activations")
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
    finite = [*rates[np.isfinite(rates)], *([built_groups_per_cycle] if built_groups_per_cycle else [])] or [
        1.0
    ]
    low, high = 0.5 * min(finite), 4.0 * max(finite)
    fig, grid = panel_grid(1, len(placements), 2.9, theme, top=0.75)
    dodge = np.linspace(-0.28, 0.28, len(patterns)) if len(patterns) > 1 else np.zeros(1)
    for placement, ax in zip(placements, grid[0], strict=True):
        here = rows[rows["placement"] == placement]
        for place, pattern in enumerate(patterns):
            some = here[here["pattern"] == pattern].set_index("tokens").reindex(tokens)
            colour = theme.series[place % len(theme.series)]
            at = np.arange(len(tokens)) + dodge[place]
            dense, free = some["as_fast_as_dense"].to_numpy(float), some["near_free"].to_numpy(float)
            ax.vlines(
                at,
                np.minimum(dense, high / 1.5),
                np.minimum(free, high / 1.5),
                color=colour,
                linewidth=1.6,
                zorder=3,
            )
            for rate, face in ((dense, theme.paper), (free, colour)):
                look: dict[str, Any] = {
                    "color": colour,
                    "markerfacecolor": face,
                    "linestyle": "none",
                    "zorder": 4,
                }
                ax.plot(at, np.where(np.isinf(rate), np.nan, rate), marker="o", markersize=5.5, **look)
                ax.plot(at[np.isinf(rate)], [high / 1.5] * int(np.isinf(rate).sum()), marker="^", **look)
        if built_groups_per_cycle:
            ax.axhline(
                built_groups_per_cycle, color=theme.ink, linewidth=0.9, linestyle=(0, (4, 2)), zorder=1
            )
        for edge in range(1, len(tokens)):
            ax.axvline(edge - 0.5, color=theme.faint, linewidth=0.6, zorder=0)
        ax.set_yscale("log")
        ax.set_ylim(low, high)
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.set_xlim(-0.5, len(tokens) - 0.5)
        ax.set_xticks(range(len(tokens)), [str(count) for count in tokens])
        ax.tick_params(axis="x", length=0)
        ax.set_title(
            f"selector at the {placement}", loc="left", fontweight="bold", fontsize=9.5, color=theme.ink
        )
    label_axes(
        grid, "tokens a step (decode batch, prefill length)", "selector of a core [groups/cycle]", theme
    )
    handles: list[Any] = [
        Line2D([], [], color=theme.series[place % len(theme.series)], linewidth=3, label=pattern)
        for place, pattern in enumerate(patterns)
        if pattern
    ]
    plain: dict[str, Any] = {"marker": "o", "linestyle": "none", "color": theme.ink, "markersize": 5.5}
    handles.append(Line2D([], [], label="as fast as dense", markerfacecolor=theme.paper, **plain))
    handles.append(Line2D([], [], label="within 1 % of one that takes no time", **plain))
    if np.isinf(rates).any():
        handles.append(Line2D([], [], label="none is fast enough", **{**plain, "marker": "^"}))
    if built_groups_per_cycle:
        label = f"what the core has, {built_groups_per_cycle:g}"
        handles.append(Line2D([], [], color=theme.ink, linewidth=0.9, linestyle=(0, (4, 2)), label=label))
    add_legend(fig, handles, theme)
    return fig, grid
