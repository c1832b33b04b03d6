"""Figures of pruning online: from how many tokens it pays, and how fast a selector must be."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hwmodels.plots import style
from hwmodels.plots.labels import SPEEDUP_LABEL, TOKENS_LABEL, pattern_order, refuse_twice, rows_of
from hwmodels.plots.style import LIGHT, AxesGrid, Theme, styled
from nmsim.errors import RowError

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
    table: pd.DataFrame, *, built_groups_per_cycle: float | None = None, theme: Theme = LIGHT
) -> tuple[Figure, AxesGrid]:
    """Draw how fast a selector must be: to be as fast as the dense product (hollow), and to cost next to nothing (filled).

    Parameters
    ----------
    table : DataFrame
        Of `hwmodels.online.break_even.selector_table`: `tokens`, `placement`, `as_fast_as_dense`, `near_free`, in groups
        per cycle and core. Several may be put together with a column `pattern`: a marker each. If no selector is fast
        enough, a triangle points out of the panel.
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
    built = [built_groups_per_cycle] if built_groups_per_cycle else []
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
    style.label_axes(grid, TOKENS_LABEL, "selector of a core [groups/cycle]")
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
        raise RowError(f"{what}: placement {unknown[0]!r}: expected one of {', '.join(PLACEMENTS)}")
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
