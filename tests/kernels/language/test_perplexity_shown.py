"""The verb perplexity as a user types it, on a pretended model: rows, table, JSON, and what goes wrong before any work."""

import json
import math

import pytest

from nmsim import rows as row_files
from nmsim.cli import perplexity as verb
from nmsim.errors import NmsimError
from nmsim.rows import LossRow

CAMPAIGN = """
calibration_tokens = 8
window_tokens = 4
windows = 12
budget_s = 60
[[set]]
operand = "weights"
patterns = ["2:4"]
[[set]]
operand = "activations"
patterns = ["8:16"]
mitigations = ["var"]
windows = 10
"""
ABOVE = {"2:4": 1.0, "8:16": 0.25}


class Pretended:
    """A model whose losses grow from window to window, and by a fixed part with each pattern."""

    def __init__(self):
        self.asked, self.stops_after, self.fails = [], math.inf, ()

    def losses(self, configuration, *, windows):
        if len(self.asked) >= self.stops_after:
            raise KeyboardInterrupt
        self.asked.append(str(configuration))
        way = configuration.weights or configuration.activations
        if way is not None and str(way.pattern) in self.fails:
            raise NmsimError("layer 0.q: singular, expected a matrix of full rank")
        return [2 + window / 8 + (ABOVE[str(way.pattern)] if way else 0) for window in range(windows)]


@pytest.fixture
def model(monkeypatch):
    """The pretended model in place of any that is asked for."""
    pretended = Pretended()

    def subject(model, text, campaign, cores, progress):
        about = {
            "model": model, "model_digest": "0" * 16, "text": text, "text_digest": "1" * 16, "dtype": "fp32",
            "threads": cores, "first_window_token": campaign.calibration_tokens, "cpu": "Pretended CPU",
        }  # fmt: skip
        return verb.Subject(pretended, ["0.q", "0.up"], about)

    monkeypatch.setattr(verb, "_subject", subject)
    return pretended


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text(CAMPAIGN)
    return tmp_path


def test_rows_are_written_and_compared_with_the_dense_model(nmsim, model, here):
    code, text, err = nmsim("perplexity", "mine.toml", "-o", "l.csv", "--threads", "1")
    assert (code, err) == (0, "")
    rows = row_files.read("l.csv", LossRow)
    assert [(str(row.configuration), row.windows, row.threads) for row in rows] == [
        ("dense", 12, 1), ("weights 2:4 magnitude", 12, 1), ("activations 8:16 magnitude var", 10, 1),
    ]  # fmt: skip
    lines = [line.split() for line in text.splitlines()]
    # The mean of 2 + i / 8 for i below 12 is 2.6875, and below 10 it is 2.5625.
    assert ["dense", "12", "2.6875", f"{math.exp(2.6875):.2f}", "-", "-"] in lines
    assert [
        "weights", "2:4", "magnitude", "12", "3.6875", f"{math.exp(3.6875):.2f}", "+1.0000", "+1.0000", "to", "+1.0000",
    ] in lines  # fmt: skip
    assert ["activations", "8:16", "magnitude", "var", "10", "2.8125"] in [line[:6] for line in lines]
    assert text.splitlines()[0].startswith("smollm2 on news: loss in nats per token, windows of 4 tokens")
    assert text.endswith("3 rows appended to l.csv\n")


def test_a_run_that_was_stopped_continues_and_shows_all_rows(nmsim, model, here):
    model.stops_after = 2
    code, text, err = nmsim("perplexity", "mine.toml", "-o", "l.csv")
    assert (code, text) == (130, "")
    assert "stopped; rows of finished configurations are in l.csv: run the same command again" in err
    model.stops_after = math.inf
    code, text, _ = nmsim("perplexity", "mine.toml", "-o", "l.csv")
    assert (code, model.asked[2:]) == (0, ["activations 8:16 magnitude var"])
    assert text.endswith("1 rows appended to l.csv; 2 were there already\n")
    assert [name for name in ("dense", "weights 2:4", "activations 8:16") if name not in text] == []


def test_json_is_all_there_is_on_standard_output(nmsim, model, here):
    code, text, err = nmsim("perplexity", "mine.toml", "-o", "l.csv", "--model", "m", "--text", "t", "--json")
    assert (code, err) == (0, "")
    found = json.loads(text)
    dense, weights, activations = found["configurations"]
    assert (dense["configuration"], dense["above_dense_mean"], dense["model"], dense["text"]) == (
        "dense",
        None,
        "m",
        "t",
    )
    assert dense["perplexity"] == pytest.approx(math.exp(2.6875))
    assert [weights[f"above_dense_{name}"] for name in ("mean", "low", "high")] == pytest.approx([1, 1, 1])
    # Ten windows are compared with the first ten of the dense model, and not with all twelve.
    assert activations["above_dense_mean"] == pytest.approx(0.25)
    assert (found["appended"], found["skipped"], found["failed"], found["left"], found["file"]) == (
        3,
        0,
        [],
        0,
        "l.csv",
    )
    assert found["provenance"]["command"]


