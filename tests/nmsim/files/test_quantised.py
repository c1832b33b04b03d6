"""Quantised checkpoints: each format is named, its bytes are never taken for weights, and magnitudes are the real ones."""

import re
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from nmsim import load_file, save_file
from nmsim.errors import ContainerError, NmsimError
from nmsim.files.checking import check_checkpoint
from nmsim.files.checkpoint import pack_checkpoint, unpack_checkpoint
from nmsim.files.inspection import inspect_checkpoint
from nmsim.files.quantised import read, recognise, scale_blocks
from nmsim.files.safetensors import TensorInfo
from nmsim.files.sharded import open_checkpoint

X = "model.layers.0.mlp.up_proj"
RNG = np.random.default_rng(0)
FP8 = ml_dtypes.float8_e4m3fn
U8, I32, F32, F16 = np.uint8, np.int32, np.float32, np.float16


def zeros(shape, dtype):
    return np.zeros(shape, dtype)


FORMATS = {
    "GPTQ of 4 bits": {
        ".qweight": ((8, 128), I32), ".qzeros": ((2, 16), I32), ".scales": ((2, 128), F16), ".g_idx": ((64,), I32),
    },
    "AWQ": {".qweight": ((64, 16), I32), ".qzeros": ((2, 16), I32), ".scales": ((2, 128), F16)},
    "bitsandbytes NF4": {
        ".weight": ((4096, 1), U8), ".weight.absmax": ((128,), F32), ".weight.quant_map": ((16,), F32),
        ".weight.quant_state.bitsandbytes__nf4": ((80,), U8),
    },
    "bitsandbytes FP4": {
        ".weight": ((4096, 1), U8), ".weight.absmax": ((128,), F32),
        ".weight.quant_state.bitsandbytes__fp4": ((80,), U8),
    },
    "NVFP4": {
        ".weight": ((128, 32), U8), ".weight_scale": ((128, 4), FP8), ".weight_scale_2": ((), F32), ".input_scale": ((), F32),
    },
    "NVFP4 of compressed-tensors": {
        ".weight_packed": ((128, 32), U8), ".weight_scale": ((128, 4), FP8), ".weight_global_scale": ((1,), F32),
    },
    "compressed-tensors pack-quantized": {
        ".weight_packed": ((128, 8), I32), ".weight_scale": ((128, 1), F16), ".weight_shape": ((2,), np.int64),
    },
    "compressed-tensors sparse-24-bitmask": {
        ".compressed": ((128, 32), F16), ".bitmask": ((128, 8), U8), ".shape": ((2, 1), np.int64),
    },
    "compressed-tensors marlin-24": {
        ".weight_packed": ((2, 256), I32), ".scale_packed": ((1, 128), F16), ".meta": ((2, 256), np.int16),
    },
    "MXFP4": {"_blocks": ((4, 64, 2, 16), U8), "_scales": ((4, 64, 2), U8)},
    "MXFP4 in bytes": {".weight": ((128, 32), np.int8), ".weight_scale": ((128, 2), ml_dtypes.float8_e8m0fnu)},
    "EXL2": {".q_weight": ((8, 128), I32), ".q_scale": ((2, 16), I32), ".q_groups": ((4,), np.int16)},
    "AQLM": {".codes": ((16, 8, 1), np.int16), ".codebooks": ((1, 16, 1, 8), F16), ".scales": ((16, 1, 1, 1), F16)},
}  # fmt: skip


def file_of(path, parts):
    save_file({X + end: zeros(shape, dtype) for end, (shape, dtype) in parts.items()}, path)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_format_is_named_and_never_pruned(tmp_path, kind):
    path = tmp_path / "x.safetensors"
    file_of(path, FORMATS[kind])
    named = kind.split(" of comp")[0]
    for options in ({}, {"include": ["*"]}):
        if kind in ("EXL2", "AQLM") and options:
            continue
        with pytest.raises(ContainerError, match=re.escape(named)) as caught:
            pack_checkpoint(path, tmp_path / "no", "2:4", **options)
        assert str(path) in str(caught.value)
        assert "expected" in str(caught.value)
        assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind not in ("MXFP4", "GPTQ of 4 bits")])
def test_what_check_cannot_read_it_refuses_by_name(tmp_path, kind):
    path = tmp_path / "x.safetensors"
    file_of(path, FORMATS[kind])
    with pytest.raises(ContainerError, match=re.escape(kind.split(" of comp")[0])):
        check_checkpoint(path, "2:4")


def mxfp4(numbers):
    """Encode plainly: one number at a time, blocks of 32 with the exponent 0 or 3."""
    table = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    flat = numbers.reshape(-1, 32)
    codes = np.zeros(flat.shape, U8)
    for row, column in np.ndindex(flat.shape):
        value = flat[row, column]
        codes[row, column] = table.index(abs(value)) + 8 * bool(np.signbit(value))
    blocks = (codes[:, 0::2] | codes[:, 1::2] << 4).reshape(*numbers.shape[:-1], -1, 16)
    return blocks, np.full(blocks.shape[:-1], 127, U8)


