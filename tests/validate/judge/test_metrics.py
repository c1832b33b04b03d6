"""Metrics of joined rows, redone by hand."""

import pytest
from judge_fakes import measurement, model_of

from validate.judge import metrics
from validate.judge.judge import Judgement, judge_rows, judged_columns, thinned
from validate.judge.rows import as_rows


def table_of(*rows, **model):
    return judge_rows(as_rows(rows), predictor=model_of(**model))


def test_medians_bias_and_sides():
    rows = [measurement(speedup_vs_dense=speedup, dense_time_s=None) for speedup in (2.5, 1.6, 0.8, 2.0)]
    found = metrics.summarise(table_of(*rows, width=0.25))
    assert found["n_rows"] == 4
    assert found["speedup_mdape"] == pytest.approx((0.2 + 0.25) / 2)
    assert found["speedup_bias"] == pytest.approx(0.125)
    assert found["speedup_worst_factor"] == pytest.approx(2.5)
    assert found["sign_share"] == 0.75
    assert found["interval_coverage"] == 0.75
    assert found["dense_time_mdape"] is None
    assert (found["n_dense_times"], found["n_sparse_times"]) == (0, 4)


def test_families_are_machine_type_regime_and_kernel():
    rows = [
        measurement(M=4096),
        measurement(M=512),
        measurement(M=64),
        measurement(M=64, dtype="fp8"),
        measurement(machine="b200"),
        measurement(pattern="6:8 via sliding 2:4 windows", mark="weak baseline"),
    ]
    found = metrics.families(table_of(*rows))
    assert [tuple(family[name] for name in metrics.FAMILY) for family in found] == [
        ("b200", "bf16", "decode", "library"),
        ("h200", "bf16", "decode", "library"),
        ("h200", "bf16", "decode", "sliding"),
        ("h200", "bf16", "middle", "library"),
        ("h200", "bf16", "prefill", "library"),
        ("h200", "fp8", "decode", "library"),
    ]
    assert [family["n_marked"] for family in found] == [0, 0, 1, 0, 0, 0]


def test_the_worst_rows_are_off_by_the_largest_factor_either_way():
    rows = [measurement(speedup_vs_dense=speedup) for speedup in (2.1, 0.5, 6.0, 2.0)]
    assert metrics.worst(table_of(*rows), 3)["row"].tolist() == [2, 3, 1]


def test_a_verdict_is_plain_data():
    table = table_of(measurement(), measurement(dtype="int8", sparse_time_s=1e-6))
    verdict = Judgement(table, ("rows.csv",), True, {}).verdict()
    assert verdict["overall"]["n_rows"] == 2
    assert [group["dtype_class"] for group in verdict["dtype_classes"]] == ["16-bit", "8-bit"]
    assert {"machine", "dtype", "regime", "kernel_family", "n_rows", "speedup_mdape", "dense_time_mdape",
            "sparse_time_mdape", "sign_share", "speedup_bias"} <= set(verdict["families"][0])  # fmt: skip
    assert len(verdict["bound_violations"]) == 1
    assert [row["row"] for row in verdict["worst"]] == [1, 2]
    assert verdict["held_out"] is True


def test_about_one_is_a_third_answer():
    """Measured 0.96 and predicted 1.04 lie on two sides of 1, and both say that sparsity changes nothing."""
    measured = (0.96, 1.04, 0.9, 1.2)
    rows = [measurement(speedup_vs_dense=speedup) for speedup in measured]
    found = metrics.summarise(table_of(*rows, dense_time_s=52e-6, sparse_time_s=50e-6))
    assert found["sign_share"] == 0.5
    assert found["side_share"] == 0.75
    assert found["about_one_share"] == 0.5
    found = metrics.summarise(table_of(*rows, dense_time_s=53e-6, sparse_time_s=50e-6))
    assert (found["side_share"], found["about_one_share"]) == (0.5, 0)


@pytest.mark.parametrize(
    ("inside", "rows", "warned"),
    [(20, 20, "too wide"), (18, 20, ""), (14, 20, ""), (13, 20, "too narrow"), (13, 19, "")],
)
def test_families_are_warned_of_if_their_intervals_hold_too_few_or_too_many(inside, rows, warned):
    """`width=0.1` around a speedup of 2; others are far outside."""
    speedups = [2.0] * inside + [3.0] * (rows - inside)
    table = table_of(*[measurement(speedup_vs_dense=speedup) for speedup in speedups])
    found = metrics.coverage_warnings(metrics.families(table))
    assert [family["intervals"] for family in found] == ([warned] if warned else [])
    if warned:
        assert found[0]["n_rows"] == rows
        assert found[0]["interval_coverage"] == pytest.approx(inside / rows)


def test_figures_of_a_large_table_show_every_nth_row_of_each_family():
    """Kept are the middle of the first n, and every n-th from there, in the order of the error."""
    rows = [measurement(speedup_vs_dense=1 + (37 * place % 100) / 50) for place in range(100)]
    rows += [measurement(dtype="int8", speedup_vs_dense=speedup) for speedup in (1.0, 3.0, 2.0)]
    table = table_of(*rows)
    found = thinned(table, 11)
    assert found["dtype"].value_counts().to_dict() == {"bf16": 10, "int8": 1}
    assert found.index.is_monotonic_increasing
    assert found[found["dtype"] == "int8"]["measured_speedup_vs_dense"].tolist() == [2.0]
    wide = found[found["dtype"] == "bf16"]["measured_speedup_vs_dense"].sort_values(ascending=False)
    assert wide.tolist() == pytest.approx([2.98 - (5 + 10 * place) / 50 for place in range(10)])
    assert thinned(table, 103) is table
    assert thinned(judged_columns(table), 11)["row"].tolist() == found["row"].tolist()
