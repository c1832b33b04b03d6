"""Figures of what was measured: bits that were encoded, and products that were timed on this machine."""

from typing import Any, cast

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from hwmodels.plots import style
from hwmodels.plots.labels import PATTERN_LABEL, pattern_order, refuse_empty
from hwmodels.plots.style import LIGHT, AxesGrid, Theme, styled

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
        and `_p80`, `predicted_speedup_vs_dense`.
    theme : Theme

    Returns
    -------
    tuple of Figure and Axes array

    Raises
    ------
    RowError
        No row.
    """
    refuse_empty(table, "table of measured rows")
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
