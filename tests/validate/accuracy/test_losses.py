"""Rows as tables: only what has the same windows is compared, and nothing counts twice."""

import math

import numpy as np
import pytest

from nmsim.errors import PatternError, RowError
from nmsim.quality.configuration import Configuration
from nmsim.rows import append
from validate import mean_interval, paired_difference
from validate.accuracy import losses
from validate.accuracy.losses import FRAME_COLUMNS, loss_frame, loss_tables, one_operand, read_losses

DENSE = Configuration()
SPARSE = one_operand("activations", "8:16")


def test_a_row_becomes_losses_perplexities_and_differences(make_row):
    dense, sparse = [3.0, 3.5, 2.5, 4.0], [3.4, 4.1, 2.9, 4.3]
    frame = loss_frame([make_row(DENSE, dense), make_row(SPARSE, sparse)])
    assert tuple(frame.columns) == FRAME_COLUMNS
    first, second = frame.to_dict("records")
    assert (first["configuration"], first["against_dense"], first["loss_increase"]) == ("dense", "", 0.0)
    assert second["perplexity"] == pytest.approx(math.exp(np.mean(sparse)))
    wanted = paired_difference(sparse, dense)
    assert [second[f"loss_increase{end}"] for end in ("", "_low", "_high")] == pytest.approx(wanted)
    assert second["perplexity_ratio_high"] == pytest.approx(math.exp(wanted.high))
    assert second["loss_low"] == pytest.approx(mean_interval(sparse).low)
    assert second["against_dense"] == "greater"


@pytest.mark.parametrize(
    "other",
    [
        {"text": "python-topics", "text_digest": "2" * 16},
        {"model_digest": "3" * 16},
        {"window_tokens": 256},
        {"first_window_token": 0},
        {"dtype": "bf16"},
    ],
)
def test_rows_of_other_windows_or_models_are_never_compared(make_row, other):
    """The dense row is of another setting: there is nothing to subtract."""
    rows = [make_row(DENSE, [3.0, 3.1, 3.2]), make_row(SPARSE, [4.0, 4.1, 4.2], **other)]
    assert len(loss_tables(rows)) == 2
    frame = loss_frame(rows)
    assert math.isnan(frame["loss_increase"][1])
    assert frame["against_dense"][1] == "cannot be decided"


def test_the_common_first_windows_are_compared(make_row):
    dense, sparse = [3.0, 3.1, 3.2, 3.3, 99.0], [3.5, 3.7, 3.6, 3.9]
    (table,) = loss_tables([make_row(DENSE, dense), make_row(SPARSE, sparse)])
    assert table.windows(SPARSE, DENSE) == 4
    assert table.difference(SPARSE) == paired_difference(sparse, dense[:4])


def test_of_two_rows_of_a_configuration_the_longer_one_counts(make_row):
    short, long = make_row(SPARSE, [3.5, 3.7]), make_row(SPARSE, [3.5, 3.7, 3.9])
    for rows in ([short, long], [long, short]):
        (table,) = loss_tables(rows)
        assert table.find(SPARSE).windows == 3


def test_an_unstructured_way_is_found_by_its_density(make_row):
    measured = one_operand("weights", "8:16", criterion="unstructured")
    (table,) = loss_tables([make_row(measured, [3.0, 3.1])])
    assert table.has(one_operand("weights", "1:2", criterion="unstructured"))
    assert not table.has(one_operand("weights", "1:4", criterion="unstructured"))
    assert not table.has(one_operand("weights", "1:2"))


def test_one_key_twice_is_refused(make_row):
    with pytest.raises(RowError, match="activations 8:16 magnitude: two rows of one key: expected one"):
        loss_tables([make_row(SPARSE, [3.0, 3.1])] * 2)


def test_rows_that_contradict_each_other_are_refused(make_row):
    rows = [make_row(SPARSE, [3.0, 3.1]), make_row(SPARSE, [3.0, 3.2, 3.3])]
    with pytest.raises(RowError, match=r"window 1 has losses 3\.1 and 3\.2: expected the same"):
        loss_tables(rows)
    fitted = one_operand("activations", "8:16", mitigation="spts")
    rows = [make_row(fitted, [3.0, 3.1], calibration_tokens=tokens) for tokens in (1024, 4096)]
    with pytest.raises(RowError, match="fitted to 1024 and to 4096 tokens: expected one of them"):
        loss_tables(rows)


def test_losses_of_what_was_not_measured_are_refused(make_row):
    (table,) = loss_tables([make_row(DENSE, [3.0, 3.1])])
    with pytest.raises(RowError, match="no row of activations 8:16 magnitude: expected one"):
        table.losses(SPARSE)
    assert table.difference(SPARSE).sign == 0


def test_rows_of_several_files_are_read(make_row, tmp_path):
    for name, configuration in (("a.csv", DENSE), ("b.csv", SPARSE)):
        append(tmp_path / name, make_row(configuration, [3.0, 3.1]))
    rows = read_losses(sorted(tmp_path.glob("*.csv")))
    assert [row.configuration for row in rows] == [DENSE, SPARSE]


def test_the_table_of_quality_beside_the_rows_is_none_of_them(make_row, monkeypatch, tmp_path):
    monkeypatch.setattr(losses, "FOLDER", tmp_path)
    append(tmp_path / "b.csv", make_row(DENSE, [3.0, 3.1]))
    (tmp_path / "quality.csv").write_text("layer,operand\n")
    assert [path.name for path in losses.shipped_files()] == ["b.csv"]


def test_one_path_is_a_file_and_not_its_letters():
    file = losses.shipped_files()[0]
    assert read_losses(str(file)) == read_losses([file])


def test_an_operand_that_is_none_is_refused():
    with pytest.raises(PatternError, match="operand='foo': expected one of weights, activations"):
        one_operand("foo", "8:16")
