"""Figures of a comparison of two chips: what each section of their files adds to time, energy and area."""

import itertools
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from hwmodels.plots import style
from hwmodels.plots.labels import refuse_empty
from hwmodels.plots.style import LIGHT, AxesGrid, Theme, styled
from nmsim.units import short

QUANTITIES = (
    ("time_s", 1e3, "time [ms]"),
    ("energy_joules", 1e3, "energy [mJ]"),
    ("area_mm2", 1.0, "area [mm²]"),
)
"""Column of the table, the factor to the unit that is drawn, and the label of its axis."""
BAR_HEIGHT = 0.62
ROOM = 0.28
"""Room for numbers beside the bars, as a share of the width of an axis."""


@styled
def waterfall(
    table: pd.DataFrame, *, first: str, second: str, theme: Theme = LIGHT
) -> tuple[Figure, AxesGrid]:
    """Draw how one chip becomes another: a panel per quantity, a bar per section in which their files differ.

    Parameters
    ----------
    table : DataFrame
        `hwmodels.comparison.chips.Comparison.causes`: the first chip, then a row per section.
    first, second : str
        Names of the chips.
    theme : Theme

    Returns
    -------
    tuple of Figure and Axes array [1, quantities]
        Quantities that are not known are left out.

    Raises
    ------
    RowError
        No row.
    """
    refuse_empty(table, "table of causes")
    known = [each for each in QUANTITIES if table[each[0]].notna().all()]
    names = [first, *table["section"].iloc[1:], second]
    fig, grid = style.panel_grid(1, len(known), 0.3 * len(names), top=0.25)
    places = np.arange(len(names))[::-1]
    for ax, (column, factor, label) in zip(grid[0], known, strict=True):
        values = factor * table[column].to_numpy(float)
        totals = values[[0, -1]]
        look: dict[str, Any] = {"height": BAR_HEIGHT, "zorder": 2}
        ax.barh(places[[0, -1]], totals, color=theme.quiet, **look)
        steps = np.diff(values)
        colours = [theme.colour(1 if step > 0 else 0) for step in steps]
        ax.barh(places[1:-1], steps, left=values[:-1], color=colours, **look)
        for place, edge, value, sign in (
            *((places[0], totals[0], totals[0], ""), (places[-1], totals[1], totals[1], "")),
            *(
                (place, max(pair), step, "+" if step > 0 else "")
                for place, pair, step in zip(places[1:-1], itertools.pairwise(values), steps, strict=True)
            ),
        ):
            text = "no change" if sign == "" and value == 0 else f"{sign}{short(value)}"
            ax.text(edge, place, f" {text}", va="center", ha="left", fontsize=7)
        # Bars begin at zero, so that their lengths can be compared.
        ax.set_xlim(0, (1 + ROOM) * values.max())
        ax.set_xlabel(label)
        # Panels share their lines: the first one names them.
        ax.set_yticks(places)
        ax.tick_params(axis="y", length=0, labelleft=ax is grid[0, 0])
        ax.grid(visible=False, axis="y")
    grid[0, 0].set_yticklabels(names)
    # Names of chips are longer than the numbers that other figures have there.
    fig.subplots_adjust(left=0.14)
    return fig, grid
