"""The verb quality, as a user types it."""

import json

import numpy as np
import pandas as pd
import pytest
from loss_rows import rows

from nmsim import load_file, save_file
from nmsim.rows.files import write
from nmsim.rows.loss import LossRow
from validate import write_example
from validate.accuracy.beside_cost import LOSS_COLUMNS, read_qualities
from validate.quality.measure import QUALITY_COLUMNS
from validate.study.example_checkpoint import TINY

PATTERNS = ("--pattern", "2:4,8:16", "--eval-tokens", "16", "--calibration-tokens", "16")
SAID = "activations: synthetic llm-like, drawn at random, of no model\n"


@pytest.fixture
def weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_example(tmp_path / "tiny.safetensors", shape=TINY)


def test_table_and_file(nmsim, weights):
    code, text, err = nmsim(
        "quality", weights, *PATTERNS, "--mitigation", "none,var", "--criterion", "magnitude"
    )
    assert (code, err) == (0, SAID)
    assert "Quality and cost, 7 layers together; activations: synthetic llm-like" in text
    assert "≤" in text
    assert text.endswith("48 rows in quality.csv\n")
    table = pd.read_csv("quality.csv")
    assert tuple(table.columns) == (*QUALITY_COLUMNS, *LOSS_COLUMNS)
    assert len(table) == 8 * (2 + 4)
    assert set(table["activations"]) == {"synthetic llm-like"}


def test_losses_of_the_same_ways_stand_beside_the_errors(nmsim, weights, tmp_path):
    write(tmp_path / "losses.csv", rows(), record=LossRow)
    options = (
        "--operand",
        "weights",
        "--mitigation",
        "none,weight_correction",
        "--criterion",
        "magnitude,channel_vector",
    )
    code, text, _ = nmsim("quality", weights, *PATTERNS, *options, "--losses", "losses.csv")
    assert code == 0
    assert "They are not of the checkpoint" in text
    table = pd.read_csv("quality.csv")
    assert tuple(table.columns) == (*QUALITY_COLUMNS, *LOSS_COLUMNS)
    assert table[table["layer"] != "all"]["loss_increase"].isna().all()
    of_all = table[table["layer"] == "all"].set_index(["pattern", "criterion", "mitigation"])
    measured = {one.key[1:]: one for one in read_qualities("losses.csv").ways if one.way.operand == "weights"}
    for key in (
        ("2:4", "channel_vector", "none"),
        ("8:16", "channel_vector", "weight_correction"),
        ("8:16", "magnitude", "none"),
    ):
        assert of_all.loc[key, "loss_increase"] == pytest.approx(measured[key].value)
        assert of_all.loc[key, "loss_increase_high"] == pytest.approx(measured[key].high)
        assert of_all.loc[key, "loss_increase_text"] == "news"
    # Nobody measured these: they have no loss, and not that of another way.
    assert np.isnan(of_all.loc[("2:4", "magnitude", "weight_correction"), "loss_increase"])
    # The table that was written stands beside costs elsewhere, and beside another table of its kind it does not.
    assert read_qualities("quality.csv").quantity.column == "relative_output_error"
    code, _, err = nmsim("quality", weights, *PATTERNS, "--losses", "quality.csv", "-o", "other.csv")
    assert (code, "expected rows of losses" in err) == (2, True)


def test_json_is_all_there_is_on_standard_output(nmsim, weights):
    code, text, err = nmsim("quality", weights, *PATTERNS, "--operand", "both", "--mitigation", "none,weight_correction",
                            "--criterion", "magnitude", "-o", "q.csv", "--plot", "q.svg", "--json")  # fmt: skip
    assert (code, err) == (0, SAID)
    found = json.loads(text)
    assert (found["output"], found["plot"], found["layers"]) == ("q.csv", "q.svg", 7)
    ways = {(row["operand"], row["mitigation"]) for row in found["all_layers"]}
    assert ways == {("activations", "none"), ("weights", "none"), ("weights", "weight_correction")}
    assert found["ways_left_out"] == {}
    assert found["all_layers"][0]["mask_entropy_bits"] is None
    with open("q.svg", encoding="utf-8") as stream:
        assert "<svg" in stream.read()


