"""Rows beside predictions: files of either layout, products, machines, and whose fault an error is."""

import pandas as pd
import pytest
from judge_fakes import literature_line, measurement, model_of, write_literature

import hwmodels
from hwmodels.counted.product import counted_product
from nmsim import rows as row_files
from nmsim.case import Case, GemmShape, case_id
from nmsim.errors import RowError
from nmsim.format import SparseFormat
from nmsim.rows import COLUMNS
from validate.judge.join import INPUT_COLUMNS, bound_violations, join
from validate.judge.judge import judge_files, judge_rows
from validate.judge.names import Machines
from validate.judge.rows import as_rows, read_rows

MACHINES = Machines()


def joined(*rows, **model):
    return join(as_rows(rows), MACHINES, model_of(**model))


def test_errors_are_relative_to_what_was_measured():
    table = joined(measurement(), dense_time_s=110e-6, sparse_time_s=44e-6)
    assert table.loc[0, ["dense_time_error", "sparse_time_error", "speedup_error"]].tolist() == pytest.approx(
        [0.1, -0.12, 0.25]
    )
    assert table.loc[0, ["machine", "regime", "dtype_class", "kernel_family", "row"]].tolist() == [
        "h200", "decode", "16-bit", "library", 1,
    ]  # fmt: skip


def test_times_are_of_all_products():
    row = measurement(sparse_products=2, dense_products_beside=1, speedup_vs_dense=1.2)
    table = joined(row, dense_time_s=30e-6, sparse_time_s=15e-6, width=0.5, bound_share=0.5)
    found = table.iloc[0]
    assert found["predicted_dense_time_s"] == pytest.approx(90e-6)
    assert found["predicted_sparse_time_s"] == pytest.approx(60e-6)
    assert found["predicted_speedup_vs_dense"] == pytest.approx(1.5)
    assert found["predicted_speedup_low"] == pytest.approx(1.0)
    assert found["predicted_speedup_high"] == pytest.approx(3 / (2 / 3 + 1))
    assert found["bound_sparse_time_s"] == pytest.approx(30e-6)


def test_rows_come_back_in_their_order_and_each_machine_is_asked_once():
    seen = []
    rows = [measurement(machine=name) for name in ("h200", "b200", "H200", "NVIDIA B200")]
    table = join(as_rows(rows), MACHINES, model_of(seen=seen), held_out=True)
    assert table["machine"].tolist() == ["h200", "b200", "h200", "b200"]
    assert [(id_, held_out, len(inputs)) for id_, held_out, inputs in seen] == [
        ("h200", True, 2),
        ("b200", True, 2),
    ]
    assert all(tuple(inputs.columns) == INPUT_COLUMNS for _, _, inputs in seen)


def test_what_was_not_measured_is_nan():
    table = joined(measurement(dense_time_s=None))
    assert pd.isna(table.loc[0, "dense_time_error"])
    assert table.loc[0, "speedup_error"] == 0


def test_our_own_rows_are_asked_as_cases():
    seen = []
    case = Case(GemmShape(1, 512, 512), "2:4/index", dtype="fp32")
    row = measurement(
        machine="epyc-2core", kernel="cpu.avx2", case_id=case_id(case), M=1, N=512, K=512, dtype="fp32", pattern="2:4",
        encoding="index", packing="bitstream", threads=1, l2_state="cold",
    )  # fmt: skip
    join(as_rows([row]), MACHINES, model_of(seen=seen))
    asked = seen[0][2].iloc[0]
    assert asked[["kernel_family", "pattern", "encoding", "packing", "threads", "l2_state"]].tolist() == [
        "auto", "2:4", "index", "bitstream", 1, "cold",
    ]  # fmt: skip


def own_row(kernel, pattern="2:4", encoding="index", M=64, **cells):
    stored = f"{pattern}/{encoding}" if encoding else None
    about = {
        "packing": "bitstream",
        "dtype": "bf16",
        "case_id": case_id(Case(GemmShape(M, 4096, 4096), stored, dtype="bf16")),
    }
    return measurement(
        machine="h200",
        kernel=kernel,
        M=M,
        N=4096,
        K=4096,
        pattern=pattern,
        encoding=encoding,
        **about | cells,
    )


