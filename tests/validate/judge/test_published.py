"""The published rows: made from their source by a command, and complete."""

from collections import Counter

import pytest

from nmsim import rows as row_files
from validate.judge import published
from validate.judge.join import model_inputs
from validate.judge.rows import PUBLISHED_FILE, committed_files


@pytest.fixture(scope="module")
def rows():
    return row_files.read(PUBLISHED_FILE)


def test_the_committed_file_is_what_the_command_makes(tmp_path, capsys):
    published.main(["-o", str(tmp_path / "again.csv")])
    assert (tmp_path / "again.csv").read_bytes() == PUBLISHED_FILE.read_bytes(), (
        "run python -m validate.judge.published"
    )
    assert capsys.readouterr().out == f"{tmp_path / 'again.csv'}: 416 rows\n"
    assert [path.name for path in tmp_path.iterdir()] == ["again.csv"]


def test_a_bad_source_is_one_line(tmp_path):
    with pytest.raises(SystemExit, match=r"validate.judge.published: .*none.csv: cannot be read"):
        published.main([str(tmp_path / "none.csv"), "-o", str(tmp_path / "out.csv")])
    assert list(tmp_path.iterdir()) == []


def test_what_they_hold(rows):
    inputs = model_inputs((row, row.machine) for row in rows)
    assert len(rows) == 416
    assert Counter(inputs["kernel_family"]) == {
        "library": 228,
        "delta-gemv": 74,
        "sliding": 44,
        "vector-nm": 44,
        "column-nm": 14,
        "csr": 12,
    }
    assert Counter(zip(inputs["sparse_products"], inputs["dense_products_beside"], strict=True)) == {
        (1, 0): 407,
        (2, 0): 7,
        (2, 1): 1,
        (4, 2): 1,
    }
    assert Counter(row.l2_state for row in rows) == {
        "warm": 113, "beyond cache": 117, "": 112, "cold": 74,
    }  # fmt: skip
    assert Counter(row.mark for row in rows) == {
        "": 341, "anomalous": 59, "above byte bound": 13, "weak baseline": 2, "host overhead": 1,
    }  # fmt: skip
    assert all(row.dense_time_s and row.sparse_time_s and row.source_url for row in rows)


def test_it_is_judged_by_default():
    assert committed_files()[0] == PUBLISHED_FILE