def test_the_same_command_writes_the_same(nmsim, weights):
    for name in ("a.csv", "b.csv"):
        assert nmsim("quality", weights, *PATTERNS, "--mitigation", "lpts", "-o", name)[0] == 0
    with open("a.csv", "rb") as one, open("b.csv", "rb") as other:
        assert one.read() == other.read()
    assert nmsim("quality", weights, *PATTERNS, "--mitigation", "lpts", "-o", "c.csv", "--seed", "1")[0] == 0
    assert not pd.read_csv("a.csv")["energy"].equals(pd.read_csv("c.csv")["energy"])


def test_recorded_activations_and_missing_ones(nmsim, weights):
    rng = np.random.default_rng(0)
    tensors = {
        name: rng.normal(size=(2, 20, 96 if "down" in name else 64))
        for name in load_file(weights)
        if "proj" in name
    }
    save_file(tensors, "dump.safetensors")
    code, text, err = nmsim("quality", weights, "-a", "dump.safetensors", *PATTERNS)
    assert (code, err) == (0, "")
    assert "activations: dump dump.safetensors" in text
    save_file({name: x for name, x in tensors.items() if "q_proj" not in name}, "less.safetensors")
    code, text, err = nmsim("quality", weights, "-a", "less.safetensors", *PATTERNS, "-o", "less.csv")
    assert (code, text) == (2, "")
    assert err.startswith(
        "nmsim: dump less.safetensors: no activations of 1 of 7 layers: model.layers.0.self_attn.q_proj.weight;"
    )
    code, text, _ = nmsim(
        "quality", weights, "-a", "less.safetensors", *PATTERNS, "-o", "less.csv", "--allow-missing"
    )
    assert code == 0
    assert "5 tensors left out (" in text
    assert "1: no activations" in text


def test_recorded_tensors_of_no_layer_are_told(nmsim, weights):
    rng = np.random.default_rng(0)
    layer = "model.layers.0.self_attn.q_proj.weight"
    one = rng.normal(size=(40, 64))
    save_file({layer: one, "typo": one, "model.norm.weight": one}, "dump.safetensors")
    arguments = ("quality", weights, "-a", "dump.safetensors", *PATTERNS, "--include", "*q_proj*", "--json")
    code, text, err = nmsim(*arguments)
    assert (code, err) == (
        0,
        "dump dump.safetensors: 1 tensor is named as no tensor of the checkpoint: typo\n",
    )
    assert json.loads(text)["activations_unmatched"] == ["typo"]
    save_file({"typo": one}, "dump.safetensors")
    _, _, err = nmsim(*arguments, "--force")
    assert "(--allow-missing leaves those layers out); in it, of no tensor of the checkpoint: typo" in err
    _, _, err = nmsim(*arguments, "--force", "--allow-missing")
    assert "no layer has activations, expected at least one; dump dump.safetensors has typo" in err


def test_what_goes_with_no_operand_is_told(nmsim, weights):
    code, text, _ = nmsim(
        "quality", weights, *PATTERNS, "--mitigation", "none,weight_correction", "--criterion", "magnitude"
    )
    assert code == 0
    assert "not measured: magnitude, weight_correction: weight_correction is of pruned weights\n" in text


def test_costs_of_another_model_are_named_wherever_they_stand(nmsim, weights):
    arguments = ("quality", weights, *PATTERNS, "--criterion", "magnitude", "--mitigation", "none")
    code, text, _ = nmsim(*arguments, "--model", "llama-3.2-1b", "--wide")
    assert code == 0
    words = " ".join(text.split())
    assert "Speedups vs dense, of the pruned layers of llama-3.2-1b together" in words
    assert "llama-3.2-1b on h200 decode" in text
    assert "llama-3.2-1b on flexible-16x32 prefill" in text
    code, text, _ = nmsim(*arguments, "--model", "llama-3.2-1b", "--json", "-o", "other.csv")
    found = json.loads(text)
    assert found["costs_of"] == "llama-3.2-1b"
    assert {row["costs_of"] for row in found["all_layers"]} == {"llama-3.2-1b"}
    table = pd.read_csv("other.csv")
    assert table.loc[table["layer"] != "all", "core_decode_cycles"].isna().all()


