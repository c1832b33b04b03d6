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
    """Stand in for the committed residuals: (family, width, regime, machine, log error) rows."""

    def use(*rows):
        table = pd.DataFrame(rows, columns=["family", "width", "regime", "machine", "log_speedup_error"])
        table = table.assign(log_dense_time_error=0.0, log_sparse_time_error=0.0)
        lines = intervals.by_kind(intervals.spread(table))
        monkeypatch.setattr(intervals, "_lines", lambda: lines)
        interval.cache_clear()

    yield use
    interval.cache_clear()


def rows_of(errors, *, family="library", width="16-bit", regime="decode", machine="rtx4090"):
    return [(family, width, regime, machine, error) for error in errors]


ELEVEN = np.arange(11) / 10
"""A tenth of them lies below 0.1, a tenth above 0.9."""


def test_one_group_by_hand(residuals):
    """A prediction that is too high by the factor exp(0.5) was measured at exp(-0.5) of it. The
    spread between groups is unknown, so it is taken as wide as that of the rows: √(0.4² + 2 x 0.4²)."""
    residuals(*rows_of(ELEVEN))
    found = interval("library", "16-bit", "decode")
    assert math.log(found.low) == pytest.approx(-0.5 - 0.4 * math.sqrt(3))
    assert math.log(found.high) == pytest.approx(-0.5 + 0.4 * math.sqrt(3))
    assert found.rows == 11


def test_three_groups_by_hand(residuals):
    """Middles at 0.5, 0.6 and 1.0, whose deviation is √0.07: Student's t with 2 degrees of freedom is 1.886."""
    for shift, machine in ((0.0, "rtx4090"), (0.1, "gb10"), (0.5, "b200")):
        assert np.median(ELEVEN + shift) == pytest.approx(0.5 + shift), machine
    residuals(
        *rows_of(ELEVEN),
        *rows_of(ELEVEN + 0.1, machine="gb10"),
        *rows_of(np.repeat(ELEVEN, 9) + 0.5, machine="b200"),
    )
    found = interval("library", "16-bit", "decode")
    between = 1.886 * math.sqrt(0.07) * math.sqrt(4 / 3)
    assert math.log(found.low) == pytest.approx(-0.6 - math.hypot(0.4, between), abs=1e-3)
    assert math.log(found.high) == pytest.approx(-0.6 + math.hypot(0.4, between), abs=1e-3)
    assert found.rows == 11 + 11 + 99


def test_t_is_students():
    t = pytest.importorskip("scipy.stats").t
    expected = [
        t.ppf((1 + intervals.INTERVAL_SHARE) / 2, free) for free in range(1, len(intervals.T_QUANTILES) + 1)
    ]
    assert pytest.approx(expected, abs=6e-4) == list(intervals.T_QUANTILES)


def test_dies_of_one_group_count_once(residuals):
    """Two boards with the same die are one group; its rows are pooled."""
    residuals(*rows_of(ELEVEN, machine="a100-pcie"), *rows_of(ELEVEN, machine="a100-sxm"))
    together = interval("library", "16-bit", "decode")
    residuals(*rows_of(np.repeat(ELEVEN, 2), machine="a100-pcie"))
    assert interval("library", "16-bit", "decode") == together


@pytest.mark.parametrize("groups", [3, 5, 8])
def test_a_stranger_lies_inside_as_often_as_promised(residuals, groups):
    """Groups that err by a normal part of their own, and rows by another: 300 times the rows of one more group."""
    random, inside = np.random.default_rng(groups), []
    names = ["a100", "h100", "b200", "rtx4090", "rtx3090", "gb10", "l4", "v100"][:groups]
    for _ in range(300):
        drawn = [random.normal(random.normal(0.05, 0.15), 0.1, 200) for _ in range(groups + 1)]
        lines = [
            intervals._Line(name, 200, *np.quantile(-errors, [0.1, 0.5, 0.9]))
            for name, errors in zip(names, drawn, strict=False)
        ]
        low, high = intervals.stranger_range(lines)
        inside.append(((-drawn[-1] >= low) & (-drawn[-1] <= high)).mean())
    assert np.mean(inside) == pytest.approx(intervals.INTERVAL_SHARE, abs=0.06)


