"""Units are looked up, worked out of others with an error, or refused; rows of a user replace those that ship."""

import time
from dataclasses import replace

import pytest

from hwmodels.gates import table
from hwmodels.gates.record import GateRow
from hwmodels.gates.table import ADDED_FILE_VARIABLE, SYNTHESIS_FILE, Gates, gates_of
from nmsim.errors import RowError, SpecError
from nmsim.pattern import Pattern
from nmsim.rows.files import read, write


@pytest.fixture
def added(tmp_path, monkeypatch):
    """Write rows to a file that the environment names."""

    def use(*rows):
        path = tmp_path / f"rows-{len(list(tmp_path.iterdir()))}.csv"
        write(path, rows, record=GateRow)
        monkeypatch.setenv(ADDED_FILE_VARIABLE, str(path))

    return use


def test_every_row_that_ships_is_found_again():
    for row in read(SYNTHESIS_FILE, GateRow):
        if row.stages:
            continue
        found = gates_of(
            row.unit,
            row.spec.pattern,
            encoding=row.encoding,
            variant=row.variant,
            width_bits=row.width_bits,
            goal=row.goal,
        )
        best = (found.nand2, row.nand2) if row.goal == "area" else (found.fo4, row.fo4)
        assert best[0] <= best[1]
        assert (found.origin, found.error) == ("synthesised", 0.0)


def test_the_best_of_the_goal_is_taken():
    pattern = Pattern(8, 16)
    small = gates_of("decoder", pattern, encoding="combinatorial")
    quick = gates_of("decoder", pattern, encoding="combinatorial", goal="delay")
    assert small.nand2 < quick.nand2
    assert quick.fo4 < small.fo4


def test_a_pattern_that_is_missing_is_fitted_and_says_its_error():
    found = gates_of("decoder", Pattern(7, 16), encoding="combinatorial", variant="serial")
    known = gates_of("decoder", Pattern(8, 16), encoding="combinatorial", variant="serial")
    assert found.origin == "fitted"
    assert found.error > 0
    assert 0.3 < found.nand2 / known.nand2 < 2


def test_a_width_that_is_missing_is_fitted():
    eight, twelve, sixteen = (
        gates_of("select", Pattern(8, 16), variant="onehot", width_bits=bits) for bits in (8, 12, 16)
    )
    assert twelve.origin == "fitted"
    assert eight.nand2 < twelve.nand2 < sixteen.nand2


def test_nothing_is_decoded_or_chosen_where_all_is_kept():
    assert gates_of("select", Pattern(4, 4), variant="mux", width_bits=8) == Gates()
    assert gates_of("decoder", Pattern(16, 16), encoding="combinatorial") == Gates()


def test_rows_of_a_user_come_first(added):
    row = next(
        row
        for row in read(SYNTHESIS_FILE, GateRow)
        if (row.unit, row.pattern, row.encoding, row.variant, row.goal)
        == ("decoder", "8:16", "combinatorial", "serial", "area")
    )
    added(replace(row, nand2=7.0), replace(row, pattern="7:16", nand2=5.0))
    ask = {"encoding": "combinatorial", "variant": "serial"}
    assert gates_of("decoder", Pattern(8, 16), **ask).nand2 == 7.0
    assert gates_of("decoder", Pattern(7, 16), **ask) == Gates(5.0, 0.0, row.fo4, row.cut_bits)


def test_a_bad_file_of_a_user_is_named(tmp_path, monkeypatch):
    path = tmp_path / "bad.csv"
    path.write_text("unit,pattern\n")
    monkeypatch.setenv(ADDED_FILE_VARIABLE, str(path))
    with pytest.raises(RowError, match="bad.csv: header"):
        gates_of("decoder", Pattern(8, 16), encoding="index")


@pytest.mark.parametrize(
    ("unit", "encoding", "variant"), [("sorter", "", ""), ("decoder", "", ""), ("decoder", "index", "odd")]
)
def test_what_the_table_has_not_is_refused(unit, encoding, variant):
    with pytest.raises(SpecError, match=f"{unit} 8:16.*not in the table of synthesis"):
        gates_of(unit, Pattern(8, 16), encoding=encoding, variant=variant)


def test_sweeps_pay_a_look_up_once():
    """A second question of the same unit is a look-up: far below a fit, which takes some milliseconds."""
    ask = {"encoding": "combinatorial", "goal": "delay"}
    gates_of("decoder", Pattern(5, 16), **ask)
    misses = table._gates_of.cache_info().misses
    begun_s = time.perf_counter()
    for _ in range(1000):
        gates_of("decoder", Pattern(5, 16), **ask)
    assert table._gates_of.cache_info().misses == misses
    assert time.perf_counter() - begun_s < 1.0
