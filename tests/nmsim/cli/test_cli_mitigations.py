import json

import pandas as pd
import pytest

from hwmodels.online.mitigations import CRITERIA, MITIGATIONS, OF_WEIGHTS
from hwmodels.online.overheads import mitigation_table, model_table
from nmsim.case import GemmShape

NAMES = [*CRITERIA, *MITIGATIONS]


def test_the_sum_over_a_model_is_shown_in_both_phases(nmsim):
    code, out, _ = nmsim("mitigations", "--tokens", "256", "--wide")
    assert code == 0
    decode, prefill = out.split(
        "prefill, 256 tokens: llama-3.1-8b, all 224 pruned layers, 8:16 activations, bf16"
    )
    assert decode.startswith("decode, 1 token: llama-3.1-8b, all 224 pruned layers")
    for part in (decode, prefill):
        rows = {line.split()[0]: line.split()[1:] for line in part.splitlines() if line.split()[:1]}
        assert [name for name in NAMES if name in rows] == NAMES
        # 128 (N + K) multiply-adds of each layer of 32 blocks, and two bytes for each.
        assert rows["r_sparse"][:2] == ["yes", "group"]
        assert {"335,544,320", "9.6%", "671,089"} <= set(rows["r_sparse"])
    assert "\nclact (decode): keep the N greatest of M keys: 56 comparators" in prefill
    assert "\nclact (prefill): c_j = sqrt(sum_i x_ij^2) over all tokens i; |x_ij| c_j; keep" in prefill
    assert "\nvar: v_i = sqrt(Q(x) / max(Q(xsp), 1e-9 (K - 1)))" in prefill


def test_what_waits_does_not_stream(nmsim):
    code, out, _ = nmsim("mitigations", "--shape", "64,256,512", "--columns", "16", "--wide")
    assert code == 0
    prefill = out.split("prefill, 64 tokens: N=256, K=512, 8:16")[1].split("Operations per token")[0]
    rows = {line.split()[0]: line.split()[1:] for line in prefill.splitlines() if line.split()[:1]}
    assert rows["dpts_median"][:3] == ["no", "token", "17"]
    assert rows["clact"][:3] == ["no", "sequence", "2"]
    assert rows["var"][:3] == ["yes", "group", "1"]


def test_json_is_the_table_of_the_model_and_its_sum(nmsim):
    code, out, _ = nmsim("mitigations", "-p", "2:4", "--dtype", "fp8", "--tokens", "16", "--json")
    rows = pd.DataFrame(json.loads(out))
    assert code == 0
    expected = model_table("llama-3.1-8b", "2:4", dtype="fp8", tokens=16)
    pd.testing.assert_frame_equal(rows[rows.layer != "all"], expected, check_dtype=False)
    assert len(rows[rows.layer == "all"]) == 2 * len(NAMES)


def test_layers_are_shown_in_the_order_asked_and_only_they(nmsim):
    code, out, _ = nmsim(
        "mitigations", "-m", "qwen2.5-7b", "-l", "down,gate", "--operand", "weights", "--json"
    )
    rows = pd.DataFrame(json.loads(out))
    assert code == 0
    assert list(dict.fromkeys(rows.layer)) == ["down", "gate"]
    assert set(rows.name) == set(OF_WEIGHTS)
    code, out, _ = nmsim("mitigations", "-m", "qwen2.5-7b", "-l", "down,gate", "--operand", "weights")
    assert code == 0
    assert "decode, 1 token: qwen2.5-7b, by layer, 8:16 weights, bf16" in out
    assert sum(line.split()[:2] == ["outliers", "down"] for line in out.splitlines()) == 2


