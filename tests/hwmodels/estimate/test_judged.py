"""`predict_rows`: each row as its kernel family says, in the order it came, with errors that name it."""

import numpy as np
import pandas as pd
import pytest

import hwmodels
from hwmodels.estimate import constants, intervals
from hwmodels.estimate.families import FAMILIES, Rows
from hwmodels.machine.spec import group_of
from nmsim.errors import RowError, SpecError


def row(family="library", **changes):
    base = {
        "M": 4096,
        "N": 8192,
        "K": 4096,
        "dtype": "bf16",
        "baseline_dtype": "bf16",
        "pattern": "2:4",
        "kernel_family": family,
        "density": 0.5,
        "l2_state": "",
    }
    return base | changes


AUTO = {"phase": "prefill", "encoding": "index", "packing": "bitstream", "sparse_operand": "weights"}
MIXED = [
    row("sliding", pattern="6:8", density=0.75),
    row(),
    row("auto", **AUTO),
    row("csr", dtype="fp32", baseline_dtype="fp32", pattern=None, density=0.1),
    row(M=16),
    row("sliding", pattern="4:6", density=2 / 3, M=1),
    row("auto", **AUTO | {"encoding": "bitmask"}),
]


def table(*rows):
    return pd.DataFrame(list(rows))


def test_order_and_index_are_those_of_the_rows():
    """Each of seven rows of four families, under an index that repeats, alone and among the others."""
    inputs = table(*MIXED).set_axis([5, 3, 3, 9, 0, 1, 2])
    together = hwmodels.predict_rows(inputs, "a100")
    assert together.index.tolist() == [5, 3, 3, 9, 0, 1, 2]
    assert together.columns.tolist() == list(hwmodels.JUDGED_COLUMNS)
    assert together["family"].tolist() == [one["kernel_family"] for one in MIXED]
    for place, one in enumerate(MIXED):
        alone = hwmodels.predict_rows(table(one), "a100").iloc[0]
        for name in hwmodels.JUDGED_COLUMNS:
            first, second = alone[name], together.iloc[place][name]
            assert first == second or (first != first and second != second), (place, name)


def test_a_row_is_its_familys_formula():
    inputs = table(row("sliding", pattern="6:8"))
    found = hwmodels.predict_rows(inputs, "a100").iloc[0]
    rows = Rows(inputs, hwmodels.load_machine("a100"), constants.load())
    answer = FAMILIES["sliding"](rows)
    assert found["predicted_sparse_time_s"] == answer.time_s.item()
    assert found["predicted_dense_time_s"] == rows.dense_s().item()
    assert found["predicted_speedup_vs_dense"] == rows.dense_s().item() / answer.time_s.item()
    assert (found["bound_sparse_time_s"], found["bound_dense_time_s"]) == (
        answer.bound_s.item(),
        rows.dense_bound_s().item(),
    )
    known = intervals.interval("sliding", "16-bit", "prefill")
    assert found["predicted_speedup_low"] == found["predicted_speedup_vs_dense"] * known.low
    assert found["predicted_speedup_high"] == found["predicted_speedup_vs_dense"] * known.high
    assert not found["extrapolates"]


def test_auto_is_predict():
    found = hwmodels.predict_rows(table(row("auto", **AUTO)), "a100").iloc[0]
    case = pd.DataFrame([{"M": 4096, "N": 8192, "K": 4096, "pattern": "2:4", "encoding": "index"}])
    answer = hwmodels.predict(case, "a100").iloc[0]
    assert found["predicted_sparse_time_s"] == answer["predicted_time_s"]
    assert found["bound_sparse_time_s"] == answer["bound_time_s"]
    assert found["predicted_speedup_vs_dense"] == answer["predicted_speedup_vs_dense"]


def test_the_baseline_may_have_another_value_type():
    inputs = table(row(dtype="int8", baseline_dtype="fp16"), row(dtype="fp16", baseline_dtype="fp16"))
    eight, sixteen = hwmodels.predict_rows(inputs, "a100")["predicted_speedup_vs_dense"]
    assert eight > 1.5 * sixteen
    dense_s = hwmodels.predict_rows(inputs, "a100")["predicted_dense_time_s"]
    assert dense_s.nunique() == 1


def test_held_out_uses_the_constants_of_the_other_machines():
    inputs = table(row(), row("delta-gemv", M=1, dtype="fp16", baseline_dtype="fp16"))
    for machine, group in (("rtx4090", "rtx4090"), ("a100-pcie", "a100"), ("h200", "h100")):
        found = hwmodels.predict_rows(inputs, machine, held_out=True)
        rows = Rows(inputs.iloc[:1], hwmodels.load_machine(machine), constants.load(group))
        assert group_of(machine) == group
        assert found["predicted_dense_time_s"].iloc[0] == rows.dense_s().item()
        assert not found.equals(hwmodels.predict_rows(inputs, machine))


def test_no_rows_give_no_rows():
    found = hwmodels.predict_rows(table(row()).iloc[:0], "a100")
    assert len(found) == 0
    assert found.columns.tolist() == list(hwmodels.JUDGED_COLUMNS)


def test_input_is_left_alone():
    inputs = table(*MIXED)
    before = inputs.copy(deep=True)
    hwmodels.predict_rows(inputs, "a100")
    pd.testing.assert_frame_equal(inputs, before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"kernel_family": "spmv"},
            r"row 1, column kernel_family: 'spmv': expected one of auto, software, library, sliding",
        ),
        ({"dtype": "fp8"}, r"rows from 0: dtype 'fp8': a100-sxm has no sparse matrix unit for it"),
        ({"baseline_dtype": "fp8"}, r"rows from 0: dtype 'fp8': a100-sxm has no peak for it"),
        ({"kernel_family": "sliding", "pattern": None}, r"rows from 1: .*column pattern: missing"),
        ({"kernel_family": "sliding", "pattern": "6-8"}, r"rows from 1: pattern '6-8': expected 'N:M'"),
        ({"l2_state": "hot"}, r"rows from 0: column l2_state: 'hot': expected cold, warm or nothing"),
        ({"dtype": "fp12"}, r"row 1, column dtype: 'fp12': expected one of fp32"),
        ({"density": 5.0}, r"row 1, column density: 5.0: expected a share above 0"),
        (
            {"pattern": "8:16"},
            r"row 1, column pattern: '8:16': expected 2:4, which is what the family 'library' runs",
        ),
        ({"kernel_family": None}, r"row 1, column kernel_family: (None|nan): expected one of auto"),
        ({"kernel_family": "auto", "M": 0}, r"row 1, column M: 0: expected a positive int"),
    ],
)
def test_errors_name_the_rows(changes, message):
    with pytest.raises(RowError, match=message):
        hwmodels.predict_rows(table(row(), row(**changes)), "a100")


def test_an_unknown_machine_is_an_error():
    with pytest.raises(SpecError, match=r"hardware 'a1000': no machine"):
        hwmodels.predict_rows(table(row()), "a1000")


def test_a_family_nobody_measured_enough_says_so(monkeypatch):
    monkeypatch.setattr("hwmodels.estimate.intervals.interval", lambda *_, **__: intervals.NONE)
    found = hwmodels.predict_rows(table(row()), "a100").iloc[0]
    assert found["extrapolates"]
    assert np.isnan(found["predicted_speedup_low"])
    assert np.isnan(found["predicted_speedup_high"])
