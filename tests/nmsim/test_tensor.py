"""`compress` and `decompress`: what is stored, what comes back, and what is refused."""

import dataclasses
import os
import signal
import warnings

import ml_dtypes
import numpy as np
import pytest

from nmsim import PackedTensor, compress, decompress, prune
from nmsim.errors import BitstreamError, EncodingError, NmsimError, PatternError


def test_values_ascend_by_position_and_the_code_is_theirs():
    packed = compress(np.array([4, 0, 0, 5, 1, 2, 0, 0], np.float32), "2:4/combinatorial")
    assert packed.values.tolist() == [[4, 5, 1, 2]]
    assert packed.metadata.tolist() == [3 | 0 << 3]  # masks 1001 and 0011 are numbers 3 and 0 of six


def test_footprint_of_a_row_with_a_tail():
    foot = compress(np.ones((3, 17), np.float16), "8:16/combinatorial").footprint
    assert foot.dense_bytes == 3 * 17 * 2
    assert foot.values_bytes == 3 * 2 * 8 * 2
    assert foot.values_padding_bytes == 3 * 7 * 2
    assert (foot.metadata_payload_bits, foot.metadata_padding_bits, foot.metadata_alignment_bits) == (
        84,
        0,
        4,
    )
    assert foot.metadata_bytes == 11
    assert foot.total_bytes == 107


def test_odd_numbers_come_back_bit_for_bit():
    quiet, other = np.array([0x7FC00001, 0xFFC12345], np.uint32).view(np.float32)
    x = np.array([quiet, -0.0, other, 0.0, -np.inf, 1e-45, -0.0, 0.0], np.float32)
    mask = prune(x, "2:4", bit_order=True)
    back = decompress(compress(x, "2:4", mask=mask))
    assert np.array_equal(back.view(np.uint32)[mask], x.view(np.uint32)[mask])
    assert not back.view(np.uint32)[~mask].any()


@pytest.mark.parametrize(
    "dtype",
    [
        np.float64, np.float32, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2,
        np.int8, np.uint8, np.int16, np.int32, np.int64, np.uint64,
    ],
)  # fmt: skip
def test_every_dtype_comes_back(dtype):
    x = (np.random.default_rng(0).standard_normal((4, 37)) * 50).astype(np.int8).astype(dtype)
    back = decompress(compress(x, "3:8/joint"))
    assert back.dtype == x.dtype
    expected = np.where(prune(x, "3:8"), x, np.zeros_like(x))
    assert np.array_equal(back.view(np.uint8), expected.view(np.uint8))


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2])
def test_any_axis(axis):
    x = np.random.default_rng(1).standard_normal((5, 6, 7)).astype(np.float32)
    packed = compress(x, "2:4", axis=axis)
    mask = prune(x, "2:4", axis=axis)
    assert np.array_equal(decompress(packed), np.where(mask, x, 0))
    assert (packed.mask() >= mask).all()


@pytest.mark.parametrize("shape", [(0,), (0, 8), (8, 0), (1,), (1, 1), (2, 0, 4)])
def test_small_and_empty_shapes(shape):
    x = np.ones(shape, np.float32)
    packed = compress(x, "2:4/index/no_straddle")
    assert decompress(packed).shape == shape


def test_a_mask_with_empty_places_stores_zeros_there():
    x = np.array([7, 8, 9, 10], np.float32)
    packed = compress(x, "2:4", mask=np.array([False, False, False, True]))
    assert packed.values.tolist() == [[0, 10]]
    assert decompress(packed).tolist() == [0, 0, 0, 10]


def test_no_elements_kept_at_all_is_still_a_tensor():
    packed = compress(np.ones(8, np.float32), "2:4", mask=np.zeros(8, bool))
    assert not decompress(packed).any()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"format": "2-4"}, PatternError, "expected 'N:M'"),
        ({"format": "2:4/zip"}, EncodingError, "encoding 'zip'"),
        ({"format": "2:4/bitmask/zip"}, BitstreamError, "packing 'zip'"),
        ({"mask": np.ones(8, int)}, PatternError, r"mask is int64 \(8,\): expected bool \(8,\)"),
        ({"mask": np.ones(7, bool)}, PatternError, "expected bool"),
        ({"mask": np.ones(8, bool)}, PatternError, "keeps 4: expected at most 2"),
        ({"format": "2:4/gap:1/no_straddle"}, BitstreamError, "differing lengths"),
    ],
)
def test_bad_arguments_are_refused(options, error, message):
    arguments = {"format": "2:4"} | options
    with pytest.raises(error, match=message):
        compress(np.arange(8, dtype=np.float32), arguments.pop("format"), **arguments)


