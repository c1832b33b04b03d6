"""Energy: by hand, the laws it obeys, columns against single answers, and figures of others that had no part in it."""

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwmodels.estimate import constants
from hwmodels.silicon.area import area
from hwmodels.silicon.energy import PARTS, design, energy, energy_columns, shared_write_bytes, unit_costs
from hwmodels.silicon.structures import accumulation, product_tree
from hwmodels.silicon.technology import load
from hwmodels.tensorcore import services
from hwmodels.tensorcore.cycles import PLACE, Cycles, closed_form
from hwmodels.tensorcore.point import point
from hwmodels.tensorcore.record import core_names, load_core
from hwmodels.tensorcore.simulate import simulate
from nmsim.case import Case, GemmShape
from nmsim.errors import EncodingError, RowError, SpecError
from nmsim.format import as_format
from nmsim.pattern import Pattern

FLEXIBLE, DENSE = load_core("flexible-8x16"), load_core("dense")
LARGE = GemmShape(8192, 8192, 8192)
SHAPES = (GemmShape(1, 4096, 4096), GemmShape(48, 1000, 3000), GemmShape(4096, 4096, 4096))
NODES_NM = (3, 5, 7, 16, 28, 45)
SPARSELOOP = pd.read_csv("hwmodels/data/sparseloop_stc.csv")


def close_to(value: float, rel: float = 1e-9):
    """Relative only: the absolute tolerance of `pytest.approx` is larger than any energy here."""
    return pytest.approx(value, rel=rel, abs=0)


def counted(core, case) -> Cycles:
    return Cycles(*closed_form(np.array([point(core, case)]))[0])


def without_static(report) -> float:
    return report.total.nominal - report.parts["static"].nominal


@pytest.mark.parametrize("name", core_names())
def test_parts_add_up_in_order_and_the_largest_is_named(name):
    core = load_core(name)
    report = energy(Case(SHAPES[1], dtype="int8"), core)
    assert tuple(report.parts) == PARTS
    for end in ("low", "nominal", "high"):
        assert sum(getattr(part, end) for part in report.parts.values()) == close_to(
            getattr(report.total, end)
        )
    assert 0 < report.total.low < report.total.nominal < report.total.high
    first = energy(Case(SHAPES[0], "8:16", dtype="int8"), replace(FLEXIBLE, l2_bytes=1 << 20))
    assert first.explanation.startswith(
        f"DRAM takes {first.parts['dram'].nominal / first.total.nominal:.0%} of "
    )


def test_what_can_be_redone_by_hand():
    core, case = replace(DENSE, node_nm=7), Case(GemmShape(1024, 1024, 1024), dtype="fp16")
    report, c = energy(case, core), counted(core, case)
    assert c.macs == c.effectual_macs == 1024**3
    # An exact product of 11 bits each, and a 16th of the cell's tree and accumulation, at 0.57 fJ a gate of 45 nm.
    cells = product_tree("fp16", 16, 25) + accumulation("fp16", 16, 25)
    multiply_add = 0.07e-12 * (11 / 8) ** 2 + load(7).gates(cells).nominal / 16 * 0.57e-15 * 0.348
    assert report.parts["multiply"].nominal == close_to(1024**3 * multiply_add)
    traffic = 2 * 1024 * 1024 * 2 + 1024 * 1024 * 2
    assert report.parts["dram"].nominal == close_to(8 * traffic * 3.9e-12)
    register = 0.207e-12 * 0.348
    sums = c.accumulator_accesses + 1024 * 1024
    assert report.parts["accumulate"].nominal == close_to(sums * 32 * register)
    read_bits = 8 * (c.shared_read_bytes + c.operand_b_bytes) + 1024**3 / 8 * 16
    assert report.parts["registers"].nominal == close_to(read_bits * register)
    um2 = {name: part.nominal for name, part in area(core).parts.items()}
    memory_mm2 = sum(um2[name] for name in ("accumulators", "registers", "shared", "l2")) / 1e6
    logic_mm2 = sum(um2.values()) / 1e6 - memory_mm2
    time_s = c.cycles / 1.83e9
    assert report.parts["static"].nominal == close_to(time_s * (0.05 * logic_mm2 + 0.02 * memory_mm2))
    idle_macs = c.cycles * 132 * 16 * 8 * 16 - 1024**3
    assert report.parts["clock"].nominal == close_to(idle_macs * 0.0321 * multiply_add)
    busy = 1024**3 / (c.cycles * 132 * 16 * 8 * 16)
    gated = energy(case, replace(core, power_gating=True)).parts
    assert gated["clock"].nominal == 0
    logic_w = 0.05 * logic_mm2 * (busy + (1 - busy) * 0.4)
    assert gated["static"].nominal == close_to(time_s * (logic_w + 0.02 * memory_mm2))
    lanes = energy(case, replace(core, adder_kind="per_lane")).parts["multiply"].nominal
    assert lanes == close_to(1024**3 * (0.34e-12 + 0.38e-12))