def test_sizes_reach_the_counts(nmsim):
    asked = ("mitigations", "--shape", "1,64,512", "--json", "--columns", "32")
    changed = (*asked, "--rank", "8", "--outliers", "16:128", "--selector", "all_pairs")
    rows = {row["name"]: row for row in json.loads(nmsim(*changed)[1])}
    assert rows["r_sparse"]["macs_per_token"] == 8 * (64 + 512)
    assert rows["outliers"]["macs_per_token"] == 64 * 512 // 8
    assert rows["salient_columns"]["macs_per_token"] == 64 * 32
    assert rows["magnitude"]["selector_compares_per_token"] == 512 // 16 * 120
    # What the help calls the default is the default.
    stated = (*asked, "--rank", "128", "--outliers", "4:256", "--selector", "half")
    assert nmsim(*stated)[1] == nmsim(*asked)[1]


@pytest.mark.parametrize("where", ["shape", "model"])
def test_a_layer_with_fewer_columns_than_the_default_keeps_them_all_and_says_so(nmsim, tmp_path, where):
    asked = ("--shape", "4,100,70")
    if where == "model":
        config = {
            "model_type": "llama", "hidden_size": 70, "intermediate_size": 512, "num_hidden_layers": 1,
            "num_attention_heads": 7, "vocab_size": 100,
        }  # fmt: skip
        (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
        asked = ("--model", tmp_path / "config.json")
    code, out, err = nmsim("mitigations", *asked, "--json")
    rows = [row for row in json.loads(out) if row["name"] == "salient_columns"]
    assert code == 0
    assert "salient columns: 70 in place of 128, " in err
    assert err.count("\n") == 1
    assert rows[0]["macs_per_token"] == 70 * (100 if where == "shape" else 70)
    assert nmsim("mitigations", *asked, "--columns", "70", "--json")[1:] == (out, "")


def test_rows_go_into_a_csv_file(nmsim, tmp_path):
    path = tmp_path / "costs.csv"
    code, out, _ = nmsim("mitigations", "--shape", "32,4096,4096", "-o", path)
    assert code == 0
    assert f"wrote {path}: {2 * len(NAMES)} rows" in out
    expected = mitigation_table(GemmShape(32, 4096, 4096), "8:16")
    pd.testing.assert_frame_equal(pd.read_csv(path), expected, check_dtype=False)
    code, _, err = nmsim("mitigations", "--shape", "32,4096,4096", "-o", path)
    assert code == 2
    assert str(path) in err
    assert nmsim("mitigations", "--shape", "32,4096,4096", "-o", path, "--force")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (
            ["-l", "head"],
            "--layer head: expected one of q, k, v, o, gate, up, down, the pruned layers of llama",
        ),
        (["-l", ","], "no layer given"),
        (["--shape", "1,2,3", "-l", "q"], "--shape 1,2,3: is a layer with its tokens, expected no --layer"),
        (["--shape", "1,2,3", "-m", "gemma-3-4b"], "expected no --model beside it"),
        (["--shape", "1,2,3", "--tokens", "2"], "expected no --tokens beside it"),
        (["--shape", "1,2"], "shape '1,2': expected M,N,K"),
        (["-m", "llama-9"], "llama-9"),
        (["-p", "4:2"], "pattern 4:2"),
        (["--outliers", "300"], "pattern '300': expected 'N:M'"),
        (
            ["--shape", "1,2,70", "--columns", "71"],
            "--columns 71: expected at most the in features of 1,2,70, 70",
        ),
        (["--columns", "5000"], "--columns 5000: expected at most the in features of q, 4096"),
        (["--selector", "bubble"], "--selector 'bubble': expected one of all_pairs"),
        (["--operand", "weight"], "operand='weight': expected one of weights, activations"),
        (["--dtype", "fp7"], "dtype='fp7': expected one of"),
    ],
)
def test_bad_questions_are_one_line(nmsim, arguments, complaint):
    code, out, err = nmsim("mitigations", *arguments)
    assert (code, out) == (2, "")
    assert complaint in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("option", ["--rank", "--columns"])
def test_a_size_of_nothing_is_refused_by_its_option(nmsim, option):
    code, out, err = nmsim("mitigations", option, "0")
    assert (code, out) == (2, "")
    assert f"'{option}'" in err
