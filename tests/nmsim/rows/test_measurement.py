"""Rows of measurements: what a cell may hold, and files that grow by whole lines."""

import dataclasses

import pandas as pd
import pytest

from nmsim import rows as row_files
from nmsim.case import Case, GemmShape, case_id
from nmsim.errors import RowError
from nmsim.rows import COLUMNS, Measurement

CASE = Case(GemmShape(1, 64, 128), "8:16/bitmask", dtype="fp32")
CELLS = {
    "machine": "epyc-2core", "device": 'AMD "EPYC", 2 cores', "kernel": "cpu.avx2", "case_id": case_id(CASE),
    "M": 1, "N": 64, "K": 128, "phase": "decode", "dtype": "fp32", "pattern": "8:16", "sparse_operand": "weights",
    "encoding": "bitmask", "packing": "bitstream", "threads": 2, "baseline": "numpy @", "l2_state": "cold",
    "sparse_time_s": 1e-3, "sparse_time_s_p20": 9e-4, "sparse_time_s_p80": 0.1 + 0.2,
    "dense_time_s": 2e-3, "speedup_vs_dense": 1.99, "speedup_vs_dense_p20": 1.9, "speedup_vs_dense_p80": 2.1,
    "reps": 15, "warmup": 2, "gate": "pass", "max_rel_err": 0.0, "numpy": "2.4", "commit": "0123abc", "dirty": False,
    "timestamp_utc": "2026-01-31T12:00:00Z", "note": "outliers: 1, of 15",
}  # fmt: skip
ROW = Measurement(**CELLS)
PUBLISHED = Measurement(
    machine="rtx4090", kernel="MACKO-SpMV", M=1, N=64, K=64, phase="decode", dtype="fp16", pattern="unstructured 50%",
    baseline="cuBLAS", l2_state="", speedup_vs_dense=1.5, source_url="https://example.org/a.csv",
)  # fmt: skip


def test_columns_are_those_of_the_design():
    names = tuple(COLUMNS)
    assert names[:17] == (
        "machine", "device", "kernel", "case_id", "M", "N", "K", "phase", "dtype", "pattern", "sparse_operand",
        "encoding", "packing", "threads", "baseline", "l2_state", "sparse_time_s",
    )  # fmt: skip
    added = [name for name, column in COLUMNS.items() if column.cell.added]
    assert len(names) - len(added) == 40
    assert tuple(name for name in names if name not in added)[-15:] == (
        "reps", "warmup", "gate", "max_rel_err", "driver", "cuda", "torch", "triton", "numpy", "numba", "commit",
        "dirty", "timestamp_utc", "source_url", "note",
    )  # fmt: skip
    assert all(column.cell.meaning for column in COLUMNS.values())


def test_a_row_knows_its_case_and_key():
    assert ROW.case == CASE
    assert ROW.key == ("epyc-2core", case_id(CASE), "cpu.avx2", 2, "cold", *([""] * 5), "2.4", "")
    assert PUBLISHED.case is None


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("kernel_sources", "0123456789ab"),
        ("triton", "3.6.0"),
        ("torch", "2.11.0"),
        ("driver", "580.1"),
        ("cuda", "13.0"),
    ],
)
def test_a_row_of_other_software_is_another_measurement(name, other):
    assert dataclasses.replace(ROW, **{name: other}).key != ROW.key
    assert dataclasses.replace(ROW, note="another", commit="0123abd").key == ROW.key


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"machine": ""}, "machine='': expected a value, not an empty cell"),
        ({"M": 0}, "M=0: expected a whole number of at least 1"),
        ({"N": True}, "N=True: expected a whole number of at least 1"),
        ({"threads": 1.0}, "threads=1.0: expected a whole number of at least 1"),
        ({"phase": "training"}, "phase='training': expected one of decode, prefill"),
        ({"dtype": "fp17"}, "dtype='fp17': expected one of fp32, "),
        ({"l2_state": "hot"}, "l2_state='hot': expected one of cold, warm, beyond cache, nothing"),
        ({"gate": "fail"}, "gate='fail': expected one of pass, nothing"),
        ({"pattern": "4:2"}, "pattern='4:2': expected another pattern: pattern 4:2: expected 1 <= N <= M"),
        ({"encoding": "csr"}, "encoding='csr': expected another encoding: "),
        ({"packing": "bytes"}, "packing='bytes': expected another packing: "),
        ({"sparse_time_s": 0.0}, "sparse_time_s=0.0: expected a positive, finite number"),
        ({"dense_time_s": float("nan")}, "dense_time_s=nan: expected a positive, finite number"),
        ({"speedup_vs_dense": None}, "speedup_vs_dense=None: expected a value, not an empty cell"),
        ({"max_rel_err": -1.0}, "max_rel_err=-1.0: expected a finite number of at least 0"),
        ({"note": "two\nlines"}, "note='two\\nlines': expected text of one line without blanks around it"),
        ({"kernel": "a "}, "kernel='a ': expected text of one line without blanks around it"),
        ({"dirty": "no"}, "dirty='no': expected true, false or nothing"),
        ({"commit": "xyz"}, "commit='xyz': expected a commit's hex digits, or nothing"),
        ({"timestamp_utc": "today"}, "timestamp_utc='today': expected a time such as 2026-01-31T12:00:00Z"),
        ({"source_url": "a.csv"}, "source_url='a.csv': expected an address that begins with https://"),
        ({"case_id": "0" * 12}, f"case_id='000000000000': expected {case_id(CASE)}, which the other cells give"),
        ({"K": 256}, f"case_id='{case_id(CASE)}': expected "),
        ({"device": None}, "device=None: expected text, not NoneType"),
        ({"pattern": ""}, "pattern='': expected a value, not an empty cell"),
        ({"mark": "bad"}, "mark='bad': expected one of above byte bound, weak baseline, "),
        ({"sparse_outliers": -1}, "sparse_outliers=-1: expected a whole number of at least 0"),
        ({"sparse_products": None}, "sparse_products=None: expected a value, not an empty cell"),
        ({"moved_bytes": 64}, "copy_bytes=None: expected moved_bytes and copy_bytes, or neither"),
        ({"sparse_time_s_p20": 2.0}, "sparse_time_s: 2.0, 0.001, 0.30000000000000004: expected p20 <= median <= p80"),
        (
            {"dense_time_s": None, "dense_time_s_p20": 1.0},
            "dense_time_s=None: expected a median if a percentile is given",
        ),
    ],
)  # fmt: skip
def test_a_bad_cell_is_named(change, message):
    with pytest.raises(RowError) as caught:
        Measurement(**(CELLS | change))
    assert str(caught.value).startswith(message)
    assert caught.value.column == message.split("=")[0].split(":")[0]


