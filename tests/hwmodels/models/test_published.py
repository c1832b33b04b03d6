"""Published configurations load, and their totals are those of the checkpoints; caches are those worked by hand."""

import json
from pathlib import Path

import pytest

import hwmodels
from hwmodels.models.build import build

ROOT = Path(__file__).resolve().parents[3]
PUBLISHED = json.loads((ROOT / "docs/reference/models.json").read_text(encoding="utf-8"))


def test_the_table_of_the_docs_has_many_configurations():
    assert len({entry["name"] for entry in PUBLISHED}) == len(PUBLISHED) >= 40
    assert len({entry["config"]["model_type"] for entry in PUBLISHED}) >= 40


@pytest.mark.parametrize("entry", PUBLISHED, ids=lambda entry: entry["name"])
def test_totals_are_those_of_the_checkpoints(entry):
    # The rest are norms, biases and convolutions, which are no linear layers.
    model = build(entry["name"], entry["config"], source=entry["source"], where=entry["name"])
    assert abs(model.total_elems / entry["published"] - 1) < 0.003
    assert entry["source"].startswith("https://huggingface.co/")


@pytest.mark.parametrize(
    ("name", "elems_per_token", "context", "kept"),
    [
        # Layers x (keys + values) x heads x width.
        ("llama-3.1-8b", 32 * 2 * 8 * 128, 1000, 32 * 2 * 8 * 128 * 1000),
        # The latent of 512 and the rotary part of 64, in 61 layers.
        ("deepseek-v3", 61 * 576, 1000, 61 * 576 * 1000),
        # 12 layers keep 128 tokens, 12 all.
        ("gpt-oss-20b", 24 * 2 * 8 * 64, 5000, 12 * 2 * 8 * 64 * (128 + 5000)),
        # Layers 5, 11, ..., 29 of 34 keep all tokens, the others 1024.
        ("gemma-3-4b", 34 * 2 * 4 * 256, 3000, 2 * 4 * 256 * (5 * 3000 + 29 * 1024)),
        # Every second layer has a window of 4096.
        ("gemma-2-9b", 42 * 2 * 8 * 256, 5000, 2 * 8 * 256 * 21 * (4096 + 5000)),
    ],
)
def test_caches_worked_by_hand(name, elems_per_token, context, kept):
    model = hwmodels.load_model(name)
    assert model.kv_elems_per_token == elems_per_token
    assert model.kept_elems(context) == kept


def published(name):
    entry = next(entry for entry in PUBLISHED if entry["name"] == name)
    return build(name, entry["config"], source=entry["source"], where=name)


def test_states_do_not_grow():
    mamba = published("mamba-2.8b-hf")
    assert mamba.kv_elems_per_token == 0
    assert mamba.kept_elems(10) == mamba.kept_elems(10**6) == 64 * 5120 * (16 + 3)
    jamba = published("jamba-v0.1")
    assert jamba.kv_elems_per_token == 4 * 2 * 8 * 128
    assert {each.kind: each.count for each in jamba.attention} == {"state": 28, "full": 4}
    minimax = published("minimax-text-01")
    assert {each.kind: each.count for each in minimax.attention} == {"state": 70, "full": 10}


def test_multi_query_attention_caches_one_head():
    assert published("falcon-7b").kv_elems_per_token == 32 * 2 * 64
    assert published("starcoder").kv_elems_per_token == 40 * 2 * 128


@pytest.mark.parametrize(
    ("name", "experts", "active", "active_weights_1e9"),
    [
        ("mixtral-8x7b", 8, 2, 12.75),  # 12.9e9 published, with the embedding
        ("qwen3-30b-a3b", 128, 8, 3.04),  # 3.3e9 published, with the embedding
        ("deepseek-v3", 256, 8, 36.6),  # 37e9 published
        ("gpt-oss-20b", 32, 4, 3.6),  # 3.6e9 published
        ("llama-3.1-8b", 0, 0, 7.5),
    ],
)
def test_experts_of_a_model(name, experts, active, active_weights_1e9):
    model = hwmodels.load_model(name)
    assert (model.experts, model.active) == (experts, active)
    assert model.active_elems == pytest.approx(active_weights_1e9 * 1e9, rel=0.02)
    for layer in model.layers:
        assert (layer.role == "expert") is (layer.experts > 0)
