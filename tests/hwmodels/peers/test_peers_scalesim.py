"""SCALE-Sim's runs, each of them, and the utilisation it reports beside the one that is possible."""

import csv
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import hwmodels
from hwmodels.peers import scalesim_cycles
from nmsim import encodings
from nmsim.case import GemmShape
from nmsim.errors import PatternError, RowError, SpecError
from nmsim.pattern import Pattern

RUNS = Path(hwmodels.__file__).parent / "data" / "scalesim_ws.csv"
ROWS = list(csv.DictReader(RUNS.read_text(encoding="utf-8").splitlines()))
CUBE = GemmShape(1024, 1024, 1024)


def run(row):
    """The call that stands for a row."""
    sparsity = row["sparsity"]
    how = {"array_rows": int(row["array_rows"]), "array_columns": int(row["array_columns"])}
    if sparsity != "dense":
        how["storage"] = row["storage"]
    if sparsity.startswith("row-wise:"):
        how["row_wise_block"] = int(sparsity.partition(":")[2])
    elif sparsity != "dense":
        how["pattern"] = sparsity
    return scalesim_cycles(GemmShape(*(int(row[name]) for name in "MNK")), **how)


@pytest.mark.parametrize("row", ROWS, ids=lambda r: f"{r['M']}-{r['sparsity']}-{r['storage']}")
def test_each_run_exactly(row):
    answer = run(row)
    assert answer.cycles == int(row["cycles"])
    assert f"{100 * answer.reported_utilisation:.1f}" == row["overall_utilisation_percent"]
    if row["stored_words"]:
        assert answer.metadata_words == int(row["metadata_words"])
        assert answer.values_words + answer.metadata_words == int(row["stored_words"])
    else:
        assert (answer.values_words, answer.metadata_words) == (0, 0)


def test_the_runs_cover_every_kind():
    assert len(ROWS) == 12
    assert {row["storage"] for row in ROWS} == {"dense", "ellpack_block", "csr"}
    assert {row["sparsity"].partition(":")[0] for row in ROWS} >= {"dense", "row-wise", "1", "2", "3", "4"}


def test_what_else_is_known_of_256_and_4096_cubed():
    small, large = GemmShape(256, 256, 256), GemmShape(4096, 4096, 4096)
    assert scalesim_cycles(small).cycles == scalesim_cycles(small, "3:4").cycles == 2551
    assert [scalesim_cycles(small, p).activation_elems for p in (None, "2:4")] == [65536, 32768]
    assert scalesim_cycles(large).cycles == 4_585_471  # it ran out of memory there


def test_one_fold_by_hand():
    """4 x 4 array, 3 tokens: 4 cycles to load, then 3 + 4 + 4 - 2 to stream, and the last one is not counted."""
    assert scalesim_cycles(GemmShape(3, 4, 4), array_rows=4, array_columns=4).cycles == 4 + 3 + 4 + 4 - 2 - 1
    assert scalesim_cycles(GemmShape(3, 9, 5), array_rows=4, array_columns=4).cycles == 13 * 2 * 3 - 1


def test_K_lies_along_the_rows_of_the_array_and_N_along_its_columns():
    """8 x 2 array: K = 16 in 2 folds, N = 6 in 3; each 8 cycles to load and 3 + 8 + 2 - 2 to stream."""
    assert scalesim_cycles(GemmShape(3, 6, 16), array_rows=8, array_columns=2).cycles == (8 + 11) * 2 * 3 - 1


def test_metadata_are_free():
    answers = [
        scalesim_cycles(CUBE, "2:4"), scalesim_cycles(CUBE, "4:8"), scalesim_cycles(CUBE, "2:4", storage="csr"),
        scalesim_cycles(CUBE, row_wise_block=4), scalesim_cycles(CUBE, "2:4", storage="ellpack_block"),
    ]  # fmt: skip
    assert {answer.cycles for answer in answers} == {44991}
    assert len({answer.metadata_words for answer in answers}) == 3


def test_csr_is_counted_as_our_own_function_counts_it():
    assert scalesim_cycles(CUBE, "2:4", storage="csr").metadata_words * 32 == encodings.csr_bits(
        1024, 1024 * 512
    )


@given(
    st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 5000),
    st.sampled_from(["1:4", "2:4", "2:8", "4:8", "8:16", "4:4"]), st.integers(1, 200), st.integers(1, 200),
)  # fmt: skip
def test_no_array_does_more_than_it_can(M, N, K, pattern, rows, columns):
    answer = scalesim_cycles(GemmShape(M, N, K), pattern, array_rows=rows, array_columns=columns)
    assert 0 < answer.effectual_utilisation <= 1
    dense = scalesim_cycles(GemmShape(M, N, K), array_rows=rows, array_columns=columns)
    assert answer.cycles <= dense.cycles
    assert dense.reported_utilisation == dense.effectual_utilisation
    assert answer.reported_utilisation >= answer.effectual_utilisation


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        (
            {"pattern": "2:4", "row_wise_block": 4},
            SpecError,
            r"pattern=2:4 and row_wise_block=4: expected one",
        ),
        ({"storage": "csc"}, SpecError, r"storage='csc': expected one of ellpack_block, csr"),
        ({"array_rows": 0}, SpecError, r"array_rows=0 \(type int\): expected a positive int"),
        ({"array_columns": 1.5}, SpecError, r"array_columns=1.5 \(type float\)"),
        ({"row_wise_block": True}, SpecError, r"row_wise_block=True"),
        ({"pattern": 0.5}, PatternError, r"pattern 0.5"),
    ],
)
def test_refusals(how, error, message):
    with pytest.raises(error, match=message):
        scalesim_cycles(CUBE, **how)


def test_a_shape_that_is_none():
    with pytest.raises(RowError, match=r"shape=\(1, 2, 3\) \(type tuple\): expected a GemmShape"):
        scalesim_cycles((1, 2, 3), Pattern(2, 4))
