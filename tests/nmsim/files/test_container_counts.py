"""Every count that a packed file states is compared with what is read: each is changed by hand, one at a time."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nmsim import compress, decompress, load_file, save_file
from nmsim.errors import MAX_LINE_CHARS, BitstreamError, ContainerError
from nmsim.files.checkpoint import unpack_checkpoint
from nmsim.files.inspection import inspect_checkpoint

FORMATS = (
    "2:4/bitmask/byte", "2:4/index/no_straddle:32", "8:16/combinatorial/power_of_two", "70:128/combinatorial/bitstream",
    "2:4/joint/no_straddle:128", "8:16/joint:290/bitstream", "128:256/joint:16/byte", "2:4/gap/bitstream", "4:4/index",
    "2:4/gap:1/bitstream", "2:4/gap:1/byte", "8:16/gap:2/power_of_two", "3:128/gap:3/bitstream",
)  # fmt: skip
SHAPE = (6, 256)


def written(folder, format):
    """A packed file, its header as a mapping, and its data."""
    x = np.random.default_rng(7).integers(1, 100, SHAPE).astype(np.int8)
    path = folder / "x.safetensors"
    save_file({"w": compress(x, format), "b": np.arange(3, dtype=np.int16)}, path)
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    return path, json.loads(raw[8 : 8 + length]), raw[8 + length :]


def rewrite(path, header, data):
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def entry_of(header):
    return json.loads(header["__metadata__"]["nmsim:w"])


def with_entry(header, **changes):
    text = json.dumps(entry_of(header) | changes)
    return header | {"__metadata__": header["__metadata__"] | {"nmsim:w": text}}


def refusal(read, path):
    """The error of a call, or None if it finds nothing."""
    try:
        read(path)
    except ContainerError as error:
        return error
    return None


def changes_of(header):
    """Name -> a header in which one count differs, for every count of the entry and of its tensors."""
    entry = entry_of(header)
    payload, padding = entry["metadata_payload_bits"], entry["metadata_padding_bits"]
    rows, k = entry["shape"]
    changed = {
        "payload + 1": {"metadata_payload_bits": payload + 1},
        "payload - 1": {"metadata_payload_bits": payload - 1},
        "payload 0": {"metadata_payload_bits": 0},
        "payload huge": {"metadata_payload_bits": 10**30},
        "padding + 1": {"metadata_padding_bits": padding + 1},
        "padding - 1": {"metadata_padding_bits": padding - 1},
        "padding negative": {"metadata_padding_bits": -1},
        "both moved": {"metadata_payload_bits": payload - 3, "metadata_padding_bits": padding + 3},
        "both exchanged": {"metadata_payload_bits": padding, "metadata_padding_bits": payload},
        "payload as padding": {"metadata_payload_bits": 0, "metadata_padding_bits": payload + padding},
        "rows + 1": {"shape": [rows + 1, k]},
        "rows - 1": {"shape": [rows - 1, k]},
        "no rows": {"shape": [0, k]},
        "a group more": {"shape": [rows, k + 256]},
        "a group less": {"shape": [rows, k - 256]},
        "huge": {"shape": [rows, 2**50]},
        "one dimension": {"shape": [k]},
        "axis beyond": {"axis": 2},
        "axis negative": {"axis": -1},
        "other axis": {"axis": 0},
        "other pattern": {"pattern": "3:32"},
        "other encoding": {"encoding": "joint:3" if entry["encoding"] != "joint:3" else "index"},
        "layout": {"layout": "sm80"},
    }
    if payload == padding:
        del changed["both exchanged"]
    found = {name: with_entry(header, **change) for name, change in changed.items()}
    for part in ("w.values", "w.metadata"):
        stored = header[part]
        begin, end = stored["data_offsets"]
        others = {
            "begin": {"data_offsets": [begin + 1, end]},
            "end": {"data_offsets": [begin, end - 1]},
            "length": {"shape": [*stored["shape"][:-1], stored["shape"][-1] + 1]},
            "dtype": {"dtype": "I16"},
            "dimension": {"shape": [1, *stored["shape"]]},
            "bool": {"dtype": "BOOL"},
        }
        found |= {f"{part} {name}": header | {part: stored | change} for name, change in others.items()}
    return found


@pytest.mark.parametrize("format", FORMATS)
def test_each_count_that_is_changed_is_refused(tmp_path, format):
    path, header, data = written(tmp_path, format)
    rewrite(path, header, data)
    assert (decompress(load_file(path)["w"]) != 0).sum() == load_file(path)["w"].values.size
    for name, changed in changes_of(header).items():
        if changed == header:
            continue
        rewrite(path, changed, data)
        for read in (
            load_file,
            inspect_checkpoint,
            lambda source: unpack_checkpoint(source, tmp_path / "out"),
        ):
            error = refusal(read, path)
            assert error is not None, f"{name} is not noticed"
            assert len(str(error)) <= MAX_LINE_CHARS
            assert not (tmp_path / "out").exists()


@given(
    format=st.sampled_from([format for format in FORMATS if "/gap:" in format]),
    moved=st.integers(-5000, 5000).filter(bool),
)
@settings(max_examples=60, deadline=None)
def test_bits_of_differing_lengths_cannot_move_between_counts(tmp_path_factory, format, moved):
    path, header, data = written(tmp_path_factory.mktemp("counts"), format)
    entry = entry_of(header)
    change = {
        "metadata_payload_bits": entry["metadata_payload_bits"] + moved,
        "metadata_padding_bits": entry["metadata_padding_bits"] - moved,
    }
    rewrite(path, with_entry(header, **change), data)
    with pytest.raises(ContainerError, match="payload|bits take"):
        load_file(path)


def test_a_packed_tensor_of_other_counts_is_not_decoded():
    import dataclasses

    packed = compress(np.ones((4, 16), np.float32), "8:16/gap:1")
    bits = packed.metadata_payload_bits
    wrong = dataclasses.replace(packed, metadata_payload_bits=0, metadata_padding_bits=bits)
    for read in (decompress, lambda tensor: tensor.mask()):
        with pytest.raises(
            BitstreamError, match=rf"0 payload and {bits} padding bits, expected {bits} and 0"
        ):
            read(wrong)
