"""Figures of what was measured or published: bits that were encoded, products that were timed, and predictions beside them.

The table of the scatters and residuals has the columns that `validate.judge.judge.judged_columns` keeps. Each machine has a
colour and a marker of its own, so that neither alone has to distinguish machines.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from hwmodels.estimate.intervals import DECODE_TOKENS, PREFILL_TOKENS, REGIMES
from hwmodels.plots import style
from hwmodels.plots.labels import PATTERN_LABEL, pattern_order, refuse_empty
from hwmodels.plots.style import LIGHT, AxesGrid, Theme, styled
from nmsim.errors import RowError

ROUND = ("dtype", "M", "N", "K", "threads", "l2_state")
"""What the rows of one panel of `measured_on_predicted` have in common; patterns and encodings vary within."""
PANELS_PER_ROW = 3


@styled
def bytes_per_element(table: pd.DataFrame, *, theme: Theme = LIGHT) -> tuple[Figure, AxesGrid]:
    """Draw what is stored: all bytes per element beside the dense ones, and the metadata bits beside their entropy.

    Parameters
    ----------
    table : DataFrame
        A row per `pattern` and `encoding`: `measured_values_bits_per_elem`, `measured_metadata_bits_per_elem`,
        `entropy_bits_per_elem`, `dense_bits_per_elem`.
    theme : Theme

    Returns
    -------
    tuple of Figure and Axes array [1, 2]

    Raises
    ------
    RowError
        No row.
    """
    refuse_empty(table, "table of bits")
    patterns, encodings = pattern_order(table["pattern"]), list(table["encoding"].unique())
    fig, grid = style.panel_grid(1, 2, 3.0, top=0.45, share_y=False)
    whole, metadata = grid[0]
    width, top = 0.86 / len(encodings), float(table["measured_metadata_bits_per_elem"].max())
    # A pattern that lacks an encoding leaves a gap, so that bars of one encoding keep their place.
    for place, encoding in enumerate(encodings):
        own = table[table["encoding"] == encoding].set_index("pattern").reindex(patterns)
        at = np.arange(len(patterns)) - 0.43 + (place + 0.5) * width
        values = own["measured_values_bits_per_elem"].to_numpy(float) / 8
        codes = own["measured_metadata_bits_per_elem"].to_numpy(float)
        bars: dict[str, Any] = {"width": 0.9 * width, "zorder": 2}
        whole.bar(at, values, color=theme.quiet, **bars)
        whole.bar(at, codes / 8, bottom=values, color=theme.colour(place), **bars)
        drawn = metadata.bar(at, codes, color=theme.colour(place), **bars)
        numbers = [f"{bits:.3f}" if np.isfinite(bits) else "" for bits in codes]
        metadata.bar_label(drawn, numbers, rotation=90, padding=2, fontsize=7)
    entropy = table.groupby("pattern")["entropy_bits_per_elem"].first()
    for place, pattern in enumerate(patterns):
        metadata.hlines(
            entropy[pattern], place - 0.47, place + 0.47, color=theme.ink, linewidth=1.3, zorder=4
        )
    dense = float(table["dense_bits_per_elem"].iloc[0]) / 8
    whole.axhline(dense, color=theme.ink, linewidth=1, linestyle=style.DASHED, zorder=3)
    whole.text(-0.47, 1.01 * dense, "dense", fontsize=8)
    whole.set_ylim(0, 1.12 * dense)
    metadata.set_ylim(0, 1.2 * top if top else 1.0)
    for ax, text in ((whole, "stored [bytes / element]"), (metadata, "metadata [bits / element]")):
        style.named_axis(ax, patterns, theme)
        ax.set_xlabel(PATTERN_LABEL)
        ax.set_ylabel(text)
    handles: list[Any] = [Patch(facecolor=theme.quiet, label="values")]
    for place, name in enumerate(encodings):
        handles.append(Patch(facecolor=theme.colour(place), label=f"metadata, {name}"))
    handles.append(style.line_key("entropy, log₂ C(M, N)", color=theme.ink, linewidth=1.3))
    style.add_legend(fig, handles)
    return fig, grid


@styled
def measured_on_predicted(table: pd.DataFrame, *, theme: Theme = LIGHT) -> tuple[Figure, AxesGrid]:
    """Draw measured speedups, with 20th to 80th percentile, on the predicted ones: a panel per round.

    Parameters
    ----------
    table : DataFrame
        From `validate.judge.own_machine.own_rows`: `ROUND`, `pattern`, `encoding`, `measured_speedup_vs_dense` with `_p20`
        and `_p80`, `predicted_speedup_vs_dense`. If there is a column `machine`, it names one machine.
    theme : Theme

    Returns
    -------
    tuple of Figure and Axes array

    Raises
    ------
    RowError
        No row, or rows of several machines.
    """
    refuse_empty(table, "table of measured rows")
    if "machine" in table and table["machine"].nunique() > 1:
        names = ", ".join(map(str, table["machine"].unique()))
        raise RowError(
            f"machine: rows of {names}: expected one machine per figure, since a panel is one round of it"
        )
    rounds = list(table.groupby(list(ROUND), sort=False, dropna=False))
    fig, grid, panels, _ = style.panels_in_rows(len(rounds), PANELS_PER_ROW, 2.5, top=0.5)
    encodings = list(table["encoding"].unique())
    for ax, (key, rows) in zip(panels, rounds, strict=True):
        _round_panel(ax, rows, encodings, theme)
        dtype, M, N, K, threads, state = cast(tuple[str, int, int, int, int, str], key)
        cores = "1 core" if threads == 1 else f"{threads} cores"
        title = f"{dtype}, {N}×{K}, {M} token{'s' * (M > 1)}, {cores}, {state}"
        ax.set_title(title, loc="center", fontsize=8, fontweight="normal")
    style.label_axes(grid, PATTERN_LABEL, "speedup vs best dense call [×]")
    handles: list[Any] = [
        style.mark_key(
            f"{name}, measured", color=theme.colour(place), marker=style.MARKERS[place], markersize=6
        )
        for place, name in enumerate(encodings)
    ]
    handles.append(style.line_key("predicted from calibration", color=theme.ink, linestyle=style.DASHED))
    style.add_legend(fig, handles)
    return fig, grid


def _round_panel(ax: Axes, rows: pd.DataFrame, encodings: list[str], theme: Theme) -> None:
    patterns = pattern_order(rows["pattern"])
    places = {name: place for place, name in enumerate(patterns)}
    width = 0.7 / max(len(encodings), 1)
    ax.axhline(1.0, color=theme.quiet, linewidth=1, zorder=1)
    for place, encoding in enumerate(encodings):
        own = rows[rows["encoding"] == encoding]
        offset = (place - (len(encodings) - 1) / 2) * width
        at = np.array([places[name] for name in own["pattern"]]) + offset
        middle = own["measured_speedup_vs_dense"].to_numpy(float)
        low = own["measured_speedup_vs_dense_p20"].to_numpy(float)
        high = own["measured_speedup_vs_dense_p80"].to_numpy(float)
        look: dict[str, Any] = {"color": theme.colour(place), "marker": style.MARKERS[place], "markersize": 5}
        ax.errorbar(
            at, middle, np.abs([middle - low, high - middle]), linestyle="", linewidth=1.2, zorder=3, **look
        )
        line: dict[str, Any] = {"color": theme.ink, "linewidth": 1.3, "linestyle": style.DASHED}
        ax.hlines(own["predicted_speedup_vs_dense"], at - width / 2, at + width / 2, zorder=2, **line)
    style.named_axis(ax, patterns, theme)


WHAT = "table of judged rows"
BANDS = (0.1, 0.2)
"""Relative errors that are shaded around agreement."""
BAND_WORDS = "within " + " and ".join(f"{100 * band:.0f} %" for band in BANDS)
FACTORS = (0.25, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 4.0)
POWERS = tuple(2.0**power for power in range(-6, 7))
"""Ticks of a range that is too wide for `FACTORS`."""
UNIT_FAMILIES = ("library", "sliding")
"""Kernels that run 2:4 products as they are, on the sparse matrix unit."""
EXTRA_COLOUR = "#8a7a00"
"""A ninth colour beside those of the theme."""
LEGEND_COLUMNS = 6
PREDICTED, MEASURED = "predicted_speedup_vs_dense", "measured_speedup_vs_dense"
RATIO_LABEL = "predicted / published speedup [×/×]"
LABEL_POINTS = 9.0
"""Size of the text of axes and legend, in points; figures are 11 inches wide and read at 800 pixels."""
LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.15, 1.3, 1.45, 1.6, 1.75)
"""Edges of the shades of the map: five below 1.0 and five above it, and one beyond at either end."""
LOSS, GAIN = "#D55E00", "#0072B2"
FEW_PANELS = 8
"""A map of up to so many machines has four panels beside each other, a larger one five."""


def machine_marks(machines: Sequence[str], theme: Theme) -> dict[str, dict[str, Any]]:
    """Give each machine a colour and a marker of its own."""
    colours = (*theme.series, theme.ink, EXTRA_COLOUR)
    return {
        name: {"color": colours[place % len(colours)], "marker": style.MARKERS[place % len(style.MARKERS)]}
        for place, name in enumerate(machines)
    }


@styled
def speedup_scatter(table: pd.DataFrame, *, theme: Theme = LIGHT) -> tuple[Figure, AxesGrid]:
    """Draw predicted over published speedups: 16-bit 2:4 products, other 16-bit patterns, other value types.

    A hollow marker is a row that its own source doubts.

    Parameters
    ----------
    table : DataFrame
        As the module says.
    theme : Theme

    Returns
    -------
    tuple of Figure and Axes array [1, 3]

    Raises
    ------
    RowError
        No row.
    """
    refuse_empty(table, WHAT)
    wide, unit = table["dtype_class"] == "16-bit", table["kernel_family"].isin(UNIT_FAMILIES)
    panels = (
        ("16-bit, 2:4", wide & unit),
        ("16-bit, other patterns", wide & ~unit),
        ("8-bit and fp32", ~wide),
    )
    fig, grid = style.panel_grid(1, len(panels), 3.15, top=_legend_room(table), share_y=False)
    marks = _marks(table, theme)
    for ax, (title, chosen) in zip(grid[0], panels, strict=True):
        rows = table[chosen]
        low, high = _limits(rows, [MEASURED, PREDICTED], (0.5, 2.0))
        _agreement(ax, low, high, theme)
        _points(ax, rows, MEASURED, PREDICTED, marks)
        for draw in (ax.axhline, ax.axvline):
            draw(1.0, color=theme.quiet, linewidth=0.9, zorder=1)
        finest = (0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0) if high < 6 * low else 2.0 ** np.arange(-6, 8)
        # Labels of a wide range would run into each other.
        finest = 4.0 ** np.arange(-5, 6) if high > 100 * low else finest
        ticks = [float(value) for value in finest if low <= value <= high]
        _log_axes(ax, (low, high), (low, high), ticks, ticks, lambda value: f"{value:g}×")
        ax.set_title(f"{title}, {len(rows)} rows")
        _name_axes(ax, "published speedup vs dense [×]", "")
    style.label_axes(grid, y="predicted speedup vs dense [×]")
    _legend(fig, table, theme)
    return fig, grid


@styled
def time_scatter(table: pd.DataFrame, *, theme: Theme = LIGHT) -> tuple[Figure, AxesGrid]:
    """Draw predicted over published times, dense and sparse, in seconds on logarithmic axes.

    Parameters
    ----------
    table : DataFrame
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
    refuse_empty(table, WHAT)
    fig, grid = style.panel_grid(1, 2, 4.6, top=_legend_room(table), share_y=False)
    for ax, product in zip(grid[0], ("dense", "sparse"), strict=True):
        x, y = f"measured_{product}_time_s", f"predicted_{product}_time_s"
        rows = table[table[x].notna()]
        low, high = _limits(rows, [x, y], (1e-5, 1e-3))
        _agreement(ax, low, high, theme)
        _points(ax, rows, x, y, _marks(table, theme))
        ticks = [10.0**power for power in range(-7, 3) if low <= 10.0**power <= high]
        _log_axes(
            ax, (low, high), (low, high), ticks, ticks, lambda value: f"$10^{{{round(np.log10(value))}}}$"
        )
        ax.set_title(f"{product} products, {len(rows)} rows")
        _name_axes(ax, f"published {product} time [s]", f"predicted {product} time [s]")
    _legend(fig, table, theme)
    return fig, grid


