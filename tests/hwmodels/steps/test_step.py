"""A step of a whole model: against the sum of its products, in limits that are known, and by laws."""

import dataclasses
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hwmodels
from hwmodels.models import Attention, Layer, Model
from hwmodels.steps.fusion import fused
from hwmodels.steps.step import ATTENTION_ROLE
from nmsim.case import Case, GemmShape
from nmsim.errors import RowError, SpecError
from nmsim.format import sparse_format
from validate.study.whole_model import case_table, predict_layers, sum_layers

LLAMA = hwmodels.load_model("llama-3.1-8b")
MACHINES = ("h200", "h200-8x16", "epyc-2core")


def moe(experts: int, active: int, hidden: int = 1024, inside: int = 512, depth: int = 4) -> Model:
    """A small model with experts."""
    layers = (
        Layer("q", depth, hidden, hidden, role="attention"),
        Layer("k", depth, hidden // 4, hidden, role="attention"),
        Layer("v", depth, hidden // 4, hidden, role="attention"),
        Layer("o", depth, hidden, hidden, role="attention"),
        Layer("router", depth, experts, hidden, pruned=False, role="router"),
        *(
            Layer(
                f"expert_{name}", depth * experts, N, K, role="expert", experts=experts, active_experts=active
            )
            for name, N, K in (("gate", inside, hidden), ("up", inside, hidden), ("down", hidden, inside))
        ),
        Layer("lm_head", 1, 32000, hidden, pruned=False, role="head"),
    )
    return Model("moe", layers, False, "test", attention=(Attention(depth, 8, 2, 128),))


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    ("phase", "batch", "new"), [("decode", 1, None), ("decode", 16, None), ("prefill", 1, 512)]
)
def test_without_context_it_is_the_sum_of_a_study(machine, phase, batch, new):
    """Linear layers alone are what a study adds up, to the last digits."""
    steps = {"batches": [batch], "prefill": []} if phase == "decode" else {"batches": [], "prefill": [new]}
    table = case_table(LLAMA, [sparse_format("8:16/index")], **steps)
    (_, row) = sum_layers(predict_layers(table, [hwmodels.load_machine(machine)])).to_dict("records")
    found = hwmodels.step(
        "llama-3.1-8b",
        machine,
        format="8:16/index",
        phase=phase,
        batch=batch,
        context_tokens=0,
        new_tokens=new,
    )
    ours = (
        found.time_s,
        found.dense_time_s,
        found.speedup_vs_dense,
        found.bound_time_s,
        found.bound_dense_time_s,
    )
    theirs = (
        "predicted_time_s",
        "predicted_dense_time_s",
        "predicted_speedup_vs_dense",
        "bound_time_s",
        "bound_dense_time_s",
    )
    assert ours == pytest.approx([row[name] for name in theirs], rel=1e-12)
    ends = [row["predicted_speedup_low"], row["predicted_speedup_high"]]
    assert [found.speedup_low, found.speedup_high] == pytest.approx(ends, rel=1e-12, nan_ok=True)
    assert found.limit == row["limit"]
    assert found.speedup_vs_dense == found.linear_speedup_vs_dense
    assert found.attention_time_s == found.cache_bytes == 0


def test_bytes_of_a_decode_step_by_hand():
    """One token of Llama 3.1 8B, dense: weights, inputs and outputs of the products, and the cache of 4096 tokens."""
    found = hwmodels.step("llama-3.1-8b", "h200", batch=1, context_tokens=4096)
    linear = sum(layer.count * 2 * (layer.N * layer.K + layer.K + layer.N) for layer in LLAMA.layers)
    queries = 32 * 2 * 32 * 128 * 2
    assert found.moved_bytes == found.dense_moved_bytes == linear + 4096 * 131072 + queries
    assert found.cache_bytes == 4096 * 131072
    assert found.bound_time_s == pytest.approx(found.moved_bytes / 4.8e12, rel=1e-9)


def test_one_expert_is_a_dense_model():
    one = moe(1, 1)
    dense = dataclasses.replace(
        one, layers=tuple(dataclasses.replace(layer, experts=0, active_experts=0) for layer in one.layers)
    )
    asked = {"format": "2:4/index", "batch": 37, "context_tokens": 100}
    assert hwmodels.step(one, "h200", **asked) == hwmodels.step(dense, "h200", **asked)


def test_all_experts_active_read_all_weights_once():
    found = hwmodels.step(moe(8, 8), "h200", batch=3, context_tokens=0)
    (up,) = (row for row in found.rows if row.name == "expert_up")
    assert (up.experts, up.tokens) == (8, 3)
    assert up.moved_bytes == 4 * 8 * 2 * (512 * 1024 + 3 * (512 + 1024))


def test_a_token_reads_the_weights_of_its_own_experts():
    """A batch of one: k of E experts, each a product of one token, byte for byte."""
    found = hwmodels.step(moe(16, 4), "h200", format="8:16/bitmask", batch=1, context_tokens=0)
    (up,) = (row for row in found.rows if row.name == "expert_up")
    product = hwmodels.predict(Case(GemmShape(1, 512, 1024), "8:16/bitmask"), "h200")
    assert (up.experts, up.tokens) == (4, 1)
    assert up.moved_bytes == 4 * 4 * product.traffic_bytes


def test_a_prompt_reads_all_experts():
    found = hwmodels.step(moe(16, 4), "h200", phase="prefill", context_tokens=4096)
    (up,) = (row for row in found.rows if row.name == "expert_up")
    assert up.experts == pytest.approx(16, rel=1e-9)
    assert up.tokens == pytest.approx(1024, rel=1e-9)


def test_measured_loads_reach_fewer_experts():
    skewed = [8.0, 4.0, 2.0] + [1.0] * 13
    even, uneven = (
        hwmodels.step(moe(16, 2), "h200", batch=8, context_tokens=0, expert_shares=shares)
        for shares in (None, skewed)
    )
    assert uneven.moved_bytes < even.moved_bytes
    assert uneven.time_s < even.time_s


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(MACHINES), st.integers(1, 200), st.integers(1, 4000), st.booleans())
def test_laws_of_a_step(machine, batch, context, narrow):
    asked = {"format": "8:16", "batch": batch, "kv_dtype": "fp8" if narrow else None}
    model = moe(8, 2)
    found, longer, none = (
        hwmodels.step(model, machine, context_tokens=tokens, **asked) for tokens in (context, 2 * context, 0)
    )
    assert none.time_s < found.time_s <= longer.time_s
    assert found.linear_time_s == none.time_s
    assert found.cache_bytes < longer.cache_bytes
    assert found.linear_speedup_vs_dense == none.speedup_vs_dense
    # Attention takes as long in both models, so it draws the speedup towards 1.
    assert abs(math.log(longer.speedup_vs_dense)) <= abs(math.log(found.speedup_vs_dense)) + 1e-12
    assert found.speedup_vs_dense <= found.ceiling_speedup_vs_dense
    pruned_s = math.fsum(row.time_s for row in found.rows if row.pruned)
    assert found.remainder_share == pytest.approx(1 - pruned_s / found.time_s)
    assert {part.name for part in found.remainder} == {"attention and KV cache", "output head", "routers"}
    assert found.time_s == pytest.approx(found.linear_time_s + found.attention_time_s)


