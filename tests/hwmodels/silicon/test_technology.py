"""Costs: every one has a source and a range, published figures come back, nothing is dearer at a finer node."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwmodels.gates.spread import Spread
from hwmodels.gates.table import Gates
from hwmodels.silicon.structures import LOGIC_CELLS, Cells
from hwmodels.silicon.technology import TABLES, TECHNOLOGY_FILE, CostRange, load
from nmsim.case import VALUE_BITS
from nmsim.errors import SpecError
from nmsim.support.schema import read_toml

NODES_NM = (45, 28, 16, 7, 5, 3)
SHIPPED = TECHNOLOGY_FILE.read_text(encoding="utf-8")


def close_to(value: float):
    """Relative only: the absolute tolerance of `pytest.approx` is larger than any energy here."""
    return pytest.approx(value, rel=1e-9, abs=0)


def figures(cost: CostRange | Spread) -> tuple[float, float, float]:
    return cost.low, cost.nominal, cost.high


@pytest.mark.parametrize("node_nm", NODES_NM)
def test_every_cost_has_its_unit_a_source_and_a_range_in_order(node_nm):
    technology = load(node_nm)
    assert set(technology.costs) == set(TABLES)
    for name, table in TABLES.items():
        assert technology.costs[name], name
        for key, cost in technology.costs[name].items():
            assert cost.unit == table.unit, (name, key)
            assert 0 < cost.low <= cost.nominal <= cost.high, (name, key)
            assert len(cost.source) > 10, (name, key)


def test_what_is_assumed_names_an_assumption():
    for table in load(7).costs.values():
        for cost in table.values():
            assert cost.kind != "assumed" or any(
                f"A{i}" in cost.source for i in (*range(30, 40), *range(50, 55))
            ), cost


def test_every_value_type_and_cell_has_its_costs():
    technology = load(7)
    for table in ("multiply_joules", "multiply_um2"):
        assert set(technology.costs[table]) == set(VALUE_BITS)
    assert set(technology.costs["cell_gates"]) == set(LOGIC_CELLS)


@pytest.mark.parametrize(
    ("node_nm", "table", "key", "published"),
    [
        (45, "multiply_joules", "fp16", 1.1e-12),
        (45, "add_joules", "fp32", 0.9e-12),
        (7, "multiply_joules", "bf16", 0.21e-12),
        (7, "add_joules", "fp16", 0.16e-12),
        (45, "multiply_um2", "fp16", 1640.0),
        (45, "logic_um2", "gate", 0.798),
        (45, "cell_gates", "full_adder", 5.33),
    ],
)
def test_a_published_figure_comes_back_at_its_node(node_nm, table, key, published):
    assert load(node_nm).cost(table, key).nominal == published


@pytest.mark.parametrize(
    ("node_nm", "kilobytes", "joules_per_64_bits"),
    [(45, 8, 10e-12), (45, 32, 20e-12), (45, 1024, 100e-12), (7, 8, 7.5e-12), (7, 1024, 14e-12)],
)
def test_sram_reads_as_published(node_nm, kilobytes, joules_per_64_bits):
    per_bit = load(node_nm).sram_read_joules_per_bit(kilobytes * 1024)
    assert per_bit.nominal * 64 == close_to(joules_per_64_bits)


def test_sram_between_its_points_is_a_power_of_the_capacity():
    technology = load(45)
    # 16 KB is halfway between 8 and 32 KB on a logarithmic scale: sqrt(10 * 20) pJ.
    assert technology.sram_read_joules_per_bit(16384).nominal * 64 == close_to(200**0.5 * 1e-12)
    # 32 times 1 MB: once more the factor 5 from 32 KB to 1 MB.
    assert technology.sram_read_joules_per_bit(32 << 20).nominal * 64 == close_to(500e-12)
    assert technology.sram_read_joules_per_bit(64) == technology.sram_read_joules_per_bit(8192)


def test_between_two_anchors_a_cost_is_a_power_of_the_node():
    middle = (45 * 7) ** 0.5
    assert load(middle).cost("multiply_joules", "fp16").nominal == close_to((1.1 * 0.34) ** 0.5 * 1e-12)


def test_beyond_its_anchors_a_cost_scales_as_its_family_does():
    fine, known = load(5).cost("multiply_joules", "fp16"), load(7).cost("multiply_joules", "fp16")
    assert fine.nominal / known.nominal == close_to(0.244 / 0.348)
    assert fine.low / known.low == close_to(0.14 / 0.233)
    assert "scaled from 7 nm" in fine.source


@given(*(st.floats(5, 45) for _ in range(2)))
def test_no_cost_is_higher_at_a_finer_node(one, other):
    fine, coarse = load.__wrapped__(min(one, other)), load.__wrapped__(max(one, other))
    for name, key in ((name, key) for name, table in fine.costs.items() for key in table):
        here, there = figures(fine.cost(name, key)), figures(coarse.cost(name, key))
        assert all(a <= b * (1 + 1e-9) for a, b in zip(here, there, strict=True)), (name, key)


@pytest.mark.parametrize("node_nm", NODES_NM)
@given(st.floats(64, 1e9), st.floats(64, 1e9))
def test_a_larger_memory_costs_more_a_read_and_less_area_a_bit(node_nm, one, other):
    technology, small, large = load(node_nm), min(one, other), max(one, other)
    reads = (technology.sram_read_joules_per_bit(capacity) for capacity in (small, large))
    areas = (technology.sram_um2_per_bit(capacity) for capacity in (large, small))
    for smaller, larger in (reads, areas):
        for a, b in zip(figures(smaller), figures(larger), strict=True):
            assert a <= b * (1 + 1e-9)


@pytest.mark.parametrize("node_nm", NODES_NM)
def test_wider_types_cost_more(node_nm):
    technology = load(node_nm)
    for table in ("multiply_joules", "multiply_um2"):
        for family in (("int4", "int8"), ("fp4", "fp8", "bf16", "fp16", "fp32")):
            for narrow, wide in itertools.pairwise(family):
                assert technology.cost(table, narrow).nominal < technology.cost(table, wide).nominal, (
                    narrow,
                    wide,
                )


def test_counted_cells_by_hand():
    technology = load(45)
    cells = Cells(full_adder=10, mux2=5)
    gates = 10 * 5.33 + 5 * 2.33
    assert technology.gates(cells).nominal == close_to(gates)
    assert technology.gates(cells).high == close_to(10 * 8.0 + 5 * 3.0)
    assert technology.um2(cells).nominal == close_to(gates * 0.798 * 1.43)
    assert technology.joules(cells).nominal == close_to(gates * 0.57e-15)


def test_gates_of_the_table_by_hand():
    technology = load(45)
    unit = Gates(nand2=100.0, flip_flops=2.0)
    assert technology.gates(unit).nominal == close_to(100 + 2 * 5.67)
    assert technology.um2(unit).nominal == close_to((100 + 2 * 5.67) * 0.798 * 1.43)
    assert technology.joules(unit).nominal == close_to(100 * 0.57e-15 + 2 * 9e-15)
    # Another library differs by 12 %, and a fit by its own error besides.
    assert figures(technology.gates(Gates(nand2=100.0))) == tuple(map(close_to, (88.0, 100.0, 112.0)))
    fitted = technology.gates(Gates(nand2=100.0, origin="fitted", error=0.3))
    assert (fitted.low, fitted.high) == (close_to(58.0), close_to(142.0))
    assert technology.gates(Gates(nand2=100.0, error=2.0)).low == 0


def test_a_write_is_a_share_of_a_read():
    technology = load(7)
    read = technology.sram_read_joules_per_bit(25740)
    assert technology.sram_write_joules_per_bit(25740).high == close_to(1.3 * read.high)


def test_spreads_add_ends_to_ends():
    assert Spread(1, 2, 3) + Spread(10, 20, 30) == Spread(11, 22, 33)
    assert Spread(1, 2, 3).times(Spread(0.5, 1, 2)) == Spread(0.5, 2, 6)


@pytest.mark.parametrize(
    "bad", [(2, 1, 3), (1, 3, 2), (-1, 0, 1), (0, 1, float("inf")), (0, float("nan"), 1)]
)
def test_a_spread_out_of_order_is_refused(bad):
    with pytest.raises(SpecError, match="expected 0 <= low <= nominal <= high"):
        Spread(*bad)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"low": 2.0}, "low=2.0, nominal=1.0, high=3.0: expected low <= nominal <= high"),
        ({"high": 0.0}, "high: value=0.0 .*expected a positive"),
        ({"unit": "acre"}, "unit='acre': expected one of"),
        ({"kind": "guess"}, "kind='guess'"),
        ({"source": " "}, "source=' '"),
        ({"node_nm": 0}, "node_nm=0: expected a technology node"),
        ({"node_nm": "7"}, "node_nm='7': expected a technology node"),
    ],
)
def test_a_cost_that_is_none_is_refused(change, message):
    fields = {
        "low": 0.5, "nominal": 1.0, "high": 3.0, "unit": "um2", "kind": "assumed", "source": "a test", "node_nm": 7,
    }  # fmt: skip
    with pytest.raises(SpecError, match=message):
        CostRange(**(fields | change))


@pytest.mark.parametrize("node_nm", [2.9, 46, 0, -7, float("nan"), "7", True, None])
def test_a_node_out_of_range_is_refused(node_nm):
    with pytest.raises(SpecError, match=r"node_nm=.*: expected a technology node of 3 to 45 nm"):
        load(node_nm)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[spread]", "[spread", "t.toml: cannot be read as TOML"),
        ("[shares]", "[share]", r"t.toml: share: unknown key \(did you mean shares\?\)"),
        ("gddr6 = [", "gddr9 = [", r"dram_joules_per_bit.gddr9: unknown key \(did you mean gddr7\?\)"),
        ("32768 = [", "many = [", r"sram_joules_per_bit: expected a table of two or more capacities"),
        (
            'value = 0.2e-12, kind = "datasheet", source = "horowitz"',
            'value = 0.2e-12, kind = "datasheet", source = "hearsay"',
            r"multiply_joules.int8\[0\].source: 'hearsay': expected one of horowitz",
        ),
        (
            'value = 0.2e-12, kind = "datasheet"',
            'kind = "datasheet"',
            r"multiply_joules.int8\[0\].value: missing; this key is required",
        ),
        ("low = 0.1e-12, high = 0.4e-12", "low = 0.1e-12", r"register_joules_per_bit.register_file\[0\]: low and high"),
        ("low = 0.1e-12, high = 0.4e-12", "low = 0.3e-12, high = 0.4e-12", r"register_file\[0\]: low=3e-13, nominal="),
        ("node_nm = 45, value = 0.2e-12", "node_nm = 7, value = 0.2e-12", "multiply_joules.int8: two anchors at one node"),
        (
            "value = 0.2e-12,",
            'value = "0.2e-12", low = 1e-13, high = 1e-12,',
            r"multiply_joules.int8\[0\].value='0.2e-12': expected a number",
        ),
        ("value = 0.2e-12,", "value = 0.2,", r"multiply_joules.int8\[0\].value: 0.2 joules: .* did you mean 2e-13 \(0.2 pJ\)"),
        ("wire = [", "wire = []\nwired = [", "wire_joules_per_bit_mm.wired: unknown key"),
        ("[{ node_nm = 45, value = 137.0", "[{ node = 45, value = 137.0", r"add_um2.int32\[0\].node: unknown key"),
    ],
)  # fmt: skip
def test_a_bad_file_is_refused_with_the_place(tmp_path, old, new, message):
    assert old in SHIPPED
    path = tmp_path / "t.toml"
    path.write_text(SHIPPED.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(SpecError, match=message):
        load(7, path)


def test_every_source_is_used():
    document = read_toml(TECHNOLOGY_FILE)
    entries = [
        entry for name in ("scaling", *TABLES) for anchors in document[name].values() for entry in anchors
    ]
    assert set(document["sources"]) == {entry["source"] for entry in entries}


@pytest.mark.parametrize(("table", "key"), [("multiply_joule", "fp16"), ("multiply_joules", "fp64")])
def test_an_unknown_cost_is_named(table, key):
    with pytest.raises(SpecError, match=rf"cost {table}\.{key}: no such (table|key); expected one of"):
        load(7).cost(table, key)


@pytest.mark.parametrize("capacity", [0, -1, float("nan")])
def test_no_memory_without_capacity(capacity):
    with pytest.raises(SpecError, match="capacity_bytes=.*: expected a positive number"):
        load(7).sram_read_joules_per_bit(capacity)


PUBLISHED_IDLE = {"A100, 7 nm": (54, 826, 7), "H200, 5 nm": (73.65, 814, 5)}
"""Watts that an idle chip draws with its memory and links, mm2 of its die, node: see `idle` in technology.toml."""


@pytest.mark.parametrize("chip", PUBLISHED_IDLE)
def test_a_die_of_a_real_chip_leaks_no_more_than_it_draws_idle(chip):
    watts, die_mm2, node_nm = PUBLISHED_IDLE[chip]
    leakage = load(node_nm).cost("leakage_watts_per_mm2", "logic")
    assert leakage.low * die_mm2 < 0.5 * watts
    assert 0.5 * watts < leakage.nominal * die_mm2 < watts < leakage.high * die_mm2 * 1.01


def test_sram_leaks_no_more_per_area_than_logic():
    logic, sram = (load(5).cost("leakage_watts_per_mm2", key) for key in ("logic", "sram"))
    assert sram.low < logic.low
    assert sram.nominal < logic.nominal
    assert sram.high <= logic.high


def test_newer_dram_takes_no_more_energy_per_bit():
    costs = load(5).costs["dram_joules_per_bit"]
    for older, newer in (("hbm3", "hbm3e"), ("hbm3e", "hbm4"), ("gddr6", "gddr7"), ("lpddr5", "lpddr5x")):
        assert costs[newer].nominal <= costs[older].nominal
        assert costs[newer].high <= costs[older].high
