"""The last row of the figure of `validate.quality`: accuracies that somebody measured, over errors that are measured here."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from hwmodels.plots.predicted import Theme
from nmsim.quality.way import NONE, is_reference
from validate.quality.looks import Looks

LABEL_SHARE, LABEL_STEP = 0.52, 0.062
"""Of a panel: the width that names of lines take, and the height from one name to the next."""
NARROW = 5
"""Greatest over least below which a logarithmic axis has evenly spaced numbers."""


def draw_accuracies(ax: Axes, matched: pd.DataFrame, name: str, looks: Looks, theme: Theme) -> None:
    """Draw accuracy over one quality: a point a pattern and mitigation as elsewhere in the figure, a line a model and way.

    Names of lines stand at the right, one under the other, each joined to the last point of its line.

    Parameters
    ----------
    ax : Axes
    matched : DataFrame
        From `validate.quality.accuracy.beside_quality`.
    name : str
        The column that is drawn from left to right, above 0.
    looks : Looks
    theme : Theme
    """
    ends = []
    for key, line in matched.groupby(["model", "criterion", "mitigation"], sort=False):
        model, criterion, mitigation = map(str, key)
        loose = is_reference(criterion)
        line = line.sort_values(name)
        ax.plot(line[name], line["accuracy"], color=theme.quiet, linewidth=1.0, zorder=2)
        for pattern, x, y in zip(line["pattern"], line[name], line["accuracy"], strict=True):
            look = looks.reference(theme) if loose else looks.look(pattern, mitigation)
            # Filled is what is on a front, above; points that coincide are seen through each other.
            ax.plot([x], [y], zorder=3, markerfacecolor="none", **look)
        last = line.iloc[-1]
        words = f"{model}, {criterion}"
        if loose:
            words = ", ".join(part for part in (f"{words} {last['pattern']}", mitigation) if part != NONE)
        ends.append((float(last[name]), float(last["accuracy"]), words))
    if matched[name].max() < NARROW * matched[name].min():
        ax.xaxis.set_major_locator(MaxNLocator(5))
    low, high = np.log(float(matched[name].min())), np.log(float(matched[name].max()))
    room = 0.06 * (high - low) or 0.1
    ax.set_xlim(np.exp(low - room), np.exp(low + (high - low + 2 * room) / (1 - LABEL_SHARE) - room))
    ax.margins(y=0.12)
    _name_lines(ax, ends, theme)
    ax.set_ylabel("mean accuracy, elsewhere [1]", fontsize=8.5, color=theme.ink)


def _name_lines(ax: Axes, ends: list[tuple[float, float, str]], theme: Theme) -> None:
    bottom, top = ax.get_ylim()
    ends = sorted(ends, key=lambda end: end[1])
    heights = spread([(y - bottom) / (top - bottom) for _, y, _ in ends], LABEL_STEP)
    for (x, y, words), height in zip(ends, heights, strict=True):
        place: dict[str, Any] = {"xytext": (1 - LABEL_SHARE + 0.06, height), "textcoords": "axes fraction"}
        arrow = {"arrowstyle": "-", "color": theme.quiet, "linewidth": 0.6, "shrinkA": 1, "shrinkB": 3}
        ax.annotate(
            words, (x, y), va="center", fontsize=6, color=theme.ink, arrowprops=arrow, zorder=1, **place
        )


def spread(heights: list[float], step: float) -> list[float]:
    """Move rising heights apart by at least `step`, around where they are.

    Examples
    --------
    >>> [round(height, 2) for height in spread([0.1, 0.5, 0.52], 0.1)]
    [0.1, 0.46, 0.56]
    """
    clusters: list[list[float]] = []
    for height in heights:
        clusters.append([height])
        while len(clusters) > 1 and _low(clusters[-1], step) < _low(clusters[-2], step) + step * len(
            clusters[-2]
        ):
            clusters[-2:] = [clusters[-2] + clusters[-1]]
    return [_low(some, step) + step * place for some in clusters for place in range(len(some))]


def _low(heights: list[float], step: float) -> float:
    """The lowest of evenly spaced places that have the mean of the heights."""
    return sum(heights) / len(heights) - step * (len(heights) - 1) / 2
