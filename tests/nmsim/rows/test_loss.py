"""Rows of losses: what a cell may hold, and the configuration that comes back."""

import dataclasses
import itertools

import pytest

from nmsim import rows as row_files
from nmsim.errors import NmsimError, RowError
from nmsim.pattern import Pattern
from nmsim.quality import Configuration, Way, parse_mitigation, parse_rounding
from nmsim.rows import LossRow, Measurement
from nmsim.rows.loss import LOSS_COLUMNS, configuration_cells, loss_cells

CELLS = {
    "model": "smollm2", "model_digest": "0123456789abcdef", "text": "news", "text_digest": "f" * 16,
    "window_tokens": 256, "first_window_token": 1024, "calibration_tokens": 1024, "layers_pruned": 210,
    "dtype": "fp32", **loss_cells([3.25, 4.0]),
}  # fmt: skip
WAYS = {
    "weights": [
        None,
        Way("weights", Pattern(8, 16)),
        Way("weights", Pattern(3, 10), "unstructured"),
        Way("weights", Pattern(2, 4), "channel_vector", parse_mitigation("weight_correction+outliers=8:256")),
        Way("weights", None, values=parse_rounding("int4/64/after")),
    ],
    "activations": [
        None,
        Way(
            "activations",
            Pattern(2, 4),
            "clact",
            parse_mitigation("dpts_mean+var"),
            parse_rounding("int8/64"),
        ),
        Way("activations", None, values=parse_rounding("int8/32")),
    ],
}
CONFIGURATIONS = [
    Configuration(weights, activations, layers)
    for weights, activations, layers in itertools.product(*WAYS.values(), ("all", "!*.q_proj !*.k_proj"))
]


def row_of(configuration, **change):
    return LossRow(**{**CELLS, **configuration_cells(configuration), **change})


@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=str)
def test_a_configuration_comes_back(configuration, tmp_path):
    row = row_of(configuration)
    assert row.configuration == configuration
    row_files.append(tmp_path / "rows.csv", row)
    assert row_files.read(tmp_path / "rows.csv", LossRow) == [row]


def test_each_configuration_has_a_key_of_its_own():
    keys = {row_of(configuration).key for configuration in CONFIGURATIONS}
    assert len(keys) == len(CONFIGURATIONS)
    row = row_of(CONFIGURATIONS[3])
    same = dataclasses.replace(
        row, **loss_cells([1.0, 2.0]), time_s=2.0, threads=4, commit="0123abc", note="again"
    )
    assert same.key == row.key
    for change in (
        {"dtype": "bf16"},
        {"first_window_token": 0},
        {"text_digest": "a" * 16},
        {"model": "other"},
    ):
        assert dataclasses.replace(row, **change).key != row.key


def test_losses_are_those_of_the_windows():
    row = row_of(Configuration())
    assert (row.losses, row.loss, row.windows, row.window_losses) == (
        [3.25, 4.0],
        3.625,
        2,
        "3.250000 4.000000",
    )
    # The mean is that of the digits that the row holds, so a reader finds it again.
    thirds = loss_cells([1 / 3, 2 / 3, 1 / 3])
    assert thirds["loss"] == round((0.333333 + 0.666667 + 0.333333) / 3, 9)
    row_of(Configuration(), **thirds)