def test_wider_words_and_adders_of_lanes_take_more():
    case = Case(LARGE, dtype="bf16")
    joules = [
        energy(case, replace(DENSE, fraction_bits=bits)).parts["multiply"].nominal for bits in (11, 25, 40)
    ]
    assert joules == sorted(set(joules))
    assert energy(case, replace(DENSE, adder_kind="per_lane")).parts["multiply"].nominal > joules[1]
    # Floats of 8 bits have a width of their own.
    narrow = replace(case, dtype="fp8")
    wide, same, wider = (
        energy(narrow, core).parts["multiply"].nominal
        for core in (replace(DENSE, fraction_bits=40), DENSE, replace(DENSE, narrow_fraction_bits=25))
    )
    assert wide == same < wider


def test_partial_sums_of_fewer_bits_take_less_to_accumulate():
    case = Case(LARGE, dtype="fp16")
    wide, narrow = (
        energy(case, replace(DENSE, accumulator_bits=bits)).parts["multiply"].nominal for bits in (32, 16)
    )
    costs = unit_costs(DENSE, case)
    assert wide - narrow == close_to(8192**3 * costs.accumulate[1] / 2)


def test_static_power_depends_on_the_area_and_not_on_the_clock():
    case = Case(SHAPES[2], dtype="fp16")
    power_w = [
        energy(case, core).parts["static"].nominal * core.clock_hz / counted(core, case).cycles
        for core in (DENSE, replace(DENSE, clock_hz=2 * DENSE.clock_hz), replace(DENSE, dtypes=("fp16",)))
    ]
    # The dense preset multiplies narrower types as well; without them its arrays are no larger, and nothing else changes.
    assert power_w[0] == close_to(power_w[1])
    assert power_w[2] <= power_w[0]
    larger = replace(DENSE, l2_bytes=4 * DENSE.l2_bytes)
    added_mm2 = (area(larger).parts["l2"].nominal - area(DENSE).parts["l2"].nominal) / 1e6
    more_w = energy(case, larger).parts["static"].nominal * larger.clock_hz / counted(larger, case).cycles
    assert more_w - power_w[0] == close_to(0.02 * added_mm2, rel=1e-6)


@pytest.mark.parametrize("end", ["low", "nominal", "high"])
def test_power_gating_saves_and_never_costs(end):
    for shape in SHAPES:
        case = Case(shape, dtype="int8")
        powered, cut = (
            energy(case, replace(FLEXIBLE, power_gating=gating)).parts for gating in (False, True)
        )
        assert getattr(cut["static"], end) < getattr(powered["static"], end)
        assert getattr(cut["clock"], end) == 0 <= getattr(powered["clock"], end)


def test_multiplying_at_half_density_takes_half_of_dense():
    dense = energy(Case(LARGE, dtype="fp16"), FLEXIBLE)
    half = energy(Case(LARGE, "8:16", dtype="fp16"), FLEXIBLE)
    for end in ("low", "nominal", "high"):
        assert getattr(half.parts["multiply"], end) == close_to(getattr(dense.parts["multiply"], end) / 2)


def test_zeros_that_are_not_skipped_are_gated():
    expanded = energy(Case(LARGE, "1:4", dtype="fp16"), FLEXIBLE)
    dense = energy(Case(LARGE, dtype="fp16"), FLEXIBLE)
    share = load(5).share("gated_share").nominal
    assert expanded.parts["multiply"].nominal == close_to(
        (1 + 3 * share) / 4 * dense.parts["multiply"].nominal
    )