def test_a_group_of_few_rows_says_nothing_if_others_say_more(residuals):
    residuals(*rows_of(ELEVEN), *rows_of([9.0] * (intervals.FEWEST_GROUP_ROWS - 1), machine="gb10"))
    with_it = interval("library", "16-bit", "decode")
    residuals(*rows_of(ELEVEN))
    alone = interval("library", "16-bit", "decode")
    assert (with_it.low, with_it.high) == (alone.low, alone.high)


def test_a_group_left_out_has_no_part(residuals):
    residuals(*rows_of(ELEVEN), *rows_of(ELEVEN + 5, machine="a100-sxm"))
    without = interval("library", "16-bit", "decode", "a100")
    residuals(*rows_of(ELEVEN))
    assert interval("library", "16-bit", "decode") == without


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


@pytest.mark.parametrize("family", intervals.STAND_INS)
def test_the_family_of_the_same_formula_stands_in(residuals, family):
    """Rows of all widths and regimes, and the deviation of groups counts once more: the library is unknown as well."""
    residuals(*rows_of(ELEVEN), *rows_of(ELEVEN, regime="prefill"), *rows_of(ELEVEN, family="csr"))
    found = interval(family, "16-bit", "decode")
    assert math.log(found.high) == pytest.approx(-0.5 + 0.4 * math.sqrt(1 + 2 * 2))
    assert found.rows == 22
    assert found.widened


def test_a_generation_that_nobody_measured_has_a_wider_range(residuals):
    """Products of the vendor's library alone: other kernels use nothing of `libraries.toml`."""
    residuals(*rows_of(ELEVEN), *rows_of(ELEVEN, family="delta-gemv"))
    known, stranger = (interval("library", "16-bit", "decode", measured=way) for way in (True, False))
    for one, other in ((known.low, stranger.low), (known.high, stranger.high)):
        assert math.log(other) + 0.5 == pytest.approx((math.log(one) + 0.5) * intervals.UNMEASURED_WIDENING)
    delta = ("delta-gemv", "16-bit", "decode")
    assert interval(*delta, measured=False) == interval(*delta)


@pytest.mark.parametrize(("machine", "wider"), [("b200", False), ("rtx5090", True), ("mi300x", True)])
def test_which_machines_are_strangers(machine, wider):
    case = Case(GemmShape(4096, 8192, 8192), "2:4/index")
    answer = hwmodels.predict(case, machine)
    expected = interval("library", "16-bit", "prefill", measured=not wider)
    assert answer.predicted_speedup_high == pytest.approx(answer.predicted_speedup_vs_dense * expected.high)


def test_a_range_taken_from_further_rows_says_so(residuals):
    residuals(*rows_of([0.0] * FEWEST_ROWS, regime="prefill"))
    assert not interval("library", "16-bit", "prefill").widened
    assert interval("library", "16-bit", "decode").widened


def test_many_rows_get_what_each_of_them_gets(residuals):
    residuals(*rows_of(ELEVEN), *rows_of(ELEVEN + 1, width="8-bit", regime="prefill"))
    dtypes, tokens = ["bf16", "fp8", "fp32", "int8"], np.array([1.0, 4096.0, 64.0, 65.0])
    low, high, widened = intervals.intervals("library", dtypes, tokens)
    for place, (dtype, count) in enumerate(zip(dtypes, tokens, strict=True)):
        alone = interval("library", intervals.width_of(dtype), intervals.regime_of(int(count)))
        assert (low[place], high[place], widened[place]) == (alone.low, alone.high, alone.widened)


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
    assert list(table.columns) == list(intervals.SPREAD_COLUMNS)
    assert set(table["family"]) <= {*FAMILIES, intervals.CPU_FAMILY}
    assert set(table["width"]) <= {*WIDTHS, intervals.ALL}
    assert set(table["regime"]) <= {*REGIMES, intervals.ALL}
    fitted = table[table["family"] != intervals.CPU_FAMILY]
    assert set(fitted["group"]) <= {group_of(name) for name in hwmodels.machine_names()}
    assert (table["speedup_low"] <= table["speedup_middle"]).all()
    assert (table["speedup_middle"] <= table["speedup_high"]).all()
    assert not table.isna().any().any()
    every, known = table[table["width"] == intervals.ALL], table[table["regime"] != intervals.ALL]
    assert every["rows"].sum() == known["rows"].sum()


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
