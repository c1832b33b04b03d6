"""Packing: where every bit goes, by hand; and the text of every error."""

import numpy as np
import pytest

from nmsim import packing
from nmsim.errors import BitstreamError
from nmsim.packing import PackingReport


def test_a_stream_by_hand():
    # 1 = 001, 2 = 010, 5 = 101 lowest bit first: 100 010 10 | 1; bytes 0b01010001, 0b00000001.
    assert packing.pack([1, 2, 5], 3).tolist() == [0b01010001, 0b00000001]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("bitstream", PackingReport(70, 0, 2)),
        ("power_of_two", PackingReport(70, 10, 0)),
        ("byte", PackingReport(70, 10, 0)),
        ("no_straddle", PackingReport(70, 8, 18)),
        ("no_straddle:64", PackingReport(70, 8, 50)),
        ("no_straddle:8", PackingReport(70, 8, 2)),
    ],
)
def test_five_codes_of_fourteen_bits(policy, expected):
    report = packing.report(5, 14, policy)
    assert report == expected
    assert len(packing.pack([1, 2, 3, 4, 5], 14, policy)) == report.stream_bytes


def test_sparseloops_rounding_is_one_switch():
    # 2:8 offsets of 3 bits: 6 bits a group, charged as 8 when a width must be a power of two.
    assert packing.stream_bits(1000, 6, "bitstream") == 6000
    assert packing.stream_bits(1000, 6, "power_of_two") == 8000


def test_stream_bits_takes_arrays():
    counts = np.array([0, 1, 2, 3, 100], np.int64)
    for policy in ("bitstream", "no_straddle", "power_of_two", "byte"):
        each = [packing.stream_bits(int(n), 14, policy) for n in counts]
        assert packing.stream_bits(counts, 14, policy).tolist() == each


def test_codes_of_no_bits_take_no_room():
    for policy in ("bitstream", "no_straddle", "power_of_two", "byte"):
        assert packing.pack([0, 0], 0, policy).size == 0
        assert packing.unpack(b"", 2, 0, policy).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("dense", "expected one of bitstream"),
        ("byte:8", "expected one of"),
        ("no_straddle:12", "expected a word width of 8, 16, 32, 64, 128"),
        ("no_straddle:", "expected a word width"),
        (3, "expected one of"),
    ],
)
def test_unknown_policies_are_refused(policy, message):
    with pytest.raises(BitstreamError, match=message):
        packing.report(1, 3, policy)


def test_a_stream_of_another_length_is_refused():
    stream = packing.pack([1, 2, 3], 14)
    with pytest.raises(BitstreamError, match="truncated: expected 6 bytes, got 5"):
        packing.unpack(stream[:-1], 3, 14)
    with pytest.raises(BitstreamError, match="too long: expected 6 bytes, got 7"):
        packing.unpack(stream.tobytes() + b"\0", 3, 14)


@pytest.mark.parametrize(
    ("policy", "bit"),
    [("bitstream", 47), ("byte", 14), ("power_of_two", 31), ("no_straddle", 28), ("no_straddle", 95)],
)
def test_a_padding_bit_that_is_one_is_refused(policy, bit):
    stream = (
        packing.pack([9, 9, 9], 14, policy) if policy != "no_straddle" else packing.pack([9] * 5, 14, policy)
    )
    stream[bit // 8] |= 1 << bit % 8
    with pytest.raises(BitstreamError, match=rf"padding bit {bit} \(byte {bit // 8}\) is 1, expected 0"):
        packing.unpack(stream, 5 if policy == "no_straddle" else 3, 14, policy)


def test_differing_lengths_cannot_avoid_straddling():
    lengths = np.array([4, 6], np.int64)
    with pytest.raises(BitstreamError, match="differing lengths"):
        packing.pack([1, 2], 8, "no_straddle", lengths)


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ([2, 2, 2], "expected one integer a code"),
        ([2.5, 2.5], "expected one integer"),
        ([2, 9], "expected 0 to 8"),
        ([-1, 2], "0 to 8"),
    ],
)
def test_lengths_that_are_none(lengths, message):
    with pytest.raises(BitstreamError, match=message):
        packing.pack([1, 2], 8, lengths=lengths)


def test_narrow_lengths_do_not_wrap():
    assert packing.report(2, 250, "byte", np.array([250, 250], np.uint8)) == PackingReport(500, 12, 0)
    assert packing.report(1, 200, "power_of_two", np.array([200], np.uint8)) == PackingReport(200, 56, 0)


@pytest.mark.parametrize(("rows", "bits"), [([[9], [1]], 3), ([[0, 2**63]], 65), ([[1, 2, 3, 4]], 65)])
def test_rows_of_words_are_checked(rows, bits):
    with pytest.raises(BitstreamError, match="expected"):
        packing.pack(np.array(rows, np.uint64), bits)


def test_a_code_above_its_length_is_refused():
    with pytest.raises(BitstreamError, match="code 1 is 9: expected fewer than"):
        packing.pack([1, 9], 8, lengths=np.array([4, 3], np.int64))
    with pytest.raises(ValueError, match=r"code 0 is 8: expected 0 <= code < 2\*\*3"):
        packing.pack([8], 3)


def test_a_stream_must_be_bytes():
    with pytest.raises(BitstreamError, match="uint8"):
        packing.unpack(np.zeros(3, np.int32), 1, 3)


@pytest.mark.parametrize("code_bits", [1, 3, 14, 31, 33, 63])
def test_two_threads_write_and_read_what_one_does(code_bits, monkeypatch):
    monkeypatch.setattr("nmsim.bitstream.SPLIT_CODES", 100)
    rng = np.random.default_rng(code_bits)
    codes = rng.integers(0, 1 << code_bits, 1003, dtype=np.uint64)
    one, two = (packing.pack(codes, code_bits, threads=threads) for threads in (1, 5))
    assert np.array_equal(one, two)
    read = packing.unpack_words(two, len(codes), code_bits, threads=5)
    assert np.array_equal(read, codes)
