"""Nibbles, orders and error texts of `nmsim.layouts`, each against a number a reader can redo by hand."""

import itertools
import re

import numpy as np
import pytest

from nmsim.errors import EncodingError, PatternError
from nmsim.layouts import ARCHITECTURES, LEGAL_NIBBLES, nvidia_mask, nvidia_metadata, nvidia_offsets

# Elements kept -> nibble. The six full groups are the PTX ISA's; the others are torch 2.13's choice.
NIBBLE_2_OF_4 = {
    (0, 1): 0x4, (0, 2): 0x8, (0, 3): 0xC, (1, 2): 0x9, (1, 3): 0xD, (2, 3): 0xE,
    (): 0xE, (0,): 0x8, (1,): 0x9, (2,): 0xE, (3,): 0xE,
}  # fmt: skip
NIBBLE_1_OF_2 = {(): 0xE, (0,): 0x4, (1,): 0xE}


def full_mask(rows, k, value_bits=16, seed=0):
    elems = 2 if value_bits == 32 else 4
    scores = np.random.default_rng(seed).random((rows, k // elems, elems))
    return (scores.argsort(axis=-1) < elems // 2).reshape(rows, k)


@pytest.mark.parametrize(("kept", "nibble"), NIBBLE_2_OF_4.items())
@pytest.mark.parametrize("value_bits", [8, 16])
def test_nibble_of_each_group_of_four(kept, nibble, value_bits):
    mask = np.zeros((1, 4), dtype=bool)
    mask[0, list(kept)] = True
    assert nvidia_metadata(mask, arch="linear", value_bits=value_bits).tolist() == [[0xE0 | nibble, 0xEE]]


@pytest.mark.parametrize(("kept", "nibble"), NIBBLE_1_OF_2.items())
def test_nibble_of_each_pair(kept, nibble):
    mask = np.zeros((1, 2), dtype=bool)
    mask[0, list(kept)] = True
    assert nvidia_metadata(mask, arch="linear", value_bits=32).tolist() == [[0xE0 | nibble, 0xEE]]


def test_legal_nibbles():
    assert LEGAL_NIBBLES == {4: (0x4, 0x8, 0x9, 0xC, 0xD, 0xE), 2: (0x4, 0xE)}


def test_nibbles_pack_low_half_first():
    row = [1, 1, 0, 0, 1, 0, 1, 0, 1, 0, 0, 1, 0, 1, 1, 0]  # 0x4, 0x8, 0xC, 0x9
    mask = np.array([row], dtype=bool)
    assert nvidia_metadata(mask, arch="linear").tolist() == [[0x84, 0x9C]]
    words = nvidia_metadata(np.tile(mask, (32, 2)), arch="sm80")
    assert set(words.ravel().view(np.uint16).tolist()) == {0x9C84}


def test_sm80_worked_example_of_the_docs():
    mask = np.zeros((32, 32), dtype=bool)
    mask[:, 2::4] = mask[:, 3::4] = True  # 0xE everywhere
    mask[1, :16] = np.tile([True, True, False, False], 4)  # row 1, word 0
    words = nvidia_metadata(mask).ravel().view(np.uint16)
    assert np.flatnonzero(words != 0xEEEE).tolist() == [8]
    assert words[8] == 0x4444
    where = nvidia_offsets(32, 32)[[0, 1, 8, 16, 24], ::4] // 4
    assert where.T.tolist() == [[0, 8, 1, 4, 5], [2, 10, 3, 6, 7]]


@pytest.mark.parametrize(
    ("options", "first_bytes"),
    [
        ({"arch": "sm90"}, [0, 128, 4, 16, 2, 256, 1024]),
        ({"arch": "sm90", "tile_k": 64}, [0, 64, 4, 8, 2, 128, 512]),
        ({"arch": "sm100"}, [0, 128, 4, 16, 2, 256, 1024]),
    ],
)
def test_atom_table_of_the_docs(options, first_bytes):
    offsets = nvidia_offsets(128, 128, **options)
    rows, words = [0, 0, 0, 1, 8, 16, 64], [0, 1, 2, 0, 0, 0, 0]
    assert (offsets[rows, [4 * word for word in words]] // 2).tolist() == first_bytes


@pytest.mark.parametrize(
    ("value_bits", "dtype", "shape"), [(16, "int16", (64, 8)), (8, "int32", (64, 4)), (32, "int16", (64, 16))]
)
def test_sm80_dtype_and_shape(value_bits, dtype, shape):
    words = nvidia_metadata(full_mask(64, 128, value_bits), value_bits=value_bits)
    assert (words.dtype, words.shape) == (np.dtype(dtype), shape)


@pytest.mark.parametrize(
    ("arch", "value_bits", "tile_k", "shape"),
    [
        ("sm90", 16, None, (128, 32)),  # 65 x 130 padded to 64 x 128 atoms: 128 x 256 elements
        ("sm90", 16, 32, (128, 20)),  # K padded to 160
        ("sm90", 8, 64, (128, 24)),  # K padded to 192
        ("sm90", 32, None, (128, 64)),
        ("sm90", 32, 16, (128, 36)),  # K padded to 144
        ("sm100", 16, None, (128, 32)),
        ("sm100", 8, None, (128, 32)),
        ("sm100", 32, None, (128, 48)),  # K padded to 192
        ("linear", 16, None, (65, 18)),  # K padded to 144
        ("linear", 32, None, (65, 34)),  # K padded to 136
    ],
)
def test_padded_shape(arch, value_bits, tile_k, shape):
    k = 132 if value_bits != 32 else 130
    mask = full_mask(65, k, value_bits)
    metadata = nvidia_metadata(mask, arch=arch, value_bits=value_bits, tile_k=tile_k)
    assert (metadata.dtype, metadata.shape) == (np.uint8, shape)
    back = nvidia_mask(metadata, mask.shape, arch=arch, value_bits=value_bits, tile_k=tile_k)
    np.testing.assert_array_equal(back, mask)


def cute_offset(m, k, m_layout, k_layout):
    """Offset of element (m, k) in a CuTe layout: each coordinate's digits times their strides."""
    offset = 0
    for coordinate, (shape, stride) in ((m, m_layout), (k, k_layout)):
        for extent, step in zip(shape, stride, strict=True):
            offset += coordinate % extent * step
            coordinate //= extent
    return offset


def assert_first_atom(offsets, m_layout, k_layout, group_elems):
    rows, k = np.prod(m_layout[0]), np.prod(k_layout[0])
    for m, group in itertools.product(range(rows), range(k // group_elems)):
        expected = cute_offset(m, group * group_elems, m_layout, k_layout)
        assert offsets[m, group] * group_elems == expected, (m, group)


@pytest.mark.parametrize(
    ("value_bits", "m_layout", "k_layout"),
    [
        (16, ((8, 2, 8), (128, 16, 2048)), ((16, 2, 4), (1, 1024, 32))),
        (32, ((8, 2, 8), (64, 8, 1024)), ((8, 2, 4), (1, 512, 16))),
        (8, ((128,), (128,)), ((128,), (1,))),
    ],
)
def test_sm100_atom_has_the_strides_of_the_header(value_bits, m_layout, k_layout):
    offsets = nvidia_offsets(128, 128, arch="sm100", value_bits=value_bits)
    assert_first_atom(offsets, m_layout, k_layout, 2 if value_bits == 32 else 4)


def ordered_strides(m_shape, k_shape, m_step, k_step):
    """Strides of CuTe's `make_ordered_layout`: compact, the mode with the lowest step fastest."""
    modes = sorted(zip(m_step + k_step, range(len(m_step + k_step)), m_shape + k_shape, strict=True))
    strides, size = {}, 1
    for _, mode, extent in modes:
        strides[mode] = size
        size *= extent
    flat = tuple(strides[mode] for mode in range(len(strides)))
    return flat[: len(m_shape)], flat[len(m_shape) :]


@pytest.mark.parametrize("num_k", [1, 2, 3, 4])
@pytest.mark.parametrize(("value_bits", "k0"), [(16, 16), (32, 8)])
def test_sm90_atom_has_the_ordered_layout_of_the_header(value_bits, k0, num_k):
    m_shape, k_shape = (8, 2, 4), (k0, 2, num_k)
    m_stride, k_stride = ordered_strides(m_shape, k_shape, (3, 1, 5), (0, 4, 2))
    tile_k = 2 * k0 * num_k
    offsets = nvidia_offsets(64, tile_k, arch="sm90", value_bits=value_bits, tile_k=tile_k)
    group_elems = 2 if value_bits == 32 else 4
    assert_first_atom(offsets, (m_shape, m_stride), (k_shape, k_stride), group_elems)


@pytest.mark.parametrize("tile_k", [64, 128])
def test_sm90_8_bit_is_row_major_inside_the_atom(tile_k):
    offsets = nvidia_offsets(64, tile_k, arch="sm90", value_bits=8, tile_k=tile_k)
    np.testing.assert_array_equal(offsets.ravel(), np.arange(offsets.size))


def test_atoms_repeat_along_the_rows_first():
    offsets = nvidia_offsets(128, 256, arch="sm90")
    atom_nibbles = 64 * 128 // 4
    first = offsets[:64, :32]
    np.testing.assert_array_equal(offsets[64:, :32], first + atom_nibbles)
    np.testing.assert_array_equal(offsets[:64, 32:], first + 2 * atom_nibbles)


def test_sm90_order_depends_on_the_k_tile():
    mask = full_mask(64, 128)
    default = nvidia_metadata(mask, arch="sm90")
    np.testing.assert_array_equal(default, nvidia_metadata(mask, arch="sm90", tile_k=128))
    assert (default != nvidia_metadata(mask, arch="sm90", tile_k=64)).any()


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("value_bits", [8, 16, 32])
def test_offsets_say_where_metadata_puts_each_nibble(arch, value_bits):
    mask = full_mask(128, 128, value_bits)
    memory = nvidia_metadata(mask, arch=arch, value_bits=value_bits).ravel().view(np.uint8)
    nibbles = np.stack([memory & 15, memory >> 4], axis=1).ravel()
    offsets = nvidia_offsets(128, 128, arch=arch, value_bits=value_bits)
    elems = 2 if value_bits == 32 else 4
    nibble_of = NIBBLE_1_OF_2 if value_bits == 32 else NIBBLE_2_OF_4
    expected = [
        [nibble_of[tuple(np.flatnonzero(group).tolist())] for group in row.reshape(-1, elems)] for row in mask
    ]
    np.testing.assert_array_equal(nibbles[offsets], expected)


def test_non_contiguous_input_gives_the_same():
    mask = full_mask(64, 64)
    strided = np.asfortranarray(mask)
    words = nvidia_metadata(strided)
    np.testing.assert_array_equal(words, nvidia_metadata(mask))
    np.testing.assert_array_equal(nvidia_mask(np.asfortranarray(words), (64, 64)), mask)


def test_numpy_integers_are_extents():
    assert nvidia_offsets(np.int64(32), np.int32(32)).shape == (32, 8)


@pytest.mark.parametrize(
    ("mask", "text"),
    [
        (np.ones((32, 32), dtype=np.uint8), "mask (uint8 [32, 32]): expected a numpy array of bool"),
        (np.ones(32, dtype=bool), "mask (bool [32]): expected a numpy array of bool, shape [rows, K]"),
        ([[True]], "mask (list): expected a numpy array of bool"),
    ],
)
def test_rejects_what_is_no_mask(mask, text):
    with pytest.raises(PatternError, match=re.escape(text)):
        nvidia_metadata(mask)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_rejects_over_full_groups(arch):
    mask = full_mask(64, 128)
    mask[37, 20:24] = [True, False, True, True]
    mask[40, 0:4] = True
    text = "mask row 37, group 5 (elements 20 to 23) keeps 3 elements: expected at most 2 of 4"
    with pytest.raises(PatternError, match=re.escape(text)):
        nvidia_metadata(mask, arch=arch)


def test_rejects_over_full_pairs():
    mask = full_mask(32, 32, value_bits=32)
    mask[3, 30:32] = True
    text = "mask row 3, group 15 (elements 30 to 31) keeps 2 elements: expected at most 1 of 2"
    with pytest.raises(PatternError, match=re.escape(text)):
        nvidia_metadata(mask, value_bits=32)


@pytest.mark.parametrize(
    ("rows", "k", "options", "text"),
    [
        (32, 32, {"arch": "sm75"}, "arch='sm75': expected one of linear, sm80, sm90, sm100"),
        (32, 32, {"value_bits": 4}, "value_bits=4 (type int): expected one of 8, 16, 32"),
        (32, 32, {"value_bits": 16.0}, "value_bits=16.0 (type float): expected one of 8, 16, 32"),
        (32, 32, {"value_bits": True}, "value_bits=True (type bool): expected one of 8, 16, 32"),
        (16, 32, {}, "rows=16: expected a multiple of 32 for arch='sm80' with 16-bit values"),
        (32, 48, {}, "K=48: expected a multiple of 32 for arch='sm80' with 16-bit values"),
        (8, 64, {"value_bits": 8}, "rows=8: expected a multiple of 16 for arch='sm80' with 8-bit values"),
        (16, 32, {"value_bits": 8}, "K=32: expected a multiple of 64 for arch='sm80' with 8-bit values"),
        (32, 24, {"value_bits": 32}, "K=24: expected a multiple of 16 for arch='sm80' with 32-bit values"),
        (32, 30, {"arch": "sm100"}, "K=30: expected a multiple of 4, one group of 16-bit values"),
        (32, 31, {"arch": "sm90", "value_bits": 32}, "K=31: expected a multiple of 2, one group of 32-bit"),
        (0, 32, {}, "rows=0 (type int): expected a positive int"),
        (32, 32, {"tile_k": 128}, "tile_k=128 with arch='sm80': only the order of sm90 depends on"),
        (
            32,
            32,
            {"arch": "sm90", "tile_k": 48},
            "tile_k=48 with 16-bit values: expected a multiple of 32, at",
        ),
        (
            32,
            32,
            {"arch": "sm90", "tile_k": 256},
            "tile_k=256 with 16-bit values: expected a multiple of 32, at",
        ),
        (32, 32, {"arch": "sm90", "tile_k": 64.0}, "tile_k=64.0 (type float): expected a positive int"),
    ],
)
def test_rejects_requests_outside_the_order(rows, k, options, text):
    with pytest.raises(EncodingError, match=re.escape(text)):
        nvidia_metadata(np.zeros((rows, k), dtype=bool), **options)
    with pytest.raises(EncodingError, match=re.escape(text)):
        nvidia_offsets(rows, k, **options)


@pytest.mark.parametrize(
    ("metadata", "shape", "text"),
    [
        (
            np.zeros((32, 2), np.uint16),
            (32, 32),
            "metadata (uint16 [32, 2]): expected a numpy array of int16",
        ),
        (
            np.zeros((2, 32), np.int16),
            (32, 32),
            "metadata (int16 [2, 32]): expected a numpy array of int16, shape",
        ),
        (b"", (32, 32), "metadata (bytes): expected a numpy array of int16, shape [32, 2], for a mask of"),
        (np.zeros((32, 2), np.int16), [32, 32], "shape=[32, 32] (type list): expected a tuple (rows, K)"),
        (np.zeros((32, 2), np.int16), (32, True), "K=True (type bool): expected a positive int"),
    ],
)
def test_inverse_rejects_wrong_arrays(metadata, shape, text):
    with pytest.raises(EncodingError, match=re.escape(text)):
        nvidia_mask(metadata, shape)


@pytest.mark.parametrize(("value_bits", "legal"), [(8, "4 8 9 C D E"), (16, "4 8 9 C D E"), (32, "4 E")])
@pytest.mark.parametrize("nibble", range(16))
def test_inverse_accepts_legal_nibbles_only(value_bits, legal, nibble):
    metadata = np.array([[0xEE, 0xE0 | nibble]], dtype=np.uint8)
    k = 8 if value_bits == 32 else 16
    if f"{nibble:X}" in legal.split():
        nvidia_mask(metadata, (1, k), arch="linear", value_bits=value_bits)
        return
    first, last = (4, 5) if value_bits == 32 else (8, 11)
    text = (
        f"metadata word 1 = 0x{0xE0 | nibble:02x}, nibble 0 = {nibble:X}: row 0, group 2, "
        f"elements {first} to {last}: expected one of {legal}"
    )
    with pytest.raises(EncodingError, match=f"^{re.escape(text)}$"):
        nvidia_mask(metadata, (1, k), arch="linear", value_bits=value_bits)


def test_inverse_names_the_word_in_memory():
    words = nvidia_metadata(full_mask(32, 32))
    flat = words.ravel().view(np.uint16)
    flat[8] = 0x4F44  # the worked example of the docs: row 1, word 0
    text = "metadata word 8 = 0x4f44, nibble 2 = F: row 1, group 2, elements 8 to 11: expected one of"
    with pytest.raises(EncodingError, match=re.escape(text)):
        nvidia_mask(words, (32, 32))


@pytest.mark.parametrize(("row", "group"), [(0, 1), (0, 31), (1, 0), (63, 31)])
def test_padding_may_be_cleared_but_nothing_else(row, group):
    mask = np.array([[True, False, True, False]])
    metadata = nvidia_metadata(mask, arch="sm90")
    offset = nvidia_offsets(1, 4, arch="sm90")[row, group]
    shift = 4 * (offset % 2)

    def with_padding(nibble):
        changed = metadata.copy()
        memory = changed.ravel()
        memory[offset // 2] = memory[offset // 2] & ~(15 << shift) & 255 | nibble << shift
        return changed

    for accepted in (0x0, 0xE):
        np.testing.assert_array_equal(nvidia_mask(with_padding(accepted), (1, 4), arch="sm90"), mask)
    first = 4 * group
    text = f"nibble {offset % 2} = 4: row {row}, group {group}, elements {first} to {first + 3} (padding)"
    with pytest.raises(EncodingError, match=re.escape(text)):
        nvidia_mask(with_padding(0x4), (1, 4), arch="sm90")
