"""Encodings one by one: names, whole code tables of small patterns, and the text of every error."""

from fractions import Fraction

import numpy as np
import pytest

from nmsim import Pattern, encodings
from nmsim.errors import EncodingError

TWO_OF_FOUR = [0b0011, 0b0101, 0b0110, 0b1001, 0b1010, 0b1100]


def test_the_package_is_a_mapping():
    assert encodings.names() == ["bitmask", "index", "gap", "combinatorial", "joint", "tiled"]
    assert encodings.get("joint:10").name == "joint:10"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nibble", "expected one of bitmask"),
        ("bitmask:3", "bitmask takes no number"),
        ("gap:0", "1 to 16 bits"),
        ("gap:17", "1 to 16 bits"),
        ("joint:0", "1 to 4096 groups"),
        ("joint:9999", "1 to 4096 groups"),
        ("gap:-1", "expected a positive whole number after gap:"),
        ("", "expected one of"),
        (None, "expected one of"),
    ],
)
def test_unknown_names_are_refused(name, message):
    with pytest.raises(EncodingError, match=message):
        encodings.get(name)


# Worked by hand from the definitions: numeric order; 2-bit positions, first lowest; 2-bit gaps, first lowest.
@pytest.mark.parametrize(
    ("name", "codes"),
    [
        ("bitmask", TWO_OF_FOUR),
        ("combinatorial", [0, 1, 2, 3, 4, 5]),
        ("tiled", [4, 0, 1, 2, 3, 5]),
        ("index", [0b0100, 0b1000, 0b1001, 0b1100, 0b1101, 0b1110]),
        ("gap", [0b0000, 0b0100, 0b0001, 0b1000, 0b0101, 0b0010]),
    ],
)
def test_all_codes_of_two_of_four(name, codes):
    pattern = Pattern(2, 4)
    assert encodings.get(name).encode(TWO_OF_FOUR, pattern).tolist() == codes
    assert encodings.get(name).decode(codes, pattern).tolist() == TWO_OF_FOUR


def test_index_of_two_of_four_is_the_vendors_nibble():
    codes = encodings.get("index").encode(TWO_OF_FOUR, Pattern(2, 4))
    assert sorted(f"{code:X}" for code in codes) == ["4", "8", "9", "C", "D", "E"]


@pytest.mark.parametrize("text", ["2:4", "4:8", "8:16"])
@pytest.mark.parametrize(
    "name", ["bitmask", "index", "gap", "gap:1", "gap:2", "combinatorial", "joint", "joint:5"]
)
def test_every_mask_survives(text, name):
    pattern = Pattern.parse(text)
    every = np.arange(1 << pattern.m, dtype=np.uint32)
    masks = every[np.bitwise_count(every) == pattern.n]
    assert len(masks) == pattern.configurations
    codes = encodings.get(name).encode(masks, pattern)
    assert np.array_equal(encodings.get(name).decode(codes, pattern, len(masks)), masks)


@pytest.mark.parametrize("text", ["2:4", "4:8", "8:16"])
def test_combinatorial_counts_masks_in_numeric_order(text):
    pattern = Pattern.parse(text)
    every = np.arange(1 << pattern.m, dtype=np.uint32)
    masks = every[np.bitwise_count(every) == pattern.n]
    assert np.array_equal(encodings.get("combinatorial").encode(masks, pattern), np.arange(len(masks)))


def test_combinatorial_of_sixteen_of_thirty_two_at_its_ends():
    pattern = Pattern(16, 32)
    masks = [0x0000FFFF, 0x00017FFF, 0xFFFE8000, 0xFFFF0000]
    last = pattern.configurations - 1
    codes = encodings.get("combinatorial").encode(masks, pattern)
    assert codes.tolist() == [0, 1, last - 1, last]
    assert encodings.get("combinatorial").decode(codes, pattern).tolist() == masks


@pytest.mark.parametrize("text", ["1:17", "17:17", "5:24", "2:32", "16:32", "31:32"])
def test_combinatorial_by_halves_is_right_at_its_edges(text):
    pattern, encoding = Pattern.parse(text), encodings.get("combinatorial")
    rng = np.random.default_rng(1)
    some = np.unique(
        np.concatenate(([0, pattern.configurations - 1], rng.integers(0, pattern.configurations, 5000)))
    )
    codes = some.astype(
        np.uint32
        if encoding.code_bits(pattern) > 16
        else np.uint16
        if encoding.code_bits(pattern) > 8
        else np.uint8
    )
    masks = encoding.decode(codes, pattern)
    assert (np.bitwise_count(masks) == pattern.n).all()
    assert (np.diff(masks.astype(np.int64)) > 0).all()
    assert np.array_equal(encoding.encode(masks, pattern), codes)


