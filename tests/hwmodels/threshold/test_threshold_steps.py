"""Thresholds of a step with attention, and of a model with experts: against `hwmodels.step`, which adds up by itself."""

import pytest

import hwmodels
from hwmodels.models import Attention, Layer, Model
from hwmodels.threshold import ModelFormat, equal_energy, equal_time, quantised_dense
from nmsim.errors import RowError

LLAMA = hwmodels.load_model("llama-3.1-8b")
HOW = ModelFormat("8:16/combinatorial")


def moe(experts: int, active: int) -> Model:
    layers = (
        Layer("q", 2, 1024, 1024, role="attention"),
        Layer("router", 2, experts, 1024, pruned=False, role="router"),
        Layer("expert_up", 2 * experts, 512, 1024, role="expert", experts=experts, active_experts=active),
        Layer("lm_head", 1, 8000, 1024, pruned=False, role="head"),
    )
    return Model("moe", layers, False, "test", attention=(Attention(2, 8, 2, 128),))


@pytest.mark.parametrize("model", [LLAMA, moe(16, 4)], ids=["llama", "experts"])
@pytest.mark.parametrize(("context", "kv_dtype"), [(0, None), (8192, None), (8192, "fp8")])
def test_costs_are_those_of_a_step(model, context, kv_dtype):
    found = equal_time(
        model, HOW, "h200-8x16", tokens=6, context_tokens=context, kv_dtype=kv_dtype, step_elems=128
    )
    step = hwmodels.step(
        model,
        "h200-8x16",
        format="8:16/combinatorial",
        batch=6,
        context_tokens=context,
        kv_dtype=kv_dtype,
        dtype="bf16",
    )
    assert found.pruned_cost == pytest.approx(step.time_s, rel=1e-9)
    assert found.dense_cost == pytest.approx(step.dense_time_s, rel=1e-9)
    assert found.low.width <= found.equal.width <= found.high.width


def test_attention_is_part_of_both_sides():
    """A counterpart has a smaller cache, so it may be wider than the linear layers alone would allow, but never as wide."""
    linear, whole = (
        equal_time(LLAMA, HOW, "h200-8x16", tokens=16, context_tokens=context, step_elems=64)
        for context in (0, 16384)
    )
    assert whole.share > linear.share
    assert linear.equal.width < whole.equal.width < 1
    plain, with_cache = (
        quantised_dense(LLAMA, HOW, 8, hwmodels.load_machine("h200"), context_tokens=c) for c in (0, 9)
    )
    assert with_cache.time_s > plain.time_s


def test_energy_of_one_expert_is_that_of_a_dense_layer():
    one = moe(1, 1)
    dense = Model(
        "dense",
        tuple(
            Layer(each.name, each.count, each.N, each.K, pruned=each.pruned, role=each.role)
            for each in one.layers
        ),
        False,
        "test",
    )
    first, second = (
        equal_energy(each, HOW, "flexible-8x16", tokens=3, step_elems=128) for each in (one, dense)
    )
    assert first == second


def test_more_tokens_reach_more_experts_and_take_more_energy():
    model = moe(16, 2)
    costs = [
        equal_energy(model, HOW, "flexible-8x16", tokens=tokens, step_elems=256).pruned_cost
        for tokens in (1, 4, 64)
    ]
    assert costs == sorted(costs)
    assert costs[-1] < 64 * costs[0]


def test_a_bad_type_of_the_cache_is_refused():
    with pytest.raises(RowError, match="kv_dtype='int7'"):
        equal_time(LLAMA, HOW, "h200", context_tokens=10, kv_dtype="int7")