def test_a_configuration_that_fails_is_named_and_the_run_goes_on(nmsim, model, here):
    model.fails = ["2:4"]
    code, text, err = nmsim("perplexity", "mine.toml", "-o", "l.csv")
    assert code == 1
    assert (
        err == "nmsim: no row: weights 2:4 magnitude: layer 0.q: singular, expected a matrix of full rank\n"
    )
    assert text.endswith("2 rows appended to l.csv\n")
    code, text, _ = nmsim("perplexity", "mine.toml", "-o", "l.csv", "--json")
    assert (code, [one["configuration"] for one in json.loads(text)["failed"]]) == (
        1,
        ["weights 2:4 magnitude"],
    )


def test_without_a_dense_row_nothing_is_compared(nmsim, model, here):
    real = model.losses

    def fails_dense(configuration, *, windows):
        if configuration.is_dense:
            raise NmsimError("no memory for the dense model, expected more")
        return real(configuration, windows=windows)

    model.losses = fails_dense
    code, text, _ = nmsim("perplexity", "mine.toml", "-o", "l.csv", "--json")
    assert code == 1
    assert [one["above_dense_mean"] for one in json.loads(text)["configurations"]] == [None, None]


def test_fewer_windows_and_less_time(nmsim, model, here):
    code, text, _ = nmsim("perplexity", "mine.toml", "-o", "l.csv", "--windows", "9", "--budget-s", "0")
    assert (code, text) == (
        0,
        "0 rows appended to l.csv; 3 left for want of time: run the same command again\n",
    )
    code, _, _ = nmsim("perplexity", "mine.toml", "-o", "l.csv", "--windows", "9")
    assert (code, [row.windows for row in row_files.read("l.csv", LossRow)]) == (0, [9, 9, 9])
    assert nmsim("perplexity", "mine.toml", "-o", "l.csv", "--windows", "0")[0] == 2


def test_a_loss_beyond_all_numbers_is_shown(nmsim, model, here):
    model.losses = lambda configuration, *, windows: [800.0 if configuration.weights else 9.5] * windows
    code, text, _ = nmsim("perplexity", "mine.toml", "-o", "l.csv")
    assert (code, "inf" in text, "1.34e+04" in text) == (0, True, True)
    _, text, _ = nmsim("perplexity", "mine.toml", "-o", "l.csv", "--json")
    assert json.loads(text)["configurations"][1]["perplexity"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["acuracy"], "nmsim: campaign 'acuracy': expected one of accuracy"),
        (["no.toml"], "nmsim: no.toml: cannot be read"),
        (["bad.toml"], "nmsim: bad.toml: set[0]: weights, magnitude, var: var is of pruned activations\n"),
        (["mine.toml", "-o", "other.csv"], "nmsim: other.csv: header: missing 'model', "),
        (["mine.toml", "-o", "half.csv"], "nmsim: half.csv: row 0 (the last line) ends in its middle"),
        (["mine.toml", "-o", "no/l.csv"], "nmsim: no/l.csv: there is no folder no, expected an existing one\n"),
        (["mine.toml", "-o", "l.json"], "nmsim: l.json: expected a name that ends in .csv, got .json\n"),
        (["mine.toml", "-o", "mine.toml"], "nmsim: mine.toml: "),
        (["mine.toml", "-o", "other.csv", "--text", "other.csv"], "nmsim: other.csv: is the input itself"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_before_the_model_is_loaded(
    nmsim, model, here, monkeypatch, arguments, message
):
    def loads(*arguments):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(verb, "_subject", loads)
    (here / "bad.toml").write_text(CAMPAIGN.replace("[[set]]", '[[set]]\nmitigations = ["var"]', 1))
    (here / "other.csv").write_text("machine,kernel\nhere,x\n")
    (here / "half.csv").write_text("model,mod")
    code, out, err = nmsim("perplexity", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(message)


def test_layers_that_the_model_lacks_are_named(nmsim, model, here):
    (here / "mine.toml").write_text(CAMPAIGN.replace("[[set]]", '[[set]]\nlayers = ["*.k_proj"]', 1))
    code, _, err = nmsim("perplexity", "mine.toml", "-o", "l.csv")
    assert code == 2
    assert "'*.k_proj' fits none of the model's 2 linear layers" in err
    assert not (here / "l.csv").exists()
