"""The verb study, as a user types it."""

import json

import pytest

from validate import write_example
from validate.study.example_checkpoint import TINY


@pytest.fixture
def few(tmp_path):
    """Options of a short study, and where it goes."""
    weights = write_example(tmp_path / "tiny.safetensors", shape=TINY)
    out = tmp_path / "out"
    return ["study", "--weights", weights, "--hardware", "h200", "--patterns", "2:4,8:16", "--encodings", "bitmask",
            "--batch", "1,8", "--prefill", "512", "-o", out], out  # fmt: skip


def test_text(nmsim, few):
    arguments, out = few
    code, text, err = nmsim(*arguments)
    assert (code, err) == (0, "")
    assert text.startswith("In decode at batch 1, pruned weights bring an estimated 1.")
    assert text.endswith(f"report: {out / 'report.html'}\n")
    assert (out / "report.html").is_file()


@pytest.mark.usefixtures("blank_figures")
def test_json_is_all_there_is_on_standard_output(nmsim, few):
    arguments, out = few
    code, text, err = nmsim(*arguments, "--json")
    assert (code, err) == (0, "")
    summary = json.loads(text)
    assert summary == json.loads((out / "study.json").read_text(encoding="utf-8"))
    assert {row["pattern"] for row in summary["bits_per_element"]} == {"2:4", "8:16"}
    assert {row["tokens"] for row in summary["best_encoding_of_each_pattern"]} == {1, 8, 512}


@pytest.mark.usefixtures("blank_figures")
def test_no_weights_means_the_example_and_says_so(nmsim, few):
    arguments, out = few
    code, _, err = nmsim(arguments[0], *arguments[3:])
    assert code == 0
    assert err == "weights: the synthetic example checkpoint, no trained model\n"
    assert (out / "example.safetensors").stat().st_size < 25_000_000


@pytest.mark.usefixtures("blank_figures")
def test_options_may_be_repeated_and_phases_left_out(nmsim, few):
    arguments, _ = few
    short = [a if a != "512" else "" for a in arguments]
    code, text, _ = nmsim(*short, "--patterns", "4:8", "--no-activations", "--json")
    assert code == 0
    summary = json.loads(text)
    assert {row["pattern"] for row in summary["bits_per_element"]} == {"2:4", "8:16", "4:8"}
    rows = summary["best_encoding_of_each_pattern"]
    assert {(row["phase"], row["sparse_operand"]) for row in rows} == {("decode", "weights")}


@pytest.mark.usefixtures("blank_figures")
def test_other_packings_have_defaults_that_work(nmsim, few):
    arguments, _ = few
    cut = [a for a in arguments if a not in ("--encodings", "bitmask")]
    code, text, _ = nmsim(*cut, "--packing", "no_straddle:32", "--json")
    assert code == 0
    assert {row["encoding"] for row in json.loads(text)["bits_per_element"]} == {
        "bitmask",
        "index",
        "combinatorial",
        "joint",
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--hardware", "h300"], "nmsim: hardware 'h300': no machine of that name"),
        (["--patterns", "8/16"], "nmsim: pattern '8': expected 'N:M'"),
        (["--batch", "1,x"], "nmsim: --batch 'x': expected positive whole numbers"),
        (["--batch", "0"], "nmsim: decode_batches: 0: expected a positive int"),
        (["--example"], "nmsim: --example and --weights are both given, expected one of them"),
        (["--model", "nobody"], "nmsim: model 'nobody': neither a shipped model nor a file"),
        (["--dtype", "fp3"], "nmsim: --dtype='fp3': expected one of"),
    ],
)
def test_bad_input_is_one_line_and_code_2(nmsim, few, change, message):
    arguments, out = few
    code, text, err = nmsim(*arguments, *change)
    assert (code, text) == (2, "")
    assert err.startswith(message)
    assert err.count("\n") == 1
    assert not out.exists()


def test_an_empty_list_is_refused(nmsim, few):
    arguments, out = few
    code, _, err = nmsim(*[a if a != "2:4,8:16" else "," for a in arguments])
    assert (code, err) == (2, "nmsim: no pattern given: expected at least one\n")
    assert not out.exists()
