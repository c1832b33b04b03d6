"""The verb perplexity on a tiny model of random weights: its rows against the model's own loss, and files that are wrong."""

import json
import math

import pytest

from nmsim import rows as row_files
from nmsim.rows import LossRow

CAMPAIGN = """
calibration_tokens = 64
window_tokens = 32
windows = 3
budget_s = 600
[[set]]
operand = "weights"
patterns = ["2:4"]
criteria = ["channel_vector"]
layers = ["each kind"]
windows = 2
[[set]]
operand = "activations"
patterns = ["8:16"]
mitigations = ["var"]
[[set]]
operand = "activations"
patterns = ["8:16"]
mitigations = ["r_sparse=4096"]
"""
TEXT = "The rank of a matrix is the number of its rows that are independent. " * 10


@pytest.fixture
def here(tmp_path, monkeypatch, tiny_model):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text(CAMPAIGN)
    (tmp_path / "words.txt").write_text(TEXT)
    return tmp_path


def test_rows_of_a_model_are_its_own_losses(nmsim, here, tiny_model, tiny):
    import torch

    from kernels.language import texts

    arguments = (
        "perplexity",
        "mine.toml",
        "-o",
        "l.csv",
        "--model",
        tiny_model,
        "--text",
        "words.txt",
        "--json",
    )
    code, text, err = nmsim(*arguments)
    found = json.loads(text)
    # A rank that no layer has: this configuration fails, and all others have their rows.
    assert (code, len(found["failed"]), found["appended"]) == (1, 1, 9)
    assert "r_sparse=4096" in err
    rows = row_files.read("l.csv", LossRow)
    dense = rows[0]
    ids = texts.token_ids(texts.load_text("words.txt"), tiny)
    for window, loss in enumerate(dense.losses):
        first = dense.first_window_token + window * 32
        part = ids[None, first : first + 32]
        with torch.inference_mode():
            assert loss == pytest.approx(float(tiny.module(input_ids=part, labels=part).loss), abs=2e-6)
    assert dense.first_window_token >= 64
    assert (dense.model, dense.model_digest, dense.text) == ("tiny-llama", tiny.digest, "words.txt")
    assert (dense.layers_pruned, rows[1].layers_pruned, rows[-1].layers_pruned) == (0, 2, 14)
    assert [row.layers for row in rows[1:4]] == ["*.q_proj", "*.k_proj", "*.v_proj"]
    assert all(row.torch and row.transformers and row.cpu and row.time_s for row in rows)
    changed = found["configurations"][-1]
    expected = math.fsum(rows[-1].losses) / 3 - math.fsum(dense.losses) / 3
    assert changed["above_dense_mean"] == pytest.approx(expected, abs=1e-9)
    assert expected != 0
    # Again: nothing is left to do but what failed.
    again = json.loads(nmsim(*arguments)[1])
    assert (again["appended"], again["skipped"], len(again["failed"])) == (0, 9, 1)
    assert again["configurations"] == found["configurations"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--text", "no.txt"], "no.txt"),
        (["--model", "no.gguf"], "no.gguf"),
        (["--model", "nobody"], "nobody"),
        (
            ["--text", "short.txt"],
            "expected at least 160: 64 for calibration, then 3 windows of 32",
        ),
        (["long.toml"], "window_tokens=256: expected at most 128, the context of tiny-llama"),
    ],
)
def test_a_model_or_text_that_cannot_be_had_is_one_line(nmsim, here, tiny_model, arguments, message):
    (here / "short.txt").write_text(TEXT[:100])
    (here / "long.toml").write_text(CAMPAIGN.replace("64", "256").replace("32", "256"))
    campaign = [] if arguments[0].endswith(".toml") else ["mine.toml"]
    given = ["--model", tiny_model, "--text", "words.txt", *arguments]
    code, text, err = nmsim("perplexity", *campaign, "-o", "l.csv", *given)
    assert (text, (here / "l.csv").exists()) == ("", False)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
