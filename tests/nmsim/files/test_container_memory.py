"""Memory stays near that of the largest tensor, however many there are."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import nmsim

resource = pytest.importorskip("resource")

ROOT = Path(nmsim.__file__).parents[1]
TENSOR_BYTES = 64 << 20
TENSORS = 6
SLACK_BYTES = 64 << 20
"""Room for the pieces that `compress` works on: 4 Mi elements of keys, masks and copies."""

MEASURE = """
import resource, sys
import numpy as np
from nmsim import save_file
from nmsim.files.checkpoint import pack_checkpoint, unpack_checkpoint
from nmsim.files.safetensors import TensorInfo, render

folder, tensors, tensor_bytes = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

def measure(prefix):
    pack_checkpoint(f"{folder}/{prefix}.safetensors", f"{folder}/{prefix}.packed", "8:16")
    unpack_checkpoint(f"{folder}/{prefix}.packed", f"{folder}/{prefix}.dense")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

save_file({"weight": np.zeros((16, 64), np.float16)}, f"{folder}/small.safetensors")
before = measure("small")
infos = [
    TensorInfo(f"{i}.weight", "F16", (tensor_bytes // 8192, 4096), i * tensor_bytes, (i + 1) * tensor_bytes)
    for i in range(tensors)
]
header = render(infos, {})
with open(f"{folder}/large.safetensors", "wb") as stream:
    stream.write(header)
    stream.truncate(len(header) + tensors * tensor_bytes)
print(measure("large") - before)
"""


def test_peak_memory_is_near_twice_the_largest_tensor(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path), str(TENSORS), str(TENSOR_BYTES)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    grown_bytes = int(done.stdout)
    assert 2 * TENSOR_BYTES + SLACK_BYTES < TENSORS * TENSOR_BYTES, "the limit must be one that can be missed"
    assert grown_bytes < 2 * TENSOR_BYTES + SLACK_BYTES
