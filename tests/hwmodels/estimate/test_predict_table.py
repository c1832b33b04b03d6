"""Tables of cases: defaults, dense rows, categories, untouched input, and errors that name row and column."""

import operator
import time

import numpy as np
import pandas as pd
import pytest

import hwmodels
from nmsim.case import Case, GemmShape
from nmsim.errors import RowError
from nmsim.format import as_format
from nmsim.pattern import Pattern


def table(**columns):
    base = {"M": [1, 2, 3], "N": [64, 64, 64], "K": [64, 64, 64], "pattern": ["2:4", "8:16", None]}
    return pd.DataFrame({**base, **columns})


def test_defaults_are_those_of_a_case():
    answers = hwmodels.predict(table(), "h200")
    for row in answers.itertuples():
        pattern = None if pd.isna(row.pattern) else Pattern.parse(row.pattern)
        case = Case(GemmShape(row.M, row.N, row.K), pattern)
        assert row.predicted_time_s == hwmodels.predict(case, "h200").predicted_time_s
    assert answers["execution"].tolist() == ["expand", "expand", "dense"]
    assert set(answers["hardware"]) == {"h200"}


def test_input_is_left_alone_and_carried_along():
    cases = table(note=["x", "y", "z"])
    cases.index = [7, 7, 1]
    before = cases.copy(deep=True)
    answers = hwmodels.predict(cases, "h200")
    pd.testing.assert_frame_equal(cases, before)
    assert answers.index.tolist() == [7, 7, 1]
    assert answers["note"].tolist() == ["x", "y", "z"]
    assert answers.columns.tolist() == [*cases.columns, *hwmodels.PREDICTED_COLUMNS]


@pytest.mark.parametrize("kind", ["str", "object", "category"])
def test_text_may_come_in_any_pandas_type(kind):
    names = ["dtype", "pattern", "encoding"]
    plain = table(dtype=["bf16", "fp8", "bf16"], encoding=["index", "bitmask", "bitmask"])
    typed = plain.astype(dict.fromkeys(names, kind))
    expected = hwmodels.predict(plain, "h200").drop(columns=names)
    pd.testing.assert_frame_equal(hwmodels.predict(typed, "h200").drop(columns=names), expected)


def test_patterns_may_be_objects_or_the_word_dense():
    answers = hwmodels.predict(table(pattern=[Pattern(2, 4), Pattern(8, 16), "dense"]), "h200")
    assert answers["execution"].tolist() == ["expand", "expand", "dense"]


def test_unused_categories_are_not_looked_at():
    pattern = pd.Categorical(["2:4", "2:4", "2:4"], categories=["2:4", "nonsense"])
    assert (hwmodels.predict(table(pattern=pattern), "h200")["execution"] == "expand").all()


def test_a_dense_row_needs_no_encoding():
    answers = hwmodels.predict(table(encoding=["index", "bitmask", None]), "h200")
    assert answers["execution"].tolist() == ["native", "expand", "dense"]


def test_an_empty_table_gives_an_empty_answer():
    answers = hwmodels.predict(table().iloc[:0], "h200")
    assert len(answers) == 0
    assert set(hwmodels.PREDICTED_COLUMNS) <= set(answers.columns)


def test_no_cache_state_means_operands_in_memory():
    """A missing column, a missing cell and an empty word are one; warm is another."""
    plain = hwmodels.predict(table(), "h200")["predicted_time_s"]
    spelled = hwmodels.predict(table(l2_state=["", None, np.nan]), "h200")["predicted_time_s"]
    warm = hwmodels.predict(table(l2_state=["warm"] * 3), "h200")["predicted_time_s"]
    assert spelled.tolist() == plain.tolist()
    assert (warm < plain).all()


def test_counts_are_integers_and_flags_are_flags():
    answers = hwmodels.predict(table(), "h200")
    assert answers["comparable_rows"].dtype == np.int64
    assert answers["extrapolates"].dtype == bool


def test_blocks_make_no_difference(monkeypatch):
    cases = hwmodels.cases("llama-3.1-8b", decode_batches=[1, 7], prefill_lengths=[100])
    whole = hwmodels.predict(cases, "h200")
    monkeypatch.setattr("hwmodels.estimate.model.BLOCK_ROWS", 5)
    pd.testing.assert_frame_equal(hwmodels.predict(cases, "h200"), whole)


