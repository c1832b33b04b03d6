"""Area: by hand, the laws it obeys, columns against single answers, and what others have laid out."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwmodels.gates.table import gates_of
from hwmodels.silicon.area import PARTS, SPARSE_PARTS, area, area_columns, only, unit_areas
from hwmodels.silicon.structures import accumulation, product_tree
from hwmodels.silicon.technology import load
from hwmodels.silicon.units import decoder, select_one, selector
from hwmodels.tensorcore.point import point
from hwmodels.tensorcore.record import core_names, load_core
from nmsim.case import VALUE_BITS, Case, GemmShape
from nmsim.errors import EncodingError, SpecError
from nmsim.format import sparse_format
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
    cells = 2 * 16 * 8
    summed = product_tree("fp16", 16, 25) + accumulation("fp16", 16, 25)
    multiplied = 16 * 282 * (11 / 8) ** 2 + technology.gates(summed).nominal * 0.798
    assert parts["multiply"].nominal == close_to(cells * multiplied * 1.43)
    lanes = area(replace(core, adder_kind="per_lane")).parts["multiply"]
    assert lanes.nominal == close_to(cells * 16 * (1640 + 4184) * 1.43)
    network = gates_of("select", Pattern(8, 16), variant=core.select_network, width_bits=16)
    assert parts["select"].nominal == close_to(cells * 2 * network.nand2 * 0.798 * 1.43)
    assert parts["shared"].nominal == close_to(2 * 233472 * 8 * technology.sram_um2_per_bit(233472).nominal)
    assert parts["l2"].nominal == close_to(52428800 * 8 * technology.sram_um2_per_bit(52428800).nominal)
    bank = technology.sram_um2_per_bit(4096).nominal
    assert parts["accumulators"].nominal == close_to(2 * 131072 * 8 * bank)
    assert parts["registers"].nominal == close_to(2 * 2 * (64 + 256) * 128 * 8 * bank)
    pruner = selector(core, Pattern(8, 16), "fp16")
    assert parts["prune"].nominal == close_to(2 * 4 * technology.um2(pruner).nominal)


def test_decoders_are_as_many_as_the_rate_needs_for_the_pattern_that_needs_most():
    core = replace(FLEXIBLE, cores=3, encodings=("combinatorial",), decoder_elements_per_cycle=40)
    um2 = [
        load(5).um2(decoder(core, sparse_format(pattern, encoding="combinatorial"))).nominal
        for pattern in core.patterns
    ]
    # 40 elements per cycle: 10 units of 2:4, 5 of 4:8, 3 of 8:16.
    needs = [10 * um2[0], 5 * um2[1], 3 * um2[2]]
    assert area(core).parts["decode"].nominal == close_to(3 * max(needs))
    assert area(replace(core, decoder_elements_per_cycle=1)).parts["decode"].nominal == close_to(3 * max(um2))
    positions = replace(core, encodings=("index",), select_network="mux")
    assert area(positions).parts["decode"].high == 0


def test_overheads_are_what_sparsity_adds_over_what_a_dense_core_has():
    report = area(FLEXIBLE)
    extra = sum(report.parts[part].nominal for part in SPARSE_PARTS)
    arrays = report.parts["multiply"].nominal
    cores = arrays + sum(report.parts[part].nominal for part in ("accumulators", "registers"))
    assert report.overhead_of_arrays.nominal == close_to(extra / arrays)
    assert report.overhead_of_cores.nominal == close_to(extra / cores)
    assert report.overhead_of_chip.nominal == close_to(extra / area(DENSE).total.nominal)
    lanes = 132 * 16 * 8 * 16
    assert report.sparse_lane_um2.nominal == close_to(extra / lanes)
    assert report.lane_um2["multiply"].nominal == close_to(arrays / lanes)
    assert set(report.lane_um2) == set(PARTS) - {"shared", "l2"}
    assert (
        f"{extra / lanes:.3g} um2 per lane of 16 bits: {extra / arrays:.1%} of the arrays"
        in report.explanation
    )
    assert f"{extra / cores:.1%} of the cores" in report.explanation
    assert "most of it for select" in report.explanation
    assert area(DENSE).overhead_of_chip.high == 0
    assert "nothing is there for sparsity" in area(DENSE).explanation


def test_a_chip_for_one_value_type_has_as_many_bits_in_a_cell():
    for dtype in ("bf16", "fp8", "int8", "int4"):
        chip = only(FLEXIBLE, dtype)
        assert chip.array_depth * chip.lane_bits == 16 * 16
        assert chip.macs_per_cycle(VALUE_BITS[dtype]) == FLEXIBLE.macs_per_cycle(VALUE_BITS[dtype])
        assert area(chip).parts["multiply"].nominal <= area(FLEXIBLE).parts["multiply"].nominal
    with pytest.raises(SpecError, match="dtype='fp64': expected one of"):
        only(FLEXIBLE, "fp64")


def test_narrow_integers_make_sparsity_a_larger_share():
    shares = [area(only(FLEXIBLE, dtype)).overhead_of_arrays.nominal for dtype in ("bf16", "int8", "int4")]
    assert shares == sorted(shares)


@pytest.mark.parametrize(
    ("name", "part"), [("decoder_latency_cycles", "decode"), ("selector_latency_cycles", "prune")]
)
def test_a_longer_latency_takes_registers(name, part):
    um2 = [area(replace(FLEXIBLE, **{name: cycles})).parts[part].nominal for cycles in (0, 4, 8)]
    assert um2 == sorted(set(um2))
    assert um2[2] - um2[1] == close_to(um2[1] - um2[0])


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
         "decoder_elements_per_cycle", "selector_elements_per_cycle", "fragment_rows",
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
            decoder_elements_per_cycle=int(rng.integers(1, 400)),
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
        found = select_one(Pattern(4, 8), 16, macs, "butterfly", False)
        assert 0.25 < load(7).um2(found).nominal / 0.002e6 < 4


@pytest.mark.parametrize(
    ("capacity_bytes", "published_mm2", "ratio"), [(144, 0.0005, 0.84), (2048, 0.007, 0.58)]
)
def test_buffers_of_uni_stc_are_met_within_a_factor_of_two(capacity_bytes, published_mm2, ratio):
    technology = load(7)
    um2 = technology.sram_um2_per_bit(capacity_bytes).times(8 * capacity_bytes)
    assert um2.nominal / (published_mm2 * 1e6) == pytest.approx(ratio, abs=0.01)