@styled
def residuals_by_tokens(table: pd.DataFrame, *, theme: Theme = LIGHT) -> tuple[Figure, AxesGrid]:
    """Draw predicted / published speedup over the tokens M, and its median in each regime.

    Parameters
    ----------
    table : DataFrame
        As the module says.
    theme : Theme

    Returns
    -------
    tuple of Figure and Axes array [1, 1]

    Raises
    ------
    RowError
        No row.
    """
    refuse_empty(table, WHAT)
    rows = table.assign(ratio=table[PREDICTED] / table[MEASURED])
    fig, grid = style.panel_grid(1, 1, 4.0, top=_legend_room(table) - 0.2)
    ax = grid[0, 0]
    low, high = _limits(rows, ["ratio"], (0.5, 2.0))
    for band in BANDS[::-1]:
        ax.axhspan(1 - band, 1 + band, color=theme.faint, alpha=0.55, linewidth=0, zorder=0)
    ax.axhline(1.0, color=theme.ink, linewidth=0.9, zorder=1)
    # Most rows have a power of two for M: without a spread they would hide each other.
    tokens = rows["M"].to_numpy(float)
    spread = 2 ** (0.3 * (_jitter(len(rows)) - 0.5))
    _points(ax, rows.assign(at=tokens * spread), "at", "ratio", _marks(table, theme))
    ends = (0.8, DECODE_TOKENS * 2**0.5, PREFILL_TOKENS / 2**0.5, 1.35 * max(tokens.max(), PREFILL_TOKENS))
    for place, regime in enumerate(REGIMES):
        ratios = rows.loc[rows["regime"] == regime, "ratio"]
        if place:
            ax.axvline(ends[place], color=theme.quiet, linewidth=0.8, linestyle=(0, (2, 2)), zorder=1)
        middle = (ends[place] * ends[place + 1]) ** 0.5
        ax.text(middle, high / 1.06, regime, ha="center", va="top", fontsize=LABEL_POINTS)
        if len(ratios):
            ax.plot(ends[place : place + 2], [ratios.median()] * 2, color=theme.ink, linewidth=2.2, zorder=5)
    x_ticks = [2.0**power for power in range(0, 24, 2) if 2.0**power <= 0.8 * ends[-1]]
    y_ticks = [value for value in (FACTORS if high < 8 * low else POWERS) if low <= value <= high]
    _log_axes(ax, (ends[0], ends[-1]), (low, high), x_ticks, y_ticks, lambda value: f"{value:g}")
    _name_axes(ax, "tokens M", RATIO_LABEL)
    _legend(fig, table, theme, style.line_key("median of a regime", color=theme.ink, linewidth=2.2))
    return fig, grid


