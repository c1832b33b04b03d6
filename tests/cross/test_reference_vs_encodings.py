"""Two independent roads, plain reference and fast codecs, agree on what they write and on what they refuse.

No test here says what is right, the golden files and the unit tests do. A difference means that one is wrong.
"""

import itertools
from collections.abc import Callable
from fractions import Fraction
from math import comb
from typing import Any

import numpy as np
import pytest
from golden.roads import FAST, REFERENCE, Road
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import (
    any_masks,
    coded_patterns,
    group_masks,
    packings,
    partial_masks,
    patterns,
    wide_patterns,
)

from nmsim import encodings, prune, words
from nmsim import mask as fast_masks
from nmsim.errors import BitstreamError, NmsimError
from nmsim.pattern import Pattern
from nmsim.reference import gap as reference_gap
from nmsim.reference import masks as reference_masks
from nmsim.reference import stream as reference_stream

ALL_PATTERNS = st.one_of(patterns(), patterns(max_m=8), wide_patterns())
NAMES = ("bitmask", "index", "gap", "gap:1", "gap:2", "gap:5", "combinatorial", "joint", "joint:2", "joint:3")


@st.composite
def legal_cases(draw: Any) -> tuple[str, Pattern, list[int]]:
    """An encoding, a pattern and masks that follow it."""
    pattern, encoding = draw(coded_patterns(ALL_PATTERNS))
    return encoding, pattern, draw(group_masks(pattern))


def outcome(action: Callable[[], Any]) -> tuple[str, Any]:
    """What an action returns, or the class of the error it raises. Other errors than ours pass through."""
    try:
        return "returns", action()
    except NmsimError as error:
        return "refuses", type(error).__name__


def same_outcome(action: Callable[[Road], Any]) -> tuple[str, Any]:
    """Take both roads, and demand that they end at the same place."""
    reference, fast = outcome(lambda: action(REFERENCE)), outcome(lambda: action(FAST))
    assert fast == reference
    return reference


def same_reading(
    stream: bytes, n_groups: int, pattern: Pattern, encoding: str, policy: str
) -> tuple[str, Any]:
    """Read by both roads.

    Where codes differ in length, a skip can reach the end of its group just where the stream ends. That is an
    error of the code and of the stream, and a road may name either.
    """

    def action(road: Road) -> list[int]:
        return road.read(stream, n_groups, pattern, encoding, policy)

    if isinstance(REFERENCE.lengths(encoding, [], pattern), int):
        return same_outcome(action)
    reference, fast = outcome(lambda: action(REFERENCE)), outcome(lambda: action(FAST))
    assert fast[0] == reference[0]
    assert fast[0] == "refuses" or fast == reference
    return reference


@settings(deadline=None, max_examples=200)
@given(legal_cases())
def test_codes(case: tuple[str, Pattern, list[int]]) -> None:
    encoding, pattern, masks = case
    kind, codes = same_outcome(lambda road: road.encode(encoding, masks, pattern))
    assert kind == "returns"
    same_outcome(lambda road: road.code_bits(encoding, pattern))
    same_outcome(lambda road: road.groups_per_code(encoding, pattern))
    same_outcome(lambda road: road.lengths(encoding, codes, pattern))
    assert same_outcome(lambda road: road.decode(encoding, codes, pattern, len(masks))) == ("returns", masks)


@settings(deadline=None, max_examples=200)
@given(legal_cases(), packings())
def test_streams(case: tuple[str, Pattern, list[int]], policy: str) -> None:
    encoding, pattern, masks = case
    codes = REFERENCE.encode(encoding, masks, pattern)
    lengths = REFERENCE.lengths(encoding, codes, pattern)
    kind, report = same_outcome(lambda road: road.report(len(codes), lengths, policy))
    kind_of_stream, stream = same_outcome(lambda road: road.pack(codes, lengths, policy))
    assert kind == kind_of_stream
    if kind == "refuses":
        assert policy.startswith("no_straddle")
        assert not isinstance(lengths, int)
        return
    assert len(stream) == report["stream_bytes"]
    parts = report["payload_bits"] + report["padding_bits"] + report["alignment_bits"]
    assert parts == 8 * report["stream_bytes"]
    read = same_reading(stream, len(masks), pattern, encoding, policy)
    assert read == ("returns", masks)


