"""Bytes by hand, against nmsim's own packing of real codes, and of each family beside those of real arrays."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hwmodels
from hwmodels.estimate import constants
from hwmodels.estimate.bounds import DENSE_STREAM, fetched_columns, metadata_bits, stream, traffic
from hwmodels.estimate.families import FAMILIES, Rows
from nmsim import compress, encodings, packing
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


M, N, K = 3, 32, 96
HALF, SINGLE = np.float16, np.float32


def rows_of(dtype, pattern, density, **sizes):
    cells = {
        "M": M,
        "N": N,
        "K": K,
        "dtype": dtype,
        "pattern": pattern,
        "density": density,
        "l2_state": "warm",
    }
    return Rows(pd.DataFrame([cells | sizes]), hwmodels.load_machine("a100"), constants.load())


def weights(type_, columns=K):
    return np.random.default_rng(0).standard_normal((N, columns)).astype(type_)


def others_bytes(type_, columns=K):
    """X[M, columns] and Y[M, N], which has 32 bits for 32-bit values and else 16."""
    return np.zeros((M, columns), type_).nbytes + np.zeros((M, N), SINGLE if type_ is SINGLE else HALF).nbytes


def packed_bytes(matrix):
    packed = compress(matrix, "2:4/index")
    return packed.values.nbytes + packed.metadata.nbytes


def windows_of(row, half):
    """Lift a row: windows of 4 elements, 2 apart, over each group of 2 `half` elements."""
    lifted = []
    for start in range(0, len(row), 2 * half):
        group = row[start : start + 2 * half]
        lifted += [group[2 * place : 2 * place + 4] for place in range(half - 1)]
    return np.concatenate(lifted)


def test_dense_bytes_are_those_of_three_arrays():
    for dtype, type_ in (("fp16", HALF), ("fp32", SINGLE)):
        found = rows_of(dtype, None, 1.0).dense_bytes().item()
        assert found == weights(type_).nbytes + others_bytes(type_)


@pytest.mark.parametrize("columns", [96, 98])
def test_the_library_reads_a_packed_2_4_matrix(columns):
    """98 is no multiple of 4: the last group is whole in the packed matrix, and in the formula."""
    found = FAMILIES["library"](rows_of("fp16", "2:4", 0.5, K=columns)).sparse_bytes.item()
    assert found == packed_bytes(weights(HALF, columns)) + others_bytes(HALF, columns)


@pytest.mark.parametrize(("pattern", "half"), [("4:6", 3), ("6:8", 4), ("14:16", 8)])
def test_sliding_windows_read_a_longer_packed_matrix_and_a_longer_operand(pattern, half):
    lifted = np.stack([windows_of(row, half) for row in weights(HALF)])
    found = FAMILIES["sliding"](rows_of("fp16", pattern, 1 - 1 / half)).sparse_bytes.item()
    assert found == packed_bytes(lifted) + others_bytes(HALF, lifted.shape[1])


def test_chosen_columns_shorten_the_weights_and_not_the_other_operand():
    """V:2:8 keeps 4 of 8 columns of a block of rows, then 2:4 among them."""
    chosen = weights(HALF).reshape(N, K // 8, 8)[:, :, :4].reshape(N, K // 2)
    found = FAMILIES["column-nm"](rows_of("fp16", "2:8", 0.25)).sparse_bytes.item()
    assert found == packed_bytes(chosen) + others_bytes(HALF)


def kept(type_, density):
    """A matrix with exactly this share of elements other than 0."""
    flat = weights(type_).ravel()
    flat[np.random.default_rng(1).permutation(flat.size)[int(density * flat.size) :]] = 0
    return flat.reshape(N, K)


def test_csr_has_an_index_of_16_bits_per_value():
    matrix = kept(SINGLE, 0.125)
    columns = np.nonzero(matrix)[1].astype(np.uint16)
    found = FAMILIES["csr"](rows_of("fp32", None, 0.125)).sparse_bytes.item()
    assert found == matrix[matrix != 0].nbytes + columns.nbytes + others_bytes(SINGLE)


def test_deltas_are_half_a_byte_per_value():
    matrix = kept(HALF, 0.5)
    halves = sum(1 for value in matrix.ravel() if value)
    found = FAMILIES["delta-gemv"](rows_of("fp16", None, 0.5)).sparse_bytes.item()
    assert found == matrix[matrix != 0].nbytes + halves / 2 + others_bytes(HALF)


def test_vector_masks_store_the_kept_values():
    values = weights(SINGLE).reshape(N, K // 4, 4)[:, :, :1]
    found = FAMILIES["vector-nm"](rows_of("fp32", "1:4", 0.25)).sparse_bytes.item()
    assert found == values.nbytes + others_bytes(SINGLE)


@pytest.mark.parametrize("family", ["auto", "software"])
def test_own_kernels_move_what_predict_counts(family):
    packed = compress(weights(HALF), "8:16/combinatorial")
    cells = {
        "M": M, "N": N, "K": K, "dtype": "fp16", "baseline_dtype": "fp16", "pattern": "8:16", "kernel_family": family,
        "density": 0.5, "l2_state": "", "phase": "decode", "encoding": "combinatorial", "packing": "bitstream",
        "sparse_operand": "weights",
    }  # fmt: skip
    found = hwmodels.predict_rows(pd.DataFrame([cells]), "a100").iloc[0]
    assert found["sparse_bytes"] == packed.values.nbytes + packed.metadata.nbytes + others_bytes(HALF)
    assert found["dense_bytes"] == weights(HALF).nbytes + others_bytes(HALF)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_warm_cache_spares_the_memory_and_no_traffic(family):
    """Least traffic is what the kernel reads and writes, wherever it lies."""
    dtype = "fp32" if family in ("csr", "vector-nm") else "fp16"
    warm = rows_of(dtype, "2:4", 0.5)
    cold = rows_of(dtype, "2:4", 0.5, l2_state="")
    assert FAMILIES[family](warm).sparse_bytes == FAMILIES[family](cold).sparse_bytes > 0
