import csv
import json

import pytest
from loss_rows import rows

from nmsim.rows.files import write
from nmsim.rows.loss import LossRow

CONFIG = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 1024,
}


def test_a_table_and_a_sentence(nmsim):
    code, out, err = nmsim("threshold", "-p", "8:16/combinatorial", "-H", "h200,h200-8x16")
    assert (code, err) == (0, "")
    assert "55.5%" in out
    lines = [line.split() for line in out.splitlines() if line.startswith("  8:16/")]
    assert [line[1:3] for line in lines[1:]] == [
        ["memory", "-"], ["time", "h200"], ["time", "h200-8x16"], ["energy", "flexible-8x16"],
    ]  # fmt: skip
    assert "8:16 combinatorial: A dense model of 4.90 B parameters is as small; one of " in out
    assert "as fast on h200-8x16" in out
    assert "dense values of 8 bits (8.125 bits an element with scales)" in out


def test_json_says_the_same_as_the_csv(nmsim, tmp_path):
    path = tmp_path / "threshold.csv"
    asked = (
        "threshold",
        "-p",
        "2:4,8:16",
        "-e",
        "combinatorial",
        "-x",
        "none,8:256,columns:128",
        "--json",
        "-o",
        path,
    )
    code, out, err = nmsim(*asked)
    assert (code, err) == (0, "")
    records = json.loads(out)["pruned"]
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(records) == len(rows) == 6
    for record, row in zip(records, rows, strict=True):
        assert list(record) == list(row)
        assert float(row["time_width"]) == record["time_width"]
        assert record["time_low_width"] < record["time_width"] < record["time_high_width"]
        assert record["memory_params_elems"] < 8_029_995_008
    assert records[3]["bits_per_element"] == 8.875
    assert records[3]["linear_params_elems"] == round(8.875 / 16 * records[3]["pruned_elems"])
    assert [(record["outliers"], record["columns"]) for record in records[:3]] == [
        (None, 0), ("8:256", 0), (None, 128),
    ]  # fmt: skip
    code, _, err = nmsim(*asked, "-H", "h9000")
    assert code == 2
    assert "exists" in err
    assert nmsim(*asked, "--force")[0] == 0


def test_a_model_from_its_config(nmsim, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    code, out, _ = nmsim("threshold", tmp_path, "-p", "2:4", "-e", "bitmask", "--json")
    (record,) = json.loads(out)["pruned"]
    assert code == 0
    assert record["pruned_elems"] == 2 * (4 * 256 * 256 + 3 * 512 * 256)
    assert record["bits_per_element"] == 9.0
    assert record["memory_hidden_elems"] % 16 == 0


def test_what_a_machine_does_not_take_is_left_open(nmsim):
    code, out, err = nmsim("threshold", "-p", "8:16/combinatorial", "--dtype", "int4", "--json")
    (record,) = json.loads(out)["pruned"]
    assert code == 0
    assert "no time on h200: " in err
    assert "no energy on flexible-8x16: dtype 'int4': flexible-8x16 takes" in err
    assert record["bits_per_element"] == 2 + 0.875 + 0.125
    assert record["time_width"] is record["pruned_time_s"] is record["energy_width"] is None
    assert record["statement"].startswith(
        "A dense model of 6.42 B parameters is as small: the pruned model has to beat it. "
        "No dense model was found that is as fast on h200: dtype 'int4': h200 has no peak for it"
    )
    assert "row 0" not in err
    code, out, _ = nmsim("threshold", "-p", "8:16", "-e", "bitmask", "--dtype", "int4", "--group", "64")
    assert code == 0
    assert "dense values of 3 bits (3.25 bits an element with scales)" in out
    assert " time " not in out


def test_a_problem_of_one_way_names_it(nmsim):
    asked = ("threshold", "-p", "8:16/combinatorial", "--side-dtype", "fp32", "-x")
    _, out, err = nmsim(*asked, "none,8:256")
    assert err.startswith("no energy on flexible-8x16 of 8:16 combinatorial with 8:256: dtype 'fp32'")
    plain, beside = (line for line in out.splitlines() if line.startswith("8:16 combinatorial"))
    assert "No dense model was found" not in plain
    assert "No dense model was found that is as frugal on flexible-8x16: dtype 'fp32'" in beside
    assert nmsim(*asked, "8:256")[2].startswith("no energy on flexible-8x16: dtype 'fp32'")


def test_a_small_model_is_told_in_millions_and_in_time(nmsim, tmp_path):
    small = CONFIG | {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 8}
    (tmp_path / "config.json").write_text(json.dumps(small), encoding="utf-8")
    code, out, err = nmsim("threshold", tmp_path, "-p", "8:16/combinatorial", "-x", "none,8:256", "--wide")
    assert (code, err) == (0, "")
    assert "parameters M" in out
    assert " B " not in out
    plain, beside = (line for line in out.splitlines() if line.startswith("8:16 combinatorial"))
    assert " M parameters as fast on h200 (" in plain
    assert "The unpruned model is faster on h200 (" in beside


def test_bytes_alone(nmsim):
    code, out, err = nmsim("threshold", "-p", "8:16", "-H", "", "-c", "")
    assert (code, err) == (0, "")
    assert [line.split()[1] for line in out.splitlines() if line.startswith("  8:16/")][1:] == ["memory"]
    assert not any(word in out for word in ("h200", "flexible", " ms", "mJ", "None"))
    assert "has to beat it." in out
    code, out, _ = nmsim("threshold", "-p", "8:16", "-H", "", "-c", "", "--json")
    found = json.loads(out)
    assert code == 0
    assert (
        found["pruned"][0]["hardware"] is found["pruned"][0]["core"] is found["quantised"][0]["core"] is None
    )
    _, out, _ = nmsim("threshold", "-p", "8:16", "-H", "", "--json")
    assert json.loads(out)["pruned"][0]["energy_width"] < 1


def test_the_model_itself_unpruned_is_no_quantised_competitor(nmsim):
    def statement(bits):
        _, out, _ = nmsim(
            "threshold", "-p", "15:16", "-e", "bitmask", "--dtype", "int8", "-q", bits, "--json"
        )
        return json.loads(out)["pruned"][0]["statement"]

    assert "dense values of" not in statement("8")
    assert "dense values of 7 bits" in statement("8,7,4")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["gpt-5"], "model 'gpt-5'"),
        (["-p", "8-16"], "pattern '8-16'"),
        (["-e", "morse"], "morse"),
        (["-x", "columns:0"], "--outliers 'columns:0': expected columns:C with a positive number"),
        (["-x", "many"], "pattern 'many'"),
        (["-q", "four"], "--quantised 'four': expected bits of a value, 1 to 15, such as 8,4,3"),
        (["-q", "16"], "--quantised '16': expected bits of a value, 1 to 15"),
        (["-q", "0"], "--quantised '0': expected bits of a value, 1 to 15"),
        (["--dtype", "fp7"], "dtype='fp7'"),
        (["-x", ","], "no outliers given"),
        (["-H", "h9000"], "h9000"),
        (["-c", "tubes"], "tubes"),
        (["--step", "8192"], "--step 8192: expected at most the hidden size of llama-3.1-8b, 4096"),
        (["-x", "columns:9999"], "--outliers columns:9999: expected at most the in features of q, 4096"),
    ],
)
def test_bad_input_is_one_line(nmsim, arguments, text):
    code, out, err = nmsim("threshold", *arguments)
    assert (code, out) == (2, "")
    assert text in err
    assert err.count("\n") == 1


