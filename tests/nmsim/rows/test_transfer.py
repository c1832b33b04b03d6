"""Rows of transfers: what a cell may hold, and files of them, which are none of measurements."""

import dataclasses

import pytest

from nmsim.errors import RowError
from nmsim.rows import measurement_file
from nmsim.rows.measurement import Measurement
from nmsim.rows.transfer import COLUMNS, Transfer

CELLS = {
    "machine": "h200", "device": "NVIDIA H200", "kernel": "gpu.prune", "rows": 16384, "columns": 4096, "dtype": "bf16",
    "pattern": "8:16", "encoding": "bitmask", "packing": "bitstream", "l2_state": "cold", "moved_bytes": 209846272,
    "time_s": 6e-5, "time_s_p20": 5e-5, "time_s_p80": 7e-5, "baseline": "gpu.copy", "copy_bytes": 209846272,
    "copy_time_s": 5e-5, "copy_time_s_p20": 5e-5, "copy_time_s_p80": 0.1 + 0.2, "share_of_copy": 0.83,
    "share_of_copy_p20": 0.8, "share_of_copy_p80": 1.01, "reps": 21, "warmup": 3, "gate": "pass", "dirty": True,
    "timestamp_utc": "2026-01-31T12:00:00Z", "note": "other copy: torch.copy_ 51 us",
}  # fmt: skip
ROW = Transfer(**CELLS)
READ = dataclasses.replace(ROW, kernel="gpu.read", pattern="", encoding="", packing="", share_of_copy_p80=1.4)


def test_columns_and_key():
    assert COLUMNS[:14] == (
        "machine", "device", "kernel", "rows", "columns", "dtype", "pattern", "encoding", "packing", "l2_state",
        "moved_bytes", "time_s", "time_s_p20", "time_s_p80",
    )  # fmt: skip
    assert len(COLUMNS) == 35
    assert ROW.key == ("h200", "gpu.prune", 16384, 4096, "bf16", "8:16", "bitmask", "cold")
    assert READ.key == ("h200", "gpu.read", 16384, 4096, "bf16", "", "", "cold")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"machine": ""}, "machine='': expected a value, not an empty cell"),
        ({"rows": 0}, "rows=0: expected a whole number of at least 1"),
        ({"columns": 1.5}, "columns=1.5: expected a whole number of at least 1"),
        ({"moved_bytes": None}, "moved_bytes=None: expected a value, not an empty cell"),
        ({"warmup": -1}, "warmup=-1: expected a whole number of at least 0"),
        ({"dtype": "bf17"}, "dtype='bf17': expected one of fp32, "),
        ({"l2_state": ""}, "l2_state='': expected a value, not an empty cell"),
        ({"l2_state": "tepid"}, "l2_state='tepid': expected one of cold, warm"),
        ({"gate": "fail"}, "gate='fail': expected one of pass"),
        ({"time_s": 0.0}, "time_s=0.0: expected a positive, finite number"),
        ({"share_of_copy": float("inf")}, "share_of_copy=inf: expected a positive, finite number"),
        ({"time_s_p20": 1.0}, "time_s: 1.0, 6e-05, 7e-05: expected p20 <= median <= p80"),
        ({"copy_time_s_p80": 1e-5}, "copy_time_s: 5e-05, 5e-05, 1e-05: expected p20 <= median <= p80"),
        ({"share_of_copy_p80": 0.1}, "share_of_copy: 0.8, 0.83, 0.1: expected p20 <= median <= p80"),
        ({"encoding": ""}, "encoding='': expected all of pattern, encoding, packing, or none"),
        ({"pattern": ""}, "encoding='bitmask': expected all of pattern, encoding, packing, or none"),
        ({"pattern": "half"}, "pattern='half': expected N:M: "),
        ({"pattern": "4:2"}, "pattern='4:2': expected another pattern: "),
        ({"encoding": "csr"}, "encoding='csr': expected another encoding: "),
    ],
)
def test_a_bad_cell_is_named(change, message):
    with pytest.raises(RowError) as caught:
        Transfer(**(CELLS | change))
    assert str(caught.value).startswith(message)


def test_what_is_appended_comes_back(tmp_path):
    file = tmp_path / "rows.transfers.csv"
    assert measurement_file.check(file, Transfer)
    for row in (ROW, READ):
        measurement_file.append(file, row)
    assert not measurement_file.check(file, Transfer)
    assert measurement_file.read(file, Transfer) == [ROW, READ]
    assert file.read_text().startswith(",".join(COLUMNS) + "\n")


def test_tables_and_rows_are_the_same():
    table = measurement_file.to_frame([ROW, READ], Transfer)
    assert list(table.columns) == list(COLUMNS)
    assert (str(table["rows"].dtype), str(table["time_s"].dtype)) == ("Int64", "float64")
    assert measurement_file.from_frame(table[sorted(COLUMNS)], "table", Transfer) == [ROW, READ]


def test_files_of_one_kind_are_none_of_the_other(tmp_path):
    file = tmp_path / "rows.csv"
    measurement_file.append(file, ROW)
    before = file.read_bytes()
    product = Measurement(
        machine="h200", kernel="k", M=1, N=1, K=1, phase="decode", dtype="fp16", pattern="2:4", baseline="d",
        l2_state="", speedup_vs_dense=1.0,
    )  # fmt: skip
    for act in (
        measurement_file.read,
        measurement_file.check,
        lambda path: measurement_file.append(path, product),
    ):
        with pytest.raises(RowError, match=r"header: missing 'case_id', .*; unknown 'rows', "):
            act(file)
    assert file.read_bytes() == before


def test_a_bad_cell_of_a_file_is_named_with_its_row(tmp_path):
    file = tmp_path / "rows.transfers.csv"
    measurement_file.append(file, ROW)
    cells = measurement_file.to_texts(dataclasses.replace(ROW, note=""))
    cells[COLUMNS.index("rows")] = "many"
    file.write_text(file.read_text() + ",".join(cells) + "\n")
    with pytest.raises(RowError, match=r"row 2: rows='many': expected a whole number"):
        measurement_file.read(file, Transfer)
