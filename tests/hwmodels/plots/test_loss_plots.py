"""Figures of measured quality beside costs: which points are on the front, which bars and axes are drawn."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from hwmodels import plots
from hwmodels.plots import CostPanel
from nmsim.errors import RowError

SPEEDUP = CostPanel("speedup", "speedup vs dense [×]", "decode", most=True, dense=1.0)
BITS = CostPanel("bits", "metadata [bits/element]")


def table(**changes):
    columns = {
        "operand": ["weights", "weights", "activations"],
        "pattern": ["2:4", "8:16", "8:16"],
        "loss_increase": [1.6, 0.8, 0.7],
        "loss_increase_low": [1.5, 0.75, 0.65],
        "loss_increase_high": [1.7, 0.9, 0.75],
        "speedup": [1.5, 0.9, 1.4],
        "speedup_low": [1.2, np.nan, 1.1],
        "speedup_high": [1.9, np.nan, 1.6],
        "bits": [1.0, 0.875, 0.875],
    }
    return pd.DataFrame(columns | changes)


def marks(ax):
    """Points of a panel: x, y, and whether they are filled."""
    points = [line for line in ax.lines if line.get_marker() in ("o", "s") and len(line.get_xdata()) == 1]
    return {
        (float(line.get_xdata()[0]), float(line.get_ydata()[0])): to_hex(line.get_markerfacecolor())
        == to_hex(line.get_color())
        for line in points
    }


def test_what_dense_beats_is_not_on_the_front():
    _, grid = plots.quality_beside_cost(table(), panels=[SPEEDUP, BITS])
    speedup, bits = grid[0]
    assert marks(speedup) == {(1.5, 1.6): True, (0.9, 0.8): False, (1.4, 0.7): True}
    # Of bits, dense has none; only pruned ways compete.
    assert marks(bits) == {(1.0, 1.6): False, (0.875, 0.8): False, (0.875, 0.7): True}
    assert speedup.get_ylabel() == "loss increase vs dense\n[nats/token]"
    assert (speedup.get_xlabel(), speedup.get_title(loc="left") or speedup.get_title()) == (
        "speedup vs dense [×]",
        "decode",
    )


def test_costs_that_are_the_same_in_three_digits_are_equal():
    near = table(speedup=[1.5198, 0.9, 1.5196])
    _, grid = plots.quality_beside_cost(near, panels=[SPEEDUP])
    assert marks(grid[0, 0]) == {(1.5198, 1.6): False, (0.9, 0.8): False, (1.5196, 0.7): True}


def test_bars_are_drawn_only_if_both_ends_are_known():
    _, grid = plots.quality_beside_cost(table(), panels=[SPEEDUP])
    segments = [segment for bars in grid[0, 0].collections for segment in bars.get_segments()]
    level = {round(float(one[0][0]), 3) for one in segments if one[0][1] == one[1][1]}
    assert level == {1.2, 1.1}
    upright = {round(float(one[0][1]), 3) for one in segments if one[0][0] == one[1][0]}
    assert upright == {1.5, 0.75, 0.65}


def test_a_panel_without_points_has_no_line():
    empty = table(speedup=[np.nan] * 3)
    fig, grid = plots.quality_beside_cost(empty, panels=[SPEEDUP, BITS])
    assert not grid[0, 0].lines
    assert [text.get_text() for text in grid[0, 0].texts] == ["not known"]
    assert plots.rendered(fig, "svg").startswith(b"<?xml")


def test_small_differences_look_small():
    near = table(loss_increase=[0.800, 0.801, 0.802], loss_increase_low=[0.79] * 3, loss_increase_high=[0.81] * 3,
                 speedup=[1.40, 1.41, 1.42], speedup_low=[np.nan] * 3, speedup_high=[np.nan] * 3)  # fmt: skip
    _, grid = plots.quality_beside_cost(
        near, panels=[CostPanel("speedup", "speedup vs dense [×]", most=True)]
    )
    low, high = grid[0, 0].get_ylim()
    assert low == 0
    assert high > 0.81
    left, right = grid[0, 0].get_xlim()
    assert right - left >= 0.2 * 1.41


def test_losses_that_differ_by_factors_have_a_logarithmic_axis():
    wide = table(
        loss_increase=[4.0, 0.4, 0.05],
        loss_increase_low=[3.9, 0.3, -0.01],
        loss_increase_high=[4.1, 0.5, 0.11],
    )
    _, grid = plots.quality_beside_cost(wide, panels=[SPEEDUP])
    assert grid[0, 0].get_yscale() == "log"
    low, high = grid[0, 0].get_ylim()
    assert 0 < low < 0.05
    assert high > 4.1


def test_more_is_better_of_some_qualities():
    kept = table().rename(columns={"loss_increase": "kept"}).assign(kept=[0.8, 0.9, 0.95])
    _, grid = plots.quality_beside_cost(
        kept, panels=[SPEEDUP], quality="kept", label="energy kept [1]", least=False, dense_quality=1.0
    )
    assert marks(grid[0, 0]) == {(1.5, 0.8): True, (0.9, 0.9): False, (1.4, 0.95): True}


@pytest.mark.parametrize(
    ("rows", "panels", "problem"),
    [
        (table(), [], "no panel"),
        (table().drop(columns="speedup"), [SPEEDUP], "no column speedup"),
        (table(pattern=["dense"] * 3), [SPEEDUP], "no pruned row"),
        (table(loss_increase=[np.nan] * 3), [SPEEDUP], "no pruned row"),
    ],
)
def test_what_cannot_be_drawn_is_refused(rows, panels, problem):
    with pytest.raises(RowError, match=problem):
        plots.quality_beside_cost(rows, panels=panels)