@pytest.mark.parametrize("pattern", ["8:16", "16:32"])
@pytest.mark.parametrize("place", [0, 2047, 2048, 4999])
def test_the_first_illegal_code_is_named_in_any_block(pattern, place):
    codes = np.zeros(5000, np.uint32 if pattern == "16:32" else np.uint16)
    codes[place:] = Pattern.parse(pattern).configurations
    with pytest.raises(EncodingError, match=rf"\b{place}\b"):
        encodings.get("combinatorial").decode(codes, Pattern.parse(pattern))


def test_dtypes_are_the_narrowest():
    assert encodings.get("combinatorial").encode([0xFF], Pattern(8, 16)).dtype == np.uint16
    assert encodings.get("index").encode([0xFF], Pattern(8, 16)).dtype == np.uint32
    wide = encodings.get("index").encode([0xFFFF], Pattern(16, 32))
    assert wide.dtype == object
    assert wide[0] == sum(p << (5 * p) for p in range(16))


def test_beyond_a_machine_word_codes_are_python_integers():
    pattern = Pattern(16, 256)
    mask = ((1 << 15) - 1) | 1 << 255
    code = encodings.get("combinatorial").encode([mask], pattern)
    assert isinstance(code[0], int)
    assert encodings.get("combinatorial").decode(code, pattern)[0] == mask


@pytest.mark.parametrize("name", ["bitmask", "index", "gap", "gap:2", "combinatorial", "joint"])
@pytest.mark.parametrize("pattern", [Pattern(2, 4), Pattern(8, 16), Pattern(16, 32), Pattern(3, 100)])
class TestIllegalMasks:
    def test_over_full(self, name, pattern):
        good, bad = (1 << pattern.n) - 1, (1 << pattern.n + 1) - 1
        with pytest.raises(
            EncodingError, match=f"group mask 1 is .* over-full with {pattern.n + 1} kept: expected"
        ):
            encodings.get(name).encode([good, bad], pattern)

    def test_under_full(self, name, pattern):
        good, bad = (1 << pattern.n) - 1, (1 << pattern.n - 1) - 1
        with pytest.raises(EncodingError, match=f"group mask 2 is .* under-full with {pattern.n - 1} kept"):
            encodings.get(name).encode([good, good, bad, good], pattern)

    def test_beyond_the_group(self, name, pattern):
        with pytest.raises(
            EncodingError, match=rf"group mask 0 is .*expected 0 <= group mask < 2\*\*{pattern.m}"
        ):
            encodings.get(name).encode([1 << pattern.m], pattern)


@pytest.mark.parametrize(
    ("name", "pattern", "code", "message"),
    [
        ("bitmask", Pattern(2, 4), 0b0111, "a code of 2 ones among 4"),
        ("combinatorial", Pattern(2, 4), 6, r"0 <= code < C\(4, 2\) = 6"),
        ("combinatorial", Pattern(8, 16), 12870, "= 12870"),
        ("combinatorial", Pattern(16, 32), 601080390, "= 601080390"),
        ("index", Pattern(2, 4), 0b0101, "ascending positions below 4"),
        ("index", Pattern(2, 4), 0b0001, "ascending positions below 4"),
        ("index", Pattern(8, 16), 0x76543201, "ascending"),
        ("index", Pattern(2, 3), 0b1100, "positions below 3"),
        ("gap", Pattern(2, 4), 0b1001, "gaps that sum to at most 2"),
        ("joint:2", Pattern(2, 4), 36, r"code < C\(4, 2\)\^2"),
    ],
)
def test_codes_that_no_mask_has_are_refused(name, pattern, code, message):
    legal = int(encodings.get(name).encode([(1 << pattern.n) - 1], pattern)[0])
    with pytest.raises(EncodingError, match=f"code 1 is {code}, .*{message}"):
        encodings.get(name).decode([legal, code], pattern)


def test_codes_wider_than_their_field_are_refused():
    with pytest.raises(EncodingError, match=r"code 0 is 16384: expected 0 <= code < 2\*\*14"):
        encodings.get("combinatorial").decode([1 << 14], Pattern(8, 16))


def test_a_missing_digit_of_joint_must_be_zero():
    codes = encodings.get("joint:3").encode([0b0101], Pattern(2, 4))
    assert encodings.get("joint:3").decode(codes, Pattern(2, 4), 1).tolist() == [0b0101]
    with pytest.raises(EncodingError, match="missing digits 0"):
        encodings.get("joint:3").decode([int(codes[0]) + 6], Pattern(2, 4), 1)


def test_count_of_codes_must_fit_the_groups():
    with pytest.raises(EncodingError, match="5 groups take 2 codes, got 1"):
        encodings.get("joint:3").decode([0], Pattern(2, 4), 5)


