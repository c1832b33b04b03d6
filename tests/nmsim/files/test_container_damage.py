"""Damaged safetensors files: every error names the file, the tensor, the byte, what was found and what was expected."""

import json

import numpy as np
import pytest

from nmsim import compress, load_file, save_file
from nmsim.errors import ContainerError


def entry(dtype="F32", shape=(2,), offsets=(0, 8), **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)} | more


def file_of(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


GOOD = {"x": entry()}
DAMAGE = {
    "empty file": (
        b"",
        "byte 0: the file has 0 bytes, expected at least 8 for the length of a safetensors header",
    ),
    "seven bytes": (b"\0" * 7, "byte 0: the file has 7 bytes, expected at least 8"),
    "length beyond the file": (
        (100).to_bytes(8, "little") + b"{}",
        "byte 0: header length is 100, expected at most 2, which is what is left of a file of 10 bytes",
    ),
    "absurd length": (
        b"\xff" * 8 + b"{}",
        r"byte 0: header length is 18446744073709551615, expected at most 100000000 \(is this a safetensors file\?\)",
    ),
    "not an object": (file_of(b"[]"), r"byte 8: header starts with b'\[', expected b'{'"),
    "no header": (file_of(b""), "byte 8: header starts with b'', expected b'{'"),
    "not JSON": (file_of(b'{"x": }'), "byte 14: header is not JSON: Expecting value"),
    "not JSON after multi-byte text": (file_of('{"é": }'.encode()), "byte 15: header is not JSON"),
    "not UTF-8": (file_of(b'{"x\xff": 1}'), "byte 11: header is not UTF-8: invalid start byte"),
    "nested deeply": (file_of(b'{"x":' + b"[" * 200_000), "byte 8: header is not valid: nested too deeply"),
    "a number of 5000 digits": (
        file_of(b'{"x":' + b"1" * 5000 + b"}"),
        "byte 8: header is not valid: a whole number has 5000 digits",
    ),
    "key twice": (
        file_of(b'{"x":1,"x":2}'),
        "byte 8: header is not valid: key 'x' is given twice, expected once",
    ),
    "NaN": (file_of(b'{"x":NaN}'), "byte 8: header is not valid: NaN is no JSON number"),
    "entry is a number": (
        file_of({"x": 3}),
        "tensor 'x', header entry at byte 9: found 3, expected an object of dtype, shape, data_offsets",
    ),
    "entry lacks a key": (
        file_of({"x": {"dtype": "F32"}}),
        "tensor 'x', header entry at byte 9: found {'dtype'",
    ),
    "entry has a key more": (
        file_of({"x": entry(extra=1)}, bytes(8)),
        r"found \{.*, expected an object of dtype, shape, data_offs",
    ),
    "unknown dtype": (
        file_of({"x": entry("F33")}, bytes(8)),
        "tensor 'x', header entry at byte 9: dtype 'F33', expected one of BOOL, F4, .*, U64",
    ),
    "dtype is a list": (file_of({"x": entry(["F32"])}, bytes(8)), r"dtype \['F32'\], expected one of"),
    "negative dimension": (
        file_of({"x": entry(shape=[-2])}, bytes(8)),
        r"shape \[-2\], expected a list of non-negative integers",
    ),
    "fractional dimension": (
        file_of({"x": entry(shape=[2.0])}, bytes(8)),
        r"shape \[2.0\], expected a list of non-neg",
    ),
    "boolean dimension": (
        file_of({"x": entry(shape=[True])}, bytes(4)),
        r"shape \[True\], expected a list of non-neg",
    ),
    "65 dimensions": (
        file_of({"x": entry(shape=[1] * 65, offsets=[0, 4])}, bytes(4)),
        "shape has 65 dimensions, expected at most 64",
    ),
    "absurd shape": (
        file_of({"x": entry(shape=[0, 2**60], offsets=[0, 0])}),
        r"shape \[0, 1152921504606846976\] is absurd: expected at most 2\*\*55 elements",
    ),
    "offsets of one": (
        file_of({"x": entry(offsets=[0])}, bytes(8)),
        r"data_offsets \[0\], expected \[begin, end\]",
    ),
    "offsets backwards": (
        file_of({"x": entry(offsets=[8, 0])}, bytes(8)),
        r"data_offsets \[8, 0\], expected \[begin, end\] with 0 <= begin <= end",
    ),
    "offsets do not fit the shape": (
        file_of({"x": entry(offsets=[0, 7])}, bytes(7)),
        r"data_offsets \[0, 7\] span 7 bytes, expected 8 for F32 of shape \[2\]",
    ),
    "half a byte": (
        file_of({"x": entry("F4", [3], [0, 2])}, bytes(2)),
        "3 elements of F4 do not fill whole bytes",
    ),
    "gap": (
        file_of({"x": entry(offsets=[4, 12])}, bytes(12)),
        r"tensor 'x', header entry at byte 9: data begins at byte 74, expected byte 70, where the tensor before it "
        r"ends \(a gap of 4 bytes\)",
    ),
    "overlap": (
        file_of({"x": entry(), "y": entry(offsets=[4, 12])}, bytes(12)),
        r"tensor 'y', header entry at byte \d+: data begins .* \(an overlap of 4 bytes\)",
    ),
    "truncated data": (
        file_of(GOOD, bytes(7)),
        r"tensor 'x', header entry at byte 9: data ends at byte 77, expected at most 76, the length of the file "
        r"\(truncated\?\)",
    ),
    "bytes left over": (
        file_of(GOOD, bytes(9)),
        "byte 77: the last tensor ends here, expected the end of the file but 1 bytes are left",
    ),
    "free entries are a list": (
        file_of({"__metadata__": []}),
        r"tensor '__metadata__', header entry at byte 9: found \[\], expected an object of strings",
    ),
    "free entry is a number": (file_of({"__metadata__": {"k": 1}}), "entry 'k' is 1, expected a string"),
    "half a surrogate pair": (
        file_of(rb'{"\ud800":{}}'),
        r"tensor '\\ud800', .*: the name is not valid Unicode",
    ),
}


@pytest.mark.parametrize(("data", "message"), DAMAGE.values(), ids=DAMAGE.keys())
def test_damage_is_named(tmp_path, data, message):
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    if not message.startswith(("byte ", "tensor ")):
        message = r"tensor '\S+', header entry at byte 9: " + message
    with pytest.raises(ContainerError, match=f"^{path}: {message}"):
        load_file(path)


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(ContainerError, match=f"^{tmp_path}/none: cannot be read: No such file or directory$"):
        load_file(tmp_path / "none")
    with pytest.raises(ContainerError, match=f"^{tmp_path}: is a folder, expected a safetensors file$"):
        load_file(tmp_path)
    with pytest.raises(ContainerError, match=r"^/dev/null: is a device, expected a safetensors file; copy"):
        load_file("/dev/null")


def test_spaces_behind_a_header_and_a_start_that_is_not_aligned_are_allowed(tmp_path):
    path = tmp_path / "x.safetensors"
    text = json.dumps(GOOD).encode() + b"   "
    path.write_bytes(file_of(text, np.array([1, 2], np.float32).tobytes()))
    assert load_file(path)["x"].tolist() == [1, 2]


ENTRY = {
    "pattern": "2:4",
    "encoding": "combinatorial",
    "packing": "bitstream",
    "layout": "linear",
    "shape": [4, 8],
    "axis": 1,
    "metadata_payload_bits": 24,
    "metadata_padding_bits": 0,
}


def packed_bytes(tmp_path, *, key="nmsim:x", version="1", rename=None, more=None, **changes):
    """A packed file with its entry changed."""
    path = tmp_path / "x.safetensors"
    packed = compress(np.arange(32, dtype=np.float32).reshape(4, 8), "2:4/combinatorial")
    save_file({"x": packed}, path)
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    assert json.loads(header["__metadata__"]["nmsim:x"]) == ENTRY
    text = changes.pop("text", None) or json.dumps(ENTRY | changes)
    header["__metadata__"] = {"nmsim_format": version, key: text} | (more or {})
    for old, new in (rename or {}).items():
        header[new] = header.pop(old)
    path.write_bytes(file_of(header, raw[8 + length :]))
    return path


ENTRY_DAMAGE = {
    "another version": ({"version": "2"}, "__metadata__ entry nmsim_format is '2', expected '1'"),
    "not JSON": ({"text": "{"}, "__metadata__ entry 'nmsim:x': is not JSON: "),
    "not an object": (
        {"text": "3"},
        "__metadata__ entry 'nmsim:x': holds int, expected an object of pattern, encoding",
    ),
    "a key more": (
        {"extra": 1},
        "__metadata__ entry 'nmsim:x': misses keys none and has unknown keys extra, expected an object of pattern",
    ),
    "pattern": ({"pattern": "5:4"}, "__metadata__ entry 'nmsim:x': pattern 5:4: expected 1 <= N <= M"),
    "pattern is a number": (
        {"pattern": 24},
        "__metadata__ entry 'nmsim:x': pattern is 24, expected a string",
    ),
    "encoding": (
        {"encoding": "bitmap"},
        "__metadata__ entry 'nmsim:x': encoding 'bitmap': expected one of bitmask",
    ),
    "packing": (
        {"packing": "tight"},
        "__metadata__ entry 'nmsim:x': packing 'tight': expected one of bitstream",
    ),
    "impossible pair": (
        {"encoding": "gap:1", "packing": "no_straddle:32"},
        "__metadata__ entry 'nmsim:x': packing no_straddle:32: codes of differing lengths cannot be packed so",
    ),
    "layout": (
        {"layout": "sm80"},
        "tensor 'x.values', data at byte .*: packed tensor layout 'sm80': expected 'linear'",
    ),
    "shape": (
        {"shape": 3},
        "__metadata__ entry 'nmsim:x': shape is 3, expected a list of non-negative integers",
    ),
    "absurd shape": ({"shape": [2**40, 2**40]}, "__metadata__ entry 'nmsim:x': shape .* is absurd"),
    "another shape": (
        {"shape": [4, 12]},
        r"tensor 'x.values', data at byte \d+: shape \[4, 4\], expected \[4, 6\] by entry 'nmsim:x'",
    ),
    "axis": ({"axis": 2}, "__metadata__ entry 'nmsim:x': axis is 2, expected 0 to 1"),
    "negative axis": ({"axis": -1}, "__metadata__ entry 'nmsim:x': axis is -1, expected 0 to 1"),
    "axis is true": ({"axis": True}, "__metadata__ entry 'nmsim:x': axis is True, expected an integer"),
    "another encoding": (
        {"encoding": "bitmask"},
        r"tensor 'x.metadata', data at byte \d+: length in bytes 3, expected 4 by entry 'nmsim:x'",
    ),
    "another payload": (
        {"metadata_payload_bits": 23},
        r"tensor 'x.metadata', data at byte \d+: payload and padding bits \(23, 0\), expected \(24, 0\) by entry",
    ),
    "payload of a code of varying length": (
        {"encoding": "gap:1", "metadata_payload_bits": 25},
        r"tensor 'x.metadata', data at byte \d+: length in bytes 3, expected what 25 \+ 0 bits take by entry",
    ),
    "values missing": (
        {"rename": {"x.values": "y"}},
        "__metadata__ entry 'nmsim:x' needs tensor 'x.values', which the file has not",
    ),
    "both packed and dense": (
        {"rename": {"x.metadata": "x"}},
        r"tensor 'x', data at byte \d+: is there both packed and dense, expected one of them",
    ),
    "two owners": (
        {"key": "nmsim:x", "more": {"nmsim:x.values": json.dumps(ENTRY)}},
        r"tensor 'x.values', data at byte \d+: is there both packed and dense",
    ),
}


@pytest.mark.parametrize(("changes", "message"), ENTRY_DAMAGE.values(), ids=ENTRY_DAMAGE.keys())
def test_damage_of_an_entry_is_named(tmp_path, changes, message):
    path = packed_bytes(tmp_path, **changes)
    with pytest.raises(ContainerError, match=f"^{path}: {message}"):
        load_file(path)


def test_without_the_format_entry_a_file_is_just_tensors(tmp_path):
    path = packed_bytes(tmp_path)
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b'"nmsim_format"', b'"other_format"'))
    assert sorted(load_file(path)) == ["x.metadata", "x.values"]