@pytest.mark.parametrize("losses", [[], [float("nan")], [1.0, float("inf")], [-0.5]])
def test_what_is_no_loss_is_refused(losses):
    with pytest.raises(NmsimError, match=r"loss"):
        loss_cells(losses)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": ""}, "model='': expected a value, not an empty cell"),
        ({"model_digest": "xyz"}, "model_digest='xyz': expected 16 hex digits"),
        ({"windows": 3}, "windows=3: expected 2, the number of losses in window_losses"),
        ({"loss": 3.0}, "loss=3.0: expected 3.6250000, the mean of window_losses"),
        ({"loss": float("nan")}, "loss=nan: expected a finite number of at least 0"),
        ({"window_losses": "3.25 4.0"}, "window_losses='3.25 4.0': expected numbers of 6 decimals, blanks between them"),
        ({"weights_pattern": "4:2"}, "weights_pattern='4:2': expected another weights_pattern: pattern 4:2"),
        ({"weights_criterion": "best"}, "weights_criterion='best': expected another weights_criterion: "),
        ({"weights_mitigation": ""}, "weights_mitigation='': expected a value, since weights_pattern has one"),
        ({"weights_mitigation": "outliers=4:256"}, "weights_mitigation='outliers=4:256': expected 'outliers', which"),
        ({"weights_values": "int8/64"}, "weights_values='int8/64': expected 'int8/64/before', which"),
        ({"activations_criterion": "clact"}, "activations_criterion='clact': expected '', which the other cells give"),
        ({"layers": ""}, "layers='': expected a value, not an empty cell"),
        ({"window_tokens": 1}, "window_tokens=1: expected a whole number of at least 2"),
        ({"dtype": "fp31"}, "dtype='fp31': expected one of fp32, "),
        ({"time_s": 0.0}, "time_s=0.0: expected a positive, finite number"),
        ({"layers_pruned": -1}, "layers_pruned=-1: expected a whole number of at least 0"),
    ],
)  # fmt: skip
def test_a_bad_cell_is_named(change, message):
    with pytest.raises(RowError) as caught:
        row_of(Configuration(Way("weights", Pattern(8, 16))), **change)
    assert str(caught.value).startswith(message)
    assert caught.value.column == message.partition("=")[0]


def test_a_bad_cell_of_a_file_is_named_with_its_row(tmp_path):
    file = tmp_path / "rows.csv"
    row = row_of(Configuration())
    row_files.write(file, [row, row], record=LossRow)
    text = file.read_text()
    file.write_text(text[: text.rindex("3.625")] + text[text.rindex("3.625") :].replace("3.625", "3.5", 1))
    with pytest.raises(RowError, match=r"row 2: loss=3.5: expected 3.6250000"):
        row_files.read(file, LossRow)


def test_rows_of_one_record_do_not_go_into_a_file_of_another(tmp_path):
    losses, times = tmp_path / "losses.csv", tmp_path / "times.csv"
    row = row_of(Configuration())
    time = Measurement(
        machine="here", kernel="cpu.avx2", M=1, N=64, K=64, phase="decode", dtype="fp32", pattern="8:16",
        baseline="numpy @", l2_state="cold", speedup_vs_dense=2.0,
    )  # fmt: skip
    row_files.append(losses, row)
    row_files.append(times, time)
    with pytest.raises(
        RowError, match=r"losses.csv: header: missing 'device', .*expected the \d+ columns machine"
    ):
        row_files.append(losses, time)
    with pytest.raises(RowError, match=r"times.csv: header: missing 'model', .*; unknown 'device', "):
        row_files.append(times, row)
    with pytest.raises(RowError, match=r"losses.csv: header: "):
        row_files.read(losses)
    assert (row_files.read(losses, LossRow), row_files.read(times)) == ([row], [time])


def test_tables_and_rows_are_the_same():
    rows = [row_of(configuration) for configuration in CONFIGURATIONS]
    table = row_files.to_frame(rows, record=LossRow)
    assert list(table.columns) == list(LOSS_COLUMNS)
    assert table["threads"].isna().all()
    assert row_files.from_frame(table[sorted(LOSS_COLUMNS)], record=LossRow) == rows
    assert row_files.from_frame(row_files.to_frame([], record=LossRow), record=LossRow) == []
    with pytest.raises(RowError, match=r"mine: header: missing 'note'"):
        row_files.from_frame(table.drop(columns="note"), "mine", record=LossRow)


def test_rows_of_another_record_are_not_written(tmp_path):
    file = tmp_path / "rows.csv"
    with pytest.raises(RowError, match="row 1 is a LossRow, expected a Measurement"):
        row_files.write(file, [row_of(Configuration())])
    assert not file.exists()
