"""Texts of CSV cells: a spreadsheet runs none of them, and each comes back as it was."""

import csv
import io

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmsim.support.cells import guarded, unguarded, write_csv

HOSTILE = ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "'=1+1", "''", "'", "-", "＝1+1"]
TEXTS = st.text(st.sampled_from("=+-@'\t\r\n1a.,\"e") | st.characters(exclude_categories=["Cs"]))


@given(TEXTS)
def test_every_text_comes_back_and_no_cell_is_a_formula(text):
    cell = guarded(text)
    assert unguarded(cell) == text
    if cell[:1] in set("=+-@\t\r\n"):
        assert cell == "" or float(cell) == float(text)


@pytest.mark.parametrize("text", HOSTILE)
def test_formulas_and_apostrophes_get_an_apostrophe(text):
    assert guarded(text) == "'" + text


@pytest.mark.parametrize("text", ["", "q_proj", "8:16", "-1", "+1.5e-3", "-inf", "0", "it's", "a=b", "1-2"])
def test_other_texts_and_numbers_stay(text):
    assert guarded(text) == text == unguarded(text)


@given(st.lists(st.tuples(TEXTS, st.floats(allow_nan=False)), min_size=1, max_size=5))
def test_a_table_keeps_its_numbers_and_its_texts(rows):
    table = pd.DataFrame(rows, columns=["name", "value"])
    table["group"] = table["name"].astype("category")
    written = io.StringIO(newline="")
    write_csv(table, written)
    cells = list(csv.DictReader(io.StringIO(written.getvalue(), newline="")))
    assert [unguarded(row["name"]) for row in cells] == [name for name, _ in rows]
    assert [unguarded(row["group"]) for row in cells] == [name for name, _ in rows]
    assert [float(row["value"]) for row in cells] == [value for _, value in rows]


def test_the_dictionaries_of_a_sweep_are_guarded():
    import pyarrow as pa

    from hwmodels.sweeps.run import guarded_texts

    names = pa.DictionaryArray.from_arrays(
        pa.array([1, 0, 1], pa.int32()), pa.array(["a", "=1"], pa.string())
    )
    table = guarded_texts(pa.table({"n": [1, 2, 3], "name": names}))
    assert table.to_pydict() == {"n": [1, 2, 3], "name": ["'=1", "a", "'=1"]}
