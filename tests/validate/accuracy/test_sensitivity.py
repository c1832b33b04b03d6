"""Losses of single layers, kinds and blocks, and whether they add up to the loss of all."""

import pandas as pd
import pytest

from nmsim.errors import RowError
from nmsim.quality.configuration import Configuration
from validate.accuracy.losses import one_operand
from validate.accuracy.sensitivity import (
    SENSITIVITY_COLUMNS,
    Place,
    additivity,
    place_of,
    read_sensitivity,
    sensitivity_table,
    sums_of_singles,
    write_sensitivity,
)


@pytest.mark.parametrize(
    ("layers", "place"),
    [
        ("model.layers.3.mlp.up_proj", Place("layer", "up_proj", 3)),
        ("h.11.attn", Place("layer", "attn", 11)),
        ("score", Place("layer", "score")),
        ("*.up_proj", Place("kind", "up_proj")),
        ("model.layers.12.*", Place("block", block=12)),
        ("all", None),
        ("!*.q_proj", None),
        ("!*.q_proj !*.k_proj", None),
        ("*.q_proj *.k_proj", None),
        ("model.layers.1*.mlp.up_proj", None),
        ("*.*_proj", None),
    ],
)
def test_a_choice_of_layers_is_told_by_its_text(layers, place):
    assert place_of(layers) == place


@pytest.fixture(scope="module")
def table(rows):
    return sensitivity_table(rows)


def test_each_single_has_a_row_with_its_increase(table):
    assert tuple(table.columns) == SENSITIVITY_COLUMNS
    assert table["scope"].value_counts().to_dict() == {"layer": 28, "kind": 7, "block": 4}
    row = table[table["layers"] == "model.layers.2.mlp.up_proj"].iloc[0]
    assert (row["kind"], row["block"], row["operand"], row["pattern"]) == (
        "up_proj",
        2,
        "activations",
        "8:16",
    )
    shares = sum((1 + kind) * (1 + block) for kind in range(7) for block in range(4))
    assert row["loss_increase"] == pytest.approx(0.8 / 1.25 * 6 * 3 / shares, rel=0.02)
    assert row["loss_increase_low"] < row["loss_increase"] < row["loss_increase_high"]
    assert set(table["against_dense"]) == {"greater"}


def test_the_csv_says_the_same(table, tmp_path):
    path = tmp_path / "sensitivity.csv"
    write_sensitivity(table, path)
    pd.testing.assert_frame_equal(read_sensitivity(path), table, check_dtype=False, rtol=1e-8)
    path.write_text("layers,kind\n")
    with pytest.raises(RowError, match="no column model, text, window_tokens"):
        read_sensitivity(path)
    cells = dict.fromkeys(SENSITIVITY_COLUMNS, "1") | {"loss_increase": "much"}
    path.write_text(f"{','.join(cells)}\n{','.join(cells.values())}\n")
    with pytest.raises(
        RowError, match="Unable to parse string .much. at position 0: expected what nmsim wrote"
    ):
        read_sensitivity(path)


def test_sums_are_compared_with_what_was_measured(rows):
    sums = sums_of_singles(rows)
    whole = sums[sums["of"] == "all"].set_index("scope")
    assert list(whole.index) == ["layer", "kind", "block"]
    assert whole["singles"].to_dict() == {"layer": 28, "kind": 7, "block": 4}
    assert whole["ratio"].to_list() == pytest.approx([1.25] * 3, rel=0.01)
    assert (whole["ratio_low"] < whole["ratio"]).all()
    assert (whole["ratio"] < whole["ratio_high"]).all()
    assert whole["measured"].to_list() == pytest.approx([0.8] * 3, rel=0.01)
    parts = sums[sums["of"] != "all"]
    assert len(parts) == 7 + 4
    assert parts["ratio"].to_list() == pytest.approx([1.0] * 11, rel=0.02)
    assert additivity(sums).mean == pytest.approx(1.25, rel=0.01)


def test_a_sum_that_lacks_a_layer_is_not_compared(rows):
    missing = [row for row in rows if row.layers not in ("model.layers.0.self_attn.q_proj", "*.up_proj")]
    sums = sums_of_singles(missing)
    assert set(sums.loc[sums["of"] == "all", "scope"]) == {"block"}
    assert "*.q_proj" not in set(sums["of"])
    assert "model.layers.0.*" not in set(sums["of"])
    assert "model.layers.1.*" in set(sums["of"])


def test_without_a_dense_row_nothing_has_an_increase(make_row):
    row = make_row(one_operand("weights", "2:4", layers="*.q_proj"), [3.0, 3.1])
    with pytest.raises(RowError, match="no dense row: expected one"):
        sensitivity_table([row])
    assert sums_of_singles([row]).empty


def test_both_operands_have_a_name(make_row, way):
    both = Configuration(way("weights", "8:16", "channel_vector"), way("activations", "8:16"), "*.q_proj")
    table = sensitivity_table([make_row(Configuration(), [3.0, 3.1]), make_row(both, [3.2, 3.4])])
    row = table.iloc[0]
    assert (row["operand"], row["pattern"], row["criterion"]) == (
        "both",
        "8:16",
        "channel_vector and magnitude",
    )