def test_rows_that_are_not_judged_are_left_out_and_counted(nmsim, tmp_path):
    own = tmp_path / "own.csv"
    moved = measurement(
        kernel="gpu.read", M=1, pattern="", case_id=case_id(Case(GemmShape(1, 4096, 4096))), moved_bytes=64, copy_bytes=64,
    )  # fmt: skip
    rival = own_row(
        "torch.fp8", dtype="fp8", pattern="dense", encoding="", packing="", case_id="", baseline_dtype="bf16"
    )
    slow = own_row("gpu.gemm_small", mark="slow dense call")
    for row in (moved, own_row("gpu.gemm_small", commit="0123abc", dirty=False), moved, rival, slow):
        row_files.append(own, row)
    read = read_rows(own, MACHINES)
    assert [(row.number, row.measurement.kernel) for row in read.rows] == [(2, "gpu.gemm_small")]
    assert list(read.left_out.values()) == [2, 1, 1]
    code, _, err = nmsim("validate", "--rows", own)
    assert (code, err) == (
        0,
        f"{own}: left out: 2 transfers, for which no prediction is made\n"
        f"{own}: left out: 1 dense products timed as rivals, for which no speedup is predicted\n"
        f"{own}: left out: 1 rows marked slow dense call: their speedup is not owed to sparsity\n",
    )


@pytest.mark.parametrize(
    ("cells", "count"),
    [
        ({}, 1),
        ({"commit": "0123abc"}, 1),
        ({"commit": "0123abc", "dirty": True}, 1),
        ({"commit": "0123abc", "dirty": False}, 0),
        ({"source_url": "https://example.org/rows"}, 0),
    ],
)
def test_a_row_of_no_known_commit_is_judged_and_counted(nmsim, tmp_path, cells, count):
    own = tmp_path / "own.csv"
    row_files.append(own, own_row("gpu.gemm_small", **cells))
    assert read_rows(own, MACHINES).of_no_commit == count
    code, _, err = nmsim("validate", "--rows", own)
    said = (
        f"{own}: {count} rows of nmsim's kernels with no known commit, or one with changes\n" if count else ""
    )
    assert (code, err) == (0, said)


def test_our_own_gpu_rows_are_judged_as_what_ran():
    kernels = ("gpu.gemm_small", "gpu.unpack_mm", "torch.cusparselt", "torch.cutlass", "something.else")
    rows = [own_row(kernel, M=2048) for kernel in kernels]
    found = join(as_rows(rows), MACHINES, hwmodels.predict_rows)
    assert found["kernel_family"].tolist() == ["software", "software", "library", "library", "auto"]
    # The sparse unit takes 2:4; a kernel that expands it is no faster than a dense product.
    expanding, unpacking, *on_unit = found["predicted_speedup_vs_dense"].tolist()
    assert expanding == unpacking < 1 < min(on_unit)
    plain = hwmodels.predict(Case(GemmShape(64, 4096, 4096), "4:8/bitmask"), "h200")
    row = own_row("gpu.gemm_small", "4:8", "bitmask", l2_state="")
    same = join(as_rows([row]), MACHINES, hwmodels.predict_rows).iloc[0]
    assert same["predicted_sparse_time_s"] == plain.predicted_time_s


def test_a_row_timed_in_a_graph_waits_for_no_flush():
    rows = [
        own_row("gpu.gemv", M=1, l2_state=state, timing=timing)
        for state, timing in (("cold", "graph"), ("cold", "calls"), ("", ""))
    ]
    found = join(as_rows(rows), MACHINES, hwmodels.predict_rows)
    times = found["predicted_sparse_time_s"].tolist()
    assert times[0] == times[2] < times[1]
    assert found["l2_state"].tolist() == ["cold", "cold", ""]


def test_our_counted_kernels_are_predicted_by_their_machine_code():
    counted, tiles, warm = (
        own_row(kernel, "8:16", "bitmask", M=1, l2_state=state)
        for kernel, state in (("gpu.gemv", ""), ("gpu.gemm_small", ""), ("gpu.gemv", "warm"))
    )
    found = join(as_rows([counted, tiles, warm]), MACHINES, hwmodels.predict_rows)
    assert found["predicted_family"].tolist()[0] == "compiled"
    assert found["predicted_family"].tolist()[1] == found["predicted_family"].tolist()[2] != "compiled"
    spec = hwmodels.load_machine("h200")
    code = counted_product(
        GemmShape(1, 4096, 4096), spec, format=SparseFormat.parse("8:16/bitmask"), dtype="bf16"
    )
    first = found.iloc[0]
    assert first["predicted_sparse_time_s"] == code.time_s
    assert first["predicted_speedup_vs_dense"] == pytest.approx(
        first["predicted_dense_time_s"] / first["predicted_sparse_time_s"]
    )
    assert first["predicted_speedup_low"] < first["predicted_speedup_high"]


