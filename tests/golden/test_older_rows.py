"""Rows of files that an older version wrote: what they say stays the same, to the last cell and the last prediction."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from nmsim import rows
from nmsim.rows import COLUMNS
from validate.judge import published
from validate.judge.judge import judge_files
from validate.judge.names import Machines
from validate.judge.rows import committed_files, committed_hardware, read_rows

OLDER = Path(__file__).parent / "older_rows.csv"


@pytest.fixture(scope="module")
def machines():
    return Machines(committed_hardware())


def test_an_older_file_is_read_as_the_committed_rows_of_this_version(machines):
    older = [row.measurement for row in read_rows(OLDER, machines).rows]
    committed = [row.measurement for path in committed_files() for row in read_rows(path, machines).rows]
    # Two faults of the committed rows were mended since: the word for weights beyond the cache, and V of VENOM's rows.
    mended = [replace(row, l2_state="warm") if row.l2_state == "beyond cache" else row for row in committed]
    mended = [
        replace(row, pattern=row.pattern.replace("V=128", "V=32"), note=row.note.split("; V is 128")[0])
        for row in mended
    ]
    assert len(older) == 19
    assert [row for row in older if row not in mended] == []
    assert {row.mark for row in older} == {
        "",
        "above byte bound",
        "weak baseline",
        "anomalous",
        "host overhead",
    }
    assert len({row.kernel_family for row in older}) == 7


def test_an_older_file_gets_all_columns_and_keeps_every_cell(tmp_path, machines):
    file = tmp_path / "rows.csv"
    file.write_bytes(OLDER.read_bytes())
    published.main(["--older", str(file)])
    before, after = (list(csv.DictReader(path.read_text().splitlines())) for path in (OLDER, file))
    assert list(after[0]) == list(COLUMNS)
    assert [{name: row[name] for name in before[0]} for row in after] == before
    assert read_rows(file, machines).rows[-1].measurement == read_rows(OLDER, machines).rows[-1].measurement
    assert not rows.check(file)


def test_an_older_file_is_judged_as_this_version_judges(tmp_path):
    file = tmp_path / "rows.csv"
    file.write_bytes(OLDER.read_bytes())
    published.main(["--older", str(file)])
    hardware = committed_hardware()
    older, now = (judge_files([path], hardware=hardware).table.drop(columns="file") for path in (OLDER, file))
    assert older.equals(now)