def test_a_transfer_is_a_row_whose_baseline_is_a_copy():
    case = Case(GemmShape(1, 64, 128), dtype="fp32")
    stored = {"pattern": "", "encoding": "", "packing": "", "case_id": case_id(case)}
    moved = Measurement(**(CELLS | stored | {"kernel": "gpu.read", "moved_bytes": 64, "copy_bytes": 96}))
    assert (moved.is_transfer, moved.case, ROW.is_transfer) == (True, case, False)
    assert moved.key[:5] == ("epyc-2core", case_id(case), "gpu.read", 2, "cold")


def test_what_is_appended_comes_back(tmp_path):
    file = tmp_path / "rows.csv"
    assert row_files.check(file)
    for row in (ROW, PUBLISHED, ROW):
        row_files.append(file, row)
    assert not row_files.check(file)
    assert row_files.read(file) == [ROW, PUBLISHED, ROW]
    assert file.read_text().count("\n") == 4
    assert file.read_text().startswith(",".join(COLUMNS) + "\n")


def test_an_appended_row_leaves_what_is_there_as_it_is(tmp_path):
    file = tmp_path / "rows.csv"
    row_files.append(file, ROW)
    before = file.read_bytes()
    row_files.append(file, PUBLISHED)
    assert file.read_bytes().startswith(before)


def test_tables_and_rows_are_the_same():
    table = row_files.to_frame([ROW, PUBLISHED])
    assert list(table.columns) == list(COLUMNS)
    assert table["threads"].tolist() == [2, pd.NA]
    assert table["sparse_time_s"].isna().tolist() == [False, True]
    assert row_files.from_frame(table[sorted(COLUMNS)]) == [ROW, PUBLISHED]
    assert row_files.from_frame(table.astype({"threads": "float64"})) == [ROW, PUBLISHED]
    assert row_files.from_frame(row_files.to_frame([])) == []


def test_a_bad_table_is_named():
    table = row_files.to_frame([ROW, ROW])
    with pytest.raises(
        RowError,
        match=r"mine: header: missing 'note'; unknown 'remark'; expected the .* columns machine, device",
    ):
        row_files.from_frame(table.rename(columns={"note": "remark"}), "mine")
    table.loc[1, "l2_state"] = "tepid"
    with pytest.raises(RowError, match=r"mine: row 2: l2_state='tepid': expected one of"):
        row_files.from_frame(table, "mine")


@pytest.mark.parametrize("left", [1, 40, 400, -1])
def test_half_a_line_is_reported_and_not_mended(tmp_path, left):
    file = tmp_path / "rows.csv"
    row_files.append(file, ROW)
    whole = file.read_bytes()
    header = whole.index(b"\n") + 1
    cut = whole[:left] if 0 < left < 400 else whole + whole[header:-1]
    file.write_bytes(cut)
    for act in (row_files.read, row_files.check, lambda f: row_files.append(f, ROW)):
        with pytest.raises(RowError, match=r"rows.csv: row \d \(the last line\) ends in its middle.*sed -i"):
            act(file)
    assert file.read_bytes() == cut


