"""Whole checkpoints: `unpack(pack(x))` gives back what was kept, and everything else as it was."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from nmsim import load_file, prune, save_file
from nmsim.errors import BitstreamError, ContainerError, EncodingError, PatternError
from nmsim.files.checkpoint import pack_checkpoint, unpack_checkpoint
from nmsim.files.container import RawTensor
from nmsim.files.safetensors import DTYPE_BITS, SafetensorsReader
from nmsim.files.selection import Selection

PREFIX = "model.layers.0."
DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, np.int8]


def weights(shape, dtype=np.float32, seed=0):
    return (np.random.default_rng(seed).standard_normal(shape) * 30).astype(dtype)


def model():
    """A checkpoint with one tensor of every kind that there is."""
    tensors = {
        f"{PREFIX}{np.dtype(t).name}.weight": weights((6, 37), t, seed) for seed, t in enumerate(DTYPES)
    }
    return tensors | {
        "model.embed_tokens.weight": weights((5, 16)),
        "lm_head.weight": weights((5, 16)),
        f"{PREFIX}input_layernorm.weight": weights(16),
        f"{PREFIX}bias": weights(6),
        f"{PREFIX}codes": np.arange(64, dtype=np.int32).reshape(4, 16),
        f"{PREFIX}flags.weight": np.ones((4, 16), np.bool_),
        f"{PREFIX}complex.weight": np.ones((4, 16), np.complex64),
        f"{PREFIX}fp4.weight": RawTensor("F4", (4, 16), np.arange(32, dtype=np.uint8)),
        f"{PREFIX}conv.weight": weights((4, 16, 3)),
        f"{PREFIX}short.weight": weights((4, 3)),
        f"{PREFIX}empty.weight": weights((0, 16)),
        "step": np.int64(7),
    }


PACKED_BY_DEFAULT = {
    *(f"{PREFIX}{np.dtype(t).name}.weight" for t in DTYPES),
    f"{PREFIX}conv.weight",
    f"{PREFIX}empty.weight",
}


def stored(tensor):
    """Dtype, shape and bytes of any tensor."""
    data = tensor.data if isinstance(tensor, RawTensor) else tensor
    return str(tensor.dtype), tuple(tensor.shape), data.tobytes()


def pruned(x, pattern, axis=-1):
    return np.where(prune(x, pattern, axis=axis), x, np.zeros((), x.dtype))


@pytest.fixture
def dense(tmp_path):
    path = tmp_path / "dense.safetensors"
    save_file(model(), path, metadata={"format": "pt", "ü": "\n"})
    return path


@pytest.mark.parametrize("encoding", ["combinatorial", "bitmask", "index", "gap", "gap:1", "joint"])
@pytest.mark.parametrize("packing", ["bitstream", "byte"])
def test_unpack_gives_back_what_pack_kept(tmp_path, dense, encoding, packing):
    packed, again = tmp_path / "packed.safetensors", tmp_path / "again.safetensors"
    report = pack_checkpoint(dense, packed, f"2:4/{encoding}/{packing}")
    assert {tensor.name for tensor in report.packed} == PACKED_BY_DEFAULT
    assert report.total_bytes < report.dense_bytes
    unpack_checkpoint(packed, again)
    found = load_file(again)
    assert list(found) == list(model())
    for name, x in model().items():
        expected = pruned(x, "2:4", 1) if name in PACKED_BY_DEFAULT else x
        assert stored(found[name]) == stored(expected), name
    with safetensors.safe_open(again, "np") as file:
        assert file.metadata() == {"format": "pt", "ü": "\n"}


def test_a_checkpoint_that_is_n_m_already_comes_back_byte_for_byte(tmp_path):
    dense, packed, again = (tmp_path / f"{name}.safetensors" for name in ("dense", "packed", "again"))
    tensors = {f"{i}.weight": pruned(weights((5, 24), np.float16, i), "4:8") for i in range(3)} | {
        "bias": weights(9),
        "ids": np.arange(3, dtype=np.uint8),
    }
    safetensors.numpy.save_file(tensors, dense, {"format": "np"})
    pack_checkpoint(dense, packed, "4:8")
    unpack_checkpoint(packed, again)
    assert again.read_bytes() == dense.read_bytes()


def test_the_data_of_a_packed_checkpoint_stays_aligned(tmp_path):
    dense, packed = tmp_path / "dense.safetensors", tmp_path / "packed.safetensors"
    tensors = {f"{i}.weight": weights((3, 5), t) for i, t in enumerate([np.float64, np.float32, np.float16])}
    save_file(tensors | {"flags": np.ones(3, np.bool_)}, dense)
    pack_checkpoint(dense, packed, "2:4")
    with SafetensorsReader(packed) as file:
        assert file.data_start % 8 == 0
        for info in file.tensors.values():
            assert info.begin % max(1, DTYPE_BITS[info.dtype] // 8) == 0, info


def test_groups_run_along_the_axis_asked_for(tmp_path):
    dense, packed, again = (tmp_path / f"{name}.safetensors" for name in ("dense", "packed", "again"))
    x, y = weights((10, 6)), weights((9, 4, 5))
    save_file({"x.weight": x, "y.weight": y}, dense)
    pack_checkpoint(dense, packed, "2:4", axis=0)
    assert {tensor.axis for tensor in load_file(packed).values()} == {0}
    unpack_checkpoint(packed, again)
    assert np.array_equal(load_file(again)["x.weight"], pruned(x, "2:4", 0))
    assert np.array_equal(load_file(again)["y.weight"], pruned(y, "2:4", 0))
    with pytest.raises(
        PatternError, match=rf"^{dense}: tensor 'x.weight', data at byte \d+: axis=2: expected an int"
    ):
        pack_checkpoint(dense, tmp_path / "no", "2:4", axis=2, include=["*"])


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({"include": ["*.conv.*"]}, {f"{PREFIX}conv.weight"}),
        ({"include": ["*codes", "lm_head*"]}, {f"{PREFIX}codes", "lm_head.weight"}),
        ({"exclude": ["*float*", "*int8*"]}, {f"{PREFIX}conv.weight", f"{PREFIX}empty.weight"}),
        ({"include": ["*"], "exclude": ["model.*"]}, {"lm_head.weight"}),
        (
            {"include": ["*"]},
            PACKED_BY_DEFAULT
            | {"model.embed_tokens.weight", "lm_head.weight", f"{PREFIX}codes", f"{PREFIX}short.weight"},
        ),
    ],
)
def test_a_user_chooses_by_name(tmp_path, dense, rule, expected):
    report = pack_checkpoint(dense, tmp_path / "packed.safetensors", "2:4", **rule)
    assert {tensor.name for tensor in report.packed} == expected


def test_every_tensor_left_alone_has_a_reason(tmp_path, dense):
    report = pack_checkpoint(dense, tmp_path / "packed.safetensors", "2:4")
    reasons = {
        tensor.name.removeprefix(PREFIX): tensor.kept_as_is for tensor in report.tensors if tensor.kept_as_is
    }
    assert reasons == {
        "model.embed_tokens.weight": "embedding: named 'embed_tokens'",
        "lm_head.weight": "head: named 'lm_head'",
        "input_layernorm.weight": "norm: has 1 dimensions",
        "bias": "bias: named 'bias'",
        "codes": "is no weight by its name: 'codes'",
        "flags.weight": "dtype BOOL is not pruned",
        "complex.weight": "dtype C64 is not pruned",
        "fp4.weight": "dtype F4 is not pruned",
        "short.weight": "has 3 elements along axis 1, fewer than M = 4",
        "step": "has 0 dimensions",
    }


def test_a_rule_must_be_a_sequence():
    with pytest.raises(
        ContainerError, match=r"include is '\*': expected a sequence of str, such as \['\*.weight'\]"
    ):
        Selection(include="*")


@pytest.mark.parametrize(
    ("error", "message", "options"),
    [
        (PatternError, "pattern '2': expected 'N:M'", {"format": "2"}),
        (EncodingError, "encoding 'no': expected one of", {"format": "2:4/no"}),
        (BitstreamError, "packing 'no': expected one of", {"format": "2:4/bitmask/no"}),
        (BitstreamError, "codes of differing lengths", {"format": "2:4/gap:1/no_straddle:32"}),
        (
            ContainerError,
            r"^dense.safetensors: no tensor matches 'nothing\*', expected at least one of its 18 tensors \(.*, \.\.\.\)",
            {"include": ["nothing*"]},
        ),
        (
            ContainerError,
            r"^dense.safetensors: none of its 18 tensors \(.*, \.\.\.\) is chosen \(.*\), expected a linear",
            {"exclude": ["*"]},
        ),
    ],
)
def test_what_cannot_be_packed_is_refused_and_nothing_is_written(
    tmp_path, monkeypatch, dense, error, message, options
):
    # A short path, since a line with a long one is cut in its middle.
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        pack_checkpoint(Path(dense.name), tmp_path / "packed.safetensors", **({"format": "2:4"} | options))
    assert list(tmp_path.iterdir()) == [dense]


def test_a_name_that_packing_needs_must_be_free(tmp_path):
    dense = tmp_path / "dense.safetensors"
    save_file({"weight": weights((4, 4)), "weight.values": weights(3)}, dense)
    message = r"tensor 'weight.values', data at byte \d+: takes the name that packing 'weight' needs, expected it free"
    with pytest.raises(ContainerError, match=message):
        pack_checkpoint(dense, tmp_path / "packed.safetensors", "2:4")


def test_what_is_packed_is_not_packed_again_nor_what_is_dense_unpacked(tmp_path, dense):
    packed = tmp_path / "packed.safetensors"
    pack_checkpoint(dense, packed, "2:4")
    with pytest.raises(
        ContainerError, match="has an entry 'nmsim_format', expected a checkpoint that is not packed"
    ):
        pack_checkpoint(packed, tmp_path / "more.safetensors", "2:4")
    with pytest.raises(
        ContainerError, match="has no __metadata__ entry 'nmsim_format', expected a checkpoint packed by"
    ):
        unpack_checkpoint(dense, tmp_path / "more.safetensors")
    assert sorted(tmp_path.iterdir()) == [dense, packed]


def test_an_illegal_code_is_named_and_nothing_is_written(tmp_path):
    dense, packed = tmp_path / "dense.safetensors", tmp_path / "packed.safetensors"
    save_file({"weight": weights((4, 64))}, dense)
    pack_checkpoint(dense, packed, "8:16/combinatorial")
    raw = bytearray(packed.read_bytes())
    raw[-2:] = b"\xff\xff"
    packed.write_bytes(raw)
    message = (
        rf"^{packed}: tensor 'weight.metadata', data at byte {len(raw) - 28}: combinatorial 8:16: code 14 is"
    )
    with pytest.raises(EncodingError, match=message):
        unpack_checkpoint(packed, tmp_path / "again.safetensors")
    assert sorted(tmp_path.iterdir()) == [dense, packed]


def test_progress_is_told_before_each_tensor_and_at_the_end(tmp_path, dense):
    told = []
    report = pack_checkpoint(
        dense, tmp_path / "packed.safetensors", "2:4", progress=lambda *what: told.append(what)
    )
    assert [name for name, _, _ in told] == [*(t.name for t in report.tensors), ""]
    assert told[0][1] == 0
    assert told[-1][1] == told[-1][2] == report.dense_bytes
    told.clear()
    unpack_checkpoint(
        tmp_path / "packed.safetensors", tmp_path / "x", progress=lambda *what: told.append(what)
    )
    assert told[-1] == ("", report.total_bytes, report.total_bytes)


INDEX = "model.safetensors.index.json"


@pytest.fixture
def shards(tmp_path):
    """A checkpoint in two shards; the second has nothing to pack."""
    folder = tmp_path / "dense"
    folder.mkdir()
    first = {"a.weight": weights((6, 20), np.float16), "b.weight": weights((3, 9))}
    second = {"norm.weight": weights(20)}
    safetensors.numpy.save_file(first, folder / "model-00001-of-00002.safetensors", {"format": "pt"})
    safetensors.numpy.save_file(second, folder / "model-00002-of-00002.safetensors", {"format": "pt"})
    (folder / "config.json").write_text("{}")
    weight_map = dict.fromkeys(first, "model-00001-of-00002.safetensors")
    weight_map |= dict.fromkeys(second, "model-00002-of-00002.safetensors")
    size = sum(x.nbytes for x in (first | second).values())
    index = {"metadata": {"total_size": size, "total_parameters": 167}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    return folder


@pytest.mark.parametrize("name", [".", INDEX])
def test_shards_stay_shards(tmp_path, shards, name):
    packed, again = tmp_path / "packed", tmp_path / "again"
    pack_checkpoint(shards / name, packed, "2:4")
    assert sorted(p.name for p in packed.iterdir()) == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        INDEX,
    ]
    index = json.loads((packed / INDEX).read_text())
    assert index["weight_map"] == {
        "a.weight.values": "model-00001-of-00002.safetensors",
        "a.weight.metadata": "model-00001-of-00002.safetensors",
        "b.weight.values": "model-00001-of-00002.safetensors",
        "b.weight.metadata": "model-00001-of-00002.safetensors",
        "norm.weight": "model-00002-of-00002.safetensors",
    }
    held = {
        name: array
        for shard in set(index["weight_map"].values())
        for name, array in safetensors.numpy.load_file(packed / shard).items()
    }
    assert index["metadata"] == {
        "total_size": sum(array.nbytes for array in held.values()),
        "total_parameters": 167,
    }
    unpack_checkpoint(packed, again)
    found = load_file(again / "model-00001-of-00002.safetensors")
    source = load_file(shards / "model-00001-of-00002.safetensors")
    for key, x in source.items():
        assert stored(found[key]) == stored(pruned(x, "2:4"))
    untouched = "model-00002-of-00002.safetensors"
    assert (again / untouched).read_bytes() == (shards / untouched).read_bytes()
    before, after = (json.loads((folder / INDEX).read_text()) for folder in (shards, again))
    assert after == before


def change_index(folder, change):
    index = json.loads((folder / INDEX).read_text())
    change(index)
    (folder / INDEX).write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda index: index["weight_map"].update(c="model-00003-of-00002.safetensors"),
            "shard 'model-00003-of-00002.safetensors' of 1 tensors is missing, expected the file",
        ),
        (
            lambda index: index["weight_map"].update(c="model-00002-of-00002.safetensors"),
            "tensor 'c' is missing from shard 'model-00002-of-00002.safetensors', which holds 1 others",
        ),
        (
            lambda index: index["weight_map"].pop("a.weight"),
            r"tensor 'a.weight', data at byte \d+: the index .* has it nowhere, expected 'model-00001-of",
        ),
        (
            lambda index: index["weight_map"].update({"a.weight": "model-00002-of-00002.safetensors"}),
            "the index .* has it in shard 'model-00002-of-00002.safetensors', expected 'model-00001-of",
        ),
        (
            lambda index: index["weight_map"].update(c="../x.safetensors"),
            "tensor 'c' lies in '../x.safetensors', expected the plain name of a .safetensors file",
        ),
        (lambda index: index["weight_map"].update(c=3), "tensor 'c' lies in 3, expected the plain name"),
        (
            lambda index: index.update(weight_map=[]),
            "expected an object with a 'weight_map' from tensor names to",
        ),
        (lambda index: index.update(metadata=[]), r"metadata is \[\], expected an object"),
    ],
)
def test_an_index_that_is_wrong_is_named(tmp_path, shards, change, message):
    change_index(shards, change)
    with pytest.raises(ContainerError, match=message) as caught:
        pack_checkpoint(shards, tmp_path / "packed", "2:4")
    assert str(shards) in str(caught.value)
    assert list(tmp_path.iterdir()) == [shards]


def test_an_index_that_is_no_json_is_named(tmp_path, shards):
    (shards / INDEX).write_text('{"weight_map": \n}')
    with pytest.raises(ContainerError, match=rf"{INDEX}: line 2, column 1: Expecting value"):
        pack_checkpoint(shards, tmp_path / "packed", "2:4")
    (shards / INDEX).write_bytes(b"\xff")
    with pytest.raises(ContainerError, match=rf"{INDEX}: is no JSON: 'utf-8' codec can't decode"):
        pack_checkpoint(shards, tmp_path / "packed", "2:4")


def test_a_damaged_shard_leaves_no_folder(tmp_path, shards):
    path = shards / "model-00002-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ContainerError, match=rf"^{path}: tensor 'norm.weight', .* \(truncated\?\)"):
        pack_checkpoint(shards, tmp_path / "packed", "2:4")
    assert list(tmp_path.iterdir()) == [shards]


def test_folders_and_files_are_told_apart(tmp_path, shards, dense):
    with pytest.raises(ContainerError, match="is a folder that is not empty, expected a new or an empty one"):
        pack_checkpoint(shards, shards, "2:4")
    with pytest.raises(ContainerError, match=r"is a folder that is not empty"):
        pack_checkpoint(shards, shards, "2:4", force=True)
    with pytest.raises(ContainerError, match="the source has shards, expected the name of a folder to write"):
        pack_checkpoint(shards, tmp_path / "packed.safetensors", "2:4")
    with pytest.raises(
        ContainerError, match=rf"^{shards}: is a folder, expected the name of a file to write"
    ):
        pack_checkpoint(dense, shards, "2:4", force=True)
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    with pytest.raises(
        ContainerError, match=rf"^{nothing}: holds 0 files \*.safetensors.index.json, expected exactly"
    ):
        pack_checkpoint(nothing, tmp_path / "packed", "2:4")
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "model.safetensors").write_bytes(dense.read_bytes())
    pack_checkpoint(alone, tmp_path / "one.safetensors", "2:4")
    assert (tmp_path / "one.safetensors").is_file()
    empty = tmp_path / "empty"
    empty.mkdir()
    pack_checkpoint(shards, empty, "2:4")
    assert (empty / INDEX).exists()
