"""`Pattern`: parsing, the numbers that follow from N and M, and the text of every error."""

from fractions import Fraction

import pytest

from nmsim import Pattern
from nmsim.errors import BitstreamError, EncodingError, PatternError
from nmsim.format import sparse_format


def test_parse_and_print_are_inverse():
    assert Pattern.parse("8:16") == Pattern(8, 16)
    assert str(Pattern.parse(" 16 : 32 ")) == "16:32"


@pytest.mark.parametrize(
    "text", ["", "8", "8:", ":16", "8:16:32", "8/16", "-1:4", "1.5:4", "a:b", "٢:٤", "2:4\n3", None, 24]
)
def test_text_that_is_no_pattern_is_refused(text):
    with pytest.raises(PatternError, match="expected"):
        Pattern.parse(text)


@pytest.mark.parametrize(
    ("n", "m", "message"),
    [
        (0, 4, "1 <= N <= M"),
        (5, 4, "1 <= N <= M"),
        (1, 0, "1 <= M <= 256"),
        (1, 257, "1 <= M <= 256"),
        (2.0, 4, r"n=2\.0 \(type float\)"),
        (True, 4, r"n=True \(type bool\)"),
    ],
)
def test_numbers_out_of_range_are_refused(n, m, message):
    with pytest.raises(PatternError, match=message):
        Pattern(n, m)


def test_density_counts_what_is_kept():
    assert Pattern(2, 8).density == Fraction(1, 4)
    assert Pattern(2, 8).sparsity == Fraction(3, 4)


def test_a_tail_is_a_group():
    assert [Pattern(2, 4).groups(k) for k in (0, 1, 4, 5)] == [0, 1, 1, 2]


# Expected figures: C(M, N) and ceil(log2 C) by hand; bits per element 0.75 and 0.875 are those of arXiv 2507.03052.
@pytest.mark.parametrize(
    ("text", "masks", "bitmask", "index", "combinatorial"),
    [
        ("1:2", 2, 2, 1, 1),
        ("1:4", 4, 4, 2, 2),
        ("2:4", 6, 4, 4, 3),
        ("2:8", 28, 8, 6, 5),
        ("4:8", 70, 8, 12, 7),
        ("6:8", 28, 8, 18, 5),
        ("4:16", 1820, 16, 16, 11),
        ("8:16", 12870, 16, 32, 14),
        ("16:32", 601080390, 32, 80, 30),
        ("4:256", 174792640, 256, 32, 28),
    ],
)
def test_bits_per_group(text, masks, bitmask, index, combinatorial):
    pattern = Pattern.parse(text)
    assert pattern.configurations == masks
    assert sparse_format(pattern, encoding="bitmask").bits_per_group == bitmask
    assert sparse_format(pattern, encoding="index").bits_per_group == index
    assert sparse_format(pattern, encoding="combinatorial").bits_per_group == combinatorial


def test_joint_bits_are_a_fraction_of_a_code():
    assert sparse_format(Pattern(2, 4), encoding="joint:10").bits_per_group == Fraction(26, 10)
    assert sparse_format(Pattern(8, 16), encoding="joint").bits_per_group == Fraction(41, 3)


def test_unknown_encoding_is_named_with_a_guess():
    with pytest.raises(EncodingError, match="'bitmsk'.*did you mean 'bitmask'"):
        sparse_format(Pattern(2, 4), encoding="bitmsk")
    with pytest.raises(EncodingError, match="'INDEX'.*did you mean 'index'"):
        sparse_format(Pattern(2, 4), encoding="INDEX")
    with pytest.raises(BitstreamError, match="'bite'.*did you mean 'byte'"):
        sparse_format(Pattern(2, 4), packing="bite")


@pytest.mark.parametrize(
    ("name", "limit"), [("joint:1000000", "1 to 4096 groups"), ("joint:x", "a positive whole number")]
)
def test_a_number_outside_an_encoding_is_told_with_its_limit(name, limit):
    with pytest.raises(EncodingError, match=f"{name}.*: expected {limit}"):
        sparse_format(Pattern(2, 4), encoding=name)
