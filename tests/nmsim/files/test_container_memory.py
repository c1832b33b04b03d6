"""Memory does not grow with the largest tensor: a block of rows is in memory at a time."""

from pathlib import Path

import pytest
from peak_memory import MIB, peaks

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peaks are read from /proc")
SMALL_BYTES, LARGE_BYTES = 64 * MIB, 192 * MIB
MOST_SHARE = 0.5
"""Most growth of the peak over that of the tensor. A command that holds a whole tensor grows by 1 at least."""


def test_peak_memory_hardly_grows_with_the_tensor(tmp_path):
    asked = {"formats": ("8:16/gap:1",), "dtypes": ("F32",)}
    small = list(peaks(tmp_path, tensor_bytes=SMALL_BYTES, axes=(-1,), **asked))
    large = list(peaks(tmp_path, tensor_bytes=LARGE_BYTES, axes=(-1, 0), **asked))
    before = {one.command: one.peak_bytes for one in small}
    growth = {
        (one.command, one.axis): (one.peak_bytes - before[one.command]) / (LARGE_BYTES - SMALL_BYTES)
        for one in large
    }
    assert {command for command, _ in growth} == {"pack", "unpack", "inspect"}
    assert max(growth.values()) < MOST_SHARE, growth