@styled
def residuals_by(table: pd.DataFrame, *, column: str, theme: Theme = LIGHT) -> tuple[Figure, AxesGrid]:
    """Draw predicted / published speedup of each group: all rows, their middle half, and the median.

    Parameters
    ----------
    table : DataFrame
        As the module says.
    column : str
        Its values make the groups, such as `machine`, `regime` or `kernel_family`.
    theme : Theme

    Returns
    -------
    tuple of Figure and Axes array [1, 1]

    Raises
    ------
    RowError
        No row.
    """
    refuse_empty(table, WHAT)
    rows = table.assign(ratio=table[PREDICTED] / table[MEASURED])
    names = [name for name in REGIMES if (rows[column] == name).any()] or sorted(rows[column].unique())
    fig, grid = style.panel_grid(1, 1, 0.35 * len(names) + 0.35, top=0.5)
    fig.subplots_adjust(left=0.15)
    ax = grid[0, 0]
    low, high = _limits(rows, ["ratio"], (0.5, 2.0))
    for band in BANDS[::-1]:
        ax.axvspan(1 - band, 1 + band, color=theme.faint, alpha=0.55, linewidth=0, zorder=0)
    ax.axvline(1.0, color=theme.ink, linewidth=0.9, zorder=1)
    box: dict[str, Any] = {"facecolor": theme.paper, "edgecolor": theme.ink}
    row: dict[str, Any] = {"color": theme.series[0], "markeredgewidth": 0}
    line: dict[str, Any] = {"color": theme.series[4], "linewidth": 2.6}
    # The quartiles show the usual error, the points show the exceptions.
    for place, name in enumerate(names):
        ratios = rows.loc[rows[column] == name, "ratio"].to_numpy(float)
        first, median, third = np.quantile(ratios, (0.25, 0.5, 0.75))
        ax.barh(place, third - first, 0.62, first, linewidth=1.1, zorder=2, **box)
        heights = place + 0.5 * (_jitter(len(ratios)) - 0.5)
        many: dict[str, Any] = {"markersize": 1.6, "alpha": 0.3, "rasterized": True}
        few: dict[str, Any] = {"markersize": 3.2, "alpha": 0.75}
        ax.plot(ratios, heights, "o", zorder=3, **(many if len(ratios) > MANY_OF_GROUP else few), **row)
        ax.plot([median] * 2, [place - 0.31, place + 0.31], zorder=4, **line)
    x_ticks = [value for value in (FACTORS if high < 8 * low else POWERS) if low <= value <= high]
    _log_axes(ax, (low, high), None, x_ticks, [], lambda value: f"{value:g}")
    ax.set_ylim(len(names) - 0.45, -0.55)
    counts = rows[column].value_counts()
    ax.set_yticks(range(len(names)), [f"{name} ({counts[name]})" for name in names])
    _name_axes(ax, RATIO_LABEL, f"{column.replace('_', ' ')} (rows)")
    ax.grid(visible=False, axis="y")
    handles: list[Any] = [
        style.mark_key("a row", **row | {"markersize": 4}),
        Patch(label="middle half", **box),
        style.line_key("median", **line),
        Patch(facecolor=theme.faint, label=BAND_WORDS),
    ]
    style.add_legend(fig, handles)
    return fig, grid


