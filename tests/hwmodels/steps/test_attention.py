"""Attention: pairs and cache against plain loops, bytes per token against published numbers, time against the roofs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import hwmodels
from hwmodels.models import Attention, Model
from hwmodels.steps.attention import (
    Sequences,
    attended_pairs,
    attention_dtype,
    attention_s,
    kv_cache_bytes,
    read_tokens,
    work,
)
from nmsim.errors import RowError, SpecError


def attends(attention: Attention, query: int, key: int) -> bool:
    """Whether the token at place `query` (from 0) attends to the one at `key`, by definition."""
    size = attention.window_tokens or 0
    return (
        key <= query
        and {
            "full": True,
            "window": query - key < size,
            "chunk": size > 0 and query // size == key // size,
            "state": False,
            "none": False,
        }[attention.kind]
    )


kinds = st.sampled_from(["full", "window", "chunk", "state", "none"])


@given(kinds, st.integers(1, 9), st.integers(1, 40), st.integers(1, 40))
def test_pairs_and_read_tokens_are_those_of_a_loop(kind, size, new, more):
    window = size if kind in ("window", "chunk") else None
    attention = Attention(1, 4, 2, 8, kind=kind, window_tokens=window)
    context = new + more - 1
    pairs = [
        (query, key)
        for query in range(context - new, context)
        for key in range(context)
        if attends(attention, query, key)
    ]
    assert attended_pairs(attention, new_tokens=new, context_tokens=context) == len(pairs)
    assert read_tokens(attention, new_tokens=new, context_tokens=context) == len({key for _, key in pairs})


def model(*attention: Attention) -> Model:
    return Model("mine", (), False, "test", attention=attention)


def test_bytes_per_token_of_published_models():
    """Llama 3.1 8B: 128 KiB per token. DeepSeek-V3: 70.272 KB (its paper's 576 x 2 x 61). gpt-oss-20b: 24 layers, 8 x 64."""
    assert kv_cache_bytes("llama-3.1-8b", context_tokens=1) == 131072 == 2 * 32 * 8 * 128 * 2
    assert kv_cache_bytes("llama-3.1-8b", context_tokens=1, kv_dtype="fp8") == 65536
    assert kv_cache_bytes("llama-2-7b", context_tokens=1) == 524288  # multi-head: 512 KiB
    deepseek = model(Attention(61, 128, 128, 192, 128, latent_elems=576, rotary_elems=64))
    assert kv_cache_bytes(deepseek, context_tokens=1) == 70272 == 576 * 2 * 61
    oss = model(Attention(12, 64, 8, 64, kind="window", window_tokens=128), Attention(12, 64, 8, 64))
    assert kv_cache_bytes(oss, context_tokens=1) == 24 * 2048
    assert kv_cache_bytes(oss, context_tokens=1000) == 12 * 2048 * (128 + 1000)


def test_a_window_stops_the_cache_from_growing():
    gemma = model(Attention(29, 8, 4, 256, kind="window", window_tokens=1024), Attention(5, 8, 4, 256))
    short, long = (kv_cache_bytes(gemma, context_tokens=tokens) for tokens in (1024, 32768))
    per_layer = 2 * 4 * 256 * 2
    assert short == 34 * 1024 * per_layer
    assert long == 29 * 1024 * per_layer + 5 * 32768 * per_layer


def test_states_and_shared_caches():
    states = model(Attention(10, 0, 0, 0, kind="state", state_elems=1000))
    assert (
        kv_cache_bytes(states, context_tokens=5, batch=3)
        == kv_cache_bytes(states, context_tokens=9, batch=3)
        == 60000
    )
    shared = Attention(7, 8, 2, 64, shares_cache=True)
    assert kv_cache_bytes(model(shared), context_tokens=100) == 0
    amount = work(shared, Sequences(1, 1, 100, True), kv_bits=16, value_bits=16)
    assert amount.cache_bytes == 100 * 2 * 2 * 64 * 2  # they keep nothing, and read what another layer keeps


def test_work_of_a_decode_step_by_hand():
    """Llama 3.1 8B at 4096 tokens: a layer reads 16.78 MB, and multiplies 32 heads of 128 twice with each token."""
    (each,) = hwmodels.load_model("llama-3.1-8b").attention
    amount = work(each, Sequences(1, 1, 4096, True), kv_bits=16, value_bits=16)
    assert amount.cache_bytes == 4096 * 4096
    assert amount.other_bytes == 2 * 32 * 128 * 2
    assert amount.flop == 2 * 32 * (128 + 128) * 4096
    eight = work(each, Sequences(8, 1, 4096, True), kv_bits=8, value_bits=16)
    assert (eight.cache_bytes, eight.flop) == (8 * amount.cache_bytes // 2, 8 * amount.flop)


def test_absorbed_and_expanded_latents():
    """DeepSeek-V2, section 2.1: scores with 576 elements, results with 512; expanded keys have 192 and values 128."""
    mla = Attention(61, 128, 128, 192, 128, latent_elems=576, rotary_elems=64)
    decode = work(mla, Sequences(1, 1, 1000, True), kv_bits=16, value_bits=16)
    assert decode.cache_bytes == 1000 * 576 * 2
    assert decode.flop == 2 * 128 * (576 + 512) * 1000
    prefill = work(mla, Sequences(1, 1000, 1000, False), kv_bits=16, value_bits=16)
    assert prefill.cache_bytes == 1000 * 128 * (192 + 128) * 2
    assert prefill.flop == 2 * 128 * (192 + 128) * 1000 * 1001 // 2


def test_an_index_looks_at_all_tokens_and_reads_few():
    index = Attention(1, 8, 8, 64, extra_elems=128, read_tokens=2048)
    amount = work(index, Sequences(1, 1, 65536, True), kv_bits=16, value_bits=16)
    assert amount.cache_bytes == 2 * (2048 * 8 * 128 + 65536 * 128)
    assert amount.flop == 2 * 8 * 128 * 2048


@given(
    kinds.filter(lambda kind: kind not in ("chunk", "none")),
    st.integers(1, 64),
    st.integers(1, 10_000),
    st.sampled_from([8, 16]),
)
def test_more_context_or_sequences_is_more_work(kind, batch, context, bits):
    attention = Attention(
        3,
        8,
        2,
        64,
        kind=kind,
        window_tokens=100 if kind == "window" else None,
        state_elems=64 * (kind == "state"),
    )
    less, more, longer = (
        work(attention, Sequences(size, 1, tokens, True), kv_bits=bits, value_bits=16)
        for size, tokens in ((batch, context), (batch + 1, context), (batch, context + 1))
    )
    assert less.flop < more.flop
    assert less.total_bytes < more.total_bytes
    assert less.flop <= longer.flop
    assert less.cache_bytes <= longer.cache_bytes or context == 1  # a first step reads no state


@pytest.mark.parametrize("machine", hwmodels.machine_names())
def test_time_lies_above_the_roofs_and_near_them(machine):
    spec = hwmodels.load_machine(machine)
    dtype = attention_dtype(spec, "fp8")
    (each,) = hwmodels.load_model("llama-3.1-8b").attention
    for sequences in (Sequences(64, 1, 32768, True), Sequences(1, 8192, 8192, False)):
        amount = work(each, sequences, kv_bits=16, value_bits=16)
        found = attention_s(amount, spec, dtype)
        read_s = amount.total_bytes / spec.dram_bandwidth_bytes_per_s.value
        multiplied_s = amount.flop / spec.dense_peak_flop_per_s[dtype].value
        assert found.bound_time_s == pytest.approx(max(read_s, multiplied_s))
        assert found.limit == ("memory" if read_s >= multiplied_s else "matrix")
        assert found.bound_time_s < found.time_s < 4 * (read_s + multiplied_s)


def test_bad_numbers_are_refused():
    with pytest.raises(SpecError, match="context_tokens=-1"):
        kv_cache_bytes("llama-3.1-8b", context_tokens=-1)
    with pytest.raises(SpecError, match="batch=1.5"):
        kv_cache_bytes("llama-3.1-8b", context_tokens=1, batch=1.5)
    with pytest.raises(RowError, match="kv_dtype='int7'"):
        kv_cache_bytes("llama-3.1-8b", context_tokens=1, kv_dtype="int7")
