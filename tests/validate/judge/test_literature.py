"""Literature tables: what each cell means, and the text of every complaint about one."""

import pytest
from judge_fakes import LITERATURE_HEADER, literature_line, write_literature

from nmsim.errors import RowError
from validate.judge.join import model_inputs
from validate.judge.names import Machines
from validate.judge.rows import (
    parse_dtype,
    parse_l2_state,
    parse_mark,
    parse_phase,
    parse_products,
    parse_time,
    read_literature,
)

MACHINES = Machines()


def read(tmp_path, **changes):
    (row,), _ = read_literature(write_literature(tmp_path / "rows.csv", literature_line(**changes)), MACHINES)
    return row


def test_a_plain_row(tmp_path):
    row = read(tmp_path, note="back-to-back timing, NO L2 flush")
    assert (row.machine, row.device, row.kernel, row.pattern) == ("rtx4090", "RTX 4090", "cuSPARSELt", "2:4")
    assert (row.M, row.N, row.K, row.phase, row.dtype) == (64, 4096, 4096, "decode", "bf16")
    assert (row.dense_time_s, row.sparse_time_s, row.speedup_vs_dense) == (30e-6, 20e-6, 1.5)
    assert (row.l2_state, row.baseline, row.source_url) == ("warm", "cuBLASLt", "https://example.org/rows")
    assert row.note == "decode/small-batch M=64; back-to-back timing, NO L2 flush"
    assert row.case is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("19.108 us", 19.108e-6),
        ("19.108us", 19.108e-6),
        ("0.49 ms", 0.49e-3),
        ("1,234.5 µs", 1234.5e-6),
        ("2 s", 2.0),
        ("~7 ns", 7e-9),
        ("302.3 TFLOPS", 1e12 / 302.3e12),
        ("243 TFLOPS dense-equivalent", 1e12 / 243e12),
        ("12 TOPS", 1e12 / 12e12),
        ("900 GFLOP/s", 1e12 / 900e9),
        ("1.2 PFLOPS", 1e12 / 1.2e15),
    ],
)
def test_times_and_rates(text, seconds):
    assert parse_time(text, 1e12).time_s == pytest.approx(seconds, rel=1e-12)


@pytest.mark.parametrize(
    "text", ["66.5 tok/s", "fast", "12", "us", "-3 us", "0 us", "1-2 us", "nan us", "1e us", "5 min"]
)
def test_other_times_are_refused(text):
    with pytest.raises(RowError, match="expected"):
        parse_time(text, 1e12)


@pytest.mark.parametrize(
    ("text", "types"),
    [
        ("BF16", ("bf16", "bf16")),
        ("fp8 (e4m3)", ("fp8", "fp8")),
        ("FP32 (CUDA cores)", ("fp32", "fp32")),
        ("INT8 w+a vs FP16 dense", ("int8", "fp16")),
        ("FP16 (FP32 accumulate)", ("fp16", "fp16")),
        ("INT8 in / FP16 out", ("int8", "int8")),
        ("W8A8", ("int8", "int8")),
    ],
)
def test_value_types(text, types):
    assert parse_dtype(text) == types


@pytest.mark.parametrize("text", ["", "INT4 w / FP16 a", "FP6", "vs FP16", "FP32/FP16"])
def test_other_value_types_are_refused(text):
    with pytest.raises(RowError, match="expected one value type"):
        parse_dtype(text)


@pytest.mark.parametrize(
    ("batch_phase", "note", "products"),
    [
        ("prefill-like", "", (1, 0)),
        ("training fwd+bwd", "", (2, 1)),
        ("training MLP fwd+bwd", "", (4, 2)),
        ("FFN 8192->8192->8192 sq-ReLU", "", (2, 0)),
        ("square", "FFN of two linears; no pack", (2, 0)),
        ("prefill FFN up projection", "", (1, 0)),
    ],
)
def test_products(batch_phase, note, products, tmp_path):
    assert parse_products(batch_phase, note) == products
    row = read(tmp_path, batch_phase=batch_phase, note=note)
    assert (row.sparse_products, row.dense_products_beside) == products


