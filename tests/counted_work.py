"""Work on a file, counted in calls of Python functions: the stated bound, and what checks it."""

import sys

from nmsim import PackedTensor, decompress, load_file
from nmsim.encodings import combinatorial, joint
from nmsim.files.checkpoint import unpack_checkpoint
from nmsim.files.inspection import inspect_checkpoint

CALLS_PER_BYTE = 6
CALLS_ONCE = 600_000
"""Tables of a process, such as binomials: they are made once, whatever the file holds."""


def calls_of(action):
    """Calls of Python and C functions while an action runs."""
    counted = 0

    def count(frame, event, argument):
        nonlocal counted
        counted += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        action()
    finally:
        sys.setprofile(None)
    return counted


def forget():
    """Empty the caches that a file can fill, so that each count is that of a first read."""
    for cached in (combinatorial._byte_tables, combinatorial._level, combinatorial._binomials, joint._size):
        cached.cache_clear()


def decompress_all(path):
    """Load a file and decode every packed tensor in it."""
    return [decompress(tensor) for tensor in load_file(path).values() if isinstance(tensor, PackedTensor)]


def assert_bounded(path, out):
    """Count the work of all ways to read a packed file; give the largest count of calls per byte."""
    most = 0.0
    for read in (
        load_file,
        decompress_all,
        inspect_checkpoint,
        lambda p: unpack_checkpoint(p, out, force=True),
    ):
        read(path)  # the first call compiles kernels, or loads those of an earlier run
        forget()
        counted = calls_of(lambda read=read: read(path))
        n_bytes = path.stat().st_size
        assert counted <= CALLS_PER_BYTE * n_bytes + CALLS_ONCE
        most = max(most, max(0, counted - CALLS_ONCE) / n_bytes)
    return most
