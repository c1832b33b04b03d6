"""Every problem is one short line, whatever the input holds: integers of any size, long texts, control characters."""

import importlib
import pickle
import pkgutil
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hwmodels
import kernels
import nmsim
import validate
from nmsim import encodings, layouts, packing
from nmsim.case import GemmShape
from nmsim.encodings.gap import Gap
from nmsim.encodings.joint import Joint
from nmsim.errors import MAX_LINE_CHARS, NmsimError, RowError, SpecError, brief, brief_names, one_line
from nmsim.pattern import Pattern

HUGE = 1 << 20_000
LONG = "x" * 1_000_000


def error_types():
    """All error types of the packages, those of modules that need no device included."""
    for package in (nmsim, hwmodels, kernels, validate):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if module.name.endswith((".errors", ".gate", ".rounds", ".clock")):
                importlib.import_module(module.name)
    found = [NmsimError]
    for kind in found:
        found += kind.__subclasses__()
    return found


def assert_short(error):
    assert error.args
    for line in error.args:
        assert len(line) <= MAX_LINE_CHARS
        assert line.isprintable()
    assert str(error).splitlines() == list(error.args)


@pytest.mark.parametrize("kind", error_types(), ids=lambda kind: kind.__name__)
def test_every_error_type_bounds_its_lines(kind):
    for text in (LONG, f"a: {LONG} b", "word " * 100_000, "\x1b[2J\n\r\0\u202e\ud800" * 1000):
        error = kind(text)
        assert_short(error)
        assert_short(error.within(f"{LONG}: tensor 'w'"))
        assert pickle.loads(pickle.dumps(error)).args == error.args


def test_an_error_of_several_problems_has_a_line_for_each():
    error = SpecError("a: " + LONG, "b\nc").within("file")
    assert_short(error)
    assert [line[:8] for line in error.args] == ["file: a:", "file: b\\"]


def test_an_error_of_a_row_bounds_its_problem_too():
    error = RowError.at(LONG, row=HUGE.bit_length(), column=LONG, table="t")
    assert_short(error)
    assert len(error.problem) <= MAX_LINE_CHARS


@given(st.text(max_size=2000))
@settings(max_examples=200)
def test_any_text_becomes_one_line_and_a_short_one_stays(text):
    line = one_line(text)
    assert len(line) <= MAX_LINE_CHARS
    assert line.isprintable()
    assert one_line(line) == line
    if text.isprintable() and len(text) <= MAX_LINE_CHARS:
        assert line == text


def test_what_is_wrong_and_what_was_expected_stay_in_a_long_line():
    line = one_line(f"/data/{'folder/' * 50}w.safetensors: tensor {LONG!r}: dtype X, expected one of U8")
    assert line.startswith("/data/folder")
    assert "w.safetensors: tensor" in line
    assert line.endswith("dtype X, expected one of U8")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
    | st.integers(1, 40_000).map(lambda bits: -1 << bits),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
)  # fmt: skip


@given(VALUES)
@settings(max_examples=200)
def test_a_value_is_shown_briefly(value):
    assert len(brief(value)) <= 8 * MAX_LINE_CHARS
    assert_short(NmsimError(f"found {brief(value)}, expected another"))


HUGE_VALUES = {
    "integer": HUGE,
    "negative": -HUGE,
    "list": [HUGE] * 1000,
    "tuple": (HUGE,),
    "mapping": {LONG: HUGE},
    "set": {HUGE},
    "text": LONG,
    "bytes": LONG.encode(),
    "array": np.array([HUGE], object),
    "range": range(HUGE),
}


@pytest.mark.parametrize("value", HUGE_VALUES.values(), ids=HUGE_VALUES.keys())
def test_huge_values_are_shown_briefly(value):
    assert len(brief(value)) < 400


def test_a_deep_value_is_shown_briefly():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    assert brief(deep) == "[[[[...]]]]"


@given(st.integers(-(1 << 128) + 1, (1 << 128) - 1))
def test_plain_integers_are_shown_in_decimal(number):
    assert brief(number) == str(number)


@given(st.integers(129, 30_000), st.booleans())
def test_long_integers_show_their_ends_and_their_length(bits, negative):
    number = (1 << bits - 1) + 0xABCDEF
    sign, head, tail, length = re.fullmatch(
        r"(-?)0x(\w{8})\.\.\.(\w{8}) \((\d+) bits\)", brief(-number if negative else number)
    ).groups()
    assert (sign == "-", int(length)) == (negative, bits)
    assert f"{number:x}".startswith(head)
    assert f"{number:x}".endswith(tail)