@pytest.mark.parametrize(
    ("note", "state"),
    [
        ("dense weight 2.0 MiB <= L2: back-to-back timing, NO L2 flush", "warm"),
        ("fp16 GEMV batch 1, L2 flushed each rep", "cold"),
        ("density sweep point; L2 flushed", "cold"),
        ("old nvcc", ""),
    ],
)
def test_l2_states(note, state):
    assert parse_l2_state(note) == state


@pytest.mark.parametrize(
    ("words", "M", "phase"),
    [
        ("decode M=1", 1, "decode"),
        ("prefill-like, small", 32, "prefill"),
        ("FFN 1->2", 64, "decode"),
        ("square", 65, "prefill"),
    ],
)
def test_phases(words, M, phase):
    assert parse_phase(words, M) == phase


def test_a_rate_counts_all_products_of_the_row(tmp_path):
    row = read(
        tmp_path,
        batch_phase="FFN 4096->4096->4096",
        dense_time_or_tflops="100 TFLOPS",
        sparse_time_or_tflops="150 TFLOPS",
    )
    assert row.dense_time_s == pytest.approx(2 * 2 * 64 * 4096 * 4096 / 100e12)


def test_the_baseline_may_have_another_type(tmp_path):
    row = read(tmp_path, dtype="INT8 w+a vs FP16 dense")
    assert (row.dtype, row.baseline_dtype) == ("int8", "fp16")
    inputs = model_inputs([(row, row.machine)])
    assert (inputs["dtype"][0], inputs["baseline_dtype"][0]) == ("int8", "fp16")


@pytest.mark.parametrize(
    ("times", "found"),
    [
        ({"dense_time_or_tflops": "", "sparse_time_or_tflops": ""}, (None, None, 1.5)),
        ({"dense_time_or_tflops": ""}, (None, 20e-6, 1.5)),
        ({"speedup": ""}, (30e-6, 20e-6, 1.5)),
        ({"speedup": "1.45x"}, (30e-6, 20e-6, 1.5)),
        (
            {"dense_time_or_tflops": "3 us", "sparse_time_or_tflops": "2 us", "speedup": "1.2"},
            (3e-6, 2e-6, 1.5),
        ),
    ],
)
def test_what_is_missing_or_rounded(tmp_path, times, found):
    row = read(tmp_path, **times)
    assert (row.dense_time_s, row.sparse_time_s, row.speedup_vs_dense) == found


@pytest.mark.parametrize(
    ("note", "mark"),
    [
        ("INT8 cuBLASLt baseline is weak on this GPU", "weak baseline"),
        ("speedup above byte bound -> L2-residency or weak dense baseline artefact", "above byte bound"),
        ("GB10 large-N rows look anomalous (sparse slower)", "anomalous"),
        ("~0.46 ms host setup/teardown per call", "host overhead"),
        ("old nvcc", ""),
    ],
)
def test_marks(note, mark, tmp_path):
    assert parse_mark(note) == mark
    assert read(tmp_path, note=note).mark == mark


