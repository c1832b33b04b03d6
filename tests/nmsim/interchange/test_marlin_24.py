"""`marlin-24`: what compressed-tensors 0.14.0.1 writes is read back to the integers and scales that it was given."""

import warnings

import numpy as np
import pytest

from nmsim import load_file, save_file
from nmsim.errors import ContainerError
from nmsim.interchange import convert_checkpoint, detect_format


def written(ct, rows, columns, bits, group_size, seed):
    """A weight of the writer of compressed-tensors: its three tensors, the integers and the scales behind them."""
    import torch
    from compressed_tensors.compressors.sparse_quantized_compressors.marlin_24 import Marlin24Compressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    draw = np.random.default_rng(seed)
    most = 2 ** (bits - 1)
    mask = np.argsort(draw.random((rows, columns // 4, 4)), axis=2) < draw.integers(
        0, 3, (rows, columns // 4, 1)
    )
    integers = draw.integers(-most, most, (rows, columns)) * mask.reshape(rows, columns)
    groups = 1 if group_size is None else columns // group_size
    scales = (2.0 ** draw.integers(-6, 0, (rows, groups))).astype(np.float16)
    weight = integers.astype(np.float16) * np.repeat(scales, columns // groups, axis=1)
    strategy = (
        {"strategy": "channel"} if group_size is None else {"strategy": "group", "group_size": group_size}
    )
    scheme = QuantizationScheme(
        targets=["Linear"], weights=QuantizationArgs(num_bits=bits, type="int", symmetric=True, **strategy)
    )
    state = {
        "a.weight": torch.from_numpy(weight),
        "a.weight_scale": torch.from_numpy(scales),
        "a.weight_zero_point": torch.zeros(rows, groups, dtype=torch.int8),
        "n.weight": torch.ones(4),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        packed = Marlin24Compressor().compress(state, {"a": scheme})
    return {name: tensor.numpy() for name, tensor in packed.items()}, integers.astype(np.int8), scales


@pytest.mark.parametrize(
    ("rows", "columns", "bits", "group_size"),
    [
        (64, 256, 4, None),
        (128, 128, 8, None),
        (64, 128, 4, 128),
        (64, 256, 4, 128),
        (64, 512, 8, 128),
        (192, 1024, 4, 128),
        (320, 384, 8, 128),
    ],
)
def test_what_the_writer_was_given_comes_back(ct, tmp_path, rows, columns, bits, group_size):
    """Two groups of 128 columns are the case in which the writer does not shuffle the scales."""
    tensors, integers, scales = written(ct, rows, columns, bits, group_size, seed=rows + columns + bits)
    save_file(tensors, tmp_path / "marlin.safetensors")
    assert detect_format(tmp_path / "marlin.safetensors") == "marlin-24"
    convert_checkpoint(tmp_path / "marlin.safetensors", tmp_path / "dense.safetensors")
    dense = load_file(tmp_path / "dense.safetensors")
    assert sorted(dense) == ["a.weight", "a.weight_scale", "n.weight"]
    np.testing.assert_array_equal(dense["a.weight"], integers)
    assert dense["a.weight_scale"].tobytes() == scales.tobytes()
    assert dense["n.weight"].tolist() == [1] * 4


@pytest.mark.parametrize(
    ("part", "spoil", "expected"),
    [
        ("a.meta", lambda x: x[:, :-2], "n a multiple of 64"),
        ("a.meta", lambda x: x * 0, "has the code 0, expected one of 4 8 9 C D E"),
        ("a.weight_packed", lambda x: x[:, :-1], "for 4 bits"),
        ("a.weight_packed", lambda x: x.astype(np.int64), "for 4 bits"),
        ("a.scale_packed", lambda x: x[:, :-1], "groups of 256 columns"),
        ("a.scale_packed", lambda x: np.repeat(x, 3, axis=0), "groups of 256 columns"),
        ("a.meta", None, "is missing"),
    ],
)
def test_damage_is_refused_in_one_line(ct, tmp_path, part, spoil, expected):
    tensors, _, _ = written(ct, 64, 256, 4, None, seed=1)
    tensors[part] = tensors[part] if spoil is None else np.ascontiguousarray(spoil(tensors[part]))
    if spoil is None:
        del tensors[part]
    save_file(tensors, tmp_path / "marlin.safetensors")
    with pytest.raises(ContainerError, match=expected) as error:
        convert_checkpoint(
            tmp_path / "marlin.safetensors", tmp_path / "dense.safetensors", source_format="marlin-24"
        )
    assert "\n" not in str(error.value)
    assert len(str(error.value)) <= 300
    assert [path.name for path in tmp_path.iterdir()] == ["marlin.safetensors"]
