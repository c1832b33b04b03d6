"""Units of a core: which rows of the table of synthesis they are, what widths between them take, what is shared."""

import itertools
from dataclasses import fields, replace
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwmodels.gates.record import GateRow
from hwmodels.gates.table import ADDED_FILE_VARIABLE, Gates, gates_of
from hwmodels.machine.comparators import network as network_of
from hwmodels.machine.software import comparators as software_comparators
from hwmodels.silicon import units
from hwmodels.silicon.technology import load
from hwmodels.tensorcore.latency import decoder_cycles
from hwmodels.tensorcore.record import Network, load_core
from nmsim.case import VALUE_BITS
from nmsim.errors import EncodingError, SpecError
from nmsim.format import SparseFormat, sparse_format
from nmsim.pattern import Pattern

SIZES = (4, 8, 16, 32)
HALVES = [Pattern(m // 2, m) for m in SIZES]
NETWORKS = get_args(Network)
ENCODINGS = ("bitmask", "index", "gap", "combinatorial", "tiled", "joint")
FLEXIBLE = load_core("flexible-8x16")
HEADER = ",".join(declared.name for declared in fields(GateRow))
ROWS = """select,3:6,,onehot,8,0,area,300,4,6,0,24,0,1,by hand,none
select,3:6,,onehot,16,0,area,590,4,7,0,48,0,1,by hand,none
selector,3:6,,all_pairs,8,0,area,400,20,30,0,50,12,1,by hand,none
selector,3:6,,all_pairs,16,0,area,720,30,50,0,98,12,1,by hand,none
decoder,3:6,combinatorial,serial,0,0,area,50,10,14,0,6,0,1,by hand,none
decoder,3:6,index,plain,0,0,area,40,5,8,0,5,0,1,by hand,none
position_decoder,3:6,combinatorial,serial,0,0,area,80,14,20,0,9,0,1,by hand,none
position_decoder,3:6,combinatorial,shallow,0,0,delay,120,7,9,0,12,0,1,by hand,none
position_decoder,3:6,bitmask,plain,0,0,area,30,6,8,0,7,0,1,by hand,none
encoder,3:6,combinatorial,plain,0,0,area,70,9,12,0,8,0,1,by hand,none
"""
"""A table of a pattern that the catalogue does not hold, with numbers that are easy to follow."""
OWN = Pattern(3, 6)


@pytest.fixture
def own(tmp_path, monkeypatch) -> Path:
    path = tmp_path / "gates.csv"
    path.write_text(f"{HEADER}\n{ROWS}", encoding="utf-8")
    monkeypatch.setenv(ADDED_FILE_VARIABLE, str(path))
    return path


@pytest.mark.parametrize(
    ("kind", "comparators"),
    [
        ("all_pairs", (6, 28, 120, 496)),
        ("bitonic", (6, 24, 80, 240)),
        ("half", (4, 16, 56, 176)),
        ("planes", (0, 0, 0, 0)),
    ],
)
def test_comparators_by_hand(kind, comparators):
    assert tuple(units.comparators(pattern, kind) for pattern in HALVES) == comparators


@pytest.mark.parametrize("m", [2, 4, 8, 16, 32, 64, 256])
def test_half_selection_is_two_sorters_and_a_half_cleaner(m):
    half, stages = m // 2, m.bit_length() - 2
    sorter = half * stages * (stages + 1) // 4
    assert (
        units.comparators(Pattern(half, m), "half")
        == 2 * sorter + half
        == software_comparators(Pattern(1, m))
    )
    assert len(network_of(Pattern(half, m), "half").stages) == stages * (stages + 1) // 2 + 1


@pytest.mark.parametrize(("n", "m"), [(1, 4), (2, 8), (3, 8), (4, 16), (5, 32)])
def test_choosing_what_is_dropped_takes_what_choosing_what_is_kept_takes(n, m):
    assert units.comparators(Pattern(n, m), "half") == units.comparators(Pattern(m - n, m), "half")
    # 2 of 8 by hand: four sorted pairs, two half-cleaners of 2 and their 2 merges, one half-cleaner of 2.
    assert units.comparators(Pattern(2, 8), "half") == 4 + (4 + 2) + 2


def core_of(network: str, **changes):
    return replace(
        FLEXIBLE, select_network=network, decoder_latency_cycles=0, selector_latency_cycles=0, **changes
    )


def test_what_a_decoder_makes_depends_on_the_network(own):
    found = {
        (name, network): units.decoder(core_of(network), SparseFormat.parse(f"3:6/{name}")).nand2
        for name in ("combinatorial", "index", "bitmask")
        for network in ("mux", "onehot", "butterfly")
    }
    assert found == {
        ("combinatorial", "mux"): 80,
        ("combinatorial", "onehot"): 80,
        ("combinatorial", "butterfly"): 50,
        ("index", "mux"): 0,
        # Positions are put on lines as a decoder to masks does it.
        ("index", "onehot"): 40,
        ("index", "butterfly"): 0,
        ("bitmask", "mux"): 30,
        ("bitmask", "onehot"): 30,
        ("bitmask", "butterfly"): 0,
    }


def test_a_variant_or_a_goal_chooses_the_row(own):
    plain = SparseFormat.parse("3:6/combinatorial")
    assert units.decoder(core_of("mux", decoder_variant="shallow"), plain).fo4 == 9
    assert units.decoder(core_of("mux", decoder_goal="delay"), plain).nand2 == 120
    # What is built in one way only has no other.
    mask = SparseFormat.parse("3:6/bitmask")
    assert units.decoder(core_of("mux", decoder_variant="shallow"), mask).nand2 == 30


def test_ranks_of_registers_are_as_wide_as_the_cut(own):
    core = replace(core_of("mux"), decoder_latency_cycles=3, selector_latency_cycles=8)
    found = units.decoder(core, SparseFormat.parse("3:6/combinatorial"))
    assert (found.nand2, found.flip_flops) == (80, 27)
    assert units.selector(core, OWN, "fp16").flip_flops == 8 * 98


def test_keys_are_of_8_or_16_bits_and_wider_ones_in_proportion(own):
    core = core_of("mux")
    assert [units.selector(core, OWN, dtype).nand2 for dtype in ("fp8", "fp16")] == [400, 720]
    wide = units.selector(core, OWN, "fp32")
    assert wide.nand2 == pytest.approx(720 * 31 / 16)
    assert (wide.origin, wide.error) == ("fitted", units.WIDTH_ERROR)


def test_magnitudes_of_integers_come_first(own):
    half_adders = 6 * 8 * load(45).cost("cell_gates", "half_adder").nominal
    assert units.selector(core_of("mux"), OWN, "int8").nand2 == pytest.approx(400 + half_adders)


def test_a_lane_takes_its_part_of_a_group(own):
    assert units.select_one(OWN, 16, 3, "onehot", False).nand2 == 590
    assert units.select_one(OWN, 16, 12, "onehot", False).nand2 == 4 * 590
    assert units.select_one(OWN, 16, 1, "onehot", False).nand2 == pytest.approx(590 / 3)
    both = units.select_one(OWN, 16, 3, "onehot", True).nand2
    assert both == pytest.approx(2 * 590 + 30 + 6 * load(45).cost("cell_gates", "and2").nominal)


def test_codes_of_several_groups_are_divided_first(own):
    joint, plain = (
        units.decoder(core_of("mux"), SparseFormat.parse(f"3:6/{name}"))
        for name in ("joint", "combinatorial")
    )
    assert joint.nand2 > plain.nand2
    assert joint.origin == "fitted"
    assert 0 < joint.error < units.COUNTED_ERROR


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("pattern", HALVES, ids=str)
def test_a_wider_window_takes_more_per_lane(pattern, network):
    if pattern.m < 32:
        wider = Pattern(2 * pattern.n, 2 * pattern.m)
        assert (
            units.select_one(pattern, 16, 16, network, False).nand2
            < units.select_one(wider, 16, 16, network, False).nand2
        )
    assert (
        units.select_one(pattern, 8, 16, network, False).nand2
        < units.select_one(pattern, 16, 16, network, False).nand2
    )


@pytest.mark.parametrize("pattern", HALVES, ids=str)
def test_ordered_networks_take_less_than_those_that_may_take_any_element(pattern):
    lanes = {
        name: units.select_one(pattern, 16, 16, name, False).nand2
        for name in ("mux", "ordered_mux", "crossbar", "onehot")
    }
    assert lanes["onehot"] < lanes["crossbar"]
    assert lanes["onehot"] < lanes["ordered_mux"] < lanes["mux"]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_larger_groups_never_take_smaller_codecs(encoding):
    for smaller, larger in itertools.pairwise(HALVES):
        for count in (
            lambda pattern: units.decoder(core_of("mux"), sparse_format(pattern, encoding=encoding)).nand2,
            lambda pattern: units.encoder(sparse_format(pattern, encoding=encoding)).nand2,
        ):
            assert count(smaller) <= count(larger)


@pytest.mark.parametrize("kind", ["all_pairs", "half", "planes"])
def test_wider_keys_never_take_fewer_gates(kind):
    core = core_of("mux", selector_kind=kind)
    count = {dtype: units.selector(core, Pattern(8, 16), dtype).nand2 for dtype in VALUE_BITS}
    assert count["fp4"] <= count["fp8"] <= count["fp16"] == count["bf16"] <= count["tf32"] <= count["fp32"]
    assert count["int4"] <= count["int8"]


def test_the_table_is_what_is_read():
    row = gates_of("position_decoder", Pattern(8, 16), encoding="combinatorial")
    assert units.decoder(core_of("mux"), SparseFormat.parse("8:16/combinatorial")) == row
    encoded = gates_of("encoder", Pattern(8, 16), encoding="combinatorial")
    assert units.encoder(SparseFormat.parse("8:16/combinatorial")) == encoded
    wanted = gates_of("selector", Pattern(8, 16), variant="planes", width_bits=16)
    assert units.selector(core_of("mux", selector_kind="planes"), Pattern(8, 16), "bf16") == wanted


def test_registers_follow_from_the_latency_of_the_same_row():
    core, stored = load_core("flexible-8x16"), SparseFormat.parse("8:16/combinatorial")
    row = gates_of("position_decoder", Pattern(8, 16), encoding="combinatorial")
    found = units.decoder(core, stored)
    assert found.flip_flops == row.flip_flops + decoder_cycles(core, stored) * row.cut_bits


@given(st.integers(1, 400), st.integers(1, 64))
def test_decoders_are_whole_and_at_least_one(elems_per_cycle, m):
    found = units.units_for(elems_per_cycle, m)
    assert found >= 1
    assert (found - 1) * m < elems_per_cycle <= found * m


def test_a_core_has_units_for_each_length_of_a_group():
    found = units.per_group(FLEXIBLE)
    assert found.m == (4, 8, 16)
    for place, pattern in enumerate(FLEXIBLE.patterns):
        formats = [sparse_format(pattern, encoding=name) for name in FLEXIBLE.encodings]
        decoders = [units.decoder(FLEXIBLE, each).nand2 for each in formats]
        assert found.decoders[place].nand2 == max(decoders)
        assert found.encoders[place].nand2 == max(units.encoder(each).nand2 for each in formats)
        selectors = [units.selector(FLEXIBLE, pattern, dtype).nand2 for dtype in FLEXIBLE.dtypes]
        assert found.selectors[place].nand2 == max(selectors)
    assert units.per_group(load_core("dense")) == units.PerGroup((), (), (), ())
    assert units.per_group(load_core("nvidia-like-2x4")).selectors == (Gates(),)


def test_one_network_serves_all_native_patterns():
    alone = units.select_gates(replace(FLEXIBLE, patterns=(Pattern(8, 16),)))
    assert units.select_gates(FLEXIBLE) == alone
    # Neither of 1:4 and 2:4 serves the other: it takes the network of 2:8.
    both = replace(FLEXIBLE, patterns=(Pattern(1, 4), Pattern(2, 4)))
    assert units.select_gates(both) == units.select_one(Pattern(2, 8), 16, 16, "onehot", False)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("network", NETWORKS)
def test_nothing_is_decoded_if_everything_is_kept(encoding, network):
    whole = sparse_format(Pattern(4, 4), encoding=encoding)
    assert units.decoder(core_of(network), whole) == units.encoder(whole) == Gates()
    assert units.select_one(Pattern(4, 4), 16, 16, network, False) == Gates()
    assert units.selector(core_of(network), Pattern(4, 4), "int8") == Gates()


def test_escapes_have_no_hardware():
    core = core_of("mux")
    plain, without = (SparseFormat.parse(f"2:4/{name}") for name in ("gap", "gap:2"))
    assert units.decoder(core, without) == units.decoder(core, plain)
    for road in (
        lambda: units.decoder(core, SparseFormat.parse("2:16/gap:2")),
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
        (
            lambda: units.select_one(Pattern(2, 4), 16, 8, "web", False),
            "select network 'web': expected one of onehot",
        ),
        (lambda: units.select_one(Pattern(2, 4), 0, 8, "mux", False), "value_bits=0: expected a positive"),
        (lambda: units.select_one(Pattern(2, 4), 16, 1.5, "mux", False), "lanes=1.5: expected a positive"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(SpecError, match=message):
        call()


def test_a_pattern_that_an_encoding_has_no_codes_for_takes_the_others():
    core = replace(load_core("flexible-8x16"), patterns=(Pattern(8, 16), Pattern(6, 12)))
    assert "tiled" in core.encodings
    assert core.encodings_of(Pattern(6, 12)) == ("bitmask", "index", "combinatorial")
    without = replace(core, encodings=("bitmask", "index", "combinatorial"))
    assert units.per_group(core).decoders[1] == units.per_group(without).decoders[1]
