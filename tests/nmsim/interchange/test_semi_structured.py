"""2:4 tensors of torch and torchao in safetensors files."""

import numpy as np
import pytest

from nmsim import load_file, save_file
from nmsim.errors import NmsimError
from nmsim.interchange import convert_checkpoint, detect_format, read_semi_structured
from nmsim.layouts import nvidia_metadata


@pytest.mark.parametrize("dtype", ["F16", "BF16", "I8", "F32"])
@pytest.mark.parametrize("separator", [".", ":"])
def test_what_torch_packs_is_read(ct, tmp_path, make_weight, as_torch, dtype, separator):
    import torch
    from torch.sparse._semi_structured_conversions import sparse_semi_structured_from_dense_cutlass

    n, m = (1, 2) if dtype == "F32" else (2, 4)
    dense = make_weight(64, 128, n=n, m=m, dtype=dtype, seed=5)
    packed, meta = sparse_semi_structured_from_dense_cutlass(as_torch(dense))
    values = packed.view(getattr(torch, f"int{8 * dense.itemsize}")).numpy().view(dense.dtype)
    path = tmp_path / "torch.safetensors"
    names = f"a.weight{separator}packed", f"a.weight{separator}meta"
    save_file({names[0]: values, names[1]: meta.numpy(), "a.bias": np.ones(3)}, path)
    assert detect_format(path) == "semi-structured"
    convert_checkpoint(path, tmp_path / "dense.safetensors")
    back = load_file(tmp_path / "dense.safetensors")
    assert back["a.weight"].tobytes() == dense.tobytes()
    assert back["a.bias"].tolist() == [1, 1, 1]


def test_what_torchao_packs_is_read(tmp_path, make_weight):
    """torchao's FP8 has metadata in the order of SM90; the order itself is tested with the layouts."""
    dense = make_weight(64, 256, dtype="F8_E4M3", seed=6)
    mask = dense.view(np.uint8) != 0
    path = tmp_path / "ao.safetensors"
    parts = {
        "qdata": dense[mask].reshape(64, 128),
        "sparse_metadata": nvidia_metadata(mask, arch="sm90", value_bits=8),
    }
    save_file(
        {f"a._weight_{role}": part for role, part in parts.items()} | {"a._weight_scale": np.ones(64)}, path
    )
    convert_checkpoint(path, tmp_path / "dense.safetensors")
    back = load_file(tmp_path / "dense.safetensors")
    assert back["a.weight"].tobytes() == dense.tobytes()
    assert "a._weight_scale" in back
    again, kept = read_semi_structured(parts["qdata"], parts["sparse_metadata"], arch="sm90")
    assert again.tobytes() == dense.tobytes()
    assert (kept == mask).all()


@pytest.mark.parametrize(
    ("tensors", "expected"),
    [
        ({"w.packed": np.zeros(64, np.float16), "w.meta": np.zeros(2, np.int16)}, "in one block"),
        ({"w.qdata_and_metadata": np.zeros(64, np.uint8)}, "in one block"),
        ({"w.packed": np.zeros((32, 16), np.float16), "w.meta": np.zeros((32, 2), np.int16)}, "nibble"),
        ({"w.packed": np.zeros((32, 16), np.float16), "w.meta": np.zeros((32, 3), np.int16)}, "shape"),
        ({"w.packed": np.zeros((32, 16), np.float16), "w.meta": np.zeros((32, 2), np.float32)}, "F32"),
        ({"w.packed": np.zeros((7, 16), np.float16), "w.meta": np.zeros((7, 2), np.int16)}, "multiple of 32"),
    ],
)
def test_what_is_not_public_or_damaged_is_refused(tmp_path, tensors, expected):
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(NmsimError, match=expected) as error:
        convert_checkpoint(tmp_path / "x.safetensors", tmp_path / "y.safetensors")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "y.safetensors").exists()