def test_columns_and_digits_of_the_file(nmsim, weights):
    arguments = ("quality", weights, *PATTERNS, "--criterion", "magnitude", "--mitigation", "none")
    assert nmsim(*arguments)[0] == 0
    code, _, _ = nmsim(
        *arguments, "--columns", "layer,pattern,relative_output_error", "--digits", "3", "-o", "few.csv"
    )
    assert code == 0
    whole, few = pd.read_csv("quality.csv"), pd.read_csv("few.csv")
    assert list(few) == ["layer", "pattern", "relative_output_error"]
    assert few["layer"].tolist() == whole["layer"].tolist()
    assert few["relative_output_error"].tolist() == [
        float(f"{one:.3g}") for one in whole["relative_output_error"]
    ]


def test_rounded_values_are_ways_of_their_own(nmsim, weights):
    code, text, _ = nmsim("quality", weights, *PATTERNS, "--operand", "both", "--criterion", "magnitude", "--mitigation",
                          "none", "--values", "none,int4/32/before,int8/32/after", "--plot", "q.svg")  # fmt: skip
    assert code == 0
    assert "int4/32" in text
    table = pd.read_csv("quality.csv", keep_default_na=False)
    assert set(table["values"]) == {"", "int4/32/before", "int8/32/after"}
    rows = table[
        (table["layer"] == "all") & (table["criterion"] == "magnitude") & (table["pattern"] == "8:16")
    ]
    rows = rows.set_index(["operand", "values"])
    error, bits = rows["relative_output_error"].astype(float), rows["stored_bits_per_elem"].astype(float)
    for operand in ("activations", "weights"):
        assert error[operand, ""] < error[operand, "int4/32/before"]
        assert error[operand, "int8/32/after"] == pytest.approx(error[operand, ""], rel=0.05)
        # Half of the values, a scale of 16 bits per 32 elements, and a bitmask or index.
        for values, width in (("", 16), ("int4/32/before", 4), ("int8/32/after", 8)):
            scale = 0.5 if values else 0.0
            assert bits[operand, values] == pytest.approx(width / 2 + scale + 1)