def test_a_file_of_something_else_is_refused(tmp_path):
    file = tmp_path / "rows.csv"
    file.write_text("gpu,speedup\nh200,2\n")
    with pytest.raises(
        RowError, match=r"rows.csv: header: missing 'machine', .*; unknown 'gpu', 'speedup'; expected"
    ):
        row_files.append(file, ROW)
    assert file.read_text() == "gpu,speedup\nh200,2\n"
    file.write_text(",".join(reversed(COLUMNS)) + "\n")
    with pytest.raises(RowError, match=r"header: columns repeated or out of order"):
        row_files.read(file)
    with pytest.raises(RowError, match=r"nowhere: cannot be read"):
        row_files.read(tmp_path / "nowhere")
    with pytest.raises(RowError, match=r"there is no folder"):
        row_files.append(tmp_path / "no" / "rows.csv", ROW)
    file.write_bytes(b"")
    with pytest.raises(RowError, match=r"empty, expected a header line"):
        row_files.read(file)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("K", "x", "K='x': expected a whole number"),
        ("reps", "1.5", "reps='1.5': expected a whole number"),
        ("dense_time_s", "2 ms", "dense_time_s='2 ms': expected a number"),
        ("dense_time_s", "inf", "dense_time_s=inf: expected a positive, finite number"),
        ("dirty", "maybe", "dirty='maybe': expected true, false or nothing"),
        ("l2_state", "tepid", "l2_state='tepid': expected one of"),
    ],
)
def test_a_bad_cell_of_a_file_is_named_with_its_row(tmp_path, name, text, message):
    file = tmp_path / "rows.csv"
    row_files.append(file, ROW)
    cells = row_files.to_texts(dataclasses.replace(ROW, device="", note=""))
    cells[list(COLUMNS).index(name)] = text
    file.write_text(file.read_text() + ",".join(cells) + "\n")
    with pytest.raises(RowError) as caught:
        row_files.read(file)
    assert str(caught.value).startswith(f"{file}: row 2: {message}")
    assert (caught.value.row, caught.value.column) == (2, name)


def test_a_file_of_an_older_version_is_read_and_not_appended_to(tmp_path):
    older = [name for name, column in COLUMNS.items() if not column.cell.added]
    file = tmp_path / "rows.csv"
    texts = dict(zip(COLUMNS, row_files.to_texts(dataclasses.replace(ROW, device="", note="")), strict=True))
    file.write_text(",".join(older) + "\n" + ",".join(texts[name] for name in older) + "\n")
    before = file.read_bytes()
    assert row_files.read(file) == [dataclasses.replace(ROW, device="", note="")]
    with pytest.raises(
        RowError, match=r"written by an older version, without kernel_family, .*published --older"
    ):
        row_files.append(file, ROW)
    assert file.read_bytes() == before


def test_too_many_cells_and_open_quotes(tmp_path):
    file = tmp_path / "rows.csv"
    row_files.append(file, ROW)
    good = file.read_text()
    file.write_text(good + "a,b\n")
    with pytest.raises(RowError, match=rf"row 2: 2 cells, expected {len(COLUMNS)}"):
        row_files.read(file)
    file.write_text(good + '"a\n')
    with pytest.raises(RowError, match=r"row 2: no CSV: "):
        row_files.read(file)


def test_all_bad_cells_of_a_file_are_named_in_one_run(tmp_path):
    file = tmp_path / "rows.csv"
    row_files.append(file, ROW)
    texts = row_files.to_texts(dataclasses.replace(ROW, device="", note=""))
    for name, text in {"K": "x", "reps": "1.5", "dirty": "maybe"}.items():
        cells = list(texts)
        cells[list(COLUMNS).index(name)] = text
        file.write_text(file.read_text() + ",".join(cells) + "\n")
    with pytest.raises(RowError) as caught:
        row_files.read(file)
    assert [line.partition(": expected")[0] for line in str(caught.value).splitlines()] == [
        f"{file}: row 2: K='x'", f"{file}: row 3: reps='1.5'", f"{file}: row 4: dirty='maybe'",
    ]  # fmt: skip
    assert (caught.value.row, caught.value.column) == (2, "K")


@pytest.mark.parametrize("text", ["=1+1", "+x", "-x", "@x", "'x", "'=x", "-1"])
def test_a_text_that_a_spreadsheet_would_run_comes_back(tmp_path, text):
    file = tmp_path / "rows.csv"
    row = dataclasses.replace(ROW, note=text, device=text)
    row_files.append(file, row)
    assert row_files.read(file) == [row]
    cells = file.read_text().splitlines()[1].split(",")
    assert cells[-1] == ("-1" if text == "-1" else f"'{text}")
