"""Reading a file takes work in proportion to its bytes, and hostile headers end in one short line.

Work is counted in calls of Python functions, not in seconds. Integers in these calls have at most 4096 bits.
"""

import json

import numpy as np
import pytest
from counted_work import CALLS_ONCE, CALLS_PER_BYTE, assert_bounded, calls_of, decompress_all

from nmsim import Pattern, SparseFormat, compress, encodings, load_file, save_file
from nmsim.encodings.base import MAX_CODE_BITS
from nmsim.errors import MAX_LINE_CHARS, ContainerError, EncodingError
from nmsim.files.checkpoint import unpack_checkpoint
from nmsim.files.inspection import inspect_checkpoint
from nmsim.words import from_integers, to_integers

VALUES = 20_000
WIDEST = Pattern(128, 256)


def packed(format, n_values):
    pattern = SparseFormat.parse(format).pattern
    shape = (1, max(1, n_values // pattern.n) * pattern.m)
    return compress(np.random.default_rng(1).integers(1, 100, shape).astype(np.int8), format)


@pytest.mark.parametrize(
    "format",
    [
        "1:256/combinatorial", "128:256/combinatorial", "255:256/combinatorial", "32:64/combinatorial", "128:256/joint:16",
        "1:256/joint:512", "1:2/joint:4096", "1:2/joint:65", "7:13/joint:300", "1:1/joint:4096", "128:256/index",
        "1:256/gap:1", "256:256/gap:16", "1:2/gap:1/power_of_two", "1:256/bitmask", "1:128/combinatorial/no_straddle:128",
    ],
)  # fmt: skip
def test_work_is_bounded_by_the_bytes_of_a_file(tmp_path, format):
    path = tmp_path / "x.safetensors"
    save_file({"w": packed(format, VALUES)}, path)
    assert_bounded(path, tmp_path / "out")


def test_work_is_bounded_if_every_tensor_has_another_pattern_and_encoding(tmp_path):
    path = tmp_path / "x.safetensors"
    names = ("combinatorial", "joint", "gap:1", "gap:16", "index", "joint:16")
    formats = [
        f"{max(1, m * part // 5)}:{m}/{name}"
        for m in range(17, 257, 110)
        for part in range(1, 6)
        for name in names
    ]
    save_file({format: packed(format, 1) for format in formats}, path)
    assert_bounded(path, tmp_path / "out")


def test_work_is_bounded_if_every_table_has_to_be_made(tmp_path):
    """Groups of 64 need the most tables: one per byte and number of ones."""
    path = tmp_path / "x.safetensors"
    save_file({f"{n}": packed(f"{n}:64/combinatorial", 1) for n in range(1, 65)}, path)
    assert_bounded(path, tmp_path / "out")


def test_work_is_bounded_if_tensors_are_many_and_empty(tmp_path):
    path = tmp_path / "x.safetensors"
    empty = np.zeros((0, 256), np.int8)
    save_file({f"w{i}": compress(empty, f"128:256/joint:{1 + i % 16}") for i in range(300)}, path)
    assert_bounded(path, tmp_path / "out")


def header_with(entry=None, tensor=None, name="w", more=None):
    """A file of one packed tensor without elements, some of whose header is changed."""
    stated = {
        "pattern": "2:4", "encoding": "index", "packing": "bitstream", "layout": "linear", "shape": [0, 4], "axis": 1,
        "metadata_payload_bits": 0, "metadata_padding_bits": 0,
    } | (entry or {})  # fmt: skip
    header = {
        "__metadata__": {"nmsim_format": "1", f"nmsim:{name}": json.dumps(stated)},
        f"{name}.values": {"dtype": "F32", "shape": [0, 2], "data_offsets": [0, 0]} | (tensor or {}),
        f"{name}.metadata": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]},
    }
    return json.dumps(header | (more or {}))


LONG = "x" * 1_000_000
DEEP = "[" * 100_000
HUGE = int("9" * 4300)
HOSTILE = {
    "encoding of long name": header_with({"encoding": LONG}),
    "packing of long name": header_with({"packing": LONG}),
    "pattern of long name": header_with({"pattern": LONG}),
    "layout of long name": header_with({"layout": LONG}),
    "key of long name": header_with({LONG: 1}),
    "tensor of long name": header_with({"encoding": "none"}, name=LONG),
    "dtype of long name": header_with(tensor={"dtype": LONG}),
    "version of long name": header_with(more={"__metadata__": {"nmsim_format": LONG}}),
    "codes above the cap": header_with({"pattern": "128:256", "encoding": "joint:17"}),
    "codes far above the cap": header_with({"pattern": "128:256", "encoding": "joint:4096"}),
    "groups per code": header_with({"encoding": "joint:" + "9" * 99}),
    "huge axis": header_with({"axis": HUGE}),
    "huge payload": header_with({"metadata_payload_bits": HUGE}),
    "huge padding": header_with({"metadata_padding_bits": -HUGE}),
    "huge shape": header_with({"shape": [0, HUGE]}),
    "long shape": header_with({"shape": [0] * 100_000}),
    "dimensions": header_with({"shape": [0] * 65}),
    "huge dimensions of a tensor": header_with(tensor={"shape": [HUGE] * 64}),
    "huge begin": header_with(tensor={"data_offsets": [HUGE, HUGE]}),
    "long shape of a tensor": header_with(tensor={"shape": [1] * 100_000}),
    "long list for a tensor": header_with(more={"y": [0] * 100_000}),
    "deep entry": header_with(more={"__metadata__": {"nmsim_format": "1", "nmsim:w": DEEP}}),
    "deep tensor": '{"w": ' + DEEP,
    "deep tensor that ends": '{"w": ' + "[" * 400 + "]" * 400 + "}",
    "names twice": "{" + ",".join(['"w": {}'] * 50_000) + "}",
    "number of many digits": '{"w": ' + "9" * 1_000_000 + "}",
    "fraction of many digits": '{"w": 0.' + "9" * 1_000_000 + "}",
    "surrogates": '{"' + "\\ud800" * 50_000 + '": 3}',
    "control characters": header_with({"encoding": "\x1b[2J\n\u202e"}, name="\x1b\n\u202e"),
}