def test_eight_bits_of_cache_take_half_the_bytes():
    wide, narrow = (
        hwmodels.step("llama-3.1-8b", "h200", batch=32, context_tokens=8192, kv_dtype=kind)
        for kind in (None, "fp8")
    )
    assert wide.cache_bytes == 2 * narrow.cache_bytes
    assert wide.moved_bytes - narrow.moved_bytes == narrow.cache_bytes
    assert narrow.attention_time_s < wide.attention_time_s


def test_several_tokens_of_a_sequence_share_its_cache():
    """Three tokens that are verified together read the cache once, and the head for each of them."""
    one, three = (
        hwmodels.step("llama-3.1-8b", "h200", context_tokens=4096, new_tokens=new) for new in (None, 3)
    )
    assert [row.tokens for row in three.rows] == [3.0] * len(three.rows)
    assert (
        three.attention_rows[0].moved_bytes == one.attention_rows[0].moved_bytes + 2 * 32 * 2 * 32 * 128 * 2
    )


def test_fused_layers_write_less_and_launch_less():
    plain, both = (
        hwmodels.step("llama-3.1-8b", "h200", format="2:4/index", batch=64, context_tokens=0, fuse=fuse)
        for fuse in ((), ("qkv", "gate_up"))
    )
    names = [row.name for row in both.rows if row.role != ATTENTION_ROLE]
    assert names == ["qkv", "o", "gate_up", "down", "lm_head"]
    assert [row.N for row in both.rows][:3] == [4096 + 2 * 1024, 4096, 2 * 14336]
    # Saved: two reads of X by q, k, v; one by gate and up; and half of their outputs.
    saved = 32 * 64 * 2 * (2 * 4096 + 4096 + 14336)
    assert plain.moved_bytes - both.moved_bytes == saved
    assert both.time_s < plain.time_s
    assert sum(row.count * row.N * row.K for row in plain.rows) == sum(
        row.count * row.N * row.K for row in both.rows
    )


