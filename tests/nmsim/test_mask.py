"""Choosing what to keep: ties, tails, odd numbers; groups as integers; and the text of every error."""

import ml_dtypes
import numpy as np
import pytest

from nmsim import Pattern, dtypes, prune
from nmsim import mask as masks
from nmsim.errors import NmsimError, PatternError

FLOATS = [
    np.float64,
    np.float32,
    np.float16,
    ml_dtypes.bfloat16,
    ml_dtypes.float8_e4m3fn,
    ml_dtypes.float8_e5m2,
]


def kept(values, pattern, dtype=np.float32, **options):
    return np.flatnonzero(prune(np.array(values, dtype), pattern, **options)).tolist()


def test_the_greatest_magnitudes_are_kept():
    assert kept([0.1, -3.0, 2.0, 0.5], "2:4") == [1, 2]


@pytest.mark.parametrize("dtype", FLOATS)
def test_ties_go_to_the_lower_index(dtype):
    assert kept([1, -1, 1, -1], "2:4", dtype) == [0, 1]
    assert kept([0, 0, 0, 0], "2:4", dtype) == [0, 1]


@pytest.mark.parametrize("dtype", FLOATS)
def test_minus_zero_is_zero(dtype):
    assert kept([-0.0, 0.0, -0.0, 0.0], "2:4", dtype) == [0, 1]


@pytest.mark.parametrize("dtype", [d for d in FLOATS if d is not ml_dtypes.float8_e4m3fn])
def test_nan_is_above_infinity_and_infinity_above_all(dtype):
    biggest = float(ml_dtypes.finfo(dtype).max)
    assert kept([biggest, np.inf, 1, np.nan], "1:4", dtype, bit_order=True) == [3]
    assert kept([biggest, -np.inf, 1, np.nan], "2:4", dtype, bit_order=True) == [1, 3]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_with_its_place(dtype, bad):
    x = np.ones((3, 4, 8), dtype)
    assert dtypes.not_finite(x) is None
    x[1, 2, 3] = x[2, 0, 0] = bad
    with pytest.raises(PatternError, match=r"x\[1, 2, 3\] is (nan|-?inf), the first of 2 of 96 elements"):
        prune(x, "2:4")
    assert dtypes.not_finite(x.transpose(2, 0, 1)).first == (0, 2, 0)
    assert dtypes.not_finite(x[::2, :, ::-1]).elems == 1
    if dtype != ml_dtypes.float8_e4m3fn:
        x = np.array(ml_dtypes.finfo(dtype).max, dtype)
        assert dtypes.not_finite(x) is None
        assert dtypes.not_finite(np.array(bad, dtype)) == (1, ())


def test_subnormals_have_an_order():
    tiny = np.nextafter(np.float32(0), np.float32(1))
    assert kept([tiny, 2 * tiny, 0, 3 * tiny], "2:4") == [1, 3]


def test_integers_by_absolute_value():
    assert kept([127, -128, 1, -2], "1:4", np.int8) == [1]
    assert kept([3, 250, 7, 9], "2:4", np.uint8) == [1, 3]


def test_a_tail_keeps_at_most_n():
    assert kept([1, 2, 3, 4, 9, 8], "2:4") == [2, 3, 4, 5]
    assert kept([1, 2, 3, 4, 9], "2:4") == [2, 3, 4]
    assert kept([5], "2:4") == [0]
    assert kept([1, 2, 3], "2:4") == [1, 2]


def test_another_axis():
    x = np.array([[1, 8], [2, 7], [3, 6], [4, 5]], np.float32)
    assert prune(x, "2:4", axis=0).tolist() == [[False, True], [False, True], [True, False], [True, False]]


def test_scores_decide_instead_of_magnitudes():
    assert kept([9, 9, 1, 1], "2:4", scores=np.array([0.0, -np.inf, 2.0, 1.0])) == [2, 3]
    assert kept([9, 9, 1, 1], "2:4", scores=np.array([-5, -7, 0, -9])) == [0, 2]


def test_empty_tensors_are_fine():
    assert prune(np.zeros((3, 0), np.float32), "2:4").shape == (3, 0)
    assert prune(np.zeros((0, 8), np.float32), "2:4").shape == (0, 8)


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (np.float32(3), {}, "a scalar has no axis"),
        (np.zeros(4, np.float32), {"axis": 1}, "axis=1: expected an int from -1 to 0"),
        (np.zeros(4, np.float32), {"axis": 0.0}, r"axis=0\.0"),
        (
            np.zeros(4, np.float32),
            {"scores": np.zeros(3)},
            r"scores have shape \(3,\): expected that of x, \(4,\)",
        ),
        (np.zeros(4, np.float32), {"scores": np.array([0, np.nan, 0, 0])}, r"scores\[1\] is NaN"),
        (np.zeros(4, np.float32), {"scores": np.array(list("abcd"))}, "expected real numbers"),
        (np.zeros(4, bool), {}, "dtype bool: expected one of"),
        (np.zeros(4, complex), {}, "dtype complex128"),
        (np.zeros(4, ">f4"), {}, "native byte order"),
    ],
)
def test_bad_arguments_are_refused(x, options, message):
    with pytest.raises(NmsimError, match=message):
        prune(x, "2:4", **options)


def test_completion_adds_the_lowest_free_positions():
    mask = np.array([[0, 0, 1, 0, 0, 0, 0, 0]], bool)
    assert masks.complete(mask, Pattern(2, 4)).astype(int).tolist() == [[1, 0, 1, 0, 1, 1, 0, 0]]


def test_completion_reaches_beyond_a_short_tail():
    mask = np.array([[1, 1, 0, 0, 1]], bool)
    assert masks.complete(mask, Pattern(2, 4)).astype(int).tolist() == [[1, 1, 0, 0, 1, 1, 0, 0]]


def test_an_over_full_group_is_named():
    mask = np.zeros((3, 10), bool)
    mask[1, 4:7] = True
    with pytest.raises(
        PatternError, match=r"row 1, group 1 \(elements 4 to 7\) keeps 3: expected at most 2 of every 4"
    ):
        masks.complete(mask, Pattern(2, 4))


@pytest.mark.parametrize("m", [1, 3, 4, 7, 8, 12, 16, 31, 32, 33, 63, 64, 65, 100, 256])
def test_groups_as_integers_and_back(m):
    rng = np.random.default_rng(m)
    pattern = Pattern(max(1, m // 2), m)
    mask = rng.random((3, 5 * m)) < 0.5
    words = masks.to_words(mask, pattern)
    first = sum(1 << i for i in range(m) if mask[0, i])
    assert masks.words.integer_at(words, 0) == first
    assert np.array_equal(masks.from_words(words, pattern, 3, 5 * m), mask)
