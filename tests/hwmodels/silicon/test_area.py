"""Area: by hand, the laws it obeys, columns against single answers, and what others have laid out."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwmodels.silicon import units
from hwmodels.silicon.area import PARTS, SPARSE_PARTS, area, area_columns, unit_areas
from hwmodels.silicon.structures import Cells, operand_select
from hwmodels.silicon.technology import load
from hwmodels.silicon.units import decoder, selector_cells
from hwmodels.tensorcore.point import point
from hwmodels.tensorcore.record import core_names, load_core
from nmsim.case import Case, GemmShape
from nmsim.errors import EncodingError, SpecError
from nmsim.format import SparseFormat, sparse_format
from nmsim.pattern import Pattern

FLEXIBLE, DENSE = load_core("flexible-8x16"), load_core("dense")
NODES_NM = (5, 7, 16, 28, 45)
ENDS = ("low", "nominal", "high")


def close_to(value: float):
    return pytest.approx(value, rel=1e-9, abs=0)


@pytest.mark.parametrize("name", core_names())
def test_parts_add_up_in_order(name):
    report = area(load_core(name))
    assert tuple(report.parts) == PARTS
    for end in ENDS:
        assert sum(getattr(part, end) for part in report.parts.values()) == close_to(
            getattr(report.total, end)
        )
    assert 0 < report.total.low < report.total.nominal < report.total.high


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("name", sorted(set(core_names()) - {"dense", "edge-npu-8x16"}))
def test_a_sparse_core_is_never_smaller_than_the_dense_one(name, end):
    sparse, dense = area(load_core(name)), area(DENSE)
    assert getattr(sparse.total, end) > getattr(dense.total, end)
    extra = sum(getattr(sparse.parts[part], end) for part in SPARSE_PARTS)
    assert getattr(sparse.total, end) - getattr(dense.total, end) == close_to(extra)


def test_what_can_be_redone_by_hand():
    core = replace(FLEXIBLE, node_nm=45, cores=2, dtypes=("fp16",))
    parts, technology = area(core).parts, load(45)
    assert parts["multiply"].nominal == close_to(2 * 16 * 8 * 16 * (1640 + 4184) * 1.43)
    muxes = 2 * 16 * 8 * 16 * 15 * 16
    assert parts["select"].nominal == close_to(muxes * 2.33 * 0.798 * 1.43)
    assert parts["shared"].nominal == close_to(2 * 233472 * 8 * technology.sram_um2_per_bit(233472).nominal)
    assert parts["l2"].nominal == close_to(52428800 * 8 * technology.sram_um2_per_bit(52428800).nominal)
    bank = technology.sram_um2_per_bit(4096).nominal
    assert parts["accumulators"].nominal == close_to(2 * 131072 * 8 * bank)
    assert parts["registers"].nominal == close_to(2 * 2 * (64 + 256) * 128 * 8 * bank)
    pruner = selector_cells(Pattern(8, 16), "half", "fp16", 8)
    assert parts["prune"].nominal == close_to(2 * 4 * technology.um2(pruner).nominal)


def test_decoders_share_their_logic_and_keep_their_tables():
    one = replace(FLEXIBLE, patterns=(Pattern(8, 16),), encodings=("combinatorial",))
    assert units.decoder_cells(one) == decoder(SparseFormat.parse("8:16/combinatorial"), load(5))
    each = [
        decoder(sparse_format(pattern, encoding="combinatorial"), load(5)) for pattern in FLEXIBLE.patterns
    ]
    assert [cells.rom_bits > 0 for cells in each] == [True] * 3
    assert units.decoder_cells(FLEXIBLE).rom_bits == sum(cells.rom_bits for cells in each)
    assert units.decoder_cells(FLEXIBLE).and2 == units.decoder_cells(one).and2
    assert units.decoder_cells(DENSE) == Cells()


def test_overhead_is_what_sparsity_adds_over_what_a_dense_core_has():
    report = area(FLEXIBLE)
    extra = sum(report.parts[part].nominal for part in SPARSE_PARTS)
    dense = sum(report.parts[part].nominal for part in ("multiply", "accumulators", "registers"))
    assert report.overhead_of_cores.nominal == close_to(extra / dense)
    assert report.overhead_of_chip.nominal == close_to(extra / area(DENSE).total.nominal)
    assert f"sparsity adds {extra / dense:.1%} to the cores" in report.explanation
    assert "most of it for select" in report.explanation
    assert area(DENSE).overhead_of_chip.high == 0
    assert "nothing is there for sparsity" in area(DENSE).explanation


def test_each_further_pattern_takes_area():
    totals = [
        area(load_core(name)).total.nominal
        for name in ("dense", "nvidia-like-2x4", "flexible-4x8", "flexible-8x16", "flexible-16x32")
    ]
    assert totals == sorted(set(totals))


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("name", core_names())
def test_a_coarser_node_never_takes_less(name, end):
    reports = [area(replace(load_core(name), node_nm=node)) for node in NODES_NM]
    for part in PARTS:
        um2 = [getattr(report.parts[part], end) for report in reports]
        assert um2 == sorted(um2), part


@given(
    name=st.sampled_from(
        ["cores", "array_rows", "array_cols", "array_depth", "accumulator_bits", "accumulator_bytes",
         "decoder_elements_per_cycle", "selector_elements_per_cycle", "selector_latency_cycles", "fragment_rows",
         "fragment_cols", "register_blocks", "shared_bytes", "l2_bytes"]
    ),
    factor=st.integers(2, 5),
)  # fmt: skip
def test_more_of_anything_takes_more_area(name, factor):
    more = replace(FLEXIBLE, **{name: factor * getattr(FLEXIBLE, name)})
    for end in ENDS:
        assert getattr(area(more).total, end) > getattr(area(FLEXIBLE).total, end)


def test_columns_say_what_single_answers_say():
    rng = np.random.default_rng(0)
    cores = [load_core(name) for name in core_names()] + [replace(FLEXIBLE, node_nm=28)]
    places = rng.integers(0, len(cores), 64)
    swept = [
        replace(
            cores[place],
            cores=int(rng.integers(1, 200)),
            array_cols=int(rng.integers(1, 64)),
            accumulator_bits=int(rng.choice([16, 24, 32])),
            selector_latency_cycles=int(rng.integers(0, 20)),
            shared_bytes=int(rng.integers(1000, 1 << 20)),
            l2_bytes=int(rng.integers(1, 1 << 26)),
        )
        for place in places
    ]
    points = np.array([point(core, Case(GemmShape(1, 64, 64), dtype="int8")) for core in swept])
    found = area_columns(cores, places, points)
    for column, end in zip(("area_um2_low", "area_um2", "area_um2_high"), ENDS, strict=True):
        assert found[column] == close_to(np.array([getattr(area(core).total, end) for core in swept]))
    with pytest.raises(SpecError, match="3 places and 64 points"):
        area_columns(cores, places[:3], points)


def test_a_second_sparse_operand_takes_more_than_twice_the_network():
    one = replace(load_core("dual-sided-8x16"), dual_sided=False)
    assert area(load_core("dual-sided-8x16")).parts["select"].nominal > 2 * area(one).parts["select"].nominal


def test_a_selector_in_the_consumer_writes_no_codes():
    consumer = replace(FLEXIBLE, selector_placement="consumer", encodings=("bitmask",))
    producer = replace(consumer, selector_placement="producer")
    assert area(producer).parts["encode"].nominal == 0 < area(consumer).parts["encode"].nominal


def test_codes_without_a_decoder_are_refused():
    with pytest.raises(EncodingError, match="escapes"):
        unit_areas(replace(FLEXIBLE, encodings=("gap:1",)))
    with pytest.raises(SpecError, match="node_nm=2"):
        area(replace(FLEXIBLE, node_nm=2))


def test_networks_of_uni_stc_are_met_within_a_factor_of_four():
    """Uni-STC, HPCA 2026, Table IX: Benes networks and multiplexers 0.002 mm2 a unit at 7 nm; their widths are not given."""
    for macs in (64, 128, 256):
        cells = operand_select([Pattern(4, 8)], 16, macs, "benes")
        assert 0.25 < load(7).um2(cells).nominal / 0.002e6 < 4


@pytest.mark.parametrize(
    ("capacity_bytes", "published_mm2", "ratio"), [(144, 0.0005, 0.84), (2048, 0.007, 0.58)]
)
def test_buffers_of_uni_stc_are_met_within_a_factor_of_two(capacity_bytes, published_mm2, ratio):
    technology = load(7)
    um2 = technology.sram_um2_per_bit(capacity_bytes).times(8 * capacity_bytes)
    assert um2.nominal / (published_mm2 * 1e6) == pytest.approx(ratio, abs=0.01)
