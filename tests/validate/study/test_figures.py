"""The figures: axes say what they show, with units, and what is drawn is what the table says."""

import itertools

import numpy as np
import pytest
from matplotlib.figure import Figure

from hwmodels import plots
from nmsim.errors import RowError
from validate.study.whole_model import fastest

KEYS = ["hardware", "phase", "tokens", "sparse_operand", "pattern"]


@pytest.fixture(scope="module")
def best(study):
    import pandas as pd

    model = study.found.model
    return pd.concat([model[model["pattern"] == "dense"], fastest(model, KEYS)])


def labels(grid, side):
    axes = grid[:, 0] if side == "y" else grid[-1]
    return {getattr(ax, f"get_{side}label")() for ax in axes if ax.get_visible()}


def test_speedup_vs_pattern(study):
    fig, grid = plots.speedup_vs_pattern(study.found.model)
    assert isinstance(fig, Figure)
    assert grid.shape == (2, 3)  # machines; decode 1, decode 16, prefill 2048
    assert labels(grid, "y") == {"speedup vs dense [×]"}
    assert labels(grid, "x") == {"pattern, kept : group [elements]"}
    for ax in grid.flat:
        assert [tick.get_text() for tick in ax.get_xticklabels()] == ["2:4", "8:16", "16:32"]
        assert [1.0, 1.0] in [list(line.get_ydata()) for line in ax.lines], "no line at 1.0"


def test_speedup_vs_pattern_draws_the_rows(study):
    model = study.found.model
    _, grid = plots.speedup_vs_pattern(model, steps=[("prefill", 2048)])
    rows = model[
        (model["hardware"] == "h200-8x16")
        & (model["tokens"] == 2048)
        & (model["sparse_operand"] == "weights")
    ]
    markers = [line for line in grid[1, 0].lines if line.get_marker() not in ("None", "")]
    drawn = np.sort(np.concatenate([line.get_ydata() for line in markers]))
    assert np.allclose(drawn, np.sort(rows["predicted_speedup_vs_dense"]))
    filled = [
        line for line in markers if line.get_markerfacecolor() == line.get_color() and len(line.get_xdata())
    ]
    assert sum(len(line.get_xdata()) for line in filled) == (rows["execution"] == "native").sum() == 3


def test_speedup_vs_tokens(best):
    fig, grid = plots.speedup_vs_tokens(best)
    assert isinstance(fig, Figure)
    assert labels(grid, "y") == {"speedup vs dense [×]"}
    assert labels(grid, "x") == {"tokens per step (decode batch, prefill length)"}
    assert grid[0, 0].get_xscale() == "log"
    assert [ax.get_title(loc="left") for ax in grid.flat] == ["h200", "h200-8x16"]


def test_bound_by_stage(best):
    rows = best[(best["sparse_operand"] == "weights") | (best["pattern"] == "dense")]
    fig, grid = plots.bound_by_stage(rows)
    assert isinstance(fig, Figure)
    assert grid.shape == (2, 3)
    assert labels(grid, "y") == {"time / dense time [s/s]"}
    ax = grid[0, 0]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["dense", "2:4", "8:16", "16:32"]
    here = rows[(rows["hardware"] == "h200") & (rows["tokens"] == 1)].set_index("pattern")
    tops = {}
    for bar in ax.patches:
        if bar.get_fill():
            place = round(bar.get_x() + bar.get_width() / 2)
            tops[place] = max(tops.get(place, 0.0), bar.get_y() + bar.get_height())
    for place, pattern in enumerate(["dense", "2:4", "8:16", "16:32"]):
        assert tops[place] == pytest.approx(1 / here.loc[pattern, "predicted_speedup_vs_dense"])


def test_bytes_per_element(study):
    fig, grid = plots.bytes_per_element(study.found.bits_per_elem)
    assert isinstance(fig, Figure)
    assert [ax.get_ylabel() for ax in grid[0]] == ["stored [bytes / element]", "metadata [bits / element]"]
    heights = sorted(bar.get_height() for bar in grid[0, 1].patches)
    assert np.allclose(heights, np.sort(study.found.bits_per_elem["measured_metadata_bits_per_elem"]))


@pytest.mark.parametrize("theme", [plots.LIGHT, plots.DARK])
def test_no_two_labels_of_an_axis_overlap(study, best, theme):
    rows = best[(best["sparse_operand"] == "weights") | (best["pattern"] == "dense")]
    figures = [
        plots.speedup_vs_pattern(study.found.model, theme=theme),
        plots.speedup_vs_tokens(best, theme=theme),
        plots.bound_by_stage(rows, theme=theme),
        plots.bytes_per_element(study.found.bits_per_elem, theme=theme),
    ]
    for fig, grid in figures:
        fig.draw_without_rendering()
        for ax in grid.flat:
            boxes = [tick.get_window_extent() for tick in ax.get_xticklabels() if tick.get_text()]
            assert all(a.x1 <= b.x0 for a, b in itertools.pairwise(boxes))
        legend = fig.legends[0].get_window_extent()
        assert legend.x0 >= 0
        assert legend.x1 <= fig.bbox.x1
        assert all(legend.y0 >= ax.get_window_extent().y1 for ax in grid.flat)


def test_two_rows_for_one_mark_are_refused(study):
    with pytest.raises(RowError, match="several rows for h200"):
        plots.bound_by_stage(study.found.model)
    with pytest.raises(RowError, match="several rows for h200"):
        plots.speedup_vs_tokens(study.found.model)


def test_an_empty_table_is_refused(study):
    model = study.found.model
    with pytest.raises(RowError, match="no sparse row to draw"):
        plots.speedup_vs_pattern(model[model["pattern"] == "dense"])
    with pytest.raises(RowError, match="no row to draw"):
        plots.bytes_per_element(study.found.bits_per_elem.iloc[:0])
