"""Cells that are counted: trees of products that really add up, in words as wide as they need and no wider."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwmodels.silicon import structures
from hwmodels.silicon.structures import FIELDS, FLOATS, Cells
from hwmodels.silicon.technology import load
from nmsim.case import VALUE_BITS
from nmsim.errors import SpecError

FLOAT_TYPES = tuple(FLOATS)
INTEGERS = ("int8", "int4")


def gates(cells: Cells) -> float:
    return load(45).gates(cells).nominal


def test_sums_of_cells_and_copies():
    assert Cells(mux2=3) + Cells(and2=1).times(4) == Cells(mux2=3, and2=4)


def test_an_adder_of_the_tree_is_the_published_adder_within_a_tenth():
    """32 cells of the NanGate library, against the adder that Dally and Han synthesised; and their energies."""
    technology = load(45)
    adder = Cells(full_adder=32)
    um2 = technology.gates(adder).nominal * technology.cost("logic_um2", "gate").nominal
    assert um2 / technology.cost("add_um2", "int32").nominal == pytest.approx(0.99, abs=0.01)
    joules = technology.joules(adder).nominal / technology.cost("add_joules", "int32").nominal
    assert joules == pytest.approx(0.97, abs=0.01)


def test_a_multiplier_counted_as_an_array_is_the_published_one_within_a_tenth():
    array = Cells(full_adder=8 * 7, and2=8 * 8)
    technology = load(45)
    um2 = technology.gates(array).nominal * technology.cost("logic_um2", "gate").nominal
    assert um2 / technology.cost("multiply_um2", "int8").nominal == pytest.approx(1.08, abs=0.01)


@pytest.mark.parametrize("words", range(1, 40))
def test_a_tree_adds_pairs_and_each_level_is_a_bit_wider(words):
    bits, adders, level = [8] * words, 0, 8
    while len(bits) > 1:
        level += 1
        pairs = len(bits) // 2
        adders += pairs * level
        bits = [level] * (len(bits) - pairs)
    assert structures.sum_of(words, 8).full_adder == adders


def test_integer_trees_by_hand():
    # 4 products of 16 bits: two adders of 17, one of 18 bits; the partial sum takes one of 32.
    assert structures.product_tree("int8", 4, 25) == Cells(full_adder=17 + 17 + 18)
    assert structures.accumulation("int8", 4, 25) == Cells(full_adder=32)
    assert structures.product_tree("int4", 2, 25) == Cells(full_adder=9)


def test_a_float_tree_by_hand():
    # Two products of fp16 in words of 27 bits. Exponents of 6 bits are added (5), compared, chosen and subtracted. The word may
    # be replaced by its complement. One adder has 29 bits, with the sign.
    each = Cells(full_adder=5 + 6, comparator_bit=6, mux2=6 + 27) + structures.shifter(22, 27, 6)
    assert structures.product_tree("fp16", 2, 25) == each.times(2) + Cells(full_adder=29)


def test_types_whose_products_fit_need_no_largest_exponent():
    # E2M1: 0.25 to 36 in steps of 0.25 are 8 bits.
    assert structures.word_bits("fp4", 25) == 8
    assert structures.product_tree("fp4", 8, 25).comparator_bit == 0
    assert structures.product_tree("fp8", 8, 25).comparator_bit > 0


def test_words_hold_every_product_of_4_bit_floats():
    values = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
    steps = {a * b / 0.25 for a, b in itertools.product(values, values)}
    assert all(step.is_integer() for step in steps)
    assert max(steps) < 1 << structures.word_bits("fp4", 25)


@pytest.mark.parametrize(
    ("dtype", "smallest", "largest", "bits"),
    [("fp16", 2.0**-24, 65504.0, 80), ("fp8", 2.0**-16, 57344.0, 64), ("bf16", 2.0**-133, 3.3895e38, 522)],
)
def test_exact_words_reach_from_the_smallest_to_the_largest_product(dtype, smallest, largest, bits):
    needed = 2 * (np.floor(np.log2(largest)) - np.log2(smallest) + 1)
    assert FLOATS[dtype].exact_bits == bits == needed


def run_shifter(value: int, amount: int, into: int, word: int, amount_bits: int) -> int:
    """Shift `value` of `into` bits right from the top of a word, stage by stage as they are counted."""
    held = value << (word - into) if word >= into else value >> (into - word)
    for stage in range(min(structures.index_bits(word), amount_bits)):
        held >>= (amount >> stage & 1) << stage
    beyond = amount >> structures.index_bits(word)
    return 0 if beyond else held


@given(st.integers(0, 255), st.integers(0, 63))
def test_the_stages_of_a_shifter_shift(value, amount):
    assert run_shifter(value, amount, 8, 27, 6) == (value << 19) >> amount


def test_a_shifter_by_hand():
    # 2 bits into 4: by 1, one bit is found in two places and two in one; then three bits, by 2, into 4.
    assert structures.shifter(2, 4, 2) == Cells(mux2=1 + 1, and2=2 + 3)
    # An amount of one bit more clears the word.
    assert structures.shifter(2, 4, 3) == Cells(mux2=2, and2=5 + 4 + 1)


@given(
    st.sampled_from([*FLOAT_TYPES, *INTEGERS]),
    st.integers(1, 64),
    st.integers(8, 40),
)
def test_more_products_and_wider_words_never_take_fewer_cells(dtype, products, fraction_bits):
    count = structures.product_tree(dtype, products, fraction_bits)
    for larger in (
        structures.product_tree(dtype, products + 1, fraction_bits),
        structures.product_tree(dtype, products, fraction_bits + 1),
    ):
        assert gates(larger) >= gates(count)
    assert gates(structures.accumulation(dtype, products, fraction_bits + 1)) >= gates(
        structures.accumulation(dtype, products, fraction_bits)
    )


def test_floats_take_more_to_add_up_than_integers():
    assert gates(structures.product_tree("bf16", 16, 25)) > 5 * gates(structures.product_tree("int8", 16, 25))


@pytest.mark.parametrize("dtype", VALUE_BITS)
def test_every_value_type_has_a_tree(dtype):
    assert gates(structures.product_tree(dtype, 8, 25)) > 0
    assert set(FLOATS) | set(INTEGERS) == set(VALUE_BITS)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Cells(mux2=-1), "cells: mux2=-1: expected a whole number"),
        (lambda: Cells(and2=0.5), r"cells: and2=0\.5: expected a whole number"),
        (lambda: structures.significand_bits("fp64"), "dtype='fp64': expected one of"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(SpecError, match=message):
        call()


def test_all_counts_are_fields():
    assert FIELDS == ("full_adder", "half_adder", "comparator_bit", "mux2", "and2")
