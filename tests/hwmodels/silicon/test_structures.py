"""Counts of cells: hand numbers, the laws they obey, and networks that really select."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwmodels.machine.comparators import Network
from hwmodels.machine.comparators import network as network_of
from hwmodels.machine.software import comparators as software_comparators
from hwmodels.silicon import structures, units
from hwmodels.silicon.structures import FIELDS, Cells
from hwmodels.silicon.technology import load
from nmsim import encodings
from nmsim.case import VALUE_BITS
from nmsim.errors import EncodingError, SpecError
from nmsim.format import SparseFormat, sparse_format
from nmsim.pattern import Pattern

SIZES = (4, 8, 16, 32)
KINDS = ("all_pairs", "bitonic", "half")
STRUCTURES = ("mux", "ordered_mux", "crossbar", "banked", "benes")
ENCODINGS = ("bitmask", "index", "gap", "combinatorial", "joint", "joint:4")
SELECTED = [
    *(Pattern(n, m) for m in (1, 2, 3, 5, 8, 11) for n in range(1, m + 1)),
    Pattern(8, 16),
    Pattern(5, 16),
]
patterns = st.integers(1, 32).flatmap(lambda m: st.builds(Pattern, st.integers(1, m), st.just(m)))


def gates(cells: Cells) -> float:
    return load(45).gates(cells).nominal


@pytest.mark.parametrize(
    ("kind", "comparators", "stages"),
    [
        ("all_pairs", (6, 28, 120, 496), (1, 1, 1, 1)),
        ("bitonic", (6, 24, 80, 240), (3, 6, 10, 15)),
        ("half", (4, 16, 56, 176), (2, 4, 7, 11)),
    ],
)
def test_comparators_and_stages_by_hand(kind, comparators, stages):
    halves = [Pattern(m // 2, m) for m in SIZES]
    assert tuple(units.comparators(pattern, kind) for pattern in halves) == comparators
    assert tuple(units.stages(pattern, kind) for pattern in halves) == stages


@pytest.mark.parametrize("m", [2, 4, 8, 16, 32, 64, 256])
def test_half_selection_is_two_sorters_and_a_half_cleaner(m):
    half, stages = m // 2, int(math.log2(m)) - 1
    sorter = half * stages * (stages + 1) // 4
    assert (
        units.comparators(Pattern(half, m), "half")
        == 2 * sorter + half
        == software_comparators(Pattern(1, m))
    )
    assert units.stages(Pattern(half, m), "half") == stages * (stages + 1) // 2 + 1


@pytest.mark.parametrize("m", [2, 4, 8, 16, 32])
def test_one_of_m_is_a_tournament(m):
    assert units.comparators(Pattern(1, m), "half") == m - 1
    assert units.stages(Pattern(1, m), "half") == math.log2(m)


@pytest.mark.parametrize(("n", "m"), [(1, 4), (2, 8), (3, 8), (4, 16), (5, 32)])
def test_choosing_what_is_dropped_takes_what_choosing_what_is_kept_takes(n, m):
    assert units.comparators(Pattern(n, m), "half") == units.comparators(Pattern(m - n, m), "half")
    # 2 of 8 by hand: four sorted pairs, two half-cleaners of 2 and their 2 merges, one half-cleaner of 2.
    assert units.comparators(Pattern(2, 8), "half") == 4 + (4 + 2) + 2


def run_network(network: Network, keys: np.ndarray) -> np.ndarray:
    """Keys [cases, wires] -> keys where the network leaves them."""
    out = keys.copy()
    for stage in network.stages:
        used = [wire for pair in stage for wire in pair]
        assert len(used) == len(set(used)), "a wire enters two comparators of one stage"
        for winner, loser in stage:
            out[:, winner], out[:, loser] = (
                np.maximum(out[:, winner], out[:, loser]),
                np.minimum(out[:, winner], out[:, loser]),
            )
    return out


@pytest.mark.parametrize("kind", ["half", "bitonic"])
@pytest.mark.parametrize("pattern", SELECTED, ids=str)
def test_a_network_selects_whatever_the_keys_are(pattern, kind):
    # By the 0-1 principle all orders are covered by all keys of zeros and ones; wires beyond M carry a smaller key.
    width = 1 << (pattern.m - 1).bit_length()
    cases = np.arange(1 << pattern.m)
    keys = np.full((len(cases), width), -1, np.int8)
    keys[:, : pattern.m] = cases[:, None] >> np.arange(pattern.m) & 1
    network = network_of(pattern, kind)
    kept = run_network(network, keys)[:, list(network.kept)]
    assert len(network.kept) == pattern.n or pattern.n == pattern.m
    expected = np.sort(keys, axis=1)[:, ::-1][:, : pattern.n]
    assert (np.sort(kept, axis=1)[:, ::-1] == expected).all()


@given(patterns, st.sampled_from(KINDS))
def test_a_larger_group_never_takes_fewer_comparators(pattern, kind):
    larger = Pattern(pattern.n, pattern.m + 1)
    assert units.comparators(larger, kind) >= units.comparators(pattern, kind)


@given(patterns, st.sampled_from(KINDS), st.integers(0, 4))
def test_wider_values_and_more_registers_never_take_fewer_gates(pattern, kind, latency):
    count = {dtype: gates(units.selector_cells(pattern, kind, dtype, latency)) for dtype in VALUE_BITS}
    assert count["fp4"] <= count["fp8"] <= count["fp16"] == count["bf16"] <= count["tf32"] <= count["fp32"]
    assert count["int4"] <= count["int8"]
    assert gates(units.selector_cells(pattern, kind, "fp16", latency + 1)) >= count["fp16"]


def test_selector_cells_by_hand():
    # Half selection of 2:4 fp16: 4 comparators of 15 + 2 bits, two multiplexers for each of their wires' bits.
    cells = units.selector_cells(Pattern(2, 4), "half", "fp16", latency_cycles=2)
    assert (cells.comparator_bit, cells.mux2, cells.flip_flop) == (4 * 17, 2 * 4 * 17, 2 * 4 * 17)
    # All pairs of 2:4: 6 comparators of 15 bits; 3 wins are counted by a full adder, compared in 2 bits.
    cells = units.selector_cells(Pattern(2, 4), "all_pairs", "fp16")
    assert (cells.comparator_bit, cells.full_adder, cells.mux2) == (6 * 15 + 4 * 2, 4, 0)
    assert cells.half_adder == 0
    assert units.selector_cells(Pattern(4, 4), "half", "int8") == Cells()


@pytest.mark.parametrize("bits", range(1, 70))
def test_popcount_adds_up_what_it_must(bits):
    cells = structures.popcount(bits)
    assert cells.full_adder + cells.half_adder == bits - bits.bit_count()


def test_popcount_of_a_full_set_needs_full_adders_only():
    assert [structures.popcount((1 << b) - 1) for b in (2, 3, 4)] == [Cells(full_adder=n) for n in (1, 4, 11)]


def test_operand_select_by_hand():
    # 8 multiply-adds of 16-bit values: 3 multiplexers a bit for 2:4, 15 for 8:16, 8 where positions ascend.
    assert structures.operand_select([Pattern(2, 4)], 16, 8).mux2 == 8 * 16 * 3
    assert structures.operand_select([Pattern(8, 16)], 16, 8).mux2 == 8 * 16 * 15
    assert structures.operand_select([Pattern(8, 16)], 16, 8, "ordered_mux").mux2 == 8 * 16 * 8
    # Benes of 16: 16 * 4 - 8 = 56 switches; crossbar of 2:4: 8 + 6 gates a bit, 8 decoded lines of one gate.
    assert structures.operand_select([Pattern(8, 16)], 16, 8, "benes").mux2 == 56 * 2 * 16
    assert structures.operand_select([Pattern(2, 4)], 16, 2, "crossbar").and2 == 14 * 16 + 8
    for structure in STRUCTURES:
        assert structures.operand_select([], 16, 8, structure) == Cells()
        assert structures.operand_select([Pattern(4, 4)], 16, 8, structure) == Cells()


@given(
    st.lists(patterns, max_size=4),
    patterns,
    st.sampled_from(STRUCTURES),
    st.integers(1, 33),
    st.integers(1, 64),
)
def test_a_more_flexible_or_wider_select_never_takes_fewer_cells(taken, further, structure, bits, macs):
    count = structures.operand_select(taken, bits, macs, structure)
    for larger in (
        structures.operand_select([*taken, further], bits, macs, structure),
        structures.operand_select(taken, bits + 1, macs, structure),
        structures.operand_select(taken, bits, macs + 1, structure),
    ):
        assert all(getattr(larger, name) >= getattr(count, name) for name in FIELDS)


@given(patterns, st.integers(1, 32), st.integers(1, 64))
def test_ascending_positions_never_take_more_multiplexers(pattern, bits, macs):
    ordered, free = (
        structures.operand_select([pattern], bits, macs, kind) for kind in ("ordered_mux", "mux")
    )
    assert ordered.mux2 <= free.mux2


def test_decoders_by_hand():
    # Masks of 8:16 in a table: C(16, 8) = 12870 entries of 16 bits.
    assert units.rom_decoder(Pattern(8, 16)).rom_bits == 205_920
    # Prefix counts of 4: two adders of 1 bit, two of 2; 6 lines of 2 gates; 2 slots of 2 bits, one OR each.
    assert structures.mask_to_positions(Pattern(2, 4)) == Cells(full_adder=6, and2=12 + 4)
    # Unranking 2:4: steps of 3, 2 and 1 bits at positions 3, 2, 1; binomials 3 and 3, 2 and 1, 1.
    cells = units.unranking_decoder(Pattern(2, 4))
    assert (cells.full_adder, cells.mux2, cells.rom_bits) == (6 + 6, 6, (2 + 2) + (2 + 1) + 1)
    # Gaps of 2:4: one adder of 2 bits, a constant on 2 bits of each slot.
    assert units.decoder(SparseFormat.parse("2:4/gap"), load(7)) == Cells(full_adder=2, half_adder=4)
    assert units.decoder(SparseFormat.parse("8:16/index"), load(7)) == Cells()


def test_a_short_table_is_looked_up_and_a_long_one_is_computed():
    for node_nm in (45, 7, 5):
        technology = load(node_nm)
        assert units.decoder(SparseFormat.parse("4:8/combinatorial"), technology) == units.rom_decoder(
            Pattern(4, 8)
        )
        assert units.decoder(SparseFormat.parse("8:16/combinatorial"), technology) == units.unranking_decoder(
            Pattern(8, 16)
        )


@given(patterns)
def test_a_combinatorial_decoder_is_the_smaller_of_two(pattern):
    technology = load(7)
    area = technology.um2(units.decoder(sparse_format(pattern, encoding="combinatorial"), technology)).nominal
    for either in (units.rom_decoder(pattern), units.unranking_decoder(pattern)):
        assert area <= technology.um2(either).nominal


@given(st.integers(1, 5), st.sampled_from(ENCODINGS))
def test_larger_groups_never_take_smaller_codecs(power, encoding):
    small, large = Pattern(1 << power - 1, 1 << power), Pattern(1 << power, 2 << power)
    for count in (
        lambda pattern: gates(units.decoder(sparse_format(pattern, encoding=encoding), load(7))),
        lambda pattern: gates(units.encoder(sparse_format(pattern, encoding=encoding))),
    ):
        assert count(small) <= count(large)


def unranked(pattern: Pattern, code: int) -> tuple[int, int]:
    """Run the steps of the unranking decoder -> the mask, and the most bits its code has at any step, too many added."""
    mask, left, excess = 0, pattern.n, 0
    for p in range(pattern.m - 1, -1, -1):
        excess = max(excess, code.bit_length() - units._rest_bits(pattern, p + 1))
        if left and code >= math.comb(p, left):
            code -= math.comb(p, left)
            left -= 1
            mask |= 1 << p
    return mask, excess


@pytest.mark.parametrize("pattern", [Pattern(2, 4), Pattern(4, 8), Pattern(6, 8), Pattern(3, 7)], ids=str)
def test_the_steps_of_unranking_are_wide_enough_and_decode(pattern):
    codes = np.arange(pattern.configurations)
    masks = encodings.get("combinatorial").decode(codes, pattern)
    answers = [unranked(pattern, int(code)) for code in codes]
    assert [mask for mask, _ in answers] == masks.tolist()
    assert max(excess for _, excess in answers) <= 0


@given(patterns, st.sampled_from(ENCODINGS))
def test_nothing_is_decoded_where_everything_is_kept(pattern, encoding):
    whole = Pattern(pattern.m, pattern.m)
    assert (
        units.decoder(sparse_format(whole, encoding="bitmask"), load(7))
        == Cells()
        == units.encoder(sparse_format(whole, encoding="index"))
    )
    assert gates(units.decoder(sparse_format(pattern, encoding=encoding), load(7))) >= 0


def test_escapes_have_no_hardware():
    assert units.decoder(SparseFormat.parse("2:4/gap:2"), load(7)) == units.decoder(
        SparseFormat.parse("2:4/gap"), load(7)
    )
    for road in (
        lambda: units.decoder(SparseFormat.parse("2:16/gap:2"), load(7)),
        lambda: units.encoder(SparseFormat.parse("2:16/gap:2")),
    ):
        with pytest.raises(EncodingError, match=r"encoding 'gap:2' of 2:16: no hardware is modelled"):
            road()
    with pytest.raises(EncodingError, match="encoding 'runs'"):
        units.encoder(SparseFormat.parse("2:4/runs"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: units.comparators(Pattern(2, 4), "quick"),
            "selector kind 'quick': expected one of all_pairs",
        ),
        (lambda: network_of(Pattern(2, 4), "all_pairs"), "expected half or bitonic for a network"),
        (lambda: units.key_bits("fp64"), "dtype='fp64': expected one of"),
        (lambda: units.selector_cells(Pattern(2, 4), "half", "fp16", -1), "latency_cycles=-1: expected"),
        (lambda: structures.operand_select([], 16, 8, "web"), "select structure 'web': expected one of mux"),
        (lambda: structures.operand_select([], 0, 8), "value_bits=0: expected a positive"),
        (lambda: structures.operand_select([], 16, 1.5), "macs=1.5: expected a positive"),
        (lambda: Cells(mux2=-1), "cells: mux2=-1: expected a whole number"),
        (lambda: Cells(rom_bits=0.5), r"cells: rom_bits=0\.5: expected a whole number"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(SpecError, match=message):
        call()
