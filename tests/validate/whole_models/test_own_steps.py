"""Steps that we measured beside predictions: bytes agree exactly, and errors are those of the rows."""

import pytest

import hwmodels
from hwmodels.steps.step import step
from nmsim.errors import RowError, SpecError
from nmsim.rows.model_step import ModelStepRow
from validate.judge.rows import MEASURED_FOLDER
from validate.whole_models import own

MACHINE = "epyc-genoa-2core"


def row(**changes):
    spread = {
        f"{name}{end}": value
        for name, value in (("sparse_time_s", 0.03), ("dense_time_s", 0.04), ("speedup_vs_dense", 4 / 3))
        for end in ("", "_p20", "_p80")
    }
    cells = {
        "machine": MACHINE, "device": "a CPU", "model": "smollm2", "model_digest": "0" * 16, "dtype": "fp32",
        "format": "8:16/index/bitstream", "phase": "decode", "batch": 1, "new_tokens": 1, "context_tokens": 64,
        "threads": 1, "sparse_call": "cpu.matmul", "dense_call": "F.linear", "sparse_bytes": 1, "dense_bytes": 1,
        "rest_time_s": 0.01, "max_rel_err": 0.0, "reps": 3,
    }  # fmt: skip
    return ModelStepRow(**{**spread, **cells, **changes})


def test_errors_are_those_of_the_steps():
    table = own.predict_steps(
        [row(), row(sparse_call="ops.sparse_linear stacked"), row(threads=2, dtype="bf16")]
    )
    first, stacked, both = table.to_dict("records")
    asked = {"format": "8:16/index", "context_tokens": 64, "dtype": "fp32", "kv_dtype": "fp32", "threads": 1}
    found = step("smollm2-135m", MEASURED_FOLDER / f"{MACHINE}.toml", **asked)
    assert first["predicted_sparse_time_s"] == found.time_s
    assert first["predicted_dense_time_s"] == stacked["predicted_dense_time_s"] == found.dense_time_s
    assert stacked["predicted_sparse_time_s"] < first["predicted_sparse_time_s"]
    assert both["predicted_dense_bytes"] == 2 * 134_479_872
    assert first["measured_sparse_layers_s"] == pytest.approx(0.02)
    assert first["predicted_sparse_layers_s"] < found.time_s
    groups = own.summary(table)
    assert [(group["phase"], group["dtype"], group["n_rows"]) for group in groups] == [
        ("decode", "bf16", 1),
        ("decode", "fp32", 2),
    ]
    assert groups[0]["dense_mdape"] == pytest.approx(abs(both["predicted_dense_time_s"] / 0.04 - 1))


def test_bytes_of_packed_layers():
    model = hwmodels.load_model("smollm2-135m")
    head, body = 49152 * 576, 134_479_872 - 49152 * 576
    formats = {"8:16/bitmask": 9, "8:16/index": 10, None: 16}
    for text, bits in formats.items():
        stored = None if text is None else own.sparse_format(text)
        assert own.model_bytes(model, "bf16", stored) == (head * 16 + body * bits) // 8


def test_a_machine_without_a_calibration_and_threads_that_are_none():
    with pytest.raises(RowError, match=r"machine=elsewhere: expected elsewhere\.toml"):
        own.predict_steps([row(machine="elsewhere")])
    with pytest.raises(SpecError, match="threads=-1: expected a number of cores"):
        step("smollm2-135m", MEASURED_FOLDER / f"{MACHINE}.toml", context_tokens=8, threads=-1)


def test_one_core_has_no_thread_to_wake():
    machine = hwmodels.load_machine(MEASURED_FOLDER / f"{MACHINE}.toml")
    one, two, both = (
        step("smollm2-135m", machine, context_tokens=64, dtype="fp32", threads=threads)
        for threads in (1, 2, 0)
    )
    assert two.time_s == both.time_s
    assert two.attention_time_s - one.attention_time_s == pytest.approx(
        30 * machine.thread_wake_s.value, rel=0.1
    )


def test_committed_steps_name_one_clean_commit_and_weigh_what_is_predicted():
    rows = own.read_steps()
    assert {(row.dirty, len(row.commit), row.machine) for row in rows} == {(False, 40, MACHINE)}
    assert len({row.key for row in rows}) == len(rows) >= 66
    norms = 61 * 576
    for line in own.predict_steps(rows).to_dict("records"):
        bits = 32 if line["dtype"] == "fp32" else 16
        for kind in ("dense", "sparse"):
            assert line[f"{kind}_bytes"] - line[f"predicted_{kind}_bytes"] == norms * bits // 8