def test_mxfp4_is_read_to_numbers(tmp_path):
    numbers = RNG.choice([0.0, -0.0, 0.5, -1.5, 6.0, -4.0], (2, 4, 64))
    blocks, scales = mxfp4(numbers)
    scales[1] = 130
    name = "model.layers.0.mlp.experts.down_proj"
    path = tmp_path / "x.safetensors"
    save_file({name + "_blocks": blocks, name + "_scales": scales}, path)
    with open_checkpoint(path) as checkpoint:
        found = recognise(checkpoint.files[0].tensors)[name + "_blocks"]
        assert found.shape == (2, 4, 64)
        back = read(checkpoint, name + "_blocks", found)
    assert np.array_equal(back, numbers * np.array([1, 8])[:, None, None])
    report = check_checkpoint(path, "2:4")
    (one,) = report.tensors
    expected = (np.count_nonzero(numbers.reshape(-1, 4), axis=1) > 2).sum()
    assert (one.fit.violations, one.axis, one.dtype) == (expected, 2, "MXFP4")


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("order", ["in order", "by activation"])
def test_gptq_is_read_to_numbers(tmp_path, bits, order):
    """Packed plainly: field i % (32 / bits) of word i // (32 / bits), and zero points less one."""
    out, k, groups = 32, 64, 4
    q = RNG.integers(0, 2**bits, (k, out))
    zero = RNG.integers(1, 2**bits, (groups, out))
    group = np.arange(k) // (k // groups)
    group = group if order == "in order" else RNG.permutation(group)
    q[:, 0] = zero[group, 0]
    scales = RNG.uniform(0.5, 2, (groups, out)).astype(F16)
    per = 32 // bits
    words = np.zeros((k // per, out), np.uint32)
    for row, column in np.ndindex(k, out):
        words[row // per, column] |= np.uint32(int(q[row, column]) << bits * (row % per))
    zeros_words = np.zeros((groups, out // per), np.uint32)
    for row, column in np.ndindex(groups, out):
        zeros_words[row, column // per] |= np.uint32((int(zero[row, column]) - 1) << bits * (column % per))
    tensors = {
        X + ".qweight": words.view(I32), X + ".qzeros": zeros_words.view(I32), X + ".scales": scales,
        X + ".g_idx": group.astype(I32),
    }  # fmt: skip
    path = tmp_path / "x.safetensors"
    save_file(tensors, path)
    with open_checkpoint(path) as checkpoint:
        found = recognise(checkpoint.files[0].tensors)[X + ".qweight"]
        assert (found.format, found.shape) == (f"GPTQ of {bits} bits", (out, k))
        back = read(checkpoint, X + ".qweight", found)
    expected = ((q - zero[group]) * scales[group].astype(F32)).T
    assert np.allclose(back, expected, rtol=1e-6, atol=0)
    assert np.array_equal(back == 0, expected == 0)
    assert not back[0].any()


@pytest.mark.parametrize("suffix", ["_scale_inv", "_scale"])
@pytest.mark.parametrize("pattern", ["2:4", "8:16", "12:24"])
def test_fp8_is_pruned_by_real_magnitudes_and_keeps_its_values(tmp_path, suffix, pattern):
    """12:24 has groups that two blocks of 32 share: only there the scales change the choice."""
    x = RNG.standard_normal((64, 96)).astype(FP8)
    scales = RNG.uniform(0.1, 10, (2, 3)).astype(F32) * RNG.choice([-1, 1], (2, 3)).astype(F32)
    path, packed, again = (tmp_path / name for name in ("x.safetensors", "packed", "again"))
    save_file({X + ".weight": x, f"{X}.weight{suffix}": scales}, path)
    (row, _) = inspect_checkpoint(path, [pattern])
    pack_checkpoint(path, packed, pattern)
    unpack_checkpoint(packed, again)
    back = load_file(again)
    assert back[f"{X}.weight{suffix}"].tobytes() == scales.tobytes()
    real = x.astype(F32) * np.repeat(np.repeat(scales, 32, 0), 32, 1)
    n, m = map(int, pattern.split(":"))
    groups = np.abs(real).reshape(-1, m)
    order = np.argsort(-groups, axis=1, kind="stable")[:, :n]
    keep = np.zeros(groups.shape, bool)
    np.put_along_axis(keep, order, True, axis=1)
    keep = keep.reshape(x.shape)
    assert np.array_equal(back[X + ".weight"].astype(F32), np.where(keep, x.astype(F32), 0))
    assert row.energy_kept_ratio == pytest.approx((real[keep] ** 2).sum() / (real**2).sum(), rel=1e-5)


def test_blocks_of_scales_are_those_of_the_configuration_or_fit():
    def blocks(shape, scales, config=None):
        return scale_blocks(
            TensorInfo("w", "F8_E4M3", shape, 0, 0), TensorInfo("s", "F32", scales, 0, 0), config
        )

    assert blocks((256, 576), (2, 5)) == (128, 128)
    assert blocks((64, 96), (2, 3)) == (32, 32)
    assert blocks((64, 96), (64, 1)) == (1, 96)
    assert blocks((64, 96), (64,)) == (1, 96)
    assert blocks((64, 96), ()) == (64, 96)
    config = {"quantization_config": {"weight_block_size": [64, 64]}}
    assert blocks((100, 100), (2, 2), config) == (64, 64)
    with pytest.raises(ContainerError, match="expected scales that fit 'w'"):
        blocks((64, 96), (5, 7))
    with pytest.raises(ContainerError, match="expected scales that fit 'w'"):
        blocks((64, 96), (3, 4, 5))


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0])
def test_a_scale_that_is_no_number_is_refused(tmp_path, monkeypatch, bad):
    # A short path, since a line with a long one is cut in its middle.
    monkeypatch.chdir(tmp_path)
    path = Path("x.safetensors")
    save_file({X + ".weight": np.ones((8, 8), FP8), X + ".weight_scale_inv": np.array([[bad]], F32)}, path)
    with pytest.raises(
        NmsimError, match=r"weight_scale_inv'\[0, 0\] is (nan|inf|0.0), the first of 1 of 1 scales"
    ):
        pack_checkpoint(path, tmp_path / "no", "2:4")
