"""Qualities of ways to prune, read from rows of losses and from the table of `nmsim quality`."""

import numpy as np
import pytest
from loss_rows import FACTORS, INCREASES, row, rows, way

from nmsim.errors import RowError
from nmsim.quality.configuration import Configuration
from nmsim.quality.way import parse_rounding
from nmsim.rows.files import write
from nmsim.rows.loss import LossRow
from validate.accuracy import losses
from validate.accuracy.beside_cost import (
    ENERGY_KEPT,
    LOSS_INCREASE,
    OUTPUT_ERROR,
    asked_qualities,
    read_qualities,
)

TABLE = """layer,operand,pattern,criterion,mitigation,activations,energy_kept_share,relative_output_error
q,weights,2:4,magnitude,none,dump d,0.5,0.4
all,weights,dense,dense,none,dump d,1,0
all,weights,2:4,magnitude,none,dump d,0.8,0.30
all,weights,2:4,magnitude,outliers=8:256,dump d,0.9,0.20
all,activations,2:4,magnitude,none,dump d,0.85,0.1
all,weights,8:16,unstructured,none,dump d,0.95,0.05
"""


@pytest.fixture
def file(tmp_path):
    def made(some):
        path = tmp_path / "rows.csv"
        write(path, some, record=LossRow)
        return path

    return made


def test_the_increase_is_paired_with_the_dense_row(file):
    some = rows()
    found = read_qualities(file(some))
    assert (found.quantity, found.model, found.text, len(found.ways)) == (
        LOSS_INCREASE,
        "smollm2",
        "news",
        24,
    )
    assert found.window_tokens == 513
    assert "means over 12 windows of 512 tokens" in found.description
    of_one = {str(one.way): one for one in found.ways}["weights 8:16 channel_vector"]
    (pruned,) = [one for one in some if str(one.configuration) == "weights 8:16 channel_vector"]
    differences = np.array(pruned.losses) - np.array(some[0].losses)
    assert of_one.value == pytest.approx(differences.mean(), abs=1e-12)
    # The interval of the mean of differences is far narrower than the spread of the losses among windows.
    assert differences.min() < of_one.low < of_one.value < of_one.high < differences.max()
    assert of_one.value == pytest.approx(INCREASES["8:16"], rel=0.1)
    assert of_one.ratio.mean == pytest.approx(np.exp(of_one.value))


def test_the_best_way_costs_no_more_than_its_format(file):
    found = read_qualities(file(rows()))
    # Outliers lose less, but they are stored and multiplied beside the format.
    assert found.of("weights", "2:4")[0].way.mitigation_text == "outliers=8:256"
    assert found.best("weights", "2:4").key == ("weights", "2:4", "channel_vector", "none")
    assert found.best("activations", "2:4").key == ("activations", "2:4", "magnitude", "none")
    assert found.best("weights", "32:64") is None
    assert len(found.of("weights", "2:4")) == sum(operand == "weights" for operand, *_ in FACTORS)


def test_only_patterns_that_are_asked_for(file):
    assert {one.pattern for one in read_qualities(file(rows()), patterns=["8:16"]).ways} == {"8:16"}


@pytest.mark.parametrize(
    ("changes", "chosen", "problem"),
    [
        ({"text": "topics", "text_digest": "2" * 16}, {"text": "topics"}, "text news, topics"),
        ({"model": "other", "model_digest": "3" * 16}, {"model": "other"}, "model smollm2, other"),
        ({"window_tokens": 257}, {"window_tokens": "257"}, "window_tokens 513, 257"),
    ],
)
def test_rows_of_two_kinds_are_chosen_and_never_averaged(file, changes, chosen, problem):
    path = file([*rows(["2:4"]), *rows(["2:4"], seed=1, **changes)])
    with pytest.raises(RowError, match=problem):
        read_qualities(path)
    found = read_qualities(path, of=chosen)
    alone = read_qualities(file(rows(["2:4"], seed=1, **changes)))
    assert [one.value for one in found.ways] == [one.value for one in alone.ways]


def test_rows_of_fewer_windows_are_paired_with_the_same_windows_and_ranked_on_them(file):
    ours, theirs = way("weights", "2:4"), way("weights", "2:4", "channel_vector")
    dense = np.linspace(2.0, 4.0, 12)
    # The second half of the text is far easier: over all windows the first way looks better than it is over the first six.
    first = np.where(np.arange(12) < 6, 1.0, 0.1)
    some = [
        row(Configuration(), dense),
        row(Configuration(ours), dense + first),
        row(Configuration(theirs), (dense + 0.8)[:6]),
    ]
    found = read_qualities(file(some))
    values = {one.way: one for one in found.ways}
    assert (values[ours].value, values[ours].windows) == (pytest.approx(0.55), 12)
    assert (values[theirs].value, values[theirs].windows) == (pytest.approx(0.8), 6)
    assert [one.way for one in found.of("weights", "2:4")] == [theirs, ours]
    assert "means over 6 to 12 windows" in found.description
    assert found.cells(values[theirs])["loss_increase_windows"] == 6
    # A row of the same way with fewer windows says nothing more.
    again = read_qualities(file([*some, row(Configuration(ours), (dense + first)[:6])]))
    assert {one.way: one.value for one in again.ways} == {one.way: one.value for one in found.ways}
    assert [one.way for one in read_qualities(file(some), of={"windows": "6"}).ways] == [theirs]


