"""Sparseloop's published cycles, each of them; the parts by hand; and what is refused."""

import csv
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import hwmodels
from hwmodels.peers import DESIGNS, sparseloop_cycles
from nmsim.case import GemmShape
from nmsim.errors import EncodingError, PatternError, SpecError
from nmsim.pattern import Pattern

PUBLISHED = Path(hwmodels.__file__).parent / "data" / "sparseloop_stc.csv"
ROWS = list(csv.DictReader(PUBLISHED.read_text(encoding="utf-8").splitlines()))
REPRODUCED = [row for row in ROWS if row["design"] != "DSTC"]
LAYER = "M128-K1152-N1024-IAD0.44"
DUAL = "STC_flexible_dualCompress-RLE"


def ids(row):
    return f"{row['layer']}-{row['design']}"


def test_the_table_holds_every_design_layer_and_density():
    assert len(ROWS) == 72
    assert {row["design"] for row in ROWS} == {*DESIGNS, "DSTC"}
    assert len({(row["layer"], row["design"]) for row in ROWS}) == 72
    assert all("artifact" in row["source"] for row in ROWS)


@pytest.mark.parametrize("row", REPRODUCED, ids=ids)
def test_published_cycles_exactly(row):
    answer = sparseloop_cycles(layer=row["layer"], design=row["design"], density=row["wd"])
    assert answer.cycles == int(row["cycles"])
    assert sparseloop_cycles(row["layer"], row["design"]).cycles == int(row["cycles"])


@pytest.mark.parametrize("row", [row for row in REPRODUCED if row["design"] != "TC"], ids=ids)
def test_published_cycles_and_reads_of_each_level(row):
    """A level's published cycles are those of the MACs where these take longer."""
    answer = sparseloop_cycles(row["layer"], row["design"], row["wd"])
    assert max(answer.smem_cycles, answer.compute_cycles) == int(row["SMEM_cyc"])
    assert max(answer.dram_cycles, answer.compute_cycles) == int(row["DRAM_cyc"])
    if row["wd"] != "WD-1.0":  # dense weights leave the mapper a choice that changes no cycle
        assert answer.smem.a_elems == float(row["SMEM_A_reads"])
        assert answer.dram.a_elems == float(row["DRAM_A_reads"])


@pytest.mark.parametrize(
    ("layer", "design", "density", "cycles"),
    [
        ("M128-K1152-N1024-IAD0.44", "STC_flexible", "WD-0.3333", 70218),
        ("M128-K1152-N1024-IAD0.44", "STC_flexible-RLE", "WD-0.3333", 67877),
        ("M512-K256-N1024-IAD0.82", "STC_flexible", "WD-0.3333", 70218),
        ("M512-K1024-N256-IAD0.27", "STC_flexible-RLE", "WD-0.3333", 62221),
        ("M512-K128-N1024-IAD0.56", "STC_flexible", "WD-0.3333", 35109),
        ("M512-K1024-N256-IAD0.27", "STC_flexible", "WD-0.3333", 64366),
        ("M128-K1152-N1024-IAD0.44", DUAL, "WD-0.3333", 49153),
        ("M512-K128-N1024-IAD0.56", DUAL, "WD-0.3333", 25092),
        ("M512-K256-N1024-IAD0.82", DUAL, "WD-0.3333", 64787),
        ("M512-K1024-N256-IAD0.27", DUAL, "WD-0.3333", 45057),
        ("M2048-K512-N64-IAD0.34", "STC_flexible", "WD-0.3333", 38620),
        ("M2048-K512-N64-IAD0.34", DUAL, "WD-0.3333", 22701),
        ("M2048-K512-N64-IAD0.34", "STC_flexible-RLE", "WD-0.25", 34329),
        ("M2048-K512-N64-IAD0.34", "STC_flexible", "WD-0.5", 40570),
        ("M2048-K512-N64-IAD0.34", DUAL, "WD-0.5", 32768),
        ("M2048-K512-N64-IAD0.34", "STC_flexible-RLE", "WD-1.0", 65536),
    ],
)
def test_points_of_the_artifact_that_the_table_does_not_hold(layer, design, density, cycles):
    """`timeloop-model.stats.txt` under fig15_stc_related_setup/ref_outputs: 2:6, whose K is padded, and a fifth layer."""
    assert sparseloop_cycles(layer, design, density).cycles == cycles


