"""The figures of the judge and of the break-even: axes with units, and the rows of the table are what is drawn."""

import itertools

import numpy as np
import pytest
from judge_fakes import measurement, model_of

from hwmodels import plots
from hwmodels.plots import DARK, LIGHT
from hwmodels.plots.judged import machine_marks
from nmsim.errors import RowError
from validate.judge.break_even import break_even_side, gpus_with_unit, losses, published_points, speedup_map
from validate.judge.judge import judge_rows, judged_columns
from validate.judge.rows import as_rows

FIGURES = {
    "speedup": plots.speedup_scatter,
    "time": plots.time_scatter,
    "bandwidth": plots.bandwidth,
    "tokens": plots.residuals_by_tokens,
    "machine": lambda table, theme=LIGHT: plots.residuals_by(table, column="machine", theme=theme),
    "regime": lambda table, theme=LIGHT: plots.residuals_by(table, column="regime", theme=theme),
}


@pytest.fixture(scope="module")
def table():
    rows = [
        measurement(),
        measurement(machine="rtx4090", M=4096, phase="prefill", speedup_vs_dense=1.6, sparse_time_s=62.5e-6),
        measurement(machine="rtx4090", M=512, phase="prefill", dtype="int8", mark="weak baseline"),
        measurement(machine="a100-pcie", M=1, speedup_vs_dense=0.8, sparse_time_s=125e-6),
    ]
    return judged_columns(judge_rows(as_rows(rows), predictor=model_of(90e-6, 50e-6)))


def points_of(ax):
    """Places of all markers, sorted."""
    lines = [line for line in ax.lines if line.get_marker() not in ("None", "", None)]
    return sorted((x, y) for line in lines for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True))


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_axes_have_units_and_labels_do_not_overlap(table, name, theme):
    fig, grid = FIGURES[name](table, theme=theme)
    fig.draw_without_rendering()
    for ax in grid.flat:
        assert any(mark in ax.get_xlabel() for mark in ("[×", "[s]", "tokens M", "[GB/s]", "[MB]"))
        boxes = [tick.get_window_extent() for tick in ax.get_xticklabels() if tick.get_text()]
        assert all(a.x1 <= b.x0 for a, b in itertools.pairwise(boxes))
    assert any(mark in grid[0, 0].get_ylabel() for mark in ("[×", "[s]", "(rows)", "[GB/s]"))
    legend = fig.legends[0].get_window_extent()
    assert legend.x0 >= 0
    assert legend.x1 <= fig.bbox.x1
    assert all(legend.y0 >= ax.get_window_extent().y1 for ax in grid.flat)


def test_the_scatter_draws_the_rows(table):
    _, grid = plots.speedup_scatter(table)
    assert points_of(grid[0, 0]) == [(0.8, 1.8), (1.6, 1.8), (2.0, 1.8)]
    assert points_of(grid[0, 1]) == []
    assert points_of(grid[0, 2]) == [(2.0, 1.8)]
    marked = [
        line for line in grid[0, 2].lines if len(line.get_xdata()) and line.get_markerfacecolor() == "none"
    ]
    assert len(marked) == 1
    for ax in grid.flat:
        ends = [line.get_xdata() for line in ax.lines if list(line.get_xdata()) == list(line.get_ydata())]
        ((low, high),) = [pair for pair in ends if len(pair) == 2]
        assert low < 1 < high


def test_times_are_drawn_in_seconds(table):
    _, grid = plots.time_scatter(table)
    assert {x for x, _ in points_of(grid[0, 0])} == {100e-6}
    assert {y for _, y in points_of(grid[0, 1])} == {50e-6}
    assert grid[0, 0].get_xscale() == grid[0, 0].get_yscale() == "log"


def test_bandwidths_are_bytes_over_times(table):
    """64 MB dense in 100 us are 640 GB/s, and predicted 90 us make 711; 48 MB sparse in 50 us are 960."""
    _, grid = plots.bandwidth(table)
    assert points_of(grid[0, 0]) == [pytest.approx((0.64e12, 64e6 / 90e-6), rel=1e-4)] * 4
    assert [y for _, y in points_of(grid[0, 1])] == [pytest.approx(0.96e12)] * 4
    # Half of 100 us is less than 64 MB take from an RTX 4090's memory, and more than they take from the others'.
    assert points_of(grid[1, 0]) == [pytest.approx((64e6, 0.64e12 / 1.008e12), rel=1e-4)] * 2


def test_shares_of_the_peak_are_of_memory_bound_calls(table):
    """All rows at the rate of their memory: each share is that of the time at full rate in the measured time."""
    at_peak = table["sparse_bytes"] / table["dram_bytes_per_s"]
    _, grid = plots.bandwidth(table.assign(bound_sparse_time_s=at_peak))
    shares = at_peak / table["measured_sparse_time_s"]
    assert points_of(grid[1, 1]) == [pytest.approx((48e6, share), rel=1e-4) for share in sorted(shares)]


def test_many_points_are_a_picture_and_all_of_them_are_there(table):
    many = table.loc[[0] * 3000].reset_index(drop=True)
    _, grid = plots.bandwidth(many)
    drawn = [line for line in grid[0, 0].lines if line.get_linestyle() == "None"]
    assert sum(len(line.get_xdata()) for line in drawn) == 3000
    assert all(line.get_rasterized() for line in drawn)


