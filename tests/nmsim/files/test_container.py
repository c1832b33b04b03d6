"""`save_file` and `load_file`: what goes in comes out, and other people's libraries read and write the same files."""

import json
import time

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from nmsim import compress, decompress, encodings, load_file, prune, save_file
from nmsim.errors import ContainerError
from nmsim.files.container import RawTensor
from nmsim.files.safetensors import SafetensorsReader
from nmsim.files.sharded import HeldTensors

DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, np.int8]
SHAPES = [(4, 8), (3, 10), (1, 1), (7, 33), (2, 3, 5), (9,), (0, 8), (8, 0), (0,), (2, 0, 3)]


def weights(shape, dtype=np.float32, seed=0):
    return (np.random.default_rng(seed).standard_normal(shape) * 30).astype(dtype)


def bits(array):
    return array.view(f"uint{8 * array.itemsize}")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.safetensors"


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_packed_tensor_comes_back_bit_for_bit(path, dtype, shape):
    x = weights(shape, dtype)
    axis = len(shape) // 2
    packed = compress(x, "2:4", axis=axis)
    save_file({"x": packed}, path)
    again = load_file(path)["x"]
    assert again.dtype == x.dtype
    assert again.shape == shape
    assert again.axis == axis
    expected = np.where(prune(x, "2:4", axis=axis), x, np.zeros((), dtype))
    assert np.array_equal(bits(decompress(again)), bits(expected))


@pytest.mark.parametrize(
    ("encoding", "packing"),
    [
        (encoding, packing)
        for encoding in (*encodings.names(), "gap:1", "joint:3")
        for packing in ("bitstream", "no_straddle:16", "power_of_two", "byte")
        if (encoding, packing)
        != ("gap:1", "no_straddle:16")  # codes of differing lengths cannot be packed so
    ],
)
def test_every_encoding_and_packing_comes_back(path, encoding, packing):
    pattern = "3:8" if encoding == "tiled" else "3:7"
    packed = compress(weights((5, 37)), f"{pattern}/{encoding}/{packing}")
    save_file({"x": packed}, path)
    again = load_file(path)["x"]
    for field in ("format", "layout", "shape", "axis", "footprint"):
        assert getattr(again, field) == getattr(packed, field), field
    assert np.array_equal(again.metadata, packed.metadata)
    assert np.array_equal(decompress(again), decompress(packed))


@pytest.mark.parametrize(
    "array",
    [
        np.float32(3.5),
        np.array([True, False]),
        np.array([1 + 2j, 3], np.complex64),
        np.arange(4, dtype=np.uint64),
        np.array([1, 2], ml_dtypes.float8_e8m0fnu),
        np.array([1, 2], ml_dtypes.float8_e4m3fnuz),
        np.arange(12, dtype=np.int16).reshape(3, 4).T,
        np.zeros((0, 3)),
    ],
    ids=lambda array: f"{array.dtype}-{array.shape}",
)
def test_plain_arrays_pass_through(path, array):
    save_file({"x": array}, path)
    again = load_file(path)["x"]
    assert again.dtype == array.dtype
    assert again.shape == array.shape
    assert again.tobytes() == np.ascontiguousarray(array).tobytes()
    assert again.flags.writeable


def test_many_rows_of_nothing_take_no_time(path):
    started_s = time.perf_counter()
    packed = compress(np.zeros((2**46, 0), np.float32), "2:4")
    save_file({"x": packed}, path)
    assert decompress(load_file(path)["x"]).shape == (2**46, 0)
    assert time.perf_counter() - started_s < 5


def test_dtypes_that_numpy_lacks_pass_through_as_bytes(path):
    raw = RawTensor("F4", (3, 4), np.arange(6, dtype=np.uint8))
    save_file({"x": raw, "y": np.zeros(3)}, path)
    again = load_file(path)["x"]
    assert (again.dtype, again.shape, again.data.tolist()) == ("F4", (3, 4), [0, 1, 2, 3, 4, 5])


