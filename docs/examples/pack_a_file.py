"""Write a packed checkpoint, read it with the safetensors library and with nmsim."""

import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file as read_with_the_library

import nmsim

weights = np.random.default_rng(0).standard_normal((64, 256)).astype(np.float32)
path = Path(tempfile.mkdtemp()) / "packed.safetensors"
nmsim.save_file(
    {"layer.weight": nmsim.compress(weights, "8:16/combinatorial"), "layer.bias": np.zeros(64)}, path
)

# Any reader of safetensors finds values and metadata as ordinary tensors.
for name, tensor in read_with_the_library(path).items():
    print(name, tensor.dtype, tensor.shape)

packed = nmsim.load_file(path)["layer.weight"]
assert isinstance(packed, nmsim.PackedTensor)
print(packed.format, packed.shape, "zeros:", np.count_nonzero(nmsim.decompress(packed) == 0))
