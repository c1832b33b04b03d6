"""A tensor packed and unpacked block by block is the one that is packed and unpacked as a whole."""

import itertools

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nmsim import blocks, compress, decompress, load_file, save_file
from nmsim.encodings.streams import StreamReader, StreamWriter
from nmsim.energy import CHUNK_ELEMS, EnergySum, energy
from nmsim.errors import BitstreamError, ContainerError, NmsimError
from nmsim.files import safetensors
from nmsim.files.checkpoint import pack_checkpoint, unpack_checkpoint
from nmsim.files.inspection import inspect_checkpoint
from nmsim.files.safetensors import SafetensorsReader
from nmsim.format import sparse_format
from nmsim.mask import prune, to_words

FORMATS = (
    "2:4/bitmask", "8:16/index", "3:5/index", "2:4/gap", "1:8/gap:1", "8:16/gap:1", "4:16/gap:2", "8:16/combinatorial",
    "2:4/joint", "8:16/joint:3", "3:5/joint:7", "5:12/combinatorial", "65:130/bitmask", "2:66/gap:3",
)  # fmt: skip
PACKINGS = ("bitstream", "byte", "power_of_two", "no_straddle:8", "no_straddle:32", "no_straddle:128")


def exists(text):
    """Say whether a format can be packed so."""
    try:
        StreamReader(*stream_of(text), n_groups=0, stream_bytes=0, read_bytes=lambda begin, end: None)
    except BitstreamError:
        return False
    return True


def stream_of(text):
    """Encoding, pattern and packing of a format."""
    fmt = sparse_format(text)
    return fmt.encoding, fmt.pattern, fmt.packing


FOR_ALL_PACKINGS = ("3:5/index", "8:16/gap:1", "3:5/joint:7", "65:130/bitmask")
WRITTEN = [
    text
    for pair in [
        *((text, "bitstream") for text in FORMATS),
        *itertools.product(FOR_ALL_PACKINGS, PACKINGS[1:]),
    ]
    if exists(text := "/".join(pair))
]


def some_masks(pattern, count, seed):
    """Masks of random groups."""
    x = np.random.default_rng(seed).random((count, pattern.m))
    return to_words(prune(x, pattern), pattern)


@pytest.mark.parametrize("text", WRITTEN)
@settings(max_examples=8, deadline=None)
@given(cuts=st.lists(st.integers(0, 40), max_size=6), seed=st.integers(0, 99))
def test_pieces_of_a_stream_are_the_whole_stream(text, cuts, seed):
    encoding, pattern, policy = stream_of(text)
    masks = some_masks(pattern, sum(cuts), seed)
    edges = [0, *itertools.accumulate(cuts)]
    writer = StreamWriter(encoding, pattern, policy)
    pieces = [writer.write(masks[low:high]) for low, high in itertools.pairwise(edges)]
    last, report = writer.finish()
    whole, expected = encoding.write_stream(masks, pattern, policy)
    stream = np.concatenate([*pieces, last])
    assert stream.tobytes() == whole.tobytes()
    assert report == expected
    reader = StreamReader(
        encoding,
        pattern,
        policy,
        n_groups=len(masks),
        stream_bytes=len(stream),
        read_bytes=lambda begin, end: stream[begin:end],
    )
    for low, high in itertools.pairwise(edges):
        assert reader.read(high - low).tolist() == masks[low:high].tolist()
    assert reader.finish() == expected