def test_names_are_listed_up_to_a_count():
    assert brief_names(str(i) for i in range(10**6)) == "0, 1, 2, 3, 4, 5, ..."
    assert len(brief_names([LONG] * 9)) < 400


HALF = Pattern(128, 256)
HUGE_CALLS = {
    "joint:60, every bit set": lambda: encodings.get("joint:60").read_stream(b"\xff" * 1887 + b"\x1f", HALF, 60),
    "joint:1500, every bit set": lambda: (
        encodings.get("joint:1500").decode([(1 << encodings.get("joint:1500").code_bits(Pattern(8, 16))) - 1], Pattern(8, 16))
    ),
    "pack": lambda: packing.pack([1 << 20000], 15000),
    "pack negative": lambda: packing.pack([-HUGE], 15000),
    "pack code_bits": lambda: packing.pack([1], -HUGE),
    "pack narrow": lambda: packing.pack([HUGE], 8),
    "pack lengths": lambda: packing.pack([1 << 14999], 15000, lengths=np.array([14000])),
    "report": lambda: packing.report(-HUGE, 3),
    "report bits": lambda: packing.report(3, -HUGE),
    "unpack": lambda: packing.unpack(b"", HUGE, 3),
    "unpack bits": lambda: packing.unpack(b"", 3, HUGE),
    "unpack words": lambda: packing.unpack(b"", HUGE, 3, "no_straddle:8"),
    "encode": lambda: encodings.get("bitmask").encode([HUGE], HALF),
    "encode narrow": lambda: encodings.get("index").encode([HUGE], Pattern(2, 4)),
    "decode": lambda: encodings.get("combinatorial").decode([HUGE], HALF),
    "decode n_groups": lambda: encodings.get("joint").decode([1], Pattern(2, 4), HUGE),
    "read n_groups": lambda: encodings.get("joint").read_stream(b"", Pattern(2, 4), HUGE),
    "read n_groups of gap": lambda: encodings.get("gap:1").read_stream(b"", Pattern(2, 4), -HUGE),
    "encoding": lambda: encodings.get("joint:" + "9" * 5000),
    "joint": lambda: Joint(HUGE),
    "gap": lambda: Gap(HUGE),
    "pattern": lambda: Pattern(1, HUGE),
    "pattern n": lambda: Pattern(HUGE, 4),
    "pattern text": lambda: Pattern.parse("9" * 5000 + ":4"),
    "format": lambda: nmsim.SparseFormat.parse(LONG),
    "packing": lambda: packing.parse(LONG),
    "packing width": lambda: packing.parse("no_straddle:" + "9" * 5000),
    "csr": lambda: encodings.csr_bits(-HUGE, 1),
    "coo": lambda: encodings.coo_bits(1, index_bits=-HUGE),
    "axis": lambda: nmsim.compress(np.zeros((4, 4)), "2:4", axis=HUGE),
    "threads": lambda: nmsim.compress(np.zeros((4, 4)), "2:4", threads=-HUGE),
    "shape": lambda: nmsim.PackedTensor(
        np.zeros((1, 2)), np.zeros(1, np.uint8), nmsim.SparseFormat.parse("2:4"), (HUGE, 4), 1, 4, 0
    ),
    "bits": lambda: nmsim.PackedTensor(
        np.zeros((1, 2)), np.zeros(1, np.uint8), nmsim.SparseFormat.parse("2:4"), (1, 4), 1, HUGE, 0
    ),
    "tensor name": lambda: nmsim.save_file({LONG: 3}, "x"),
    "path": lambda: nmsim.load_file(LONG),
    "rows of a layout": lambda: layouts.nvidia_offsets(HUGE + 1, 32),
    "K of a layout": lambda: layouts.nvidia_offsets(32, HUGE + 1, arch="sm90"),
    "tile of a layout": lambda: layouts.nvidia_offsets(32, 32, arch="sm90", tile_k=HUGE),
    "mask of a layout": lambda: layouts.nvidia_mask(np.zeros((2, 2), np.int16), (HUGE, HUGE)),
    "shape of a product": lambda: GemmShape(-HUGE, 1, 1),
}  # fmt: skip


@pytest.mark.parametrize("call", HUGE_CALLS.values(), ids=HUGE_CALLS.keys())
def test_huge_input_of_a_public_call_is_refused_in_one_line(call):
    with pytest.raises(NmsimError) as caught:
        call()
    assert_short(caught.value)
