"""Packed files of an earlier commit are read, and written again they have the same bytes."""

import json
from pathlib import Path

import numpy as np
import pytest

from nmsim import PackedTensor, compress, decompress, load_file, prune, save_file

FILES = json.loads((Path(__file__).parent / "vectors" / "packed_files.json").read_text())["files"]
TENSOR = ((np.arange(3 * 70) * 7919 % 211 - 105) / 8).astype(np.float16).reshape(3, 70)


@pytest.mark.parametrize("entry", FILES, ids=lambda entry: entry["format"])
def test_a_file_of_an_earlier_commit_is_read_and_made_again(tmp_path, entry):
    older, newer = tmp_path / "older.safetensors", tmp_path / "newer.safetensors"
    older.write_bytes(bytes.fromhex(entry["file"]))
    found = load_file(older)
    packed = found["w"]
    assert isinstance(packed, PackedTensor)
    assert str(packed.format) == entry["format"]
    assert np.array_equal(decompress(packed), np.where(prune(TENSOR, packed.pattern), TENSOR, 0))
    save_file({"w": compress(TENSOR, entry["format"]), "b": np.arange(3, dtype=np.float32)}, newer)
    assert newer.read_bytes() == older.read_bytes()