def test_whole_floats_are_dimensions():
    assert len(hwmodels.predict(table(N=[64.0, 64.0, 64.0]), "h200")) == 3


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"M": [1, 0, 3]}, r"row 1, column M: 0: expected a positive int"),
        ({"N": [64, 64, -5]}, r"row 2, column N: -5: expected a positive int"),
        ({"K": [64, 1.5, 64]}, r"row 1, column K: 1.5: expected a positive int"),
        ({"K": [64, np.nan, 64]}, r"row 1, column K: nan: expected a positive int"),
        ({"M": [1, 1 << 29, 1]}, r"row 1, column M: 536870912: .*at most 268435456"),
        ({"M": [1, "two", 3]}, r"row 1, column M: 'two': expected a positive int"),
        ({"M": [True, True, False]}, r"row 0, column M: .*True.*: expected a positive int"),
        ({"pattern": ["2:4", "4:2", None]}, r"row 1, column pattern: pattern 4:2: expected 1 <= N <= M"),
        ({"pattern": ["2:4", "2/4", None]}, r"row 1, column pattern: pattern '2/4': expected 'N:M'"),
        (
            {"encoding": ["index", "index", "rank"]},
            r"row 2, column encoding: encoding 'rank': expected one of",
        ),
        (
            {"encoding": ["index", None, None]},
            r"row 1, column encoding: missing; expected one in a row with a pattern",
        ),
        ({"packing": ["byte", "bits", "byte"]}, r"row 1, column packing: packing 'bits': expected one of"),
        ({"dtype": ["bf16", "fp12", "bf16"]}, r"row 1, column dtype: 'fp12': expected one of fp32"),
        ({"dtype": ["bf16", None, "bf16"]}, r"row 1, column dtype: None: expected one of fp32"),
        (
            {"dtype": ["bf16", "bf16", "int4"]},
            r"row 2, column dtype: dtype 'int4': h200 has no peak for it; it has fp32",
        ),
        (
            {"phase": ["decode", "train", "decode"]},
            r"row 1, column phase: 'train': expected one of decode, prefill",
        ),
        (
            {"sparse_operand": ["weights", "x", "x"]},
            r"row 1, column sparse_operand: 'x': expected one of weights",
        ),
        (
            {"encoding": ["index", "gap:1", "index"], "packing": ["byte"] * 3},
            r"row 1, column encoding: encoding 'gap:1' with pattern 8:16: its codes differ in length",
        ),
        ({"l2_state": ["", "hot", ""]}, r"row 1, column l2_state: 'hot': expected cold, warm or nothing"),
        ({"limit": ["a", "b", "c"]}, r"column limit: already in the table"),
    ],
)
def test_a_bad_cell_is_named_by_row_and_column(columns, message):
    with pytest.raises(RowError, match=message):
        hwmodels.predict(table(**columns), "h200")


@pytest.mark.parametrize("name", ["M", "N", "K"])
def test_a_missing_column_is_named(name):
    with pytest.raises(RowError, match=rf"column {name}: missing; a table of cases needs M, N and K"):
        hwmodels.predict(table().drop(columns=name), "h200")


def test_predicts_half_a_million_cases_a_second():
    """The goal is 1 M cases/s on an idle core; half of it here leaves room for a busy one."""
    rng = np.random.default_rng(0)
    rows = 200_000
    choices = {
        "M": [1, 2, 4, 8, 64, 2048], "N": [1024, 4096, 14336], "K": [4096, 14336, 5000],
        "dtype": ["bf16", "fp8"], "sparse_operand": ["weights", "activations"],
        "pattern": ["2:4", "4:8", "8:16", "16:32", "dense"],
        "encoding": ["bitmask", "index", "combinatorial"],
        "packing": ["bitstream", "no_straddle", "byte"],
    }  # fmt: skip
    cases = pd.DataFrame({name: rng.choice(values, rows) for name, values in choices.items()})
    hwmodels.predict(cases.head(1000), "h200")
    spent_s = []
    for _ in range(3):
        start = time.process_time()
        hwmodels.predict(cases, "h200")
        spent_s.append(time.process_time() - start)
    assert rows / min(spent_s) >= 0.5e6


@pytest.mark.parametrize("machine", ["h200", "h200-8x16", "epyc-2core"])
@pytest.mark.parametrize("copies", [1, 3])
def test_a_row_is_the_case_of_its_own(machine, copies):
    """Whether rows repeat or not, beside the widest product of all.

    The two products before it would have one key modulo 2**64: 256 L**2 - 512 L + 256 is 0 where L = 2**28 + 1.
    """
    widest = 1 << 28
    sizes = {
        "M": [1, 2000, 1, 257, widest],
        "N": [64, 64, 1000, 488, widest],
        "K": [4096, 100, 1000, 1256, widest],
    }
    patterns = ["8:16", "2:4", "8:16", "8:16", "dense"]
    cases = pd.DataFrame({**sizes, "pattern": patterns, "encoding": "combinatorial"})
    answers = hwmodels.predict(pd.concat([cases] * copies, ignore_index=True), machine)
    names, words = list(hwmodels.PREDICTED_COLUMNS), ["hardware", "execution", "limit"]
    alone = []
    for row in answers.itertuples():
        pattern = None if row.pattern == "dense" else Pattern.parse(row.pattern)
        case = Case(GemmShape(row.M, row.N, row.K), as_format(pattern, encoding=row.encoding))
        alone.append(operator.attrgetter(*names)(hwmodels.predict(case, machine)))
    pd.testing.assert_frame_equal(
        answers[names].astype(dict.fromkeys(words, object)),
        pd.DataFrame(alone, columns=names).astype(dict.fromkeys(words, object)),
        rtol=1e-14,
        atol=0,
    )


def test_predicts_four_hundred_thousand_distinct_cases_a_second():
    """No two alike, so that every one searches its tile shape. The goal is 1 M cases/s on an idle core."""
    rng = np.random.default_rng(0)
    rows = 50_000
    cases = pd.DataFrame(
        {
            "M": rng.choice([1, 16, 512, 8192], rows),
            "N": rng.permutation(rows) + 1,
            "K": rng.integers(1, 30_000, rows),
            "pattern": rng.choice(["2:4", "8:16", "dense"], rows),
            "encoding": "index",
        }
    )
    hwmodels.predict(cases.head(1000), "h200")
    spent_s = []
    for _ in range(3):
        start = time.process_time()
        hwmodels.predict(cases, "h200")
        spent_s.append(time.process_time() - start)
    assert rows / min(spent_s) >= 0.4e6


def test_predicts_one_case_in_half_a_millisecond():
    """The goal is 200 us on an idle core; this leaves room for a busy one."""
    cases = [Case(GemmShape(M, 4096, 5000 + M), "8:16") for M in range(1, 400)]
    spent_s = []
    for case in cases:
        start = time.process_time()
        hwmodels.predict(case, "h200-8x16")
        spent_s.append(time.process_time() - start)
    assert np.median(spent_s) <= 0.5e-3