@pytest.mark.parametrize("end", ["low", "nominal", "high"])
@pytest.mark.parametrize("pattern", [None, "2:4", "8:16", "1:4"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_coarser_node_is_never_cheaper(shape, pattern, end):
    case = Case(shape, as_format(pattern, encoding="combinatorial"), sparse_operand="activations")
    reports = [energy(case, replace(FLEXIBLE, node_nm=node)) for node in NODES_NM]
    for part in PARTS:
        joules = [getattr(report.parts[part], end) for report in reports]
        assert joules == sorted(joules), part


@given(
    field=st.sampled_from([name for name in Cycles._fields if name.endswith("_bytes")]),
    more=st.floats(1.0, 100.0),
    shape=st.sampled_from(SHAPES),
    pattern=st.sampled_from([None, "2:4", "8:16"]),
)
def test_more_bytes_never_take_less_energy(field, more, shape, pattern):
    case = Case(shape, pattern)
    points = np.array([point(FLEXIBLE, case)] * 2)
    answers = closed_form(points)
    answers[1, PLACE[field]] *= more
    found = energy_columns([design(FLEXIBLE, case)], np.array([0, 0]), points, answers)
    for joules in found.values():
        assert joules[1] >= joules[0]
        assert more < 2 or joules[1] > joules[0]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_dense_products_take_more_on_a_core_with_a_select_network(shape):
    case = Case(shape, dtype="fp16")
    dense, sparse = energy(case, DENSE), energy(case, FLEXIBLE)
    assert dense.parts["select"].nominal == 0 < sparse.parts["select"].nominal
    assert sparse.total.nominal > dense.total.nominal


def test_a_wider_window_takes_more_to_select_from():
    joules = [
        energy(Case(LARGE, pattern), load_core("flexible-16x32")).parts["select"].nominal
        for pattern in ("2:4", "4:8", "8:16", "16:32")
    ]
    assert joules == sorted(set(joules))


def test_columns_say_what_single_answers_say():
    rng = np.random.default_rng(0)
    cores = [FLEXIBLE, DENSE, load_core("edge-npu-8x16"), replace(FLEXIBLE, node_nm=45, dram_kind="ddr4")]
    cases = [
        Case(shape, as_format(pattern, encoding="bitmask"), dtype="int8", sparse_operand=operand)
        for shape in SHAPES
        for pattern in (None, "2:4", "8:16", "3:8")
        for operand in ("weights", "activations")
    ]
    pairs = [(core, case) for core in cores for case in cases]
    places = rng.permutation(len(pairs))
    chosen = [
        (
            replace(pairs[i][0], shared_bytes=int(rng.choice([196608, 262144])), accumulator_bits=int(bits)),
            pairs[i][1],
        )
        for i, bits in zip(places, rng.choice([16, 24, 32], len(pairs)), strict=True)
    ]
    points = np.array([point(core, case) for core, case in chosen])
    found = energy_columns([design(*pair) for pair in pairs], places, points, closed_form(points))
    reports = [energy(case, core).total for core, case in chosen]
    for column, end in (
        ("energy_joules_low", "low"),
        ("energy_joules", "nominal"),
        ("energy_joules_high", "high"),
    ):
        assert found[column] == close_to(np.array([getattr(total, end) for total in reports]))


def test_no_answer_no_energy():
    case = Case(SHAPES[0])
    points = np.array(
        [point(FLEXIBLE, case), point(replace(FLEXIBLE, shared_bytes=1000, shared_blocks=64), case)]
    )
    found = energy_columns([design(FLEXIBLE, case)], np.array([0, 0]), points, closed_form(points))
    assert [np.isnan(joules).tolist() for joules in found.values()] == [[False, True]] * 3
    with pytest.raises(RowError, match="no tile"):
        energy(case, replace(FLEXIBLE, shared_bytes=1000, shared_blocks=64))
    with pytest.raises(SpecError, match="1 places, 2 points and 2 answers"):
        energy_columns([design(FLEXIBLE, case)], np.array([0]), points, closed_form(points))


def test_codes_without_a_decoder_are_refused():
    core = replace(FLEXIBLE, encodings=("gap",))
    assert energy(Case(SHAPES[0], "2:4/gap"), core).parts["decode"].nominal > 0
    with pytest.raises(EncodingError, match="escapes"):
        energy(Case(SHAPES[0], "2:8/gap:1"), core)


def sizes_of(whole, part):
    """Sizes of the parts that a length is cut into, and how many have each."""
    return Counter(min(part, whole - start) for start in range(0, int(whole), int(part))).items()


@pytest.mark.parametrize("core_name", ["flexible-8x16", "edge-npu-8x16", "nvidia-like-2x4"])
@pytest.mark.parametrize("shape", [*SHAPES, GemmShape(300, 5000, 2048)], ids=str)
@pytest.mark.parametrize(
    ("pattern", "operand"), [(None, "weights"), ("2:4", "weights"), ("2:4", "activations")]
)
@pytest.mark.parametrize("multicast", [True, False])
def test_what_enters_shared_memory_is_what_all_tiles_fetch(core_name, shape, pattern, operand, multicast):
    core = replace(load_core(core_name), multicast=multicast)
    case = Case(shape, as_format(pattern, encoding=core.encodings[0]), dtype="int8", sparse_operand=operand)
    p, c = point(core, case), counted(core, case)
    # Tiles of equal size fetch as much, so each size is computed once.
    sizes = (sizes_of(p.a_rows, c.tile_rows), sizes_of(p.b_cols, c.tile_cols), sizes_of(p.K, c.tile_k))
    fetched = 0.0
    for (rows, row_tiles), (cols, col_tiles), (depth, blocks) in itertools.product(*sizes):
        each = services.a_bytes(p, rows, depth, 1.0) + services.b_bytes(p, cols, depth, rows, 1.0)
        fetched += row_tiles * col_tiles * blocks * each
    assert shared_write_bytes(p, c) == close_to(max(fetched, c.l2_read_bytes), rel=0.04)


def test_a_simulation_lends_its_counts():
    case = Case(GemmShape(256, 1024, 2048), "8:16", dtype="fp16")
    simulated = energy(case, FLEXIBLE, simulation=simulate(case, FLEXIBLE))
    assert simulated.total.nominal == close_to(energy(case, FLEXIBLE).total.nominal, rel=0.02)
    half = replace(simulate(case, FLEXIBLE), effectual_macs=0)
    idle = energy(case, FLEXIBLE, simulation=half).parts["multiply"].nominal
    assert idle == close_to(load(5).share("gated_share").nominal * simulated.parts["multiply"].nominal)


def test_pruning_is_charged_once_in_the_producer_and_for_each_tile_in_the_consumer():
    case = Case(GemmShape(512, 4096, 4096), "8:16/combinatorial", sparse_operand="activations")
    costs = unit_costs(FLEXIBLE, case)
    produced = energy(case, FLEXIBLE)
    assert produced.parts["prune"].nominal == close_to(512 * 256 * costs.prune[1])
    assert produced.parts["encode"].nominal == close_to(512 * 256 * costs.encode[1]) != 0
    core = replace(FLEXIBLE, selector_placement="consumer")
    consumed, c = energy(case, core), counted(core, case)
    assert c.pruned_groups > 512 * 256
    assert consumed.parts["prune"].nominal == close_to(c.pruned_groups * costs.prune[1])
    assert consumed.parts["decode"].nominal == 0
    for other in (replace(case, sparse_operand="weights"), replace(case, format=None)):
        assert energy(other, FLEXIBLE).parts["prune"].nominal == 0
    by_software = energy(case, replace(FLEXIBLE, selector_elements_per_cycle=0))
    assert by_software.parts["prune"].nominal == by_software.parts["encode"].nominal == 0


def test_a_second_sparse_operand_takes_less_to_multiply_and_more_to_select():
    core, case = load_core("dual-sided-8x16"), Case(LARGE, "8:16")
    one, two = energy(case, core), energy(case, core, other=Pattern(8, 16))
    assert two.parts["multiply"].nominal == close_to(one.parts["multiply"].nominal / 2, rel=0.02)
    per_select = [each.parts["select"].nominal / share for each, share in ((one, 2), (two, 1))]
    assert per_select[1] > 2 * per_select[0]
    assert two.parts["dram"].nominal < one.parts["dram"].nominal


@pytest.mark.parametrize("encoding", ["bitmask", "index", "gap", "combinatorial", "joint"])
@pytest.mark.parametrize("pattern", ["2:4", "8:16", "16:32"])
def test_a_decoded_group_takes_less_than_what_is_done_with_it(encoding, pattern):
    core = replace(
        load_core("flexible-16x32"),
        select_network="mux",
        encodings=("bitmask", "index", "gap", "combinatorial", "joint"),
    )
    case = Case(LARGE, as_format(pattern, encoding=encoding), dtype="fp16")
    costs = unit_costs(core, case)
    assert (costs.decode[1] == 0) == (encoding == "index")
    assert costs.decode[1] < Pattern.parse(pattern).n * 64 * (costs.multiply + costs.accumulate)[1]
    report = energy(case, core)
    assert report.parts["decode"].nominal == close_to(counted(core, case).decoded_groups * costs.decode[1])


@pytest.mark.parametrize(
    ("kind", "ratios"), [("aligned_tree", (0.51, 1.09, 0.99)), ("per_lane", (0.75, 1.35, 0.94))]
)
def test_joules_per_flop_against_those_fitted_to_measured_gpus(kind, ratios):
    fitted = constants.load()
    case, flop = Case(LARGE, dtype="fp16"), 2 * 8192**3
    core = replace(DENSE, node_nm=7, adder_kind=kind)
    dense = energy(case, core)
    low = (dense.total.low - dense.parts["static"].low) / flop
    high = (dense.total.high - dense.parts["static"].high) / flop
    assert low < fitted.tensor_energy_joules_per_flop < high
    narrow = energy(replace(case, dtype="fp8"), core)
    chip = replace(load_core("nvidia-like-2x4"), node_nm=7, adder_kind=kind)
    sparse = energy(replace(case, format="2:4/index"), chip)
    found = (
        without_static(dense) / flop / fitted.tensor_energy_joules_per_flop,
        without_static(narrow) / without_static(dense) / fitted.byte_value_energy_ratio,
        without_static(sparse) / without_static(dense) / fitted.sparse_energy_ratio,
    )
    assert found == tuple(pytest.approx(ratio, abs=0.02) for ratio in ratios)


def study_core(sparse: bool):
    """The tensor core of Sparseloop's study: 64 x 16 int8 multiply-adds at 45 nm, 42 and 32 bytes a cycle."""
    return replace(
        FLEXIBLE, id="study", cores=1, node_nm=45, array_rows=64, array_cols=1, array_depth=16, lane_bits=8,
        dtypes=("int8",), patterns=(Pattern(2, 4),) if sparse else (), encodings=("index",), accumulator_buffers=1,
        operand_b_bytes_per_cycle=32, selector_elements_per_cycle=0, fragment_rows=64, fragment_cols=128,
        shared_bytes=262144, shared_bytes_per_cycle=42, shared_access_bytes=1, l2_bytes=1000, l2_access_bytes=1,
        dram_kind="gddr6", dram_bytes_per_cycle=32.0, dram_access_bytes=1,
    )  # fmt: skip


def test_the_published_saving_of_2_4_on_the_study_of_sparseloop_is_met_within_a_tenth():
    at_half = SPARSELOOP[SPARSELOOP["wd"] == "WD-0.5"]
    published = at_half.groupby("design")["energy_uJ"].sum() * 1e-6
    assert published["STC"] / published["TC"] == pytest.approx(0.603, abs=0.001)
    joules = dict.fromkeys(("TC", "STC"), 0.0)
    for row in at_half.itertuples():
        if row.design in joules:
            out_features, K, tokens = (int(part[1:]) for part in row.layer.split("-")[:3])
            sparse = row.design == "STC"
            case = Case(
                GemmShape(tokens, out_features, K),
                as_format("2:4" if sparse else None, encoding="index"),
                dtype="int8",
            )
            joules[row.design] += energy(case, study_core(sparse)).total.nominal
    assert joules["STC"] / joules["TC"] / 0.603 == pytest.approx(1.10, abs=0.02)
    assert joules["TC"] / published["TC"] == pytest.approx(2.35, abs=0.05)