@settings(deadline=None, max_examples=200)
@given(st.data(), st.integers(0, 300), packings())
def test_packing_any_codes(data: st.DataObject, code_bits: int, policy: str) -> None:
    """Widths that no encoding asks for, too."""
    codes = data.draw(st.lists(st.integers(0, 2**code_bits - 1), max_size=30))
    same_outcome(lambda road: road.report(len(codes), code_bits, policy))
    _, stream = same_outcome(lambda road: road.pack(codes, code_bits, policy))
    unpacked = same_outcome(lambda road: road.unpack(stream, len(codes), code_bits, policy))
    assert unpacked == ("returns", codes)


@settings(deadline=None, max_examples=200)
@given(st.data(), packings())
def test_packing_codes_of_any_length(data: st.DataObject, policy: str) -> None:
    lengths = data.draw(st.lists(st.integers(0, 100), max_size=20))
    codes = [data.draw(st.integers(0, 2**length - 1)) for length in lengths]
    same_outcome(lambda road: road.report(len(codes), lengths, policy))
    same_outcome(lambda road: road.pack(codes, lengths, policy))


@settings(deadline=None, max_examples=200)
@given(st.data(), coded_patterns(ALL_PATTERNS))
def test_masks_refused(data: st.DataObject, coded: tuple[Pattern, str]) -> None:
    pattern, encoding = coded
    masks = data.draw(any_masks(pattern))
    same_outcome(lambda road: road.encode(encoding, masks, pattern))


