"""Memory does not grow with the largest tensor: a block of rows is in memory at a time."""

from pathlib import Path

import pytest
from peak_memory import MIB, peaks

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peaks are read from /proc")
SMALL_BYTES, LARGE_BYTES = 64 * MIB, 128 * MIB
MOST_SHARE = 0.5
"""Most growth of the peak over that of the tensor. A command that holds a whole tensor grows by 1 at least."""


@pytest.mark.parametrize(("text", "axis"), [("8:16/bitmask", -1), ("2:4/gap:1", 0)])
def test_peak_memory_hardly_grows_with_the_tensor(tmp_path, text, axis):
    small, large = (
        list(peaks(tmp_path, tensor_bytes=size, formats=(text,), axes=(axis,), dtypes=("F32",)))
        for size in (SMALL_BYTES, LARGE_BYTES)
    )
    growth = {
        one.command: (two.peak_bytes - one.peak_bytes) / (LARGE_BYTES - SMALL_BYTES)
        for one, two in zip(small, large, strict=True)
    }
    assert list(growth) == ["pack", "unpack", "inspect"]
    assert max(growth.values()) < MOST_SHARE, growth
