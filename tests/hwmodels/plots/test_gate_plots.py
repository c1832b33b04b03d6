"""Figures of hardware units: marks are where the table says, and bad tables are refused."""

import numpy as np
import pandas as pd
import pytest

from hwmodels import plots
from hwmodels.plots import DARK, gates
from nmsim.errors import RowError

COLUMNS = ["unit", "pattern", "encoding", "variant", "width_bits", "nand2", "fo4"]
UNITS = pd.DataFrame(
    [
        ("decoder", "2:4", "bitmask", "plain", 0, 0, 0),
        ("decoder", "8:16", "combinatorial", "serial", 0, 600, 200),
        ("decoder", "8:16", "combinatorial", "shallow", 0, 2700, 40),
        ("decoder", "8:16", "combinatorial", "digits", 0, 1400, 70),
        ("position_decoder", "8:16", "combinatorial", "columns", 0, 800, 120),
        ("encoder", "8:16", "combinatorial", "pairs", 0, 630, 50),
        ("select", "2:4", "", "mux", 8, 112, 5),
        ("select", "2:4", "", "onehot", 8, 56, 4),
        ("select", "8:16", "", "onehot", 16, 1536, 6),
    ],
    columns=COLUMNS,
)
CODES = pd.DataFrame(
    [("2:4", "bitmask", 1.0, 0.65, 11, 11), ("8:16", "combinatorial", 0.875, 0.85, 800, 3000)],
    columns=["pattern", "encoding", "bits_per_element", "entropy_bits_per_element", "nand2", "nand2_shallow"],
)
PAYS = pd.DataFrame(
    [("4:8", "combinatorial", 9.0, 80, 260, 5000), ("8:16", "tiled", 7.0, 60, 200, 4000)],
    columns=[
        "pattern", "encoding", "saved_bits_per_knand2", "decodes_low", "decodes_nominal", "decodes_high",
    ],
)  # fmt: skip
FIGURES = {
    "gates_vs_pattern": (plots.gates_vs_pattern, UNITS),
    "gates_vs_bits": (plots.gates_vs_bits, CODES),
    "select_networks": (plots.select_networks, UNITS),
    "code_break_even": (plots.code_break_even, PAYS),
}


def heights(ax):
    """Heights of all marks."""
    return {float(y) for line in ax.lines if line.get_marker() not in ("", "None") for y in line.get_ydata()}


def test_the_fewest_gates_and_the_shortest_path_are_drawn():
    _, grid = plots.gates_vs_pattern(UNITS)
    assert heights(grid[0, 0]) == {0, 600, 2700}
    assert heights(grid[1, 0]) == {0, 200, 40}
    assert heights(grid[0, 2]) == {630}
    hollow = [line for line in grid[0, 0].lines if line.get_markerfacecolor() == "none"]
    assert 2700 in {float(y) for line in hollow for y in line.get_ydata()}
    low, high = grid[0, 0].get_ylim()
    assert low < 0
    assert high > 2700


def test_a_code_stands_at_its_bits():
    _, grid = plots.gates_vs_bits(CODES)
    assert [ax.get_title(loc="left") or ax.get_title() for ax in grid[0]] == ["2:4", "8:16"]
    assert heights(grid[0, 1]) >= {800, 3000}
    assert {float(x) for line in grid[0, 1].lines for x in line.get_xdata()} == {0.875, 0.85}
    assert all(ax.get_ylim()[1] > 3000 for ax in grid[0])


def test_networks_are_counted_per_selected_bit():
    _, grid = plots.select_networks(UNITS)
    assert heights(grid[0, 0]) == {112 / 16, 56 / 16}
    assert heights(grid[0, 1]) == {1536 / 128}


def test_the_range_of_the_break_even_is_drawn():
    _, grid = plots.code_break_even(PAYS)
    assert heights(grid[0, 0]) == {9, 7}
    ends = np.concatenate(
        [path.vertices[:, 1] for line in grid[0, 1].collections for path in line.get_paths()]
    )
    assert sorted(ends) == [60, 80, 4000, 5000]


@pytest.mark.parametrize("name", FIGURES)
def test_figures_have_units_and_both_themes(name):
    draw, table = FIGURES[name]
    for theme in (plots.LIGHT, DARK):
        fig, grid = draw(table, theme=theme)
        assert "[" in grid[-1, 0].get_xlabel()
        assert any(word in grid[0, 0].get_ylabel() for word in ("[", "NAND2"))
        assert len(plots.rendered(fig, "svg")) > 1000


@pytest.mark.parametrize("name", FIGURES)
def test_tables_without_a_column_or_a_row_are_refused(name):
    draw, table = FIGURES[name]
    with pytest.raises(RowError, match="no column encoding|no column pattern"):
        draw(table.drop(columns=["encoding", "pattern"]))
    with pytest.raises(RowError, match="no row to draw"):
        draw(table.iloc[:0])


def test_only_goals_that_exist_are_known():
    assert gates.best_rows(UNITS, "area")["nand2"].min() == 0
    with pytest.raises(KeyError):
        gates.best_rows(UNITS, "price")