@pytest.mark.parametrize("values", [[1.5], [True], ["3"], np.zeros((2, 2), np.uint8), np.array([0.5]), [-1]])
def test_what_is_no_list_of_integers_is_refused(values):
    with pytest.raises(EncodingError, match="expected"):
        encodings.get("bitmask").encode(values, Pattern(2, 4))


def test_gap_lengths_and_their_mean():
    pattern, codec = Pattern(2, 8), encodings.get("gap:1")
    every = np.arange(256, dtype=np.uint8)
    masks = every[np.bitwise_count(every) == 2]
    lengths = codec.code_lengths(codec.encode(masks, pattern), pattern)
    # With one-bit symbols a code is the mask up to its last one: its length is the last position plus one.
    assert lengths.tolist() == [int(mask).bit_length() for mask in masks]
    assert codec.expected_bits_per_group(pattern) == Fraction(int(lengths.sum()), len(masks))
    assert codec.bits_per_group(pattern) == 8


def test_two_threads_give_what_one_gives(monkeypatch):
    monkeypatch.setattr("nmsim.encodings.base.SPLIT_GROUPS", 1000)
    pattern = Pattern(8, 16)
    rng = np.random.default_rng(3)
    codes = rng.integers(0, pattern.configurations, 300_001).astype(np.uint16)
    for name in ("combinatorial", "joint"):
        codec = encodings.get(name)
        masks = encodings.get("combinatorial").decode(codes, pattern)
        one, two = codec.encode(masks, pattern), codec.encode(masks, pattern, threads=2)
        assert np.array_equal(one, two)
        assert np.array_equal(codec.decode(two, pattern, len(masks), threads=2), masks)


def test_the_first_bad_entry_is_named_whatever_the_thread(monkeypatch):
    monkeypatch.setattr("nmsim.encodings.base.SPLIT_GROUPS", 1000)
    masks = np.full(300_000, 0b0011, np.uint8)
    masks[[200_000, 299_999]] = 0b0111
    with pytest.raises(EncodingError, match="group mask 200000 "):
        encodings.get("combinatorial").encode(masks, Pattern(2, 4), threads=2)


def test_a_compiled_index_decoder_refuses_too(monkeypatch):
    monkeypatch.setattr("nmsim.encodings.index.WORTH_COMPILING", 1)
    for pattern, bad in ((Pattern(8, 16), 0x76543201), (Pattern(2, 4), 0b0101), (Pattern(2, 3), 0b1100)):
        legal = encodings.get("index").encode([(1 << pattern.n) - 1] * 5000, pattern)
        assert encodings.get("index").decode(legal, pattern).tolist() == [(1 << pattern.n) - 1] * 5000
        legal[4321] = bad
        with pytest.raises(EncodingError, match=f"code 4321 is {bad}, which no mask has"):
            encodings.get("index").decode(legal, pattern)


@pytest.mark.parametrize("text", ["16:32", "25:32", "11:33"])
def test_compiled_decoders_of_long_index_codes_are_right_and_refuse(text, monkeypatch):
    pattern, encoding = Pattern.parse(text), encodings.get("index")
    rng = np.random.default_rng(3)
    kept = np.sort(np.argsort(rng.random((5000, pattern.m)), axis=1)[:, : pattern.n], axis=1)
    masks = (np.uint64(1) << kept.astype(np.uint64)).sum(axis=1, dtype=np.uint64)
    masks = masks.astype(np.uint32 if pattern.m <= 32 else np.uint64)
    codes = encoding.encode(masks, pattern)
    monkeypatch.setattr("nmsim.encodings.index.WORTH_COMPILING", 1)
    assert np.array_equal(encoding.decode(codes, pattern), masks)
    bits = (pattern.m - 1).bit_length()
    for wrong in range(pattern.n):
        # Two neighbouring fields are equal, or the last one is M if it has bits for it.
        fields = kept[4321].tolist()
        fields[wrong] = fields[wrong - 1] if wrong else pattern.m % (1 << bits)
        if wrong == 0:
            fields = [*fields[1:], fields[0]]
        code = sum(place << (bits * j) for j, place in enumerate(fields))
        broken = codes.copy()
        broken[4321] = code & (2**64 - 1), code >> 64
        with pytest.raises(EncodingError, match="code 4321 is"):
            encoding.decode(broken, pattern)


def test_unstructured_footprints():
    # 525,313 words of 32 bits: what SCALE-Sim 3.0.0 counts for a 1024 x 1024 matrix at 50 % in CSR.
    assert encodings.csr_bits(1024, 1024 * 512) == 32 * 525_313
    assert encodings.coo_bits(10, index_bits=16) == 320
    with pytest.raises(EncodingError, match="kept_elems=-1"):
        encodings.coo_bits(-1)