def test_order_and_free_entries_come_back(path):
    names = ["z", "a", "é", "m"]
    tensors = {name: weights((2, 4), dtype) for name, dtype in zip(names, DTYPES, strict=False)}
    save_file({"p": compress(weights((2, 4)), "2:4")} | tensors, path, metadata={"format": "pt", "ü": '"'})
    assert list(load_file(path)) == ["p", *names]
    with safetensors.safe_open(path, "np") as file:
        assert file.metadata().items() >= {"format": "pt", "ü": '"'}.items()


def test_all_data_is_aligned_to_its_items(path):
    save_file(
        {
            "a": np.zeros(3, np.int8),
            "p": compress(weights((3, 5), np.float16), "2:4"),
            "b": np.zeros(3),
            "q": compress(weights((3, 5)), "2:4"),
        },
        path,
    )
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    entries = json.loads(raw[8 : 8 + length])
    entries.pop("__metadata__")
    item_bytes = {"I8": 1, "U8": 1, "F16": 2, "F32": 4, "F64": 8}
    assert (8 + length) % 8 == 0
    for entry in entries.values():
        assert entry["data_offsets"][0] % item_bytes[entry["dtype"]] == 0


def test_the_safetensors_library_reads_a_packed_file(path):
    packed = compress(weights((6, 20)), "8:16/combinatorial")
    save_file({"w": packed, "b": np.arange(3.0)}, path)
    found = safetensors.numpy.load_file(path)
    assert sorted(found) == ["b", "w.metadata", "w.values"]
    assert np.array_equal(found["w.values"], packed.values)
    assert np.array_equal(found["w.metadata"], packed.metadata)
    with safetensors.safe_open(path, "np") as file:
        free = file.metadata()
    assert free["nmsim_format"] == "1"
    assert json.loads(free["nmsim:w"]) == {
        "pattern": "8:16",
        "encoding": "combinatorial",
        "packing": "bitstream",
        "layout": "linear",
        "shape": [6, 20],
        "axis": 1,
        "metadata_payload_bits": 168,
        "metadata_padding_bits": 0,
    }


def test_files_of_the_safetensors_library_are_read(path):
    arrays = {"w": weights((3, 5)), "b": np.arange(4, dtype=np.int64), "e": np.zeros((0, 2), np.float16)}
    safetensors.numpy.save_file(arrays, path, {"k": "v"})
    found = load_file(path)
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        assert np.array_equal(found[name], array)


