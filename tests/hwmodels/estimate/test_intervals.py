"""Error bars: quantiles of held-out residuals by hand, what stands in for too few rows, and what has none."""

import math

import numpy as np
import pandas as pd
import pytest

import hwmodels
from hwmodels.estimate import intervals
from hwmodels.estimate.families import FAMILIES
from hwmodels.estimate.intervals import FEWEST_ROWS, NONE, REGIMES, RESIDUALS_FILE, WIDTHS, interval
from hwmodels.machine.spec import group_of
from nmsim.case import VALUE_BITS, Case, GemmShape
from nmsim.format import as_format


@pytest.fixture
def residuals(monkeypatch):
    """Stand in for the committed residuals: (family, width, regime, log error) rows."""

    def use(*rows):
        table = pd.DataFrame(rows, columns=["family", "width", "regime", "log_speedup_error"])
        monkeypatch.setattr(intervals, "_residuals", lambda: table)
        monkeypatch.setattr(intervals, "WIDENING", 1.0)
        interval.cache_clear()

    yield use
    interval.cache_clear()


def rows_of(errors, *, family="library", width="16-bit", regime="decode"):
    return [(family, width, regime, error) for error in errors]


def test_quantiles_by_hand(residuals):
    """Eleven errors of 0, 0.1 ... 1: a tenth of them lies below 0.1, a tenth above 0.9.

    A prediction that is too high by the factor exp(0.9) was measured at exp(-0.9) of it.
    """
    residuals(*rows_of(np.arange(11) / 10))
    found = interval("library", "16-bit", "decode")
    assert found.low == pytest.approx(math.exp(-0.9))
    assert found.high == pytest.approx(math.exp(-0.1))
    assert found.rows == 11


def test_eight_in_ten_of_the_rows_lie_inside(residuals):
    errors = np.random.default_rng(1).normal(0.05, 0.2, 500)
    residuals(*rows_of(errors))
    found = interval("library", "16-bit", "decode")
    inside = (np.exp(-errors) >= found.low) & (np.exp(-errors) <= found.high)
    assert inside.mean() == pytest.approx(0.8, abs=0.005)


def test_too_few_rows_of_a_regime_take_all_regimes_then_all_widths(residuals):
    few = FEWEST_ROWS - 1
    residuals(
        *rows_of([0.0] * few),
        *rows_of([0.5] * 50, regime="prefill"),
        *rows_of([-0.5] * 3, width="8-bit"),
        *rows_of([9.0] * 100, family="csr"),
    )
    assert interval("library", "16-bit", "decode").rows == few + 50
    assert interval("library", "16-bit", "prefill").rows == 50
    assert interval("library", "8-bit", "decode").rows == few + 50 + 3
    assert interval("library", "other", "middle").rows == few + 50 + 3


def test_a_range_taken_from_further_rows_says_so(residuals):
    residuals(*rows_of([0.0] * FEWEST_ROWS, regime="prefill"))
    assert not interval("library", "16-bit", "prefill").widened
    assert interval("library", "16-bit", "decode").widened


def test_ranges_hold_for_a_die_that_is_not_in_them():
    """The widening is what it takes: predictions and ranges both without the row's own die."""
    table = pd.read_csv(RESIDUALS_FILE)
    table = table[table["family"] != intervals.CPU_FAMILY]
    inside = []
    for row in table.itertuples():
        found = interval(row.family, row.width, row.regime, group_of(row.machine))
        if found.rows:
            inside.append(found.low <= np.exp(-row.log_speedup_error) <= found.high)
    assert np.mean(inside) == pytest.approx(intervals.INTERVAL_SHARE, abs=0.05)


def test_exactly_enough_rows_are_enough(residuals):
    residuals(*rows_of([0.0] * FEWEST_ROWS), *rows_of([1.0] * 90, regime="prefill"))
    assert interval("library", "16-bit", "decode") == (1.0, 1.0, FEWEST_ROWS, False)


def test_a_family_with_too_few_rows_has_no_interval(residuals):
    residuals(*rows_of([0.0] * (FEWEST_ROWS - 1)))
    for found in (interval("library", "16-bit", "decode"), interval("csr", "16-bit", "decode")):
        assert math.isnan(found.low)
        assert math.isnan(found.high)
        assert found.rows == 0
    assert NONE.rows == 0


@pytest.mark.parametrize(
    ("tokens", "regime"),
    [(1, "decode"), (64, "decode"), (65, "middle"), (1023, "middle"), (1024, "prefill"), (99999, "prefill")],
)
def test_regimes(tokens, regime):
    assert intervals.regime_of(tokens) == regime


def test_every_value_type_has_a_width():
    assert {intervals.width_of(dtype) for dtype in VALUE_BITS} == set(WIDTHS)


def test_committed_residuals_are_of_known_kinds():
    table = pd.read_csv(RESIDUALS_FILE)
    assert set(table["family"]) <= {*FAMILIES, intervals.CPU_FAMILY}
    assert set(table["width"]) <= set(WIDTHS)
    assert set(table["regime"]) <= set(REGIMES)
    fitted = table[table["family"] != intervals.CPU_FAMILY]
    assert set(fitted["machine"]) <= set(hwmodels.machine_names())
    errors = fitted["log_dense_time_error"] - fitted["log_sparse_time_error"]
    assert np.allclose(errors, fitted["log_speedup_error"], atol=2e-4)  # ours are medians of ratios
    assert not table.isna().any().any()


GPU_CASES = {
    "2:4 on its unit": ("2:4", "index", "rtx4090", False),
    "8:16 decoded in software": ("8:16", "bitmask", "rtx4090", True),
    "a unit that does not exist": ("8:16", "combinatorial", "h200-8x16", True),
}


@pytest.mark.parametrize("kind", GPU_CASES)
def test_what_extrapolates(kind):
    """Only 2:4 on a real sparse unit was measured as it is; other predictions borrow the error of a neighbour."""
    pattern, encoding, machine, extrapolates = GPU_CASES[kind]
    tokens = 1 if "software" in kind else 4096
    case = Case(GemmShape(tokens, 4096, 4096), as_format(pattern, encoding=encoding))
    answer = hwmodels.predict(case, machine)
    assert answer.extrapolates == extrapolates
    assert answer.comparable_rows >= FEWEST_ROWS
    assert 0 < answer.predicted_speedup_low < answer.predicted_speedup_high


def test_an_interval_scales_with_the_prediction():
    case = Case(GemmShape(4096, 8192, 8192), "2:4/index")
    answer = hwmodels.predict(case, "a100")
    found = interval("library", "16-bit", "prefill")
    assert answer.predicted_speedup_low == answer.predicted_speedup_vs_dense * found.low
    assert answer.predicted_speedup_high == answer.predicted_speedup_vs_dense * found.high
    assert answer.comparable_rows == found.rows


def test_nothing_was_measured_of_an_operand_expanded_for_prefill():
    """8:16 without a unit, 8192 tokens: no published kernel does that, so there is no error bar."""
    answer = hwmodels.predict(Case(GemmShape(8192, 8192, 8192), "8:16", dtype="bf16"), "a100")
    assert answer.extrapolates
    assert answer.comparable_rows == 0
    assert math.isnan(answer.predicted_speedup_low)
    assert math.isnan(answer.predicted_speedup_high)
