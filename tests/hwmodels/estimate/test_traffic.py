"""Bytes by hand, and against nmsim's own packing of real codes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwmodels.estimate.bounds import DENSE_STREAM, fetched_columns, metadata_bits, stream, traffic
from nmsim import encodings, packing
from nmsim.errors import BitstreamError, EncodingError
from nmsim.format import SparseFormat, sparse_format
from nmsim.pattern import Pattern

PATTERNS = st.integers(1, 64).flatmap(lambda m: st.builds(Pattern, st.integers(1, m), st.just(m)))
FIXED = st.sampled_from(["bitmask", "index", "gap", "combinatorial", "joint", "joint:3"])
POLICIES = st.sampled_from(["bitstream", "no_straddle", "no_straddle:64", "power_of_two", "byte"])


@given(PATTERNS, FIXED, POLICIES, st.integers(1, 10**6))
def test_metadata_bits_are_those_of_the_packing(pattern, name, policy, groups):
    encoding = encodings.get(name)
    n_codes = -(-groups // encoding.groups_per_code(pattern))
    expected = packing.stream_bits(n_codes, encoding.code_bits(pattern), policy)
    assert (
        int(metadata_bits(groups, stream(sparse_format(pattern, encoding=name, packing=policy)))) == expected
    )


@given(PATTERNS, st.integers(1, 3), st.integers(1, 10**6))
def test_codes_that_differ_in_length_count_with_their_exact_mean(pattern, symbol_bits, groups):
    mean = encodings.get(f"gap:{symbol_bits}").expected_bits_per_group(pattern)
    bits = int(
        metadata_bits(
            groups, stream(sparse_format(pattern, encoding=f"gap:{symbol_bits}", packing="bitstream"))
        )
    )
    assert abs(bits - groups * mean) <= 0.5 + 1e-9 * groups


def test_codes_that_differ_in_length_need_a_bitstream():
    with pytest.raises(
        EncodingError, match=r"'gap:1' with pattern 8:16: .*expected packing 'bitstream', got 'byte'"
    ):
        stream(SparseFormat.parse("8:16/gap:1/byte"))
    with pytest.raises(BitstreamError, match=r"packing 'bits'"):
        stream(SparseFormat.parse("8:16/bitmask/bits"))


@pytest.mark.parametrize(
    ("pattern", "encoding", "policy", "metadata"),
    [
        ("8:16", "combinatorial", "bitstream", 4096 * 256 * 14 // 8),
        ("8:16", "combinatorial", "no_straddle", 4096 * 256 * 16 // 8),  # two 14-bit codes to a 32-bit word
        ("8:16", "combinatorial", "byte", 4096 * 256 * 16 // 8),
        ("8:16", "bitmask", "bitstream", 4096 * 256 * 16 // 8),
        ("8:16", "index", "bitstream", 4096 * 256 * 32 // 8),
        ("2:4", "combinatorial", "bitstream", 4096 * 1024 * 3 // 8),
        ("2:4", "combinatorial", "power_of_two", 4096 * 1024 * 4 // 8),
        ("2:4", "joint:10", "bitstream", -(-4096 * 1024 // 10) * 26 // 8 + 1),
    ],
)
def test_weights_by_hand(pattern, encoding, policy, metadata):
    """4096 x 4096 weights at one half density in 16 bits, 3 tokens."""
    moved = traffic(
        3,
        4096,
        4096,
        16,
        stream(sparse_format(Pattern.parse(pattern), encoding=encoding, packing=policy)),
        False,
        True,
    )
    assert int(moved.values_bytes) == 4096 * 2048 * 2
    assert int(moved.metadata_bytes) == metadata
    assert int(moved.dense_operand_bytes) == 3 * 4096 * 2
    assert int(moved.output_bytes) == 3 * 4096 * 2
    assert int(moved.total_bytes) == 4096 * 2048 * 2 + metadata + 2 * 3 * 4096 * 2


def test_tail_group_stores_full_values_and_a_code():
    """K = 17 under 8:16 is two groups a row: 16 values and two 14-bit codes, 5 rows."""
    moved = traffic(1, 5, 17, 16, stream(SparseFormat.parse("8:16/combinatorial/bitstream")), False, True)
    assert int(moved.values_bytes) == 5 * 2 * 8 * 2
    assert int(moved.metadata_bytes) == 18  # 5 * 2 * 14 = 140 bits


@pytest.mark.parametrize(("bits", "output"), [(4, 2), (8, 2), (16, 2), (32, 4)])
def test_output_has_16_bits_unless_values_have_32(bits, output):
    assert int(traffic(3, 5, 8, bits, DENSE_STREAM, False, False).output_bytes) == 3 * 5 * output


def test_dense_bytes():
    moved = traffic(2, 3, 5, 4, DENSE_STREAM, False, False)
    assert (int(moved.values_bytes), int(moved.metadata_bytes), int(moved.dense_operand_bytes)) == (8, 0, 5)


def test_sparse_activations_save_weight_traffic_for_one_token_only():
    """8:16, 256 x 4096 weights: half of them for 1 token, three quarters for 2, 255/256 for 8."""
    how = stream(SparseFormat.parse("8:16/bitmask/bitstream"))
    dense = 256 * 4096 * 2
    for tokens, share in ((1, 1 / 2), (2, 3 / 4), (8, 255 / 256), (64, 1)):
        moved = traffic(tokens, 256, 4096, 16, how, True, True)
        assert int(moved.dense_operand_bytes) == dense * share
        assert int(moved.values_bytes) == tokens * 2048 * 2
        assert int(moved.metadata_bytes) == tokens * 256 * 2
        assert int(traffic(tokens, 256, 4096, 16, how, True, False).dense_operand_bytes) == dense


def test_fetched_columns_match_random_masks():
    """30,000 simulated tokens a group size: the expectation lies within 1 % of the mean over real masks."""
    rng = np.random.default_rng(0)
    pattern, K, tokens, trials = Pattern(3, 8), 20, 3, 10_000
    full = rng.random((trials, tokens, 2, 8)).argsort(-1).argsort(-1) < 3
    tail = rng.random((trials, tokens, 4)).argsort(-1).argsort(-1) < 3
    needed = full.any(1).sum((1, 2)) + tail.any(1).sum(1)
    expected = fetched_columns(
        1000 * K + 16000, tokens, stream(sparse_format(pattern, encoding="bitmask", packing="bitstream"))
    )
    share_full = full.any(1).mean()
    assert int(expected) == pytest.approx(36000 * share_full, rel=0.01)
    assert int(
        fetched_columns(K, tokens, stream(sparse_format(pattern, encoding="bitmask", packing="bitstream")))
    ) == round(needed.mean())


@given(PATTERNS, st.integers(1, 5000), st.integers(1, 300))
def test_fetched_columns_stay_between_one_token_and_all(pattern, K, tokens):
    how = stream(sparse_format(pattern, encoding="bitmask", packing="bitstream"))
    once, more, all_but = (int(fetched_columns(K, t, how)) for t in (1, tokens, tokens + 1))
    tail = K % pattern.m
    assert once == K // pattern.m * pattern.n + min(tail, pattern.n)
    assert once <= more <= all_but <= K