def test_files_of_torch_are_read_and_torch_reads_ours(path, tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file as torch_load
    from safetensors.torch import save_file as torch_save

    kinds = (torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.bool)
    tensors = {str(kind): torch.arange(-6, 6).reshape(3, 4).to(kind) for kind in kinds}
    torch_save(tensors, path)
    found = load_file(path)
    for name, tensor in tensors.items():
        assert found[name].tobytes() == tensor.view(torch.uint8).numpy().tobytes(), name
    ours = tmp_path / "ours.safetensors"
    packed = compress(found["torch.bfloat16"], "2:4")
    save_file(found | {"torch.bfloat16": packed}, ours)
    again = torch_load(ours)
    assert again["torch.bfloat16.values"].dtype == torch.bfloat16
    assert again["torch.bfloat16.values"].view(torch.uint8).numpy().tobytes() == packed.values.tobytes()
    assert torch.equal(again["torch.int8"], tensors["torch.int8"])


def test_an_existing_file_is_replaced_whole(path):
    path.write_bytes(b"something else that is rather long" * 100)
    save_file({"x": np.zeros(3)}, path)
    assert list(load_file(path)) == ["x"]
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_permissions_are_those_of_any_new_file(path, tmp_path):
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    save_file({"x": np.zeros(3)}, path)
    assert path.stat().st_mode == plain.stat().st_mode


PACKED = compress(weights((2, 4)), "2:4")


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        (
            {"x": PACKED, "x.values": np.zeros(2)},
            {},
            "tensor name 'x.values' is taken twice in the file to be written",
        ),
        ({"x.values": PACKED, "x": PACKED, "x.values.values": np.zeros(1)}, {}, "tensor name 'x.values'"),
        (
            {"__metadata__": np.zeros(2)},
            {},
            "tensor name '__metadata__': the safetensors format keeps it for itself",
        ),
        ({"\ud800": np.zeros(2)}, {}, r"tensor name '\\ud800': expected valid Unicode"),
        ({3: np.zeros(2)}, {}, r"tensor name 3 \(type int\): expected a str"),
        ({"x": [1, 2]}, {}, "tensor 'x' is a list: expected a numpy array, a PackedTensor or a RawTensor"),
        (
            {"x": np.zeros(2, ">f4")},
            {},
            "tensor 'x' has dtype >f4: expected one of float64, .*, in native byte order",
        ),
        ({"x": np.zeros(2, object)}, {}, "tensor 'x' has dtype object: expected one of"),
        ([("x", np.zeros(2))], {}, "tensors are a list: expected a mapping of names to arrays"),
        (
            {},
            {"nmsim_format": "1"},
            "metadata entry 'nmsim_format': expected another name, nmsim keeps this one",
        ),
        ({}, {"nmsim:x": "1"}, "metadata entry 'nmsim:x': expected another name"),
        ({}, {"k": 1}, "metadata entry 'k' is 1: expected a str for a str"),
        ({}, ["k"], "metadata is a list: expected a mapping of str to str"),
    ],
)
def test_what_cannot_be_saved_is_refused_and_nothing_is_written(path, tensors, metadata, message):
    with pytest.raises(ContainerError, match=message):
        save_file(tensors, path, metadata=metadata)
    assert list(path.parent.iterdir()) == []


def test_a_folder_that_is_missing_is_named(tmp_path):
    target = tmp_path / "none" / "x.safetensors"
    with pytest.raises(
        ContainerError, match=rf"^{target}: there is no folder {target.parent}, expected an existing one$"
    ):
        save_file({}, target)


def test_a_raw_tensor_checks_its_bytes():
    with pytest.raises(
        ContainerError, match=r"raw tensor data is uint8 \(3,\): expected 2 bytes as uint8 for F4 of shape"
    ):
        RawTensor("F4", (4,), np.zeros(3, np.uint8))
    with pytest.raises(ContainerError, match="raw tensor dtype 'F3': expected one of BOOL, F4"):
        RawTensor("F3", (4,), np.zeros(3, np.uint8))


def test_an_empty_file_of_no_tensors_comes_back(path):
    save_file({}, path)
    assert load_file(path) == {}
    assert safetensors.numpy.load_file(path) == {}


def test_tensors_in_memory_are_read_as_those_of_a_file(tmp_path):
    """What the reader of a file gives, of the same arrays."""
    arrays = {
        "a": np.arange(12, dtype=np.float32).reshape(3, 4),
        "b": np.array([1.5, -2.0], ml_dtypes.bfloat16),
        "c": np.arange(6, dtype=np.int8).reshape(2, 3).T,
    }
    save_file(arrays, tmp_path / "x.safetensors")
    held = HeldTensors("model.gguf", arrays)
    with SafetensorsReader(tmp_path / "x.safetensors") as file:
        for name in arrays:
            assert (held.tensors[name].dtype, held.tensors[name].shape) == (
                file.tensors[name].dtype,
                file.tensors[name].shape,
            )
            assert np.array_equal(held.array(name), file.array(name))
            assert np.array_equal(held.raw(name), file.raw(name))
            begin = arrays[name].itemsize
            part = [reader.read(name, begin, np.empty(begin, np.uint8)) for reader in (held, file)]
            assert np.array_equal(*part)
    held.array("a")[:] = 0
    assert arrays["a"].any(), "an array of the reader is the caller's own"
    assert held.where("a") == "model.gguf: tensor 'a'"
    with pytest.raises(ContainerError, match="model.gguf: tensor 'x': dtype complex128, expected one of"):
        HeldTensors("model.gguf", {"x": np.zeros(2, np.complex128)})