def test_experts_and_stored_pairs_fuse_too():
    stored = (Layer("gate_up", 4, 2048, 512), Layer("down", 4, 512, 1024))
    assert [str(each.written_share) for each in fused(stored, ["gate_up"])] == ["1/2", "1"]
    names = [
        (each.layer.name, each.layer.N, each.layer.experts) for each in fused(moe(8, 2).layers, ["gate_up"])
    ]
    assert ("expert_gate_up", 1024, 8) in names


def test_requantised_outputs_halve_their_bytes():
    wide, narrow = (
        hwmodels.step(
            "llama-3.1-8b", "h200", phase="prefill", context_tokens=0, new_tokens=2048, output_dtype=kind
        )
        for kind in (None, "int8")
    )
    outputs = sum(2048 * layer.count * layer.N for layer in LLAMA.layers if layer.role != "head")
    assert wide.moved_bytes - narrow.moved_bytes == outputs


def test_the_value_type_of_the_model_is_the_default_and_is_said():
    layers = tuple(dataclasses.replace(each, dtype="fp8" if each.pruned else None) for each in LLAMA.layers)
    own = dataclasses.replace(LLAMA, layers=layers, dtype="fp8")
    found = hwmodels.step(own, "h200", context_tokens=10)
    assert {row.name: row.dtype for row in found.rows} == {
        **dict.fromkeys(("q", "k", "v", "o", "gate", "up", "down"), "fp8"), "lm_head": "bf16", "attention": "bf16",
    }  # fmt: skip
    assert any("fp8 (q, k, v, o, gate, up, down)" in note for note in found.notes)
    asked = hwmodels.step(own, "h200", context_tokens=10, dtype="bf16")
    assert asked.time_s == hwmodels.step(LLAMA, "h200", context_tokens=10).time_s
    assert not any("Value types" in note for note in asked.notes)


def test_a_record_is_json():
    found = hwmodels.step("gemma-3-4b", "h200", format="8:16", batch=4, context_tokens=2000)
    text = json.loads(json.dumps(found.record(), allow_nan=False))
    assert text["speedup_vs_dense"] == found.speedup_vs_dense
    assert [row["name"] for row in text["rows"]] == found.table()["name"].tolist()


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        ({"context_tokens": -1}, "context_tokens=-1"),
        ({"context_tokens": True}, "context_tokens=True"),
        ({"context_tokens": 1, "batch": 0}, "batch=0"),
        ({"context_tokens": 3, "new_tokens": 4}, "context_tokens=3"),
        ({"context_tokens": 0, "phase": "prefill"}, "new_tokens=0"),
        ({"context_tokens": 1, "phase": "training"}, "phase='training'"),
        ({"context_tokens": 1, "sparse_operand": "both"}, "sparse_operand='both'"),
        ({"context_tokens": 1, "fuse": ["o"]}, "fuse='o'"),
        ({"context_tokens": 1, "expert_shares": [1.0]}, "no experts"),
        ({"context_tokens": 1 << 28, "phase": "prefill", "batch": 2}, "at most"),
    ],
)
def test_bad_questions_are_refused(asked, problem):
    with pytest.raises(SpecError, match=problem):
        hwmodels.step("llama-3.1-8b", "h200", **asked)


def test_a_value_type_without_a_peak_is_refused_with_the_way_out():
    with pytest.raises(RowError, match=r"no peak.*dtype chooses another"):
        hwmodels.step("llama-3.1-8b", "h200", context_tokens=1, dtype="fp4")
