"""Laws of masks, codes, streams and packed tensors, for any N:M."""

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from strategies import coded_patterns, group_masks, halving_patterns, packings, patterns, wide_patterns

from nmsim import Pattern, compress, decompress, encodings, packing, prune, words
from nmsim.encodings.base import MAX_CODE_BITS
from nmsim.errors import BitstreamError, EncodingError, NmsimError

ANY_PATTERN = st.one_of(patterns(), patterns(max_m=8), wide_patterns())
FIXED = st.sampled_from(["bitmask", "index", "gap", "combinatorial", "joint", "joint:2", "joint:7"])


@given(st.data(), coded_patterns(ANY_PATTERN))
def test_decoding_undoes_encoding(data, coded):
    pattern, name = coded
    masks = data.draw(group_masks(pattern))
    codec = encodings.get(name)
    codes = codec.encode(masks, pattern)
    assert codec.decode(codes, pattern, len(masks)).tolist() == masks


@given(st.data(), coded_patterns(ANY_PATTERN), packings())
def test_the_stream_is_as_long_as_the_formula_says(data, coded, policy):
    pattern, name = coded
    masks = words.from_integers(data.draw(group_masks(pattern)), pattern.m, "mask")
    codec = encodings.get(name)
    lengths = codec.code_lengths(codec.encode_words(masks, pattern), pattern)
    if lengths is not None and policy.startswith("no_straddle"):
        with pytest.raises(BitstreamError, match="differing lengths"):
            codec.write_stream(masks, pattern, policy)
        return
    stream, report = codec.write_stream(masks, pattern, policy)
    n_codes = math.ceil(len(masks) / codec.groups_per_code(pattern))
    payload = n_codes * codec.code_bits(pattern) if lengths is None else int(lengths.sum())
    assert report.payload_bits == payload
    assert report.payload_bits + report.padding_bits + report.alignment_bits == 8 * len(stream)
    if lengths is None:
        total = packing.stream_bits(n_codes, codec.code_bits(pattern), policy)
        assert len(stream) == math.ceil(total / 8)
    again = codec.read_stream(stream, pattern, len(masks), policy)
    assert np.array_equal(again, masks)


FIXED_CODES = st.one_of(st.tuples(ANY_PATTERN, FIXED), st.tuples(halving_patterns(), st.just("tiled")))


@given(FIXED_CODES)
def test_no_code_beats_the_entropy_bound(coded):
    pattern, name = coded
    codec = encodings.get(name)
    groups = codec.groups_per_code(pattern)
    assert 1 << codec.code_bits(pattern) >= pattern.configurations**groups
    assert codec.bits_per_group(pattern) == codec.expected_bits_per_group(pattern)


@given(ANY_PATTERN, st.integers(1, 16))
def test_a_mean_lies_between_least_and_most(pattern, symbol_bits):
    codec = encodings.get(f"gap:{symbol_bits}")
    mean = codec.expected_bits_per_group(pattern)
    assert symbol_bits * pattern.n <= mean <= codec.bits_per_group(pattern)
    assert mean >= pattern.entropy_bits - 1e-9


@given(ANY_PATTERN, st.integers(1, 40))
@example(Pattern(48, 107), 40)
def test_joint_codes_only_win(pattern, groups):
    codec = encodings.get(f"joint:{groups}")
    if (pattern.configurations**groups - 1).bit_length() > MAX_CODE_BITS:
        with pytest.raises(EncodingError, match=f"take more than {MAX_CODE_BITS} bits"):
            codec.code_bits(pattern)
        return
    assert codec.bits_per_group(pattern) <= encodings.get("combinatorial").bits_per_group(pattern)
    excess = codec.code_bits(pattern) - groups * pattern.entropy_bits
    assert excess < 1 + 1e-6


@given(st.data(), coded_patterns(ANY_PATTERN), packings())
def test_arbitrary_bytes_give_masks_or_an_error_of_ours(data, coded, policy):
    pattern, name = coded
    n_groups = data.draw(st.integers(0, 12))
    stream = data.draw(st.binary(max_size=200))
    codec = encodings.get(name)
    try:
        masks = codec.read_stream(stream, pattern, n_groups, policy)
    except NmsimError:
        return
    assert len(masks) == n_groups
    for position in range(n_groups):
        mask = words.integer_at(masks, position)
        assert mask.bit_count() == pattern.n
        assert mask < 1 << pattern.m
    again, _ = codec.write_stream(masks, pattern, policy)
    assert again.tobytes() == stream


@given(
    st.data(),
    st.one_of(st.tuples(patterns(max_m=32), FIXED), st.tuples(halving_patterns(), st.just("tiled"))),
    packings(),
)
def test_a_flipped_bit_gives_masks_or_an_error_of_ours(data, coded, policy):
    pattern, name = coded
    masks = words.from_integers(data.draw(group_masks(pattern, min_size=1)), pattern.m, "mask")
    codec = encodings.get(name)
    stream, _ = codec.write_stream(masks, pattern, policy)
    if not len(stream):
        return
    bit = data.draw(st.integers(0, 8 * len(stream) - 1))
    stream[bit // 8] ^= 1 << bit % 8
    try:
        decoded = codec.read_stream(stream, pattern, len(masks), policy)
    except NmsimError:
        return
    assert not np.array_equal(decoded, masks)


ARRAYS = hnp.arrays(
    st.sampled_from([np.float32, np.float16, np.int8]),
    hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=40),
)


@given(
    st.data(),
    ARRAYS,
    patterns(max_m=40),
    st.sampled_from(["bitmask", "index", "gap:2", "combinatorial", "joint"]),
)
def test_packing_keeps_what_was_chosen_bit_for_bit(data, x, pattern, name):
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    mask = prune(x, pattern, axis=axis, bit_order=True)
    packed = compress(x, f"{pattern}/{name}", axis=axis, mask=mask)
    back = decompress(packed)
    bits = np.dtype(f"u{x.itemsize}")
    assert np.array_equal(back.view(bits), np.where(mask, x.view(bits), 0))
    foot = packed.footprint
    assert foot.total_bytes == packed.values.nbytes + packed.metadata.nbytes


@given(ARRAYS, patterns(max_m=40))
def test_pruning_keeps_n_and_the_greatest(x, pattern):
    mask = prune(x, pattern, bit_order=True)
    assert mask.shape == x.shape
    if not x.size:
        return
    rows, kept = x.reshape(-1, x.shape[-1]), mask.reshape(-1, x.shape[-1])
    for row, keep in zip(rows, kept, strict=True):
        for start in range(0, len(row), pattern.m):
            group, chosen = row[start : start + pattern.m], keep[start : start + pattern.m]
            assert chosen.sum() == min(pattern.n, len(group))
            magnitudes = np.abs(group.astype(np.float64))
            if not np.isnan(magnitudes).any() and chosen.any() and not chosen.all():
                assert magnitudes[chosen].min() >= magnitudes[~chosen].max()


@given(patterns(max_m=16))
def test_pruning_twice_is_pruning_once(pattern):
    x = np.random.default_rng(pattern.n).standard_normal((3, 50)).astype(np.float32)
    once = np.where(prune(x, pattern), x, 0).astype(np.float32)
    assert np.array_equal(np.where(prune(once, pattern), once, 0), once)
