"""Energy kept by a mask, against a plain sum."""

import math

import ml_dtypes
import numpy as np
import pytest

from nmsim import prune
from nmsim.energy import energy


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16, np.int8, np.int64])
def test_against_a_plain_sum(dtype, monkeypatch):
    monkeypatch.setattr("nmsim.energy.CHUNK_ELEMS", 100)
    x = (np.random.default_rng(0).standard_normal((7, 48)) * 9).astype(dtype)
    mask = prune(x, "2:4")
    squares = [(float(v) ** 2, bool(m)) for v, m in zip(x.reshape(-1), mask.reshape(-1), strict=True)]
    expected = math.fsum(s for s, m in squares if m) / math.fsum(s for s, _ in squares)
    assert energy(x, mask, threads=2).share_kept == pytest.approx(expected, rel=1e-14)


def test_a_large_value_does_not_hide_small_ones():
    x = np.ones(1 << 20, np.float32)
    x[0] = 2**14
    mask = x == 1
    assert energy(x, mask).share_kept == pytest.approx((x.size - 1) / (2**28 + x.size - 1), rel=1e-12)


def test_nothing_and_what_has_no_sum():
    none = np.zeros(4, bool)
    assert energy(np.zeros(4, np.float32), none).share_kept == 1.0
    assert energy(np.zeros(0, np.float32), np.zeros(0, bool)).share_kept == 1.0
    assert energy(np.array([1, np.inf, 0, 0], np.float32), none).share_kept is None
    assert energy(np.array([1, np.nan, 0, 0], np.float16), ~none).share_kept is None


# The share lost of i.i.d. Gaussian numbers by top-N: .132, .103, .087, .079 for 2:4, 4:8, 8:16, 16:32, from an
# independent run over 3.2 million samples.
@pytest.mark.parametrize(
    ("pattern", "lost"), [("2:4", 0.132), ("4:8", 0.103), ("8:16", 0.087), ("16:32", 0.079)]
)
def test_gaussian_numbers(pattern, lost):
    x = np.random.default_rng(1).standard_normal(3_200_000).astype(np.float32)
    assert 1 - energy(x, prune(x, pattern)).share_kept == pytest.approx(lost, abs=1e-3)
