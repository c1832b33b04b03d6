"""Packing for the CPU kernels: the same values, the same codes, the same bytes as nmsim's own tensors."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import patterns

import nmsim
from kernels import cpu
from kernels.stored.rows import PACKINGS, kernel_format, step_groups
from nmsim import encodings, packing
from nmsim.pattern import Pattern

ENCODINGS = tuple(PACKINGS)
DTYPES = (np.float32, np.float16, ml_dtypes.bfloat16)


def bits(array):
    return np.ascontiguousarray(array).view(np.uint8)


def random_bits(rows, k, dtype, seed=0, finite=False):
    """Any stored bits at all: NaN, infinity, subnormals and -0.0 among them. If finite, zeros for NaN and infinity."""
    raw = np.random.default_rng([seed, rows, k]).integers(
        0, 256, rows * k * np.dtype(dtype).itemsize, np.uint8
    )
    found = raw.view(dtype).reshape(rows, k)
    if finite:
        with np.errstate(invalid="ignore"):  # ml_dtypes warns of a NaN that it is asked about
            found = np.where(np.isfinite(found), found, np.zeros((), dtype))
    return found


@settings(max_examples=60, deadline=None)
@given(
    patterns(max_m=32),
    st.sampled_from(ENCODINGS),
    st.sampled_from(DTYPES),
    st.integers(1, 9),
    st.integers(1, 70),
    st.booleans(),
)
def test_unpack_gives_back_what_nmsim_keeps(pattern, encoding, dtype, rows, k, finite):
    assume(encodings.get(encoding).supports(pattern))
    dense = random_bits(rows, k, dtype, finite=finite)
    ranked = nmsim.prune(dense, pattern, bit_order=True)
    mask = None if finite else ranked
    packed = nmsim.compress(dense, f"{pattern}/{encoding}/{PACKINGS[encoding]}", mask=mask)
    ways = (
        cpu.compress(dense, f"{pattern}/{encoding}", mask=mask),
        cpu.compress(np.asfortranarray(dense), f"{pattern}/{encoding}", mask=ranked),
        cpu.from_packed(packed),
        cpu.from_packed(nmsim.compress(dense, f"{pattern}/{encoding}/no_straddle:64", mask=mask)),
    )
    for w in ways:
        assert (w.shape, w.pattern, w.encoding, w.dtype) == (dense.shape, pattern, encoding, dense.dtype)
        assert np.array_equal(bits(cpu.decompress(w)), bits(nmsim.decompress(packed)))
        assert np.array_equal(w.metadata, ways[0].metadata)
        assert np.array_equal(bits(w.values), bits(ways[0].values))


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("pattern", ["2:4", "4:8", "8:16", "16:32"])
def test_bytes_are_those_of_nmsims_stream(pattern, encoding):
    dense = random_bits(6, 128, np.float16, finite=True)
    packed = nmsim.compress(dense, f"{pattern}/{encoding}/{PACKINGS[encoding]}")
    for w in (cpu.compress(dense, f"{pattern}/{encoding}"), cpu.from_packed(packed)):
        assert w.packing == str(packed.format.packing)
        assert w.metadata.tobytes() == packed.metadata.tobytes()
        assert w.metadata_bytes == packed.footprint.metadata_bytes
        assert w.values_bytes == packed.footprint.values_bytes
        assert (w.metadata_padding_bytes, w.values_padding_bytes) == (0, 0)


@pytest.mark.parametrize(
    ("pattern", "k", "encoding"),
    [
        (pattern, k, encoding)
        for pattern, k in (("2:4", 5), ("4:8", 24), ("8:16", 1), ("16:32", 33), ("3:7", 22))
        for encoding in ENCODINGS
        if encodings.get(encoding).supports(Pattern.parse(pattern))
    ],
)
def test_padding_of_rows_is_counted(pattern, k, encoding):
    w = cpu.compress(random_bits(3, k, np.float32, finite=True), f"{pattern}/{encoding}")
    groups = w.pattern.groups(k)
    added = -groups % step_groups(kernel_format(f"{w.pattern}/{encoding}"))
    assert w.groups_per_row == groups + added
    assert w.values_padding_bytes == 3 * added * w.pattern.n * 4
    code_bits = encodings.get(encoding).code_bits(w.pattern)
    stream = packing.report(3 * groups, code_bits, w.packing).stream_bytes
    assert w.metadata_bytes - w.metadata_padding_bytes == stream
    assert w.metadata_bytes == packing.report(3 * w.groups_per_row, code_bits, w.packing).stream_bytes


def test_a_mask_with_fewer_than_n_is_completed_with_zeros():
    dense = np.arange(1, 17, dtype=np.float32)[None]
    mask = np.zeros((1, 16), bool)
    mask[0, 5] = True
    w = cpu.compress(dense, "8:16/index", mask=mask)
    assert np.array_equal(cpu.decompress(w), np.where(mask, dense, 0))
    assert cpu.matmul(np.ones(16, np.float32), w).tolist() == [6.0]


def test_weights_cannot_be_written_to():
    w = cpu.compress(np.ones((2, 16), np.float32), "8:16")
    for array in (w.values, w.metadata):
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 0
