"""What a mitigation or a criterion changes, against the same way less one thing."""

import numpy as np
import pytest

from nmsim.quality.configuration import Configuration
from validate import gain_table, paired_difference
from validate.accuracy.gains import GAIN_COLUMNS
from validate.accuracy.losses import one_operand


@pytest.fixture(scope="module")
def gains(rows):
    return gain_table(rows)


def one(gains, **cells):
    chosen = gains[np.logical_and.reduce([gains[name] == cell for name, cell in cells.items()])]
    assert len(chosen) == 1
    return chosen.iloc[0]


@pytest.mark.parametrize(
    ("operand", "criterion", "mitigation", "share", "verdict"),
    [
        ("activations", "magnitude", "var", -0.1, "helps"),
        ("activations", "magnitude", "dpts_mean", 0.0, "cannot be decided"),
        ("weights", "magnitude", "weight_correction", 0.04, "hurts"),
        ("weights", "channel_vector", "outliers=8:256", -0.2, "helps"),
    ],
)
def test_a_mitigation_is_compared_with_none(gains, operand, criterion, mitigation, share, verdict):
    row = one(gains, operand=operand, criterion=criterion, mitigation=mitigation, pattern="8:16")
    assert (row["against"], row["verdict"]) == ("none", verdict)
    assert row["share"] == pytest.approx(share, abs=0.01)
    assert row["change_low"] < row["change"] < row["change_high"]


def test_a_criterion_is_compared_with_plainer_ones(gains):
    plain = gains[(gains["mitigation"] == "none") & (gains["pattern"] == "8:16")]
    pairs = set(zip(plain["operand"], plain["criterion"], plain["against"], strict=True))
    weights = {
        ("weights", "channel_vector", "magnitude"),
        ("weights", "ria", "magnitude"),
        ("weights", "ria", "channel_vector"),
    }
    assert pairs == weights | {
        ("activations", name, "magnitude") for name in ("clact", "amber", "weight_variance")
    }
    loose = gains[(gains["pattern"] == "1:2") & (gains["mitigation"] == "none")]
    assert set(loose["against"]) == {"unstructured"}
    assert one(gains, criterion="weight_variance", pattern="2:4")["share"] == pytest.approx(0.3, abs=0.01)


def test_the_change_is_paired_by_window(make_row):
    plain, mended = [4.0, 5.0, 4.5, 4.2], [3.9, 4.7, 4.4, 4.0]
    sparse = one_operand("activations", "8:16")
    var = one_operand("activations", "8:16", mitigation="var")
    rows = [make_row(sparse, plain), make_row(var, mended)]
    table = gain_table(rows)
    assert tuple(table.columns) == GAIN_COLUMNS
    row = table.iloc[0]
    assert tuple(row[["change", "change_low", "change_high"]]) == paired_difference(mended, plain)
    assert np.isnan(row["share"])
    assert gain_table([make_row(var, mended), make_row(Configuration(), plain)]).empty


@pytest.mark.parametrize(("windows", "verdict"), [(7, "cannot be decided"), (8, "helps")])
def test_few_windows_have_no_verdict(make_row, windows, verdict):
    """As claims have none: an interval over so few windows is too narrow."""
    plain = [4.0 + 0.1 * window for window in range(windows)]
    sparse, var = (one_operand("activations", "8:16", mitigation=name) for name in ("none", "var"))
    table = gain_table([make_row(sparse, plain), make_row(var, [loss - 0.2 for loss in plain])])
    assert table["verdict"].tolist() == [verdict]
    assert table["change"].item() == pytest.approx(-0.2)