def test_a_figure_of_references_alone_is_refused_before_any_work(nmsim, weights):
    arguments = (
        *PATTERNS,
        "--criterion",
        "unstructured",
        "--mitigation",
        "none",
        "-o",
        "u.csv",
        "--plot",
        "u.svg",
    )
    code, _, err = nmsim("quality", weights.name, *arguments)
    assert code == 2
    assert "--plot: unstructured criteria are drawn as references only" in err
    assert not (weights.parent / "u.csv").exists()
    assert nmsim("quality", weights.name, *arguments[:-2])[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected either a checkpoint or --example"),
        (["tiny.safetensors", "--example"], "expected either a checkpoint or --example"),
        (["nothing.safetensors"], "nothing.safetensors: cannot be read: No such file"),
        (["tiny.safetensors", "--operand", "x"], "--operand 'x': expected activations, weights or both"),
        (["tiny.safetensors", "--pattern", "8-16"], "pattern '8-16': expected 'N:M'"),
        (["tiny.safetensors", "--criterion", "size"], "criterion='size': expected one of magnitude"),
        (["tiny.safetensors", "--mitigation", "vra"], "mitigation='vra': 'vra': expected none, or some of"),
        (
            ["tiny.safetensors", "--operand", "weights", "--mitigation", "var"],
            "weights: nothing to measure: var is of pruned",
        ),
        (
            ["tiny.safetensors", "--synthetic", "cauchy"],
            "synthetic activations 'cauchy': expected one of gaussian",
        ),
        (
            ["tiny.safetensors", "--synthetic", "laplace", "-a", "x"],
            "--activations and --synthetic are both given",
        ),
        (["tiny.safetensors", "-a", "none.safetensors"], "none.safetensors: cannot be read"),
        (["tiny.safetensors", "-o", "tiny.safetensors"], "tiny.safetensors: is the input itself"),
        (
            ["tiny.safetensors", "--plot", "q.txt"],
            "q.txt: expected a name that ends in .svg or .png or .pdf",
        ),
        (["tiny.safetensors", "-o", "q.svg", "--plot", "q.svg"], "q.svg: is named for two outputs"),
        (["tiny.safetensors", "-o", "none/q.csv"], "there is no folder none"),
        (["tiny.safetensors", "--core", "none"], "core 'none'"),
        (["tiny.safetensors", "--model", "none"], "model 'none'"),
        (
            ["tiny.safetensors", "--columns", "layer,size"],
            "--columns size: expected some of layer, operand, pattern",
        ),
        (
            ["tiny.safetensors", "--values", "int9/64"],
            "values='int9/64': expected intB/G/before or intB/G/after",
        ),
        (["tiny.safetensors", "--hardware", "h300"], "hardware 'h300'"),
        (["tiny.safetensors", "--encoding", "zip"], "encoding 'zip'"),
        (
            ["tiny.safetensors", "--mitigation", "r_sparse=999"],
            "r_sparse=999: 16 calibration tokens, expected more than the rank",
        ),
        (["tiny.safetensors", "--mitigation", "salient_columns=999"], "tensor 'model.layers.0."),
        (
            ["tiny.safetensors", "--include", "nothing*"],
            "none of its 11 tensors is measured (8: name is not included",
        ),
        (
            ["tiny.safetensors", "--pattern", "64:128"],
            "(6: has 64 elements along axis 1, fewer than M = 128; 1: ",
        ),
        (
            [
                "tiny.safetensors",
                "--plot",
                "q.svg",
                "--mitigation",
                ",".join(f"r_sparse={n}" for n in range(1, 21)),
            ],
            "--plot: a figure of 20 mitigations, expected at most 19",
        ),
        (
            ["tiny.safetensors", "--plot", "q.svg", "--pattern", ",".join(f"{n}:16" for n in range(1, 12))],
            "--plot: a figure of 11 patterns, expected at most 10",
        ),
        (
            ["tiny.safetensors", "--plot", "q.svg", "--pattern", "4:4", "--mitigation", "none"],
            "no pruned row with an error above zero, nothing to draw",
        ),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(nmsim, weights, arguments, message):
    before = sorted(weights.parent.iterdir())
    code, text, err = nmsim("quality", *arguments, *(() if "--pattern" in arguments else PATTERNS))
    assert (code, text) == (2, "")
    assert err.startswith("nmsim: ")
    assert message in err
    assert err.count("\n") == 1
    assert sorted(weights.parent.iterdir()) == before


def test_existing_files_are_kept_but_for_force(nmsim, weights):
    for name in ("quality.csv", "q.svg"):
        with open(name, "w", encoding="utf-8") as stream:
            stream.write("mine")
    for arguments in ([], ["-o", "other.csv", "--plot", "q.svg"]):
        code, _, err = nmsim("quality", weights, *PATTERNS, *arguments)
        assert code == 2
        assert "exists already" in err
    assert not (weights.parent / "other.csv").exists()
    assert nmsim("quality", weights, *PATTERNS, "--plot", "q.svg", "--force")[0] == 0
    assert len(pd.read_csv("quality.csv")) > 1


def test_a_packed_checkpoint_is_refused(nmsim, weights):
    assert nmsim("pack", weights, "-o", "packed.safetensors", "--pattern", "2:4")[0] == 0
    code, _, err = nmsim("quality", "packed.safetensors", *PATTERNS)
    assert code == 2
    assert "is packed already, expected a dense checkpoint" in err
