"""Whatever bytes a file holds: a clear error or a valid result, and never anything else."""

import json
import tempfile
import tracemalloc
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from strategies import patterns

from nmsim import (
    NmsimError,
    PackedTensor,
    compress,
    decompress,
    encodings,
    load_file,
    packing,
    prune,
    save_file,
)
from nmsim.files.checkpoint import pack_checkpoint, unpack_checkpoint
from nmsim.files.container import RawTensor
from nmsim.files.safetensors import DTYPE_BITS, parse

MEMORY_LIMIT_BYTES = 32 << 20
"""Far above what a file of a few kilobytes can need, far below what a damaged number could ask for."""


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def example(encoding="combinatorial", policy="bitstream"):
    """The bytes of a small packed file."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "x"
        x = rng.standard_normal((3, 10)).astype(np.float32)
        packed = compress(x, f"2:4/{encoding}/{policy}")
        save_file({"w": packed, "b": np.arange(3, dtype=np.int16)}, path, metadata={"k": "v"})
        return path.read_bytes()


def read_all(path):
    """Load a file and decode everything in it, as a user would; True when that went well."""
    complaint = ""
    try:
        tensors = load_file(path)
        for tensor in tensors.values():
            if isinstance(tensor, PackedTensor):
                dense = decompress(tensor)
                assert dense.shape == tensor.shape
                assert tensor.mask().shape == tensor.shape
            else:
                assert isinstance(tensor, np.ndarray | RawTensor)
    except NmsimError as error:
        complaint = str(error) or "an error that says nothing"
    assert complaint != "an error that says nothing"
    assert "\n" not in complaint
    return not complaint


def within_memory(path):
    tracemalloc.start()
    try:
        well = read_all(path)
        assert tracemalloc.get_traced_memory()[1] < MEMORY_LIMIT_BYTES
    finally:
        tracemalloc.stop()
    return well


@pytest.mark.parametrize("encoding", ["combinatorial", "gap:1"])
def test_every_truncation_is_refused(folder, encoding):
    raw = example(encoding)
    path = folder / "truncated"
    path.write_bytes(raw)
    assert read_all(path)
    for length in range(len(raw)):
        path.write_bytes(raw[:length])
        assert not read_all(path), length


def test_bytes_too_many_are_refused(folder):
    path = folder / "longer"
    for more in (b"\0", b" ", b"\0" * 8):
        path.write_bytes(example() + more)
        assert not read_all(path)


@pytest.mark.parametrize(
    ("encoding", "policy"), [("combinatorial", "bitstream"), ("gap:1", "byte"), ("index", "no_straddle:8")]
)
def test_every_bit_flip_is_an_error_or_a_valid_result(folder, encoding, policy):
    raw = bytearray(example(encoding, policy))
    path = folder / "flipped"
    refused = 0
    for byte in range(len(raw)):
        for bit in range(8):
            raw[byte] ^= 1 << bit
            path.write_bytes(raw)
            refused += not read_all(path)
            raw[byte] ^= 1 << bit
    assert refused > 4 * len(raw), "most flips hit the header, and most of those are noticed"


@given(st.data())
@settings(max_examples=300)
def test_any_byte_may_become_any_other(folder, data):
    raw = bytearray(example())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = folder / "changed"
    path.write_bytes(raw)
    within_memory(path)


@given(st.binary(max_size=200))
@settings(max_examples=300)
def test_any_bytes_are_an_error_or_a_valid_file(folder, raw):
    path = folder / "any"
    path.write_bytes(raw)
    within_memory(path)
    path.write_bytes(len(raw).to_bytes(8, "little") + raw)
    within_memory(path)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
SIZES = st.integers(0, 20) | st.integers(-1, 2**64)
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from([*DTYPE_BITS, "F3"]) | JSON,
        "shape": st.lists(SIZES, max_size=4) | JSON,
        "data_offsets": st.lists(SIZES, min_size=2, max_size=2) | JSON,
    }
)
HEADERS = st.dictionaries(
    st.sampled_from(["w", "w.values", "w.metadata", "__metadata__"]) | st.text(max_size=3),
    ENTRIES | JSON,
    max_size=3,
)


@given(HEADERS, st.binary(max_size=40))
@settings(max_examples=500)
def test_any_header_is_an_error_or_a_valid_file(folder, header, data):
    text = json.dumps(header).encode()
    path = folder / "header"
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    within_memory(path)


ENTRY_CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "pattern": st.builds("{}:{}".format, st.integers(0, 300), st.integers(0, 300)) | JSON,
        "encoding": st.sampled_from(
            ["bitmask", "index", "gap", "gap:1", "gap:16", "combinatorial", "joint", "joint:4096"]
        )
        | JSON,
        "packing": st.sampled_from(["bitstream", "byte", "power_of_two", "no_straddle:128"]) | JSON,
        "layout": st.just("linear") | JSON,
        "shape": st.lists(SIZES, max_size=4) | JSON,
        "axis": st.integers(-1, 4) | JSON,
        "metadata_payload_bits": SIZES | JSON,
        "metadata_padding_bits": SIZES | JSON,
    },
)


@given(ENTRY_CHANGES)
@settings(max_examples=500)
def test_any_packed_entry_is_an_error_or_a_valid_file(folder, changes):
    raw = example()
    header = parse(raw, "example", len(raw))
    entry = json.loads(header.metadata["nmsim:w"]) | changes
    listed = {
        info.name: {"dtype": info.dtype, "shape": list(info.shape), "data_offsets": [info.begin, info.end]}
        for info in header.tensors
    }
    free = header.metadata | {"nmsim:w": json.dumps(entry)}
    text = json.dumps(listed | {"__metadata__": free}).encode()
    path = folder / "entry"
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw[header.data_start :])
    within_memory(path)


@given(st.data())
@settings(max_examples=60)
def test_unpacking_a_damaged_file_writes_all_or_nothing(folder, data):
    raw = bytearray(example("gap:1"))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    source, target = folder / "source", folder / "target"
    source.write_bytes(raw)
    target.unlink(missing_ok=True)
    try:
        unpack_checkpoint(source, target)
    except NmsimError:
        assert not target.exists()
    else:
        assert read_all(target)
    assert not list(folder.glob(".*"))


DTYPES = [np.float32, np.float16, np.int8, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2]


@given(st.data())
@settings(max_examples=100)
def test_unpack_of_pack_is_what_was_kept(folder, data):
    dtype = np.dtype(data.draw(st.sampled_from(DTYPES)))
    shape = data.draw(npst.array_shapes(min_dims=2, max_dims=3, min_side=0, max_side=9))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    stored = data.draw(npst.arrays(f"uint{8 * dtype.itemsize}", shape))
    pattern = data.draw(patterns(max_m=20) | patterns(min_m=65, max_m=80))
    encoding = data.draw(st.sampled_from([*encodings.names(pattern), "gap:2", "joint:3"]))
    policy = data.draw(st.sampled_from(packing.POLICIES))
    x = stored.view(dtype)
    # Weights that are not finite are refused; those of all other bits come back.
    stored = np.where(np.isfinite(x.astype(np.float32)), stored, 0)
    x = stored.view(dtype)
    dense, packed, again = (folder / name for name in ("dense", "packed", "again"))
    save_file({"x": x, "other": np.arange(3)}, dense)
    if policy == "no_straddle" and not encodings.get(encoding).spec.fixed_width:
        policy = "byte"
    stored_as = f"{pattern}/{encoding}/{policy}"
    pack_checkpoint(dense, packed, stored_as, axis=axis, include=["x"], force=True)
    unpack_checkpoint(packed, again, force=True)
    found = load_file(again)
    assert list(found) == ["x", "other"]
    assert found["x"].dtype == dtype
    assert np.array_equal(found["x"].view(stored.dtype), np.where(prune(x, pattern, axis=axis), stored, 0))
