"""`sparse-24-bitmask` and `sparse-bitmask`, whole files byte for byte against compressed-tensors 0.14.0.1."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nmsim import load_file, save_file
from nmsim.errors import NmsimError
from nmsim.interchange import convert_checkpoint, detect_format

DTYPES = ["F16", "BF16", "F32", "I8", "F8_E4M3"]
FORMATS = ["sparse-24-bitmask", "sparse-bitmask"]


@pytest.fixture(scope="session")
def compress(ct):
    """A function that writes a file with the compressors of compressed-tensors."""
    import safetensors.torch
    from compressed_tensors.compressors import sparse_compressors as tools
    from compressed_tensors.config import BitmaskConfig, Sparse24BitMaskConfig

    compressors = {
        "sparse-24-bitmask": tools.Sparse24BitMaskCompressor(config=Sparse24BitMaskConfig()),
        "sparse-bitmask": tools.BitmaskCompressor(config=BitmaskConfig()),
    }

    def write(format, state, path, targets):
        packed = compressors[format].compress(state, compression_targets=set(targets))
        contiguous = {name: tensor.contiguous() for name, tensor in packed.items()}
        safetensors.torch.save_file(contiguous, path, metadata={"format": "pt"})

    return write


def state_of(weights, as_torch):
    """A small model: its weights, and a bias and a norm that no format packs."""
    import torch

    others = {"layer.bias": torch.ones(3), "norm.weight": torch.ones(5, dtype=torch.bfloat16)}
    return {name: as_torch(array) for name, array in weights.items()} | others


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [4, 12, 64, 260])
def test_files_are_byte_equal_both_ways(compress, as_torch, make_weight, tmp_path, format, dtype, columns):
    import safetensors.torch

    weights = {
        name: make_weight(9, columns, dtype=dtype, seed=seed) for seed, name in enumerate("ab", columns)
    }
    state = state_of({f"{name}.weight": array for name, array in weights.items()}, as_torch)
    dense, theirs, ours = (tmp_path / f"{name}.safetensors" for name in ("dense", "theirs", "ours"))
    safetensors.torch.save_file(state, dense, metadata={"format": "pt"})
    compress(format, state, theirs, "ab")
    convert_checkpoint(dense, ours, to=format, format="2:4")
    assert ours.read_bytes() == theirs.read_bytes()
    assert detect_format(theirs) == format
    convert_checkpoint(theirs, tmp_path / "back.safetensors")
    assert (tmp_path / "back.safetensors").read_bytes() == dense.read_bytes()


@pytest.mark.parametrize("pattern", ["1:4", "4:8", "8:16", "16:32", "5:12"])
def test_the_bitmask_holds_any_pattern(compress, as_torch, make_weight, tmp_path, pattern):
    """Zeros with a sign are zeros for compressed-tensors too, and so are rows and groups of zeros."""
    import safetensors.torch

    n, m = map(int, pattern.split(":"))
    weight = make_weight(12, 99, n=n, m=m, dtype="BF16", seed=n, empty=True)
    weight[3] = 0
    weight[4, weight[4] == 0] = ml_dtypes.bfloat16(-0.0)
    state = state_of({"a.weight": weight}, as_torch)
    dense, theirs, ours = (tmp_path / f"{name}.safetensors" for name in ("dense", "theirs", "ours"))
    safetensors.torch.save_file(state, dense, metadata={"format": "pt"})
    compress("sparse-bitmask", state, theirs, "a")
    report = convert_checkpoint(dense, ours, to="sparse-bitmask", format=pattern)
    assert ours.read_bytes() == theirs.read_bytes()
    assert report.negative_zeros == int((weight[4] == 0).sum())
    assert report.patterns == {"a.weight": pattern}
    convert_checkpoint(theirs, tmp_path / "back.safetensors")
    np.testing.assert_array_equal(load_file(tmp_path / "back.safetensors")["a.weight"], weight)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_their_writer_chose_in_groups_of_zeros_is_read(compress, as_torch, make_weight, tmp_path, dtype):
    """Groups with fewer than two non-zeros are ties for their writer: the values come back all the same."""
    weight = make_weight(8, 64, n=1, m=4, dtype=dtype, empty=True)
    compress("sparse-24-bitmask", state_of({"a.weight": weight}, as_torch), tmp_path / "x.safetensors", "a")
    convert_checkpoint(tmp_path / "x.safetensors", tmp_path / "y.safetensors")
    back = load_file(tmp_path / "y.safetensors")["a.weight"]
    assert back.dtype == weight.dtype
    np.testing.assert_array_equal(back.astype(np.float32), weight.astype(np.float32))
    # The stored positions are part of the file: packed by nmsim they survive, and the file comes back.
    convert_checkpoint(
        tmp_path / "x.safetensors", tmp_path / "n.safetensors", to="nmsim", format="2:4/combinatorial"
    )
    convert_checkpoint(tmp_path / "n.safetensors", tmp_path / "z.safetensors", to="sparse-24-bitmask")
    assert (tmp_path / "z.safetensors").read_bytes() == (tmp_path / "x.safetensors").read_bytes()


def test_values_that_their_writer_loses_are_kept(make_weight, tmp_path):
    """As int8, -128 has no magnitude, so that compressed-tensors drops it before zeros."""
    weight = np.array([[-128, 0, 0, 0], [0, -128, 0, 1]], np.int8)
    save_file({"a.weight": weight}, tmp_path / "x.safetensors")
    convert_checkpoint(tmp_path / "x.safetensors", tmp_path / "y.safetensors", to="sparse-24-bitmask")
    convert_checkpoint(tmp_path / "y.safetensors", tmp_path / "z.safetensors")
    assert load_file(tmp_path / "z.safetensors")["a.weight"].tolist() == weight.tolist()


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_legal_file_survives_the_way_through_nmsim(tmp_path_factory, data):
    """Any bitmask with two bits per four, any bytes as values, zeros with and without sign among them."""
    folder = tmp_path_factory.mktemp("any")
    rows, groups = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 12))
    draw = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    dtype = data.draw(st.sampled_from([np.float16, ml_dtypes.bfloat16, np.int8, ml_dtypes.float8_e4m3fn]))
    mask = (np.argsort(draw.random((rows, groups, 4)), axis=2) < 2).reshape(rows, 4 * groups)
    raw = draw.integers(0, 256, (rows, 2 * groups * np.dtype(dtype).itemsize), np.uint8)
    raw[draw.random(raw.shape) < data.draw(st.sampled_from([0, 0.5, 1]))] = 0
    parts = {
        "a.compressed": raw.view(dtype),
        "a.bitmask": np.packbits(mask, axis=1, bitorder="little"),
        "a.shape": np.array([[rows], [4 * groups]]),
    }
    save_file(parts, folder / "x.safetensors")
    encoding = data.draw(st.sampled_from(["bitmask", "index", "combinatorial", "joint:3"]))
    convert_checkpoint(
        folder / "x.safetensors", folder / "n.safetensors", to="nmsim", format=f"2:4/{encoding}"
    )
    convert_checkpoint(folder / "n.safetensors", folder / "y.safetensors", to="sparse-24-bitmask")
    back = load_file(folder / "y.safetensors")
    assert {name: part.tobytes() for name, part in back.items()} == {n: p.tobytes() for n, p in parts.items()}


def parts_of(format):
    """The parts of a small legal file."""
    mask = np.tile([True, False, False, True], (6, 3))
    parts = {
        "a.compressed": np.arange(1, 37, dtype=np.float16).reshape(6, 6),
        "a.bitmask": np.packbits(mask, axis=1, bitorder="little"),
        "a.shape": np.array([[6], [12]]),
    }
    if format == "sparse-bitmask":
        parts |= {
            "a.compressed": parts["a.compressed"].reshape(-1),
            "a.shape": np.array([6, 12]),
            "a.row_offsets": np.arange(6) * 6,
        }
    return parts


@pytest.mark.parametrize(
    ("format", "part", "spoil", "expected"),
    [
        ("sparse-24-bitmask", "a.shape", lambda x: x * 2, "expected F16 .12, 12."),
        ("sparse-24-bitmask", "a.shape", lambda x: x - 100, "two sizes from 0"),
        ("sparse-24-bitmask", "a.shape", lambda x: x * 2**40, "at most 2..55"),
        ("sparse-24-bitmask", "a.shape", lambda x: x + 1, "a multiple of 4"),
        ("sparse-24-bitmask", "a.shape", lambda x: x.astype(np.int32), "I64"),
        ("sparse-24-bitmask", "a.compressed", lambda x: x[:-1], "expected F16 .6, 6."),
        ("sparse-24-bitmask", "a.compressed", lambda x: x > 0, "dtype BOOL"),
        ("sparse-24-bitmask", "a.bitmask", lambda x: x[:, :1], "expected U8 .6, 2."),
        ("sparse-24-bitmask", "a.bitmask", lambda x: x ^ 1, "row 0, byte 0 has 1 and 2 bits"),
        ("sparse-24-bitmask", "a.bitmask", lambda x: x | 0x90, "row 0, byte 1 has 2 and 2 bits"),
        ("sparse-24-bitmask", "a.bitmask", None, "missing"),
        ("sparse-bitmask", "a.bitmask", lambda x: x | 0x10, "beyond its 12 columns"),
        ("sparse-bitmask", "a.bitmask", lambda x: x & 0xFE, "begins at 6, expected 4"),
        ("sparse-bitmask", "a.row_offsets", lambda x: x + 1, "row 0 begins at 1, expected 0"),
        ("sparse-bitmask", "a.row_offsets", lambda x: x[:-1], "expected I64 .6."),
        ("sparse-bitmask", "a.row_offsets", lambda x: x.astype(np.int32), "expected I64 .6."),
        ("sparse-bitmask", "a.compressed", lambda x: x[:-1], "has 35 values, expected at least 36"),
        ("sparse-bitmask", "a.compressed", lambda x: np.append(x, x[:1]), "has 37 values, expected 36"),
        ("sparse-bitmask", "a.compressed", lambda x: x.reshape(6, 6), "one dimension"),
        ("sparse-bitmask", "a.shape", None, "missing"),
    ],
)
def test_damage_is_refused_in_one_line_and_nothing_is_left(tmp_path, format, part, spoil, expected):
    parts = parts_of(format)
    save_file(parts, tmp_path / "good.safetensors")
    convert_checkpoint(tmp_path / "good.safetensors", tmp_path / "dense.safetensors")
    (tmp_path / "dense.safetensors").unlink()
    if spoil is None:
        del parts[part]
    else:
        parts[part] = np.ascontiguousarray(spoil(parts[part]))
    save_file(parts, tmp_path / "bad.safetensors")
    with pytest.raises(NmsimError, match=expected) as error:
        convert_checkpoint(tmp_path / "bad.safetensors", tmp_path / "dense.safetensors", source_format=format)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) <= 300
    assert {path.name for path in tmp_path.iterdir()} == {"good.safetensors", "bad.safetensors"}


@pytest.mark.parametrize("format", FORMATS)
def test_compressed_tensors_reads_what_is_written(ct, make_weight, tmp_path, format):
    """A folder of ours, its `sparsity_config` included, through the readers of compressed-tensors."""
    import json

    import torch
    from compressed_tensors.compressors import BaseCompressor, ModelCompressor

    weight = make_weight(16, 40, n=1, m=4, seed=11, empty=True)
    save_file({"a.weight": weight, "norm.weight": np.ones(5, np.float32)}, tmp_path / "x.safetensors")
    convert_checkpoint(tmp_path / "x.safetensors", tmp_path / "packed", to=format)
    compression = json.loads((tmp_path / "packed/config.json").read_text())["quantization_config"]
    config = ModelCompressor.from_compression_config(compression).sparsity_config
    assert config.format == format
    compressor = BaseCompressor.load_from_registry(config.format, config=config)
    back = dict(compressor.decompress(str(tmp_path / "packed")))
    assert sorted(back) == ["a.weight", "norm.weight"]
    assert torch.equal(back["a.weight"], torch.from_numpy(weight))