def write(path, text):
    raw = text.encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw)
    return path


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_header_is_refused_in_one_line_with_bounded_work(tmp_path, text):
    path = write(tmp_path / "x.safetensors", text)
    for read in (load_file, inspect_checkpoint, lambda p: unpack_checkpoint(p, tmp_path / "out")):

        def refused(read=read):
            with pytest.raises(ContainerError) as caught:
                read(path)
            assert len(str(caught.value)) <= MAX_LINE_CHARS
            assert str(caught.value).isprintable()

        assert calls_of(refused) <= CALLS_PER_BYTE * path.stat().st_size + CALLS_ONCE
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", ["unpack", "inspect"])
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_the_command_line_refuses_hostile_headers_in_one_line(tmp_path, nmsim, verb, text):
    path = write(tmp_path / "x.safetensors", text)
    code, out, err = nmsim(verb, path, *(["-o", tmp_path / "out"] if verb == "unpack" else []))
    assert (code, out) == (2, "")
    assert err.startswith("nmsim: ")
    assert err.count("\n") == 1
    assert len(err) <= 301
    assert "Traceback" not in err


@pytest.mark.parametrize("shape", [[0, 2**55], [2**55, 0], [0] * 64, [2**27, 0, 2**27], [0, 1]])
@pytest.mark.parametrize("encoding", ["bitmask", "index", "gap:1", "combinatorial", "joint", "joint:64"])
def test_huge_shapes_without_elements_are_read_and_cost_nothing(tmp_path, shape, encoding):
    rows = 1
    for extent in shape[:-1]:
        rows *= extent
    entry = {"shape": shape, "axis": len(shape) - 1, "encoding": encoding}
    values = {"shape": [rows, -(-shape[-1] // 4) * 2]}
    path = write(tmp_path / "x.safetensors", header_with(entry, values))
    (dense,) = decompress_all(path)
    assert list(dense.shape) == shape
    assert_bounded(path, tmp_path / "out")


def test_the_longest_code_is_that_of_the_cap():
    longest = max(
        encodings.get(name).code_bits(Pattern(n, 256))
        for name in ("bitmask", "index", "combinatorial", *(f"gap:{bits}" for bits in range(1, 17)))
        for n in range(1, 257)
    )
    assert longest == MAX_CODE_BITS
    assert encodings.get("joint:4096").code_bits(Pattern(1, 2)) == MAX_CODE_BITS
    assert encodings.get("joint:16").code_bits(WIDEST) == 4027
    for groups in (17, 60, 4096):
        for call in ("code_bits", "groups_per_code"):
            with pytest.raises(
                EncodingError, match=f"joint:{groups}: .* more than 4096 bits.* at most joint:16"
            ):
                getattr(encodings.get(f"joint:{groups}"), call)(WIDEST)


@pytest.mark.parametrize(
    "pattern", [Pattern(2, 4), Pattern(7, 13), Pattern(1, 2), Pattern(30, 60), Pattern(70, 128)]
)
@pytest.mark.parametrize("groups", [1, 2, 5, 16, 31])
def test_codes_of_many_groups_are_numbers_in_base_c(pattern, groups):
    """The sum of c_j * C^j in Python integers is the second road to the code."""
    masks = packed(f"{pattern}/bitmask", 67 * pattern.n)._group_masks(1)
    digits = [int(code) for code in encodings.get("combinatorial").encode(to_integers(masks), pattern)]
    base = pattern.configurations
    expected = [
        sum(digit * base**place for place, digit in enumerate(digits[start : start + groups]))
        for start in range(0, len(digits), groups)
    ]
    encoding = encodings.get(f"joint:{groups}")
    codes = encoding.encode(to_integers(masks), pattern)
    assert [int(code) for code in codes] == expected
    assert (encoding.decode(codes, pattern, len(digits)) == to_integers(masks)).all()
    for place in (0, len(expected) - 1):
        held = len(digits[place * groups : (place + 1) * groups])
        wrong = [int(code) for code in codes]
        wrong[place] = base**held
        if wrong[place].bit_length() <= encoding.code_bits(pattern):
            taken = from_integers(wrong, encoding.code_bits(pattern), "code")
            with pytest.raises(EncodingError, match=f"code {place} is .*, which no mask has"):
                encoding.decode_words(taken, pattern, len(digits))