def test_two_numbers_of_calibration_tokens_are_two_kinds(file):
    path = file([*rows(["2:4"]), *rows(["2:4"], calibration_tokens=99)[1:]])
    with pytest.raises(RowError, match="calibration_tokens 4096, 99"):
        read_qualities(path)
    assert len(read_qualities(path, of={"calibration_tokens": "99"}).ways) == len(FACTORS)


def test_rows_that_are_no_single_way_are_left_out_and_counted(file):
    one = way("weights", "2:4")
    losses = np.full(12, 5.0)
    more = [
        row(Configuration(one, way("activations", "2:4")), losses),
        row(Configuration(one._replace(values=parse_rounding("int8/64/before"))), losses),
        row(Configuration(one, layers="*.q_proj"), losses, layers_pruned=30),
    ]
    found = read_qualities(file([*rows(), *more]))
    assert found.left_out == {"both operands pruned": 1, "rounded values": 1, "other layers": 1}
    (only,) = read_qualities(file([*rows(), *more]), of={"layers": "*.q_proj"}).ways
    assert only.way == one


@pytest.mark.parametrize(
    ("some", "problem"),
    [
        (lambda: rows()[1:], "no dense row"),
        (lambda: rows()[:1], "none of its 1 rows counts"),
        (lambda: [*rows(), rows()[1]], "weights 2:4 magnitude comes twice"),
        (
            lambda: [*rows(), row(Configuration(), np.full(12, 2.0))],
            "two dense rows of the same windows differ",
        ),
    ],
)
def test_rows_that_contradict_each_other_are_refused(file, some, problem):
    with pytest.raises(RowError, match=problem):
        read_qualities(file(some()))


def test_the_table_of_quality_says_what_it_is(tmp_path):
    path = tmp_path / "quality.csv"
    path.write_text(TABLE)
    found = read_qualities(path)
    assert (found.quantity, found.model, found.text) == (OUTPUT_ERROR, "quality.csv", "dump d")
    assert "It is no accuracy" in found.description
    assert found.best("weights", "2:4").value == 0.30
    assert found.best("weights", "8:16") is None
    assert np.isnan(found.best("weights", "2:4").low)
    kept = read_qualities(path, of={"quantity": "energy_kept"})
    assert (kept.quantity, kept.of("weights", "2:4")[0].value) == (ENERGY_KEPT, 0.9)


@pytest.mark.parametrize(
    ("text", "of", "problem"),
    [
        ("a,b\n1,2\n", {}, "columns a, b: expected rows of losses, or the table"),
        (TABLE, {"text": "news"}, "expected quantity=output_error or quantity=energy_kept"),
        (TABLE + TABLE.splitlines()[3] + "\n", {}, "weights 2:4 magnitude comes twice"),
        (TABLE.replace("0.30", "good"), {}, "row 3: could not convert"),
        (TABLE.replace(",0.30", ""), {}, "row 3: 7 cells, expected 8"),
    ],
)
def test_another_table_is_refused(tmp_path, text, of, problem):
    path = tmp_path / "quality.csv"
    path.write_text(text)
    with pytest.raises(RowError, match=problem):
        read_qualities(path, of=of)


def test_what_an_option_asks_for(file, monkeypatch, tmp_path):
    path = str(file(rows()))
    assert asked_qualities("") is None
    assert asked_qualities(path, ["text=news"]).text == "news"
    for wrong in (["news"], ["colour=red"], ["text=a", "text=b"]):
        with pytest.raises(RowError, match="expected KEY=VALUE"):
            asked_qualities(path, wrong)
    monkeypatch.setattr(losses, "FOLDER", tmp_path / "nothing")
    assert asked_qualities(None) is None
    with pytest.raises(RowError, match="no rows ship"):
        asked_qualities("smollm2")


def test_the_shipped_rows_are_those_of_one_text(file, monkeypatch, tmp_path):
    file([*rows(["2:4"]), *rows(["2:4"], seed=1, text="topics", text_digest="2" * 16)])
    monkeypatch.setattr(losses, "FOLDER", tmp_path)
    assert asked_qualities(None).text == "news"
    assert asked_qualities("smollm2", ["text=topics"]).text == "topics"
    assert "SmolLM2-135M on the text news" in asked_qualities(None).description
