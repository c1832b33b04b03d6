"""Steps of a whole model are timed with sparse and with dense weights, and written as rows."""

import dataclasses

import pytest

torch = pytest.importorskip("torch")

from kernels.language import steps  # noqa: E402
from kernels.ops import NMLinear  # noqa: E402
from nmsim import rows  # noqa: E402
from nmsim.errors import NmsimError, RowError  # noqa: E402
from nmsim.rows.model_step import ModelStepRow  # noqa: E402

ASKED = ("--dtypes", "fp32", "--contexts", "6", "--prefill", "5", "--threads", "1", "--repetitions", "3")


def test_rows_of_a_tiny_model(tiny_model, tmp_path, capsys):
    path = tmp_path / "steps.csv"
    arguments = ["-o", str(path), "--model", str(tiny_model), "--machine", "here", *ASKED]
    assert steps.main(arguments) == 0
    found = rows.read(path, ModelStepRow)
    assert [(row.sparse_call, row.format, row.phase) for row in found] == [
        (call, f"{text}/bitstream", phase)
        for phase in ("decode", "prefill")
        for text in steps.FORMATS
        for call in steps.SPARSE_CALLS
    ]
    layers = 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 128)
    for row in found:
        assert row.dense_call in steps.DENSE_CALLS
        assert (
            row.dense_bytes - row.sparse_bytes
            == layers * 4 - layers * 2 - layers * (2 if "index" in row.format else 1) // 8
        )
        assert row.rest_time_s > 0
        assert row.max_rel_err <= steps.MOST_ERROR["fp32"]
        assert (row.machine, row.model, row.reps) == ("here", "tiny-llama", 3)
    assert {(row.new_tokens, row.context_tokens) for row in found} == {(1, 6), (5, 5)}
    assert capsys.readouterr().out.count("\n") == len(found)
    steps.main(arguments)
    assert len(rows.read(path, ModelStepRow)) == len(found)


def test_weights_that_differ_give_no_row(tiny):
    modules = steps.contenders(tiny, "fp32", ["8:16/index"])
    layer = next(
        part for part in modules["cpu.matmul", "8:16/index"].modules() if isinstance(part, steps.DirectLinear)
    )
    layer._multiply = lambda x, own=layer._multiply: own(x) + 1
    with pytest.raises(
        NmsimError, match=r"decode, context 4, 1 threads: cpu\.matmul 8:16/index: logits differ by"
    ):
        list(
            steps.measure_step(
                modules, tiny.module, tuple(tiny.layers), steps.StepPlan("decode", 1, 4, 1),
                vocabulary=256, repetitions=2, most_error=1e-4, cells={},
            )
        )  # fmt: skip
    assert not any(isinstance(part, NMLinear) for part in tiny.module.modules())


def test_a_row_refuses_what_cannot_be(tiny_model, tmp_path):
    path = tmp_path / "steps.csv"
    steps.main(["-o", str(path), "--model", str(tiny_model), *ASKED])
    row = rows.read(path, ModelStepRow)[0]
    for changes, column in (
        ({"sparse_time_s_p20": 1e3}, "sparse_time_s"),
        ({"context_tokens": 1, "new_tokens": 2}, "context_tokens"),
        ({"format": "8"}, "format"),
        ({"dense_call": "fast"}, "dense_call"),
    ):
        with pytest.raises(RowError) as caught:
            dataclasses.replace(row, **changes)
        assert caught.value.column == column