@pytest.fixture
def losses(tmp_path):
    write(tmp_path / "losses.csv", rows(), record=LossRow)
    return tmp_path / "losses.csv"


def test_a_measured_loss_stands_beside_what_must_be_beaten(nmsim, losses, tmp_path):
    path = tmp_path / "threshold.csv"
    asked = (
        "threshold",
        "-p",
        "8:16",
        "-x",
        "none,8:256,4:256",
        "-H",
        "h200",
        "-c",
        "",
        "-q",
        "",
        "--losses",
        losses,
    )
    code, out, err = nmsim(*asked, "-o", path)
    assert (code, err) == (0, "")
    assert "Measured on SmolLM2-135M with pruned weights, not on llama-3.1-8b" in out
    assert "Measured on SmolLM2-135M, by channel_vector: loss increase vs dense 0.8" in out
    assert "They are not of llama-3.1-8b" in out
    code, out, _ = nmsim(*asked, "--json")
    found = json.loads(out)
    with path.open(newline="") as stream:
        written = list(csv.DictReader(stream))
    of_format = {record["outliers"]: record for record in found["pruned"]}
    assert of_format[None]["loss_increase_criterion"] == "channel_vector"
    assert of_format["8:256"]["loss_increase_mitigation"] == "outliers=8:256"
    # Nobody measured these outliers, and no other loss stands in for theirs.
    assert of_format["4:256"]["loss_increase"] is None
    assert [row["loss_increase"] for row in written][2] == ""
    assert float(written[0]["loss_increase"]) == of_format[None]["loss_increase"]
    assert of_format["8:256"]["loss_increase"] < of_format[None]["loss_increase"]
    keys = {(way["criterion"], way["mitigation"]) for way in found["losses"]["ways"]}
    assert keys == {
        ("channel_vector", "none"), ("channel_vector", "weight_correction"), ("magnitude", "none"),
        ("magnitude", "outliers=8:256"),
    }  # fmt: skip


def test_losses_can_be_left_out(nmsim, losses):
    code, out, _ = nmsim("threshold", "-p", "8:16", "-H", "", "-c", "", "-q", "", "--losses", "", "--json")
    assert code == 0
    assert "losses" not in json.loads(out)
    code, _, err = nmsim("threshold", "--losses", losses, "--losses-of", "text=other")
    assert code == 2
    assert "none of its 25 rows counts" in err