@pytest.fixture
def packed() -> PackedTensor:
    x = np.random.default_rng(2).standard_normal((3, 40)).astype(np.float32)
    return compress(x, "8:16/combinatorial/byte")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "8:16"}, "packed tensor format '8:16': expected a SparseFormat"),
        ({"layout": "sm80"}, "layout 'sm80': expected 'linear'"),
        ({"shape": (3, 41)}, None),
        ({"shape": (3, 49)}, r"values have shape \(3, 24\): expected \(3, 32\)"),
        ({"shape": (4, 40)}, "values have shape"),
        ({"shape": (-3, 40)}, "non-negative"),
        ({"axis": 2}, "axis=2"),
        ({"metadata_payload_bits": 10_000}, "cannot hold 10000 payload"),
    ],
)
def test_fields_that_do_not_fit_are_refused(packed, change, message):
    if message is None:
        assert dataclasses.replace(packed, **change).groups_per_row == 3
        return
    with pytest.raises(NmsimError, match=message):
        dataclasses.replace(packed, **change)


def test_a_truncated_stream_is_refused(packed):
    short = dataclasses.replace(
        packed, metadata=packed.metadata[:-1], metadata_payload_bits=0, metadata_padding_bits=0
    )
    with pytest.raises(BitstreamError, match="truncated: expected 18 bytes, got 17"):
        decompress(short)


def test_a_code_out_of_range_is_refused(packed):
    packed.metadata[:2] = (0x46, 0x32)  # 12870
    with pytest.raises(EncodingError, match="code 0 is 12870, which no mask has"):
        decompress(packed)


def test_a_value_beyond_the_end_of_a_row_is_refused():
    x = np.ones((2, 9), np.float32)
    packed = compress(x, "2:4")
    packed.values[1, -1] = 5
    with pytest.raises(BitstreamError, match="values row 1: .* beyond the row's 9 elements"):
        decompress(packed)


def test_errors_count_rows_from_the_first_slab_on_any_core(monkeypatch):
    monkeypatch.setattr("nmsim.tensor.CHUNK_ELEMS", 70)
    x = np.ones((200, 9), np.float32)
    mask = prune(x, "2:4")
    mask[[150, 37]] = True
    for threads in (1, 3):
        with pytest.raises(PatternError, match="mask row 37, group 0"):
            compress(x, "2:4", mask=mask, threads=threads)
        packed = compress(x, "2:4", threads=threads)
        packed.values[[160, 41], -1] = 5
        with pytest.raises(BitstreamError, match="values row 41:"):
            decompress(packed, threads=threads)


@pytest.mark.parametrize("threads", [0, -1, 2.0, True, "2"])
def test_a_number_of_cores_that_is_none(threads):
    with pytest.raises(NmsimError, match="expected an int of at least 1"):
        compress(np.ones(8, np.float32), "2:4", threads=threads)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_has_threads_of_its_own(monkeypatch):
    monkeypatch.setattr("nmsim.tensor.CHUNK_ELEMS", 70)
    x = np.ones((50, 16), np.float32)
    compress(x, "2:4", threads=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        child = os.fork()
    if child == 0:
        signal.alarm(20)
        compress(x, "2:4", threads=2)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


def test_chunks_do_not_show(monkeypatch):
    x = np.random.default_rng(5).standard_normal((50, 33)).astype(np.float32)
    whole = compress(x, "4:8")
    monkeypatch.setattr("nmsim.tensor.CHUNK_ELEMS", 70)
    parts = compress(x, "4:8")
    assert np.array_equal(whole.metadata, parts.metadata)
    assert np.array_equal(whole.values, parts.values)
    assert np.array_equal(decompress(parts), np.where(prune(x, "4:8"), x, 0))