@settings(deadline=None, max_examples=300)
@given(st.data(), coded_patterns(ALL_PATTERNS))
def test_codes_refused(data: st.DataObject, coded: tuple[Pattern, str]) -> None:
    """Any code, or a legal one with bits flipped."""
    pattern, encoding = coded
    bits = REFERENCE.code_bits(encoding, pattern) + 1
    any_codes = st.lists(st.integers(0, 2**bits - 1), max_size=4)
    legal = REFERENCE.encode(encoding, data.draw(group_masks(pattern, max_size=4)), pattern)
    flips = st.lists(st.sampled_from([0, 1, 2 ** (bits // 2), 2**bits // 2]), min_size=len(legal))
    codes = data.draw(any_codes)
    if data.draw(st.booleans()):
        codes = [code ^ flip for code, flip in zip(legal, data.draw(flips), strict=False)]
    most_groups = len(codes) * REFERENCE.groups_per_code(encoding, pattern)
    n_groups = data.draw(st.one_of(st.none(), st.integers(max(0, most_groups - 3), most_groups + 1)))
    kind, masks = same_outcome(lambda road: road.decode(encoding, codes, pattern, n_groups))
    if kind == "returns":
        assert REFERENCE.encode(encoding, masks, pattern) == codes
        same_outcome(lambda road: road.lengths(encoding, codes, pattern))


@settings(deadline=None, max_examples=300)
@given(legal_cases(), packings(), st.data())
def test_streams_refused(case: tuple[str, Pattern, list[int]], policy: str, data: st.DataObject) -> None:
    """A legal stream with a bit flipped, cut short, or made longer."""
    encoding, pattern, masks = case
    codes = REFERENCE.encode(encoding, masks, pattern)
    lengths = REFERENCE.lengths(encoding, codes, pattern)
    if isinstance(lengths, list):
        policy = data.draw(st.sampled_from(["bitstream", "byte", "power_of_two"]))
    stream = bytearray(REFERENCE.pack(codes, lengths, policy))
    harm = data.draw(st.sampled_from(["flip", "cut", "grow", "another count"]))
    n_groups = len(masks)
    if harm == "flip" and stream:
        bit = data.draw(st.integers(0, 8 * len(stream) - 1))
        stream[bit // 8] ^= 1 << bit % 8
    elif harm == "cut":
        del stream[data.draw(st.integers(0, len(stream))) :]
    elif harm == "grow":
        stream += data.draw(st.sampled_from([b"\0", b"\0" * 9, b"\x80", b"\1\2\3\4"]))
    else:
        n_groups = data.draw(st.integers(0, n_groups + 2))
    kind, read = same_reading(bytes(stream), n_groups, pattern, encoding, policy)
    if kind == "returns":
        assert stream == reference_stream.write(read, pattern, encoding, policy)
        assert len(read) == n_groups


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=24), st.integers(0, 12), coded_patterns(patterns(max_m=20), max_m=16), packings())
def test_any_bytes(stream: bytes, n_groups: int, coded: tuple[Pattern, str], policy: str) -> None:
    pattern, encoding = coded
    same_reading(stream, n_groups, pattern, encoding, policy)


@pytest.mark.parametrize("encoding", NAMES)
@pytest.mark.parametrize("text", ["1:1", "1:2", "3:3", "2:4", "1:5", "4:8", "5:9"])
def test_every_mask_and_every_code(encoding: str, text: str) -> None:
    """All masks of a small group; all codes, legal or not, that fit one bit more than they need."""
    pattern = Pattern.parse(text)
    for mask in range(2**pattern.m):
        same_outcome(lambda road, mask=mask: road.encode(encoding, [mask], pattern))
    for code in range(min(2 ** (REFERENCE.code_bits(encoding, pattern) + 1), 2**11)):
        same_outcome(lambda road, code=code: road.decode(encoding, [code], pattern, None))


@pytest.mark.parametrize(
    "text", ["1:1", "1:2", "3:4", "1:8", "3:8", "4:8", "7:8", "2:16", "5:16", "8:16", "12:16"]
)
def test_every_code_of_tiled(text: str) -> None:
    """All codes, legal or not; then all masks of as many ones, which have one legal code each."""
    pattern = Pattern.parse(text)
    found = {}
    for code in range(2 ** REFERENCE.code_bits("tiled", pattern)):
        kind, masks = same_outcome(lambda road, code=code: road.decode("tiled", [code], pattern, None))
        if kind == "returns":
            found[masks[0]] = code
    assert sorted(found) == [mask for mask in range(2**pattern.m) if mask.bit_count() == pattern.n]
    assert same_outcome(lambda road: road.encode("tiled", list(found), pattern)) == (
        "returns",
        list(found.values()),
    )


@pytest.mark.parametrize("text", ["3:7", "2:6", "33:65", "64:128", "1:256"])
def test_tiled_refuses_groups_without_halves(text: str) -> None:
    pattern = Pattern.parse(text)
    for action in (
        lambda road: road.code_bits("tiled", pattern),
        lambda road: road.encode("tiled", [2**pattern.n - 1], pattern),
        lambda road: road.decode("tiled", [0], pattern, None),
    ):
        assert same_outcome(action) == ("refuses", "EncodingError")


@pytest.mark.parametrize("encoding", NAMES)
def test_every_mask_of_8_16(encoding: str) -> None:
    pattern = Pattern(8, 16)
    masks = [mask for mask in range(2**16) if mask.bit_count() == 8]
    assert len(masks) == 12870
    _, codes = same_outcome(lambda road: road.encode(encoding, masks, pattern))
    assert same_outcome(lambda road: road.decode(encoding, codes, pattern, len(masks))) == ("returns", masks)


@pytest.mark.parametrize("encoding", NAMES)
def test_widths_of_every_pattern(encoding: str) -> None:
    for m in range(1, 65):
        for n in range(1, m + 1):
            pattern = Pattern(n, m)
            assert FAST.code_bits(encoding, pattern) == REFERENCE.code_bits(encoding, pattern), pattern
            assert FAST.groups_per_code(encoding, pattern) == REFERENCE.groups_per_code(encoding, pattern), (
                pattern
            )


@pytest.mark.parametrize("encoding", NAMES)
@pytest.mark.parametrize("text", ["1:1", "2:4", "1:8", "3:8", "8:8", "4:11"])
def test_mean_bits(encoding: str, text: str) -> None:
    """The closed form against the mean over every mask."""
    pattern = Pattern.parse(text)
    groups = REFERENCE.groups_per_code(encoding, pattern)
    if encoding.startswith("gap"):
        kept = itertools.combinations(range(pattern.m), pattern.n)
        masks = [reference_masks.mask_of(list(positions)) for positions in kept]
        codes = REFERENCE.encode(encoding, masks, pattern)
        run_bits = int(encoding[4:]) if ":" in encoding else None
        total = sum(reference_gap.code_lengths(codes, pattern, run_bits))
        mean = Fraction(total, comb(pattern.m, pattern.n))
    else:
        mean = Fraction(REFERENCE.code_bits(encoding, pattern), groups)
    assert encodings.get(encoding).expected_bits_per_group(pattern) == mean


@settings(deadline=None, max_examples=200)
@given(st.data(), patterns(max_m=80), st.sampled_from(["float16", "float32", "float64", "int8", "int32"]))
def test_pruning(data: st.DataObject, pattern: Pattern, dtype: str) -> None:
    """Rows of any bits (NaN of every payload, both zeros), or of few values so that ties are common."""
    size = np.dtype(dtype).itemsize
    some = data.draw(st.lists(st.integers(0, 256**size - 1), min_size=1, max_size=4))
    signed = [*some, *(word ^ 1 << (8 * size - 1) for word in some)]
    row_words = data.draw(st.lists(st.sampled_from(signed), max_size=100))
    row = np.array(row_words, dtype=f"u{size}").view(dtype)
    if row.dtype.kind == "i":
        marks = row.tolist()
    else:
        marks = [reference_masks.magnitude_of_bits(word, 8 * size) for word in row_words]
    assert prune(row, pattern, bit_order=True).tolist() == reference_masks.prune_row(marks, pattern)


@settings(deadline=None, max_examples=200)
@given(st.data(), patterns(max_m=80))
def test_pruning_by_scores(data: st.DataObject, pattern: Pattern) -> None:
    some = data.draw(st.lists(st.floats(allow_nan=False), min_size=1, max_size=4))
    row = data.draw(st.lists(st.sampled_from([*some, 0.0, -0.0]), max_size=100))
    keep = prune(np.zeros(len(row)), pattern, scores=np.array(row, dtype=np.float64))
    assert keep.tolist() == reference_masks.prune_row_by_scores(row, pattern)


@settings(deadline=None, max_examples=200)
@given(st.data(), ALL_PATTERNS)
def test_completing(data: st.DataObject, pattern: Pattern) -> None:
    """Rows with a tail, and groups with fewer kept than N."""
    groups = data.draw(st.lists(partial_masks(pattern), max_size=5))
    row_elems = max(0, len(groups) * pattern.m - data.draw(st.integers(0, pattern.m - 1)))
    keep = reference_masks.join_row(groups, pattern, row_elems)
    completed = fast_masks.complete(np.array([keep], dtype=bool).reshape(1, -1), pattern)
    fast = words.to_integers(fast_masks.to_words(completed, pattern)).tolist()
    assert fast == reference_masks.split_row(keep, pattern)


def test_variable_codes_in_words_are_refused_by_both() -> None:
    for road in (REFERENCE, FAST):
        with pytest.raises(BitstreamError, match="no_straddle"):
            road.read(b"\0\0\0\0", 1, Pattern(2, 4), "gap:1", "no_straddle:32")