def test_windows_draw_medians_spread_and_what_a_unit_would_bring():
    import pandas as pd

    row = {"machine": "h200", "dtype": "bf16", "M": 64, "n_rows": 3, "measured_low": 0.8, "measured_median": 0.9,
           "measured_high": 1.1, "native_bound_speedup_vs_dense": 1.8}  # fmt: skip
    made = pd.DataFrame(
        [row, row | {"M": 128, "measured_median": 1.0}, row | {"machine": "b200", "dtype": "fp8"}]
    )
    fig, grid = plots.window_speedups(made)
    fig.draw_without_rendering()
    assert [ax.get_title(loc="left") for ax in grid[0]] == ["b200, 3 rows", "h200, 6 rows"]
    assert points_of(grid[0, 1]) == [(64, 0.9), (128, 1.0)]
    dotted = [list(line.get_ydata()) for line in grid[0, 1].lines if list(line.get_xdata()) == [64, 128]]
    assert [1.8, 1.8] in dotted
    assert grid[0, 0].get_ylabel() == "speedup vs dense [×]"
    with pytest.raises(RowError, match="no row to draw"):
        plots.window_speedups(made.iloc[:0])


def test_residuals_are_predicted_over_measured(table):
    _, grid = plots.residuals_by_tokens(table)
    assert sorted(y for _, y in points_of(grid[0, 0])) == pytest.approx([0.9, 0.9, 1.125, 2.25])
    _, grid = plots.residuals_by(table, column="machine")
    labels = [tick.get_text() for tick in grid[0, 0].get_yticklabels()]
    assert labels == ["a100-pcie (1)", "h200 (1)", "rtx4090 (2)"]
    assert sorted(x for x, _ in points_of(grid[0, 0])) == pytest.approx([0.9, 0.9, 1.125, 2.25])


@pytest.mark.parametrize("name", FIGURES)
def test_an_empty_table_is_refused(table, name):
    with pytest.raises(RowError, match="no row to draw"):
        FIGURES[name](table.iloc[:0])


def test_machines_look_different():
    looks = machine_marks([f"m{place}" for place in range(20)], LIGHT).values()
    assert len({(look["color"], look["marker"]) for look in looks}) == 20


@pytest.fixture(scope="module")
def mapped():
    return speedup_map(["h200", "rtx4090"])


def test_the_map_is_what_the_model_predicts(mapped):
    import pandas as pd

    import hwmodels

    row = mapped[(mapped["machine"] == "rtx4090") & (mapped["M"] == 64) & (mapped["side"] == 4096)].iloc[0]
    asked = {"M": 64, "N": 4096, "K": 4096, "dtype": "bf16", "baseline_dtype": "bf16", "pattern": "2:4"}
    asked |= {"kernel_family": "library", "density": 0.5, "l2_state": ""}
    answer = hwmodels.predict_rows(pd.DataFrame([asked]), "rtx4090").iloc[0]
    assert row["predicted_speedup_vs_dense"] == pytest.approx(answer["predicted_speedup_vs_dense"], abs=1e-4)
    assert row["regime"] == "decode"
    assert set(mapped.groupby("machine").size()) == {28 * 9}


def test_break_even_is_the_least_side_that_wins_and_all_beyond_it():
    import pandas as pd

    sides, speedups = [1024, 2048, 4096, 8192], [1.2, 0.9, 1.1, 1.3]
    made = pd.DataFrame({"machine": "x", "M": 1, "side": sides, "predicted_speedup_vs_dense": speedups})
    assert break_even_side(made, "x", 1) == 4096
    assert break_even_side(made.assign(predicted_speedup_vs_dense=2.0), "x", 1) == 1024
    assert break_even_side(made.assign(predicted_speedup_vs_dense=0.5), "x", 1) is None
    with pytest.raises(RowError, match="nothing for 'y' and 1 tokens"):
        break_even_side(made, "y", 1)


def test_losses_are_counted(table, mapped):
    points = published_points(table)
    assert len(points) == 3  # int8 is another story
    assert points["side"].tolist() == [4096.0] * 3
    found = losses(points.assign(machine="rtx4090"), mapped).set_index(["machine", "regime"])
    assert found.loc[("rtx4090", "decode"), ["n_rows", "published_losing", "predicted_losing"]].tolist() == [
        2,
        0.5,
        0.0,
    ]
    assert np.isnan(found.loc[("h200", "decode"), "published_losing"])
    here = mapped[(mapped["machine"] == "h200") & (mapped["regime"] == "decode")][
        "predicted_speedup_vs_dense"
    ]
    assert found.loc[("h200", "decode"), "map_losing"] == (here < 1).mean() > 0


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_the_break_even_draws_points_filled_where_sparsity_wins(table, mapped, theme):
    points = published_points(table).assign(machine="rtx4090")
    fig, grid = plots.break_even(mapped, points=points, machines=["h200", "rtx4090"], theme=theme)
    fig.draw_without_rendering()
    ax = grid[0, 1]
    assert ax.get_title(loc="left") == "rtx4090, 3 rows"
    assert points_of(ax) == [(1, 4096), (64, 4096), (4096, 4096)]
    hollow = [line for line in ax.lines if line.get_markerfacecolor() == theme.paper]
    assert [list(line.get_xdata()) for line in hollow] == [[1]]
    assert ax.get_xlabel() == "tokens M"
    assert grid[0, 0].get_ylabel() == "weight side √(N·K) [elements]"
    boxes = [tick.get_window_extent() for tick in ax.get_xticklabels() if tick.get_text()]
    assert all(a.x1 <= b.x0 for a, b in itertools.pairwise(boxes))
    with pytest.raises(RowError, match="nothing for nobody"):
        plots.break_even(mapped, points=points, machines=["nobody"])


def test_every_gpu_with_a_sparse_unit_is_on_the_map():
    found = gpus_with_unit()
    assert {"a100-pcie", "h200", "gb10", "mi300x"} <= set(found)
    assert not {"v100", "rtx2080s", "h200-8x16", "epyc-2core"} & set(found)