def test_the_words_of_a_pattern_become_columns(tmp_path):
    row = read(tmp_path, pattern="6:8 via sliding 2:4 windows", note="mean us truncated to int")
    assert (row.kernel_family, row.nm_pattern, row.density, row.time_step_s) == ("sliding", "6:8", 0.75, 1e-6)
    row = read(tmp_path, pattern="unstructured 50% (4-bit delta)")
    assert (row.kernel_family, row.nm_pattern, row.density, row.time_step_s) == ("delta-gemv", "", 0.5, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gpu": "RTX 9999"}, r"row 2: gpu='RTX 9999': no machine of that name .*--hardware FILE.toml adds"),
        ({"gpu": ""}, "row 2: gpu='': expected a value, not an empty cell"),
        ({"pattern": "cubes"}, "row 2: pattern='cubes': expected N:M"),
        ({"pattern": "5:4"}, "row 2: pattern='5:4': expected another pattern"),
        ({"dtype": "FP6"}, "row 2: dtype='FP6': expected one value type"),
        ({"M": "1-32"}, "row 2: M='1-32': expected a whole number of at least 1"),
        ({"N": "0.5"}, "row 2: N='0.5': expected a whole number of at least 1"),
        ({"K": ""}, "row 2: K='': expected a value"),
        ({"dense_time_or_tflops": "9 tok/s"}, "row 2: dense_time_or_tflops='9 tok/s': expected a time in ns"),
        ({"speedup": "up to 5"}, "row 2: speedup='up to 5': expected one positive number"),
        (
            {"dense_time_or_tflops": "30.0 ms", "speedup": ""},
            "speedup='': a speedup of 1500; expected 0.0033 to 300. Are both units right",
        ),
        (
            {"sparse_time_or_tflops": "", "dense_time_or_tflops": "", "speedup": "0.002"},
            "a speedup of 0.002; expected 0.0033",
        ),
        (
            {"speedup": "1.7"},
            "row 2: speedup='1.7': the times '30.0 us' and '20.0 us' give 1.5; expected the two",
        ),
        ({"speedup": "", "dense_time_or_tflops": ""}, "expected a speedup, or both times"),
        ({"source_url": "a book"}, "row 2: source_url='a book': expected an address"),
    ],
)
def test_a_row_that_cannot_be_judged_is_named(tmp_path, changes, message):
    path = write_literature(tmp_path / "rows.csv", literature_line(), literature_line(**changes))
    with pytest.raises(RowError, match=f"rows.csv: .*{message}|rows.csv: {message}"):
        read_literature(path, MACHINES)


def test_columns_in_another_order_and_more_of_them(tmp_path):
    head = LITERATURE_HEADER.split(",")
    line = literature_line().split(",")
    path = tmp_path / "rows.csv"
    path.write_bytes(
        (
            "\ufeff"
            + ",".join([*reversed(head), "split"])
            + "\r\n"
            + ",".join([*reversed(line), "test"])
            + "\r\n"
        ).encode()
    )
    (row,), unread = read_literature(path, MACHINES)
    assert (row.machine, row.speedup_vs_dense, unread) == ("rtx4090", 1.5, ["split"])


def test_a_row_of_another_length(tmp_path):
    with pytest.raises(RowError, match="row 1: 15 cells, expected 14"):
        read_literature(write_literature(tmp_path / "rows.csv", literature_line() + ",more"), MACHINES)


def test_a_missing_column_and_a_missing_file(tmp_path):
    path = write_literature(tmp_path / "rows.csv", header=LITERATURE_HEADER.replace(",note", ""))
    with pytest.raises(RowError, match="header: missing note; expected gpu,"):
        read_literature(path, MACHINES)
    with pytest.raises(RowError, match="cannot be read: No such file"):
        read_literature(tmp_path / "none.csv", MACHINES)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(RowError, match="cannot be read as UTF-8"):
        read_literature(path, MACHINES)


@pytest.mark.parametrize("text", ["0,726 ms", "1,45 us", "12,3456 us", ",5 ms"])
def test_a_comma_is_no_decimal_point(text):
    with pytest.raises(RowError, match="expected"):
        parse_time(text, 1e9)


def test_commas_part_thousands():
    assert parse_time("1,450.5 us", 1e9).time_s == pytest.approx(1450.5e-6)


@pytest.mark.parametrize("text", ["1e-400 us", "1e300 s"])
def test_times_beyond_all_machines_are_refused(text):
    with pytest.raises(RowError, match="expected"):
        parse_time(text, 1e9)
