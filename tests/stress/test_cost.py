"""What a file may cost: work bounded by its bytes, and memory by its largest tensor."""

import time

import numpy as np
import pytest
from counted_work import assert_bounded
from peak_memory import FORMATS, LIMITS, MIB, peaks

from nmsim import NmsimError, SparseFormat, compress, decompress, encodings, load_file, save_file
from nmsim.pattern import Pattern

AXES = (-1, 0)


def drawn_format(rng):
    """A format that costs much: wide groups, and codes as long as the format allows."""
    while True:
        m = int(rng.integers(1, 257))
        pattern = Pattern(int(rng.integers(1, m + 1)), m)
        name = str(rng.choice(encodings.names()))
        if name == "joint":
            name = f"joint:{rng.integers(1, 4097)}"
        elif name == "gap":
            name = f"gap:{rng.integers(1, 17)}"
        try:
            stored_as = SparseFormat.parse(f"{pattern}/{name}")
            stored_as.encoding.code_bits(pattern)
            return stored_as
        except NmsimError:
            continue  # codes of more bits than the format allows


def test_work(run, tmp_path):
    """Files that make as much work as their bytes can: at most the stated calls per byte."""
    rng, total = run.rng(), run.size("costly files")
    path = tmp_path / "x.safetensors"
    slowest_us_per_byte, most_calls_per_byte = 0.0, 0.0
    for number in range(total):
        tensors = {}
        for position in range(run.size("tensors of a costly file")):
            stored_as = drawn_format(rng)
            groups = int(rng.integers(0, 1 + rng.integers(1, 40)))
            tensors[f"{position}.weight"] = compress(
                rng.integers(1, 100, (1, groups * stored_as.pattern.m)).astype(np.int8), stored_as
            )
        save_file(tensors, path)
        begin_s = time.perf_counter()
        for tensor in load_file(path).values():
            decompress(tensor)
        took_us = 1e6 * (time.perf_counter() - begin_s)
        slowest_us_per_byte = max(slowest_us_per_byte, took_us / path.stat().st_size)
        most_calls_per_byte = max(most_calls_per_byte, assert_bounded(path, tmp_path / "out"))
        run.tell(number + 1, total)
    run.figures.update(
        {
            "files": total,
            "slowest, us per byte, with the loading of code": round(slowest_us_per_byte, 2),
            "most calls per byte beyond tables": round(most_calls_per_byte, 2),
        }
    )


def test_memory(run, tmp_path):
    """Peak memory of pack, unpack and inspect over the bytes of a tensor, in fresh processes."""
    if not run.stress:
        pytest.skip("takes minutes: --stress")
    worst = dict.fromkeys(LIMITS, 0.0)
    measured = 0
    for peak in peaks(
        tmp_path,
        tensor_bytes=run.size("memory tensor MiB") * MIB,
        formats=FORMATS,
        axes=AXES,
        dtypes=("BF16",),
    ):
        worst[peak.command] = max(worst[peak.command], peak.ratio)
        measured += 1
        run.tell(measured, len(LIMITS) * len(FORMATS) * len(AXES))
        assert peak.is_within, peak
    run.figures.update({command: round(ratio, 2) for command, ratio in worst.items()}, commands=measured)
