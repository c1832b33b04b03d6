"""GGUF files that the `gguf` package writes are read; other types are refused by name."""

import ml_dtypes
import numpy as np
import pytest

from nmsim import load_file
from nmsim.errors import ContainerError
from nmsim.interchange import convert_checkpoint, detect_format

gguf = pytest.importorskip("gguf")


def write(path, tensors):
    """A GGUF file of (name, array, type)."""
    writer = gguf.GGUFWriter(path, "llama")
    for name, array, kind in tensors:
        quantised = gguf.quants.quantize(array.astype(np.float32), kind)
        writer.add_tensor(name, quantised, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("name", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1"])
def test_values_are_those_of_the_package(tmp_path, name):
    kind = gguf.GGMLQuantizationType[name]
    draw = np.random.default_rng(3)
    weight = draw.standard_normal((40, 64)).astype(np.float32) * (draw.random((40, 64)) < 0.5)
    norm = draw.standard_normal(64).astype(np.float32)
    path = tmp_path / "model.gguf"
    write(path, [("blk.0.attn_q.weight", weight, kind), ("norm.weight", norm, gguf.GGMLQuantizationType.F32)])
    assert detect_format(path) == "gguf"
    convert_checkpoint(path, tmp_path / "dense.safetensors")
    dense = load_file(tmp_path / "dense.safetensors")
    expected = gguf.quants.dequantize(gguf.quants.quantize(weight, kind), kind)
    plain = {"F16": np.float16, "BF16": ml_dtypes.bfloat16}.get(name, np.float32)
    assert dense["blk.0.attn_q.weight"].dtype == plain
    np.testing.assert_array_equal(dense["blk.0.attn_q.weight"].astype(np.float32), expected)
    np.testing.assert_array_equal(dense["norm.weight"], norm)


def test_another_quantisation_is_refused_by_name(tmp_path):
    path = tmp_path / "model.gguf"
    kind = gguf.GGMLQuantizationType.Q5_0
    write(path, [("w.weight", np.ones((4, 32), np.float32), kind)])
    with pytest.raises(ContainerError, match="is Q5_0, expected one of Q4_0, Q4_1, Q8_0, F32, F16, BF16"):
        convert_checkpoint(path, tmp_path / "dense.safetensors")


def test_no_damaged_file_ends_in_another_error(tmp_path):
    good = tmp_path / "good.gguf"
    write(good, [("w.weight", np.ones((4, 32), np.float32), gguf.GGMLQuantizationType.Q8_0)])
    raw = good.read_bytes()
    draw = np.random.default_rng(7)
    refused = 0
    for trial in range(200):
        spoiled = bytearray(raw)
        if trial % 2:
            del spoiled[int(draw.integers(4, len(raw))) :]
        else:
            spoiled[int(draw.integers(4, 200))] ^= 1 << int(draw.integers(8))
        bad = tmp_path / "bad.gguf"
        bad.write_bytes(spoiled)
        try:
            convert_checkpoint(bad, tmp_path / "out.safetensors", force=True)
        except ContainerError as error:
            refused += "\n" not in str(error) and len(str(error)) <= 300 + len(str(bad))
    assert refused > 100