@styled
def break_even(
    table: pd.DataFrame, *, points: pd.DataFrame, machines: Sequence[str], theme: Theme = LIGHT
) -> tuple[Figure, AxesGrid]:
    """Draw predicted speedups over tokens and weight side as shades, their 1.0 line, and published points.

    Parameters
    ----------
    table, points : DataFrame
        From `validate.judge.break_even.speedup_map` and `published_points`.
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
    missing = sorted(set(machines) - set(table["machine"]))
    if missing or not machines:
        raise RowError(f"map of speedups: nothing for {', '.join(missing) or 'no machine at all'}")
    columns = 4 if len(machines) <= FEW_PANELS else 5
    fig, grid, panels, lowest = style.panels_in_rows(len(machines), columns, 8.2 / columns, top=1.05)
    # Shades have steps, so that a value can be read from the bar over the panels.
    shades = _shades(theme)
    filled: Any = None
    for machine, ax in zip(machines, panels, strict=True):
        values = table[table["machine"] == machine].pivot(index="side", columns="M", values=PREDICTED)
        x, y, z = values.columns.to_numpy(float), values.index.to_numpy(float), values.to_numpy(float)
        filled = ax.contourf(x, y, z, levels=LEVELS, colors=shades, extend="both", zorder=1)
        ax.contour(x, y, z, levels=[1.0], colors=[theme.ink], linewidths=1.5, zorder=2)
        own = points[points["machine"] == machine]
        for wins, face in ((True, theme.ink), (False, theme.paper)):
            rows = own[(own[MEASURED] > 1) == wins]
            ax.plot(
                rows["M"].clip(upper=x[-1]), rows["side"].clip(y[0], y[-1]), "o", color=theme.ink, markersize=4.5,
                markeredgewidth=1.1, markerfacecolor=face, clip_on=False, zorder=4,
            )  # fmt: skip
        sides = (1024, 2048, 4096, 8192, 16384)
        _log_axes(ax, (x[0], x[-1]), (y[0], y[-1]), (1, 16, 256, 4096), sides, lambda value: f"{value:.0f}")
        ax.tick_params(labelsize=LABEL_POINTS)
        ax.grid(visible=False)
        ax.set_title(f"{machine}" + (f", {len(own)} rows" if len(own) else ""))
    style.label_axes(np.array([lowest]), x="tokens M")
    style.label_axes(grid, y="weight side √(N·K) [elements]")
    _map_keys(fig, filled, bool(points["machine"].isin(machines).any()), theme)
    return fig, grid


def _shades(theme: Theme) -> list[Any]:
    """Colours between the levels and beyond them: the farther from 1.0, the stronger; none is that of the paper."""
    shades = []
    for colour, strengths in ((LOSS, np.linspace(0.85, 0.16, 6)), (GAIN, np.linspace(0.12, 0.8, 6))):
        ramp = LinearSegmentedColormap.from_list("shades", [theme.paper, colour])
        shades += [ramp(float(strength)) for strength in strengths]
    return shades


def _map_keys(fig: Figure, filled: Any, with_points: bool, theme: Theme) -> None:
    """A bar of shades and what the marks mean, over all panels."""
    height_in = fig.get_figheight()
    bar = fig.add_axes((0.064, 1 - 0.30 / height_in, 0.36, 0.14 / height_in))
    fig.colorbar(filled, cax=bar, orientation="horizontal", ticks=list(LEVELS))
    bar.set_xticks(LEVELS, [f"{level:g}" for level in LEVELS])
    bar.tick_params(labelsize=8.5, length=2)
    bar.set_xlabel("predicted speedup vs dense [×]", fontsize=9, labelpad=2)
    handles = [style.line_key("predicted break-even, 1.0", color=theme.ink, linewidth=1.5)]
    if with_points:
        look: dict[str, Any] = {"markersize": 5, "color": theme.ink}
        handles.append(style.mark_key("published: wins", **look))
        handles.append(style.mark_key("published: loses", markerfacecolor=theme.paper, **look))
    place = (0.45, 1 - 0.12 / height_in)
    style.add_legend(fig, handles, loc="upper left", bbox_to_anchor=place, fontsize=9, borderaxespad=0)


MANY_OF_GROUP = 500
"""A group of more points shows them small and faint, as pixels."""
MANY_POINTS = 2000
"""More points than these become a picture inside a vector file, which would else take megabytes."""
TURNS = 16
BYTES_STEP = 2.0
"""Rows are taken together within this factor of bytes."""
FEWEST_IN_STEP = 3
ROUNDED = 1e-4
"""Numbers of the table have five digits."""


@styled
def bandwidth(table: pd.DataFrame, *, theme: Theme = LIGHT) -> tuple[Figure, AxesGrid]:
    """Draw effective bandwidths, dense and sparse: predicted over published, and as a share of the DRAM's peak.

    Below are the memory-bound calls alone: those whose bound is the time of their bytes. They lie over their least traffic.
    Solid lines are medians of the published shares of each machine, dotted ones of the predicted shares. The dashed line is
    the peak of the DRAM. Above it, operands lay in a cache.

    Parameters
    ----------
    table : DataFrame
        As the module says, with `dense_bytes`, `sparse_bytes` and `dram_bytes_per_s`.
    theme : Theme

    Returns
    -------
    tuple of Figure and Axes array [2, 2]

    Raises
    ------
    RowError
        No row.
    """
    refuse_empty(table, WHAT)
    fig, grid = style.panel_grid(2, 2, 4.0, top=_legend_room(table), share_y=False)
    fig.subplots_adjust(hspace=0.27, left=0.08)
    marks = _marks(table, theme)
    for (upper, lower), product in zip(grid.T, ("dense", "sparse"), strict=True):
        rows = _with_bandwidths(table[table[f"measured_{product}_time_s"].notna()], product)
        low, high = _limits(rows, ["measured", "predicted"], (5e10, 5e12))
        _agreement(upper, low, high, theme)
        _points(upper, rows, "measured", "predicted", marks)
        ticks = [10.0**power for power in range(5, 16) if low <= 10.0**power <= high]
        _log_axes(upper, (low, high), (low, high), ticks, ticks, lambda value: f"{value / 1e9:g}")
        upper.set_title(f"{product} calls, {len(rows)} rows")
        _name_axes(upper, "published bandwidth [GB/s]", "predicted bandwidth [GB/s]")
        near = rows[rows["memory_bound"]]
        _shares(lower, near, marks, theme)
        lower.set_title(f"memory-bound {product} calls, {len(near)} rows")
        _name_axes(lower, "least traffic [MB]", "published share of the DRAM's peak [×]")
    keys = [
        style.line_key("peak of the DRAM", color=theme.ink, linestyle=style.DASHED),
        style.line_key("predicted, median", color=theme.ink, linestyle=style.DOTTED),
    ]
    _legend(fig, table, theme, *keys)
    return fig, grid


def _with_bandwidths(rows: pd.DataFrame, product: str) -> pd.DataFrame:
    """Bandwidths of one product of each row, their shares of the peak, and whether the bound is the time of its bytes."""
    moved = rows[f"{product}_bytes"]
    rates = {kind: moved / rows[f"{kind}_{product}_time_s"] for kind in ("measured", "predicted")}
    shares = {f"{kind}_share": rate / rows["dram_bytes_per_s"] for kind, rate in rates.items()}
    bytes_s = moved / rows["dram_bytes_per_s"]
    bound = bytes_s >= rows[f"bound_{product}_time_s"] * (1 - ROUNDED)
    return rows.assign(**rates, **shares, moved=moved, memory_bound=bound)


def _shares(ax: Axes, rows: pd.DataFrame, marks: Mapping[str, Mapping[str, Any]], theme: Theme) -> None:
    """Draw shares of the peak over bytes, with lines of medians per machine."""
    ax.axhline(1.0, color=theme.ink, linewidth=1.1, linestyle=style.DASHED, zorder=4)
    faint = {name: {**mark, "alpha": 0.15} for name, mark in marks.items()}
    _points(ax, rows, "moved", "measured_share", faint)
    steps = np.floor(np.log(rows["moved"]) / np.log(BYTES_STEP))
    for name, mark in marks.items():
        groups = rows[rows["machine"] == name].groupby(steps)
        middle = groups[["moved", "measured_share", "predicted_share"]].median()[
            groups.size() >= FEWEST_IN_STEP
        ]
        if len(middle):
            # A step without rows is empty, and the line stops there.
            middle = middle.reindex(np.arange(middle.index[0], middle.index[-1] + 1))
        ax.plot(middle["moved"], middle["measured_share"], linewidth=1.8, markersize=4, zorder=6, **mark)
        dotted: dict[str, Any] = {"color": mark["color"], "linestyle": style.DOTTED, "linewidth": 1.6}
        ax.plot(middle["moved"], middle["predicted_share"], zorder=5, **dotted)
    x, y = _limits(rows, ["moved"], (1e6, 1e8)), _limits(rows, ["measured_share"], (0.1, 1.5))
    x_ticks = [10.0**power for power in range(2, 14) if x[0] <= 10.0**power <= x[1]]
    y_ticks = [
        value for power in range(-6, 3) for value in (10.0**power, 3 * 10.0**power) if y[0] <= value <= y[1]
    ]
    _log_axes(ax, x, y, x_ticks, y_ticks, lambda value: f"{value:g}")
    style.fixed_ticks(ax.xaxis, x_ticks, lambda value: f"{value / 1e6:g}")


DTYPE_ORDER = ("bf16", "fp16", "fp8", "int8", "fp4")
WINDOW_PANELS = 3


@styled
def window_speedups(table: pd.DataFrame, *, theme: Theme = LIGHT) -> tuple[Figure, AxesGrid]:
    """Draw what a pattern brings through the sliding windows of a 2:4 unit, over tokens: a panel per GPU.

    Lines are medians of measured rows, and shades their 10th to 90th percentile. Dotted lines are what a unit of the
    pattern's own would bring at most on the same rows.

    Parameters
    ----------
    table : DataFrame
        From `validate.judge.break_even.windows_by` by `machine`, `dtype` and `M`, of one pattern.
    theme : Theme

    Returns
    -------
    tuple of Figure and Axes array

    Raises
    ------
    RowError
        No row.
    """
    refuse_empty(table, "table of windows")
    machines, dtypes = (
        sorted(table["machine"].unique()),
        [t for t in DTYPE_ORDER if (table["dtype"] == t).any()],
    )
    fig, grid, panels, lowest = style.panels_in_rows(len(machines), WINDOW_PANELS, 2.9, top=0.65)
    # One scale for all panels, so that GPUs can be compared; what lies below it is a loss in any case.
    low, high = 0.3, 1.15 * float(table[["measured_high", "native_bound_speedup_vs_dense"]].max().max())
    ticks = [value for value in (0.3, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0) if low <= value <= high]
    for machine, ax in zip(machines, panels, strict=True):
        own = table[table["machine"] == machine]
        ax.axhspan(low, 1.0, color=theme.loss, zorder=0)
        ax.axhline(1.0, color=theme.ink, linewidth=1, zorder=1)
        for place, dtype in enumerate(dtypes):
            rows = own[own["dtype"] == dtype].sort_values("M")
            look: dict[str, Any] = {"color": theme.colour(place), "marker": style.MARKERS[place]}
            spread = (rows["measured_low"].clip(lower=low), rows["measured_high"])
            ax.fill_between(rows["M"], *spread, color=theme.colour(place), alpha=0.12, linewidth=0, zorder=2)
            ax.plot(rows["M"], rows["measured_median"], linewidth=1.6, markersize=4, zorder=4, **look)
            native = rows["native_bound_speedup_vs_dense"].astype(float)
            ax.plot(
                rows["M"], native, color=theme.colour(place), linestyle=style.DOTTED, linewidth=1.4, zorder=3
            )
        _log_axes(
            ax,
            (48, 1.4 * float(table["M"].max())),
            (low, high),
            [64, 512, 4096, 32768],
            ticks,
            lambda value: f"{value:g}",
        )
        ax.set_title(f"{machine}, {own['n_rows'].sum()} rows")
    style.label_axes(np.array([lowest]), x="tokens M")
    style.label_axes(grid, y="speedup vs dense [×]")
    handles: list[Any] = [
        style.line_key(dtype, color=theme.colour(place), marker=style.MARKERS[place], markersize=5)
        for place, dtype in enumerate(dtypes)
    ]
    handles.append(style.line_key("with a unit of its own, at most", color=theme.ink, linestyle=style.DOTTED))
    handles += [Patch(facecolor=theme.quiet, alpha=0.3, label="10 to 90 % of rows"), style.slower_key(theme)]
    style.add_legend(fig, handles)
    return fig, grid


def _limits(rows: pd.DataFrame, columns: Sequence[str], least: tuple[float, float]) -> tuple[float, float]:
    """Ends of a logarithmic axis that all of these columns fit on."""
    values = rows[list(columns)].to_numpy(float)
    low, high = (np.nanmin(values), np.nanmax(values)) if values.size else least
    return float(min(low / 1.15, least[0])), float(max(high * 1.15, least[1]))


def _agreement(ax: Axes, low: float, high: float, theme: Theme) -> None:
    ends = np.array([low, high])
    shade: dict[str, Any] = {"color": theme.faint, "alpha": 0.55, "linewidth": 0, "zorder": 0}
    for band in BANDS[::-1]:
        ax.fill_between(ends, ends * (1 - band), ends * (1 + band), **shade)
    ax.plot(ends, ends, color=theme.ink, linewidth=0.9, zorder=1)


def _marks(table: pd.DataFrame, theme: Theme) -> dict[str, dict[str, Any]]:
    return machine_marks(sorted(table["machine"].unique()), theme)


def _points(ax: Axes, rows: pd.DataFrame, x: str, y: str, marks: Mapping[str, Mapping[str, Any]]) -> None:
    many = len(rows) > MANY_POINTS
    look: dict[str, Any] = {"markersize": 4.5, "markeredgewidth": 0.9, "alpha": 0.8, "zorder": 3}
    if many:
        look |= {"markersize": 2.6, "markeredgewidth": 0.4, "alpha": 0.4, "rasterized": True}
    # Of many points those of the last machine would hide the others, so machines take turns.
    turns = TURNS if many else 1
    for turn in range(turns):
        for name, mark in marks.items():
            own = rows[rows["machine"] == name].iloc[turn::turns]
            doubted = (own["mark"] != "").to_numpy()
            for where, face in ((~doubted, mark["color"]), (doubted, "none")):
                ax.plot(
                    own.loc[where, x], own.loc[where, y], linestyle="none", markerfacecolor=face, **{**look, **mark}
                )  # fmt: skip


def _log_axes(
    ax: Axes,
    x: tuple[float, float],
    y: tuple[float, float] | None,
    x_ticks: Sequence[float],
    y_ticks: Sequence[float],
    text: Callable[[float], str],
) -> None:
    ax.set_xscale("log")
    ax.set_xlim(*x)
    style.fixed_ticks(ax.xaxis, x_ticks, text)
    if y is not None:
        ax.set_yscale("log")
        ax.set_ylim(*y)
        style.fixed_ticks(ax.yaxis, y_ticks, text)


def _jitter(count: int) -> Any:
    """Spread points between 0 and 1 without chance: the golden ratio's multiples."""
    return (np.arange(count) * 0.6180339887) % 1.0


def _name_axes(ax: Axes, x: str, y: str) -> None:
    ax.set_xlabel(x, fontsize=LABEL_POINTS + 0.5)
    ax.set_ylabel(y, fontsize=LABEL_POINTS + 0.5)
    ax.tick_params(labelsize=LABEL_POINTS)
    ax.grid(visible=True, axis="both")


def _legend_room(table: pd.DataFrame) -> float:
    """Inches for a legend of machines over the panels."""
    return 0.5 + 0.2 * -(-(table["machine"].nunique() + 3) // LEGEND_COLUMNS)


def _legend(fig: Figure, table: pd.DataFrame, theme: Theme, *more: Any) -> None:
    handles: list[Any] = [
        style.mark_key(name, **mark | {"markersize": 6}) for name, mark in _marks(table, theme).items()
    ]
    if (table["mark"] != "").any():
        hollow = {"color": theme.ink, "markerfacecolor": "none", "markersize": 6}
        handles.append(style.mark_key("hollow: marked by its source", **hollow))
    handles += [Patch(facecolor=theme.faint, label=BAND_WORDS), *more]
    style.add_legend(fig, handles, LEGEND_COLUMNS, fontsize=LABEL_POINTS, borderaxespad=0.2)
