"""`nmsim predict --model`: the step of `hwmodels.step`, in a table and as JSON, and options that do not belong together."""

import json

import pytest

import hwmodels


def test_a_step_as_json_is_that_of_the_library(nmsim):
    code, out, _ = nmsim(
        "predict", "-m", "llama-3.1-8b", "-p", "8:16/bitmask", "-H", "h200-8x16", "--batch", "4", "--context", "8192",
        "--kv-dtype", "fp8", "--fuse", "qkv,gate_up", "--output-dtype", "int8", "--json",
    )  # fmt: skip
    assert code == 0
    (found,) = json.loads(out)
    expected = hwmodels.step(
        "llama-3.1-8b", "h200-8x16", format="8:16/bitmask", batch=4, context_tokens=8192, kv_dtype="fp8",
        fuse=("qkv", "gate_up"), output_dtype="int8",
    )  # fmt: skip
    assert found == json.loads(json.dumps(expected.record()))
    assert found["linear_speedup_vs_dense"] > found["speedup_vs_dense"] > 1


def test_a_prompt_attends_to_itself(nmsim):
    _, out, _ = nmsim("predict", "-m", "llama-3.1-8b", "-p", "2:4", "--prefill", "512", "--json")
    (found,) = json.loads(out)
    assert (found["phase"], found["new_tokens"], found["context_tokens"]) == ("prefill", 512, 512)
    assert found["format"] == "2:4/index/bitstream"  # what the unit of an H200 reads
    _, out, _ = nmsim(
        "predict", "-m", "llama-3.1-8b", "-p", "2:4", "--prefill", "512", "--context", "0", "--json"
    )
    (linear,) = json.loads(out)
    assert linear["attention_time_s"] == 0
    assert linear["time_s"] == found["linear_time_s"]


def test_the_table_names_both_speedups_and_what_stays_dense(nmsim):
    _, out, _ = nmsim("predict", "-m", "llama-3.1-8b", "-p", "2:4/index", "--batch", "8")
    text = " ".join(out.split())
    assert "linear layers alone" in text or "alone" in text
    assert "stays dense: attention and KV cache" in text
    assert "KV cache of bf16: 4.295 GB. Not counted: embedding look-ups" in text
    assert "lm_head" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected either a shape"),
        (["1,64,64", "-m", "llama-3.1-8b"], "expected either a shape"),
        (["1,64,64", "--context", "0"], "--context: belongs to --model"),
        (["1,64,64", "--batch", "1"], "--batch: belongs to --model"),
        (["1,64,64", "--fuse", "qkv"], "--fuse: belongs to --model"),
        (["1,64,64", "--output-dtype", "int7"], "output_dtype='int7'"),
        (["-m", "llama-3.1-8b", "--kv-dtype", "int7"], "kv_dtype='int7'"),
        (["-m", "llama-3.1-8b", "--fuse", "mlp"], "fuse='mlp'"),
        (["-m", "llama-3.1-8b", "--expert-loads", "none.csv"], "none.csv"),
        (["-m", "lama"], "lama"),
    ],
)
def test_what_does_not_belong_together_is_refused(nmsim, arguments, message):
    code, out, err = nmsim("predict", *arguments)
    assert code == 2
    assert out == ""
    assert message in err
    assert len(err.splitlines()) == 1
