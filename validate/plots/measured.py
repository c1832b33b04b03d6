"""Figures of what was measured: each function takes a table and gives back `(fig, ax)`."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from hwmodels.plots.predicted import (
    LIGHT,
    PATTERN_LABEL,
    AxesGrid,
    Theme,
    add_legend,
    label_axes,
    panel_grid,
    pattern_order,
)
from nmsim.errors import RowError


def bytes_per_element(bits: pd.DataFrame, *, theme: Theme = LIGHT) -> tuple[Figure, AxesGrid]:
    """Draw what is stored: all bytes an element beside the dense ones, and the metadata bits beside their entropy.

    Parameters
    ----------
    bits : DataFrame
        From `validate.study.bits.bits_per_element`.
    theme : Theme

    Returns
    -------
    tuple of Figure and Axes array [1, 2]

    Raises
    ------
    RowError
        No row.
    """
    if bits.empty:
        raise RowError("table of bits: no row to draw")
    patterns, encodings = pattern_order(bits["pattern"]), list(bits["encoding"].unique())
    fig, grid = panel_grid(1, 2, 3.0, theme, top=0.45, share_y=False)
    whole, metadata = grid[0]
    width, top = 0.86 / len(encodings), float(bits["measured_metadata_bits_per_elem"].max())
    for place, encoding in enumerate(encodings):
        found = bits[bits["encoding"] == encoding].set_index("pattern").reindex(patterns)
        at = np.arange(len(patterns)) - 0.43 + (place + 0.5) * width
        values = found["measured_values_bits_per_elem"].to_numpy(float) / 8
        codes = found["measured_metadata_bits_per_elem"].to_numpy(float)
        colour = theme.series[place % len(theme.series)]
        whole.bar(at, values, 0.9 * width, color=theme.quiet, zorder=2)
        whole.bar(at, codes / 8, 0.9 * width, values, color=colour, zorder=2)
        drawn = metadata.bar(at, codes, 0.9 * width, color=colour, zorder=2)
        numbers = [f"{bit:.3f}" if np.isfinite(bit) else "" for bit in codes]
        metadata.bar_label(drawn, numbers, rotation=90, padding=2, fontsize=7, color=theme.ink)
    entropy = bits.groupby("pattern")["entropy_bits_per_elem"].first()
    for place, pattern in enumerate(patterns):
        metadata.hlines(
            entropy[pattern], place - 0.47, place + 0.47, color=theme.ink, linewidth=1.3, zorder=4
        )
    dense = float(bits["dense_bits_per_elem"].iloc[0]) / 8
    whole.axhline(dense, color=theme.ink, linewidth=1, linestyle=(0, (4, 2)), zorder=3)
    whole.text(-0.47, 1.01 * dense, "dense", fontsize=8, color=theme.ink)
    whole.set_ylim(0, 1.12 * dense)
    metadata.set_ylim(0, 1.2 * top if top else 1.0)
    for ax, text in ((whole, "stored [bytes / element]"), (metadata, "metadata [bits / element]")):
        ax.set_xlim(-0.5, len(patterns) - 0.5)
        ax.set_xticks(range(len(patterns)), patterns)
        ax.tick_params(axis="x", length=0)
        label_axes(np.array([[ax]]), PATTERN_LABEL, text, theme)
    handles: list[Any] = [Patch(facecolor=theme.quiet, label="values")]
    handles += [
        Patch(facecolor=theme.series[place % len(theme.series)], label=f"metadata, {name}")
        for place, name in enumerate(encodings)
    ]
    add_legend(
        fig, [*handles, Line2D([], [], color=theme.ink, linewidth=1.3, label="entropy, log₂ C(M, N)")], theme
    )
    return fig, grid
