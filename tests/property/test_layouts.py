"""Laws of the layouts: every order is a permutation, follows its formula, and reads back what it wrote."""

import hypothesis.extra.numpy as hnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nmsim.errors import EncodingError
from nmsim.layouts import nvidia_mask, nvidia_metadata, nvidia_offsets


@st.composite
def requests(draw):
    """A shape and the options it is legal with."""
    arch = draw(st.sampled_from(["linear", "sm80", "sm90", "sm100"]))
    value_bits = draw(st.sampled_from([8, 16, 32]))
    options = {"arch": arch, "value_bits": value_bits}
    if arch == "sm80":
        row_unit, k_unit = {8: (16, 64), 16: (32, 32), 32: (32, 16)}[value_bits]
        return draw(st.integers(1, 5)) * row_unit, draw(st.integers(1, 5)) * k_unit, options
    if arch == "sm90":
        block = 512 // value_bits
        options["tile_k"] = draw(st.one_of(st.none(), st.integers(1, 128 // block).map(lambda n: n * block)))
    k_unit = 2 if value_bits == 32 else 4
    return draw(st.integers(1, 200)), draw(st.integers(1, 100)) * k_unit, options


def group_elems(options):
    return 2 if options["value_bits"] == 32 else 4


def draw_mask(rows, k, options, seed, full):
    elems = group_elems(options)
    rng = np.random.default_rng(seed)
    mask = rng.random((rows, k // elems, elems)).argsort(axis=-1) < elems // 2
    if not full:
        mask &= rng.random(mask.shape) < 0.7
    return mask.reshape(rows, k)


def formula_sm80(rows, groups, value_bits):
    """CUTLASS's loop over metadata words, in nibbles."""
    quads = 8 if value_bits == 8 else 4
    group, interweave = (16, 2) if value_bits == 8 else (32, 4)
    offsets = np.empty((rows, groups), dtype=np.int64)
    for m in range(rows):
        for word in range(groups // quads):
            r = m // group * group + m % 8 * interweave + m % group // 8
            c = word
            if r % 2 == 0 and c % 2 == 1:
                r, c = r + 1, c - 1
            elif r % 2 == 1 and c % 2 == 0:
                r, c = r - 1, c + 1
            flat = c // 2 * 2 * rows + 2 * r + c % 2
            for nibble in range(quads):
                offsets[m, word * quads + nibble] = flat * quads + nibble
    return offsets


def formula_atom(rows, groups, options):
    """Offset of each group's first element, atom by atom, divided by the elements of a group."""
    value_bits, elems = options["value_bits"], group_elems(options)
    if options["arch"] == "sm100":
        atom_m, atom_k = 128, 64 if value_bits == 32 else 128
    else:
        atom_m, atom_k = 64, options["tile_k"] or 128
    offsets = np.empty((rows, groups), dtype=np.int64)
    for row in range(rows):
        for group in range(groups):
            atom_row, m = divmod(row, atom_m)
            atom_column, k = divmod(group * elems, atom_k)
            if value_bits == 8:
                inside = m * atom_k + k
            else:
                run = 128 // value_bits * 2  # 16 elements of 16 bits, 8 of 32
                num_k = atom_k // (2 * run)
                k0, k1, kb = k % run, k // run % 2, k // (2 * run)
                m0, m1, m2 = m % 8, m // 8 % 2, m // 16
                inside = k0 + run * (m1 + 2 * (kb + num_k * (m0 + 8 * (k1 + 2 * m2))))
            atom = atom_column * (rows // atom_m) + atom_row
            offsets[row, group] = (atom * atom_m * atom_k + inside) // elems
    return offsets


@given(requests())
def test_offsets_are_a_permutation(request_):
    rows, k, options = request_
    offsets = nvidia_offsets(rows, k, **options)
    assert offsets.shape[0] >= rows
    assert offsets.shape[1] * group_elems(options) >= k
    np.testing.assert_array_equal(np.sort(offsets, axis=None), np.arange(offsets.size))


@given(requests())
def test_offsets_follow_the_written_formula(request_):
    rows, k, options = request_
    offsets = nvidia_offsets(rows, k, **options)
    padded_rows, groups = offsets.shape
    if options["arch"] == "linear":
        expected = np.arange(padded_rows * groups).reshape(padded_rows, groups)
    elif options["arch"] == "sm80":
        expected = formula_sm80(padded_rows, groups, options["value_bits"])
    else:
        expected = formula_atom(padded_rows, groups, options)
    np.testing.assert_array_equal(offsets, expected)


@given(requests(), st.integers(0, 2**32 - 1))
def test_full_masks_read_back_exactly(request_, seed):
    rows, k, options = request_
    mask = draw_mask(rows, k, options, seed, full=True)
    back = nvidia_mask(nvidia_metadata(mask, **options), (rows, k), **options)
    assert back.dtype == np.bool_
    np.testing.assert_array_equal(back, mask)


@given(requests(), st.integers(0, 2**32 - 1))
def test_under_full_masks_read_back_as_full_ones_that_contain_them(request_, seed):
    rows, k, options = request_
    mask = draw_mask(rows, k, options, seed, full=False)
    metadata = nvidia_metadata(mask, **options)
    back = nvidia_mask(metadata, (rows, k), **options)
    elems = group_elems(options)
    assert not (mask & ~back).any()
    assert (back.reshape(rows, -1, elems).sum(axis=2) == elems // 2).all()
    np.testing.assert_array_equal(nvidia_metadata(back, **options), metadata)


@given(hnp.arrays(np.uint8, (2, 2)), st.sampled_from([8, 16, 32]))
def test_any_bytes_give_an_error_or_a_valid_mask(metadata, value_bits):
    elems = 2 if value_bits == 32 else 4
    options = {"arch": "linear", "value_bits": value_bits}
    try:
        mask = nvidia_mask(metadata, (2, 4 * elems), **options)
    except EncodingError:
        return
    assert (mask.reshape(2, -1, elems).sum(axis=2) == elems // 2).all()
    np.testing.assert_array_equal(nvidia_metadata(mask, **options), metadata)