@pytest.mark.parametrize("text", WRITTEN)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_what_a_whole_stream_refuses_its_pieces_refuse_with_the_same_words(text, data):
    """A bit is flipped or a byte is added. Codes that differ in length may break twice, so another fault may come first."""
    encoding, pattern, policy = stream_of(text)
    masks = some_masks(pattern, 24, 1)
    stream, _ = encoding.write_stream(masks, pattern, policy)
    damaged = stream.copy()
    if data.draw(st.integers(0, 4)):
        bit = data.draw(st.integers(0, 8 * len(stream) - 1))
        damaged[bit // 8] ^= 1 << bit % 8
    else:
        damaged = np.append(damaged, np.uint8(data.draw(st.integers(0, 1))))
    step = data.draw(st.sampled_from([1, 7, 24]))

    def pieces():
        reader = StreamReader(
            encoding,
            pattern,
            policy,
            n_groups=24,
            stream_bytes=len(damaged),
            read_bytes=lambda begin, end: damaged[begin:end],
        )
        found = [reader.read(min(step, 24 - at)) for at in range(0, 24, step)]
        reader.finish()
        return np.concatenate(found).tolist()

    whole = outcome(lambda: encoding.read_stream(damaged, pattern, 24, policy).tolist())
    cut = outcome(pieces)
    assert type(cut) is type(whole)
    if encoding.code_lengths(np.zeros(0, np.uint64), pattern) is None:
        assert cut == whole


def outcome(function):
    """What it gives, or the text of its error."""
    try:
        return function()
    except NmsimError as error:
        return f"{type(error).__name__}: {error}"


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 48 elements, so that small tensors have many."""
    monkeypatch.setattr(blocks, "BLOCK_ELEMS", 48)
    monkeypatch.setattr(blocks, "COPY_BYTES", 64)
    monkeypatch.setattr(safetensors, "COPY_BYTES", 64)


SHAPES = [(6, 40), (3, 130), (5, 7, 12), (2, 3, 4, 5), (40, 6), (1, 200), (200, 3), (0, 8), (8, 0), (4, 1)]


@pytest.mark.parametrize("short_bytes", [1, 1 << 20])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    ("text", "dtype"),
    [
        ("2:4/index", np.float32),
        ("8:16/gap:1", ml_dtypes.bfloat16),
        ("3:5/joint:7/no_straddle:32", np.int8),
        ("1:8/gap:1/byte", np.float64),
    ],
)
def test_blocks_of_a_tensor_are_the_whole_tensor(
    tmp_path, monkeypatch, small_blocks, text, dtype, shape, short_bytes
):
    monkeypatch.setattr(blocks, "SHORT_BYTES", short_bytes)
    rng = np.random.default_rng(5)
    x = rng.integers(-90, 90, shape).astype(dtype)
    other = np.arange(300, dtype=np.int16)
    save_file({"w": x, "other": other}, tmp_path / "dense")
    for axis in range(-1, len(shape) - 1):
        packed, again = tmp_path / f"packed{axis}", tmp_path / f"again{axis}"
        report = pack_checkpoint(tmp_path / "dense", packed, text, include=["w"], axis=axis)
        found, expected = load_file(packed), compress(x, text, axis=axis)
        assert found["w"].values.tobytes() == expected.values.tobytes()
        assert found["w"].metadata.tobytes() == expected.metadata.tobytes()
        assert found["w"].footprint == expected.footprint
        assert found["other"].tolist() == other.tolist()
        assert report.packed[0].total_bytes == expected.footprint.total_bytes
        unpack_checkpoint(packed, again)
        dense = load_file(again)
        assert dense["w"].dtype == x.dtype
        assert dense["w"].tobytes() == decompress(expected).tobytes()
        assert dense["other"].tolist() == other.tolist()
        tried = inspect_checkpoint(tmp_path / "dense", [text], include=["w"], axis=axis)
        tried = next(row for row in tried if row.tensor == "w")
        assert tried.metadata_bytes == len(expected.metadata)
        assert tried.nonzeros_elems == np.count_nonzero(decompress(expected))
        stored = next(row for row in inspect_checkpoint(packed) if row.tensor == "w")
        assert (stored.nonzeros_elems, stored.values_bytes) == (tried.nonzeros_elems, tried.values_bytes)


def test_a_value_beyond_a_row_is_refused_with_its_row_in_the_tensor(tmp_path, small_blocks):
    bad = compress(np.ones((9, 5), np.float32), "2:4")
    bad.values[7, 3] = 1
    save_file({"w": bad}, tmp_path / "bad")
    with pytest.raises(BitstreamError, match="values row 7: a value that is not zero"):
        unpack_checkpoint(tmp_path / "bad", tmp_path / "dense")
    assert not (tmp_path / "dense").exists()


def test_a_source_that_is_cut_while_it_is_packed_is_an_error(tmp_path, monkeypatch):
    path = tmp_path / "dense"
    save_file({"weight": np.ones((64, 4096), np.float32)}, path)
    monkeypatch.setattr(blocks, "BLOCK_ELEMS", 4096)

    def cut(name, done, total):
        with open(path, "r+b") as stream:
            stream.truncate(1 << 19)

    with pytest.raises(ContainerError, match="was changed while it was read"):
        pack_checkpoint(path, tmp_path / "packed", "2:4", progress=cut)
    assert not (tmp_path / "packed").exists()


def test_an_entry_that_states_other_bits_than_the_codes_have_is_refused(tmp_path):
    packed = compress(np.arange(64, dtype=np.int8), "2:8/gap:1")
    payload_bits, padding_bits = packed.metadata_payload_bits, packed.metadata_padding_bits
    object.__setattr__(packed, "metadata_payload_bits", padding_bits)
    object.__setattr__(packed, "metadata_padding_bits", payload_bits)
    save_file({"w": packed}, tmp_path / "packed")
    for read in (lambda path: unpack_checkpoint(path, tmp_path / "dense"), inspect_checkpoint):
        with pytest.raises(ContainerError, match=f"stated to have 0 payload and {payload_bits} padding bits"):
            read(tmp_path / "packed")


@settings(max_examples=8, deadline=None)
@given(cuts=st.lists(st.integers(0, 2 * CHUNK_ELEMS), max_size=4))
def test_an_energy_does_not_depend_on_how_the_tensor_is_cut(cuts):
    x = np.random.default_rng(0).standard_normal(sum(cuts)).astype(np.float16)
    mask = x > 0
    sums = EnergySum(threads=2)
    for low, high in itertools.pairwise([0, *itertools.accumulate(cuts)]):
        sums.add(x[low:high], mask[low:high])
    assert sums.result() == energy(x, mask)


def test_a_reader_fills_an_array_with_a_part_of_a_tensor(tmp_path):
    save_file({"x": np.arange(100, dtype=np.uint8)}, tmp_path / "x")
    with SafetensorsReader(tmp_path / "x") as file:
        assert file.read("x", 90, np.empty(10, np.uint8)).tolist() == list(range(90, 100))
