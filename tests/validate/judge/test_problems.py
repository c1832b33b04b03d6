"""Rows that cannot be judged: all at once and by kind without `skip_unknown`, counted with it."""

import re
import time

import pandas as pd
import pytest
from judge_fakes import literature_line, measurement, model_of, write_literature

from nmsim.errors import RowError
from validate.judge.join import join
from validate.judge.judge import judge_files
from validate.judge.names import Machines
from validate.judge.problems import BadRow, by_kind
from validate.judge.rows import MORE_FILE, as_rows, read_rows

MACHINES = Machines()


def hostile(tmp_path):
    lines = [
        literature_line(),
        literature_line(gpu="RTX 9999"),
        literature_line(gpu="RTX 9998"),
        literature_line(gpu="RTX 9999"),
        literature_line(dtype="BF17"),
        literature_line(pattern="cubes"),
        literature_line(gpu=""),
        literature_line(speedup="9"),
        literature_line(speedup="8.5"),
        literature_line(M="0"),
        ",".join([""] * 14),
        "a,b",
        literature_line(M="128"),
    ]
    return write_literature(tmp_path / "rows.csv", *lines)


def test_all_problems_come_at_once_by_kind(tmp_path):
    with pytest.raises(RowError) as caught:
        judge_files([hostile(tmp_path)], predictor=model_of())
    lines = str(caught.value).splitlines()
    found = [
        re.sub(r".*rows\.csv: (row \d+(?: and \d+ more \([\d, .]+\))?): ([^:]*):? .*", r"\1: \2", line)
        for line in lines
    ]
    assert found[:2] == ["row 2 and 1 more (4): gpu='RTX 9999'", "row 7 and 1 more (11): gpu=''"]
    assert "row 8 and 1 more (9): speedup='9'" in found
    assert "row 3: gpu='RTX 9998'" in found
    assert any(line.endswith("row 12: 2 cells, expected 14") for line in lines)
    assert len(lines) == 8


def test_they_are_skipped_and_counted_if_asked(tmp_path):
    judged = judge_files([hostile(tmp_path)], predictor=model_of(), skip_unknown=True)
    assert judged.table["row"].tolist() == [1, 13]
    assert sum(kind.rows for kind in judged.skipped) == 11
    first = judged.verdict()["skipped"][0]
    assert (first["rows"], first["first"]) == (2, (2, 4))
    assert first["problem"].startswith("gpu='RTX 9999': no machine of that name")


def test_a_table_without_a_row_to_judge_is_an_error_in_any_case(tmp_path):
    path = write_literature(tmp_path / "rows.csv", literature_line(gpu="RTX 9999"))
    with pytest.raises(RowError, match=r"row 1: gpu='RTX 9999'"):
        judge_files([path], predictor=model_of(), skip_unknown=True)
    path = write_literature(tmp_path / "rows.csv")
    with pytest.raises(RowError, match=r"rows\.csv: no row to judge"):
        judge_files([path], predictor=model_of(), skip_unknown=True)


def test_a_file_that_is_named_twice_is_refused(tmp_path):
    path = write_literature(tmp_path / "rows.csv", literature_line())
    with pytest.raises(RowError, match=r"rows\.csv: is named twice, expected each file once"):
        judge_files([path, tmp_path / ".." / tmp_path.name / "rows.csv"], predictor=model_of())


def test_of_a_kind_the_first_rows_are_named():
    (kind,) = by_kind(BadRow("a", n, "M", f"M={n}: expected more") for n in range(1, 50))
    assert (kind.problem, kind.rows, kind.first) == ("M=1: expected more", 49, (1, 2, 3))
    assert str(kind) == "a: row 1 and 48 more (2, 3, ...): M=1: expected more"


@pytest.mark.parametrize("refused", ["kind", "shape", "one"])
def test_rows_that_the_model_refuses_are_found_without_asking_for_each(refused):
    """A model that refuses a table for the sake of some rows, as the real one does."""
    calls = []

    def picky(inputs, hardware, *, held_out=False):
        calls.append(len(inputs))
        wrong = {"kind": inputs["dtype"] == "fp8", "shape": inputs["M"] > 990, "one": inputs["M"] == 500}[
            refused
        ]
        if wrong.any():
            raise RowError.at("not this", row=int(wrong.argmax()), column="dtype")
        return model_of()(inputs, hardware)

    rows = as_rows([measurement(M=M, dtype="fp8" if M % 5 == 0 else "bf16") for M in range(1, 1001)])
    bad = []
    table = join(rows, MACHINES, picky, bad=bad)
    wrong = {"kind": list(range(5, 1001, 5)), "shape": list(range(991, 1001)), "one": [500]}[refused]
    assert [row.number for row in bad] == wrong
    assert table["row"].tolist() == [M for M in range(1, 1001) if M not in wrong]
    assert len(calls) < 100
    with pytest.raises(RowError, match=f"row {wrong[0]}.*: column dtype: not this"):
        join(rows, MACHINES, picky)


def test_figures_of_skipped_rows_do_not_change_those_of_others(tmp_path):
    path = hostile(tmp_path)
    good = write_literature(tmp_path / "good.csv", literature_line(), literature_line(M="128"))
    some, all_ = (judge_files([file], skip_unknown=True).table for file in (path, good))
    pd.testing.assert_frame_equal(some.drop(columns=["file", "row"]), all_.drop(columns=["file", "row"]))


def test_thirty_thousand_rows_take_seconds():
    """Reading and judging: 10 s are the promise. Processor time, because other work may run on this machine."""
    start = time.process_time()
    rows = read_rows(MORE_FILE, MACHINES).rows
    rows = [*rows, *rows][:30_000]
    bad = []
    assert len(join(rows, MACHINES, model_of(), bad=bad)) + len(bad) == 30_000
    assert time.process_time() - start < 10