def test_a_pattern_without_an_encoding_gets_that_of_a_case():
    seen = []
    join(as_rows([measurement(pattern="8:16"), measurement()]), MACHINES, model_of(seen=seen))
    found = seen[0][2][["kernel_family", "encoding", "packing"]].to_numpy().tolist()
    assert found == [["auto", "bitmask", "bitstream"], ["library", "", ""]]


def test_bad_rows_are_named():
    good = measurement()
    with pytest.raises(RowError, match="measurements: row 2: machine='h300': no machine of that name"):
        joined(good, measurement(machine="h300"))
    with pytest.raises(RowError, match="measurements: row 2: pattern='cubes': expected N:M"):
        joined(good, measurement(pattern="cubes"))
    with pytest.raises(RowError, match="no row to judge"):
        joined()


def test_a_complaint_of_the_model_is_about_the_row_of_the_file():
    def picky(inputs, hardware, *, held_out=False):
        if (inputs["M"] == 3).any():
            row = int((inputs["M"] == 3).argmax())
            raise RowError.at("3: expected another", row=row, column="M")
        return model_of()(inputs, hardware)

    rows = [measurement(M=M, machine=name) for M, name in ((1, "b200"), (1, "h200"), (3, "h200"))]
    with pytest.raises(RowError, match=r"^measurements: row 3: column M: 3: expected another$"):
        join(as_rows(rows), MACHINES, picky)


def test_files_of_both_layouts_are_judged_alike(tmp_path):
    literature = write_literature(tmp_path / "literature.csv", literature_line(gpu="H200"))
    (row,) = read_rows(literature, MACHINES).rows
    own = tmp_path / "own.csv"
    row_files.append(own, row.measurement)
    judged = judge_files([literature, own], predictor=model_of())
    assert judged.files == (str(literature), str(own))
    first, second = judged.table.drop(columns="file").fillna({"time_step_s": 0}).to_dict("records")
    assert first == second
    assert judged.table["file"].tolist() == [str(literature), str(own)]


def test_a_column_that_nothing_reads_is_said(tmp_path):
    path = tmp_path / "rows.csv"
    write_literature(path, literature_line() + ",test", header=write_header("split"))
    assert judge_files([path], predictor=model_of()).unread_columns == {str(path): ("split",)}


def write_header(*more):
    from judge_fakes import LITERATURE_HEADER

    return ",".join([LITERATURE_HEADER, *more])


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (
            ",".join([*COLUMNS][:-1]),
            "nearest to the row schema of nmsim measure, but missing 'note'; expected machine,",
        ),
        (
            write_header().replace("gpu", "card"),
            "nearest to literature tables, but missing 'gpu'; unknown 'card'",
        ),
        ("a,b", r"header: found \['a', 'b'\]; expected machine,"),
        ("", r"header: found \[\]"),
    ],
)
def test_another_header_says_what_differs(tmp_path, header, message):
    path = tmp_path / "rows.csv"
    path.write_text(header + "\n")
    with pytest.raises(RowError, match=message):
        read_rows(path, MACHINES)


def test_times_below_the_bound_are_listed_with_a_reason():
    rows = [
        measurement(l2_state="warm", sparse_time_s=20e-6),
        measurement(l2_state="cold", dense_time_s=41e-6),
        measurement(l2_state="cold", sparse_time_s=24.1e-6, time_step_s=1e-6),
        measurement(l2_state="", sparse_time_s=10e-6),
        measurement(sparse_time_s=24.9e-6),
    ]
    found = bound_violations(judge_rows(as_rows(rows), predictor=model_of()))
    assert [(v["row"], v["product"], round(v["share"], 3)) for v in found] == [
        (4, "sparse", 0.4), (1, "sparse", 0.8), (2, "dense", 0.82), (3, "sparse", 0.964),
    ]  # fmt: skip
    reasons = [v["explanation"] for v in found]
    assert "does not say whether L2 was flushed" in reasons[0]
    assert "without an L2 flush: some of the operands (dense weights: 32 MiB)" in reasons[1]
    assert "faster than its datasheet says" in reasons[2]
    assert "cuts times to whole microseconds" in reasons[3]


def test_rows_of_our_cpu_kernels_belong_to_one_calibrated_file():
    """ "epyc" is an alias of a shipped machine, but these rows say which file they were measured with."""
    assert MACHINES.find("EPYC").id == "epyc-2core"
    with pytest.raises(
        RowError, match=r"row 1: machine='EPYC': expected the id of a hardware file, as nmsim calibrate"
    ):
        joined(measurement(machine="EPYC", kernel="cpu.avx2"))