def test_the_flagship_point_by_hand():
    """ceil((294912 + 294912 * 4/8 + 2359296) / 42): 8 passes over A at a quarter, 2 over B, 4 bits a kept weight."""
    answer = sparseloop_cycles(LAYER, "STC_flexible", "WD-0.25")
    assert (answer.smem.a_elems, answer.smem.b_elems) == (128 * 1152 // 4 * 8, 1152 * 1024 * 2)
    assert answer.smem.a_metadata_bits == 294912 * 4
    assert answer.cycles == answer.smem_cycles == -(-(294912 + 294912 * 4 // 8 + 2359296) // 42) == 66707
    assert (answer.compute_cycles, answer.dram_cycles, answer.bound) == (36864, 38592, "smem")
    assert answer.utilisation == pytest.approx(36864 / 66707)


def test_three_roads_for_the_metadata():
    """4 bits as charged, 3 as asked for, 5 bits for two as our combinatorial codes take."""

    def cycles(**how):
        return sparseloop_cycles(LAYER, "STC_flexible", "2:8", **how).cycles

    assert cycles() == 66707
    assert cycles(rounding=False) == 65829 == cycles(encoding="index")
    assert cycles(encoding="index", packing="power_of_two") == 66707
    assert cycles(encoding="combinatorial") == 65390
    assert cycles(encoding="combinatorial", rounding=False) == 65390
    assert cycles(encoding="bitmask") == -(-(294912 + 147456 * 8 // 8 + 2359296) // 42)


def test_a_density_is_typed_with_five_digits():
    """0.33333 for a third: one cycle more for each hundred thousand."""
    assert sparseloop_cycles(LAYER, "STC_flexible", "2:6").compute_cycles == 49153
    assert sparseloop_cycles(LAYER, "STC_flexible", "2:6", rounding=False).compute_cycles == 49152
    assert sparseloop_cycles(LAYER, "STC_flexible", "2:6", encoding="index").compute_cycles == 49152


def test_rounding_turns_the_order_of_two_patterns():
    """Over the four layers 2:6 takes longer than 2:4 with 4 bits a coordinate, and less with the 3 asked for."""
    layers = sorted({row["layer"].partition("-WD")[0] for row in ROWS})

    def total(pattern, **how):
        return sum(sparseloop_cycles(layer, "STC_flexible", pattern, **how).cycles for layer in layers)

    assert (total("2:4"), total("2:6"), total("2:8")) == (237568, 70218 + 64366 + 35109 + 70218, 214945)
    assert total("2:6") > total("2:4") > total("2:6", rounding=False) > total("2:6", encoding="combinatorial")


def test_rounding_changes_only_widths_that_do_not_divide():
    for row in REPRODUCED:
        plain = sparseloop_cycles(row["layer"], row["design"], row["wd"], rounding=False)
        if row["wd"] != "WD-0.25" or row["design"] in ("TC", "STC"):
            assert plain.cycles == int(row["cycles"])
        elif plain.bound == "smem":
            assert plain.cycles < int(row["cycles"])


@pytest.mark.parametrize(
    ("design", "pattern", "asked", "charged"),
    [
        ("STC_flexible", "2:4", 2, 2),
        ("STC_flexible", "2:6", 3, 4),
        ("STC_flexible", "7:16", 4, 4),
        ("STC_flexible-RLE", "2:4", 2, 2),
        ("STC_flexible-RLE", "2:6", 2, 2),
        ("STC_flexible-RLE", "2:8", 3, 4),
        ("STC", "2:8", 2, 2),
        ("TC", "2:8", 0, 0),
    ],
)
def test_bits_asked_for_and_charged(design, pattern, asked, charged):
    assert sparseloop_cycles(LAYER, design, pattern, rounding=False).metadata_bits_per_value == asked
    assert sparseloop_cycles(LAYER, design, pattern).metadata_bits_per_value == charged


@pytest.mark.parametrize(
    "density", ["WD-0.25", "WD0.25", "0.25", 0.25, Fraction(1, 4), "2:8", Pattern(2, 8), None]
)
def test_ways_to_write_a_density(density):
    layer = f"{LAYER}-WD0.25"
    assert sparseloop_cycles(layer, "STC_flexible", density).pattern == Pattern(2, 8)


@pytest.mark.parametrize(
    ("number", "pattern"),
    [
        (0.5, "2:4"),
        (0.4375, "7:16"),
        (0.375, "3:8"),
        (1 / 3, "2:6"),
        (0.3125, "5:16"),
        (0.4, "2:5"),
        (1, "1:1"),
    ],
)
def test_what_a_bare_density_stands_for(number, pattern):
    assert str(sparseloop_cycles(LAYER, "STC_flexible", number).pattern) == pattern


def test_a_fixed_core_stores_all_that_is_sparse_as_2_of_4():
    for pattern in ("2:4", "2:8", "2:6"):
        answer = sparseloop_cycles(LAYER, "STC", pattern)
        assert (answer.pattern, answer.cycles) == (Pattern(2, 4), 73728)
        assert answer.utilisation == pytest.approx(float(2 * Pattern.parse(pattern).density))
    assert sparseloop_cycles(LAYER, "STC", "3:4").pattern == Pattern(1, 1)


def test_a_gemm_shape_names_the_same_product():
    shape = GemmShape(M=1024, N=128, K=1152)
    assert sparseloop_cycles(shape, "STC_flexible", "2:8") == sparseloop_cycles(LAYER, "STC_flexible", "2:8")


def test_a_long_K_takes_narrow_tiles_and_a_longer_one_is_refused():
    """All of K in one tile: of K = 14336, 16 rows of A leave room for 8 columns of a compressed B, not for 16."""
    answer = sparseloop_cycles("M4096-K14336-N4096-IAD0.5", DUAL, "2:4")
    assert answer.smem.a_elems == 4096 * 14336 // 2 * (4096 // 8)
    assert answer.smem.b_elems == 14336 * 4096 // 2 * (4096 // 16)
    with pytest.raises(SpecError, match=r"layer M16-K131072-N16: K=131072 is too long\. .* 262144 words"):
        sparseloop_cycles("M16-K131072-N16", "STC_flexible", "2:8")


def test_an_operand_without_metadata_may_be_streamed():
    """Then it takes no room, but is read from DRAM each time."""
    answer = sparseloop_cycles("M256-K131072-N256", "TC", 1.0)
    assert (answer.smem.a_elems, answer.smem.b_elems) == (256 * 131072 * 2, 131072 * 256 * 4)
    assert answer.dram == answer.smem


def test_the_cheaper_loop_is_the_inner_one():
    """Neither operand fits whole. A twice (2 tiles of N) is less than B 16 times (16 tiles of M)."""
    answer = sparseloop_cycles("M8192-K1024-N256", "STC_flexible", "2:8")
    assert (answer.dram.a_elems, answer.dram.b_elems) == (2 * 8192 * 1024 // 4, 1024 * 256)
    answer = sparseloop_cycles("M1024-K1024-N8192", "STC_flexible", "2:8")
    assert (answer.dram.a_elems, answer.dram.b_elems) == (1024 * 1024 // 4, 2 * 1024 * 8192)


def test_writing_back_binds_where_K_is_short():
    answer = sparseloop_cycles("M512-K64-N1024", "STC_flexible", "2:8")
    assert (answer.compute_cycles, answer.dram_cycles) == (8192, 512 * 1024 // 32)


@given(
    st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 3000),
    st.sampled_from(sorted(DESIGNS)), st.sampled_from(["2:4", "2:6", "2:8", "4:8", "8:16", "3:8", "1:1"]),
)  # fmt: skip
def test_laws(M, K, N, design, pattern):
    layer = f"M{M}-K{K}-N{N}-IAD0.5"
    charged, asked = (
        sparseloop_cycles(layer, design, pattern, rounding=rounding) for rounding in (True, False)
    )
    dense = sparseloop_cycles(layer, "TC", pattern)
    assert charged.cycles == max(charged.compute_cycles, charged.smem_cycles, charged.dram_cycles)
    assert asked.cycles <= charged.cycles
    assert 0 < charged.utilisation <= 1
    assert charged.compute_cycles >= M * N * K * float(charged.pattern.density) / 1024 * (1 - 1e-12)
    if K % 48 == 0 and K % 64 == 0:
        assert charged.compute_cycles <= dense.compute_cycles


@pytest.mark.parametrize(
    ("layer", "design", "density", "message"),
    [
        ("M128-K1152", "STC", 0.5, r"layer='M128-K1152' \(type str\): expected text such as 'M128-"),
        ("M128-K0-N8", "STC", 0.5, r"a dimension is 0"),
        ("03-M128-K1152-N1024", "STC", 0.5, r"expected text such as"),
        (7, "STC", 0.5, r"layer=7 \(type int\)"),
        ("M8-K8-N8-IAD1.5", "STC", 0.5, r"IAD is a density"),
        (LAYER, "DSTC", 0.5, r"'DSTC': it cannot be reproduced; .* Expected one of TC, STC,"),
        (LAYER, "stc", 0.5, r"design='stc': expected one of TC, STC, STC_flexible"),
        (LAYER, "STC", 0, r"density=0 \(type int\): expected a Pattern"),
        (LAYER, "STC", 1.5, r"density=1.5"),
        (LAYER, "STC", float("nan"), r"density=nan"),
        (LAYER, "STC", True, r"density=True \(type bool\)"),
        (LAYER, "STC", "half", r"density='half'"),
        (LAYER, "STC", 0.6, r"density=0.6: no 2:M has it, .* expected a Pattern"),
        (LAYER, "STC", None, r"density=None, and the layer has no WD"),
        (f"{LAYER}-WD0.25", "STC", 0.5, r"density=0.5: the layer says WD-0.25"),
        (LAYER, "STC_flexible", "1:8", r"density 1:8 on design='STC_flexible': .*a density of 1/4 or more"),
        (LAYER, "STC_flexible", "17:32", r"at most 16 kept in a group"),
        ("M128-K1152-N1024", DUAL, 0.5, r"it compresses B; expected a layer with an IAD"),
    ],
)
def test_refusals(layer, design, density, message):
    with pytest.raises(SpecError, match=message):
        sparseloop_cycles(layer, design, density)


def test_refusals_of_nmsim_come_through():
    with pytest.raises(PatternError, match=r"pattern '2:x'"):
        sparseloop_cycles(LAYER, "STC", "2:x")
    with pytest.raises(EncodingError, match="expected one of bitmask"):
        sparseloop_cycles(LAYER, "STC", "2:4", encoding="crs")
