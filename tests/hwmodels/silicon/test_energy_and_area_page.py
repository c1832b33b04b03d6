"""The tables of `docs/explanation/energy-and-area.md` say what the model says."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from hwmodels.silicon.area import SPARSE_PARTS, area, only
from hwmodels.silicon.energy import energy
from hwmodels.tensorcore.record import core_names, load_core
from nmsim.case import VALUE_BITS, Case, GemmShape
from nmsim.format import as_format

PAGE = (Path(__file__).resolve().parents[3] / "docs/explanation/energy-and-area.md").read_text(
    encoding="utf-8"
)
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("| ")
]
ENERGY = [row for row in ROWS if row[0] in ("1", "4096")]
PRESETS = [row for row in ROWS if row[0].strip("`") in core_names() and len(row) == 8]
AREA, BEFORE = PRESETS[:6], PRESETS[6:]
TYPES = [row for row in ROWS if row[0] in VALUE_BITS and len(row) == 7]


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?", text)]


def near(value: float):
    return pytest.approx(value, rel=0.006, abs=0.005)


@pytest.mark.parametrize("row", ENERGY, ids=lambda row: f"{row[0]} {row[1]}")
def test_energy(row):
    name, _, stored = row[1].partition(", ")
    pattern, encoding = stored.split() if stored else (None, "bitmask")
    case = Case(GemmShape(int(row[0]), 4096, 4096), as_format(pattern, encoding=encoding), dtype="fp16")
    report = energy(case, load_core(name.strip("`")))
    low, nominal, high = (1e3 * getattr(report.total, end) for end in ("low", "nominal", "high"))
    assert numbers(row[2]) == [near(nominal), near(low), near(high)]
    for part, cell in zip(("dram", "multiply", "static", "decode", "select"), row[3:8], strict=True):
        share = 100 * report.parts[part].nominal / report.total.nominal
        assert (numbers(cell) or [0.0]) == [pytest.approx(share, abs=0.51 if "." not in cell else 0.051)], (
            part
        )


def mm2(cell: str, um2: float) -> None:
    """A cell says an area: exact to its last digit."""
    digits = len(cell.partition(".")[2])
    assert numbers(cell) == [pytest.approx(1e-6 * um2, abs=0.51 * 10**-digits)]


@pytest.mark.parametrize("row", AREA, ids=lambda row: row[0])
def test_area(row):
    report = area(load_core(row[0].strip("`")))
    um2 = {name: part.nominal for name, part in report.parts.items()}
    for cell, part in zip(
        row[1:4], (um2["select"], um2["decode"], um2["prune"] + um2["encode"]), strict=True
    ):
        mm2(cell, part)
    lane = report.sparse_lane_um2
    assert numbers(row[4]) == pytest.approx([lane.nominal, lane.low, lane.high], abs=0.0051)
    cores = report.overhead_of_cores
    assert numbers(row[5]) == pytest.approx([100 * report.overhead_of_arrays.nominal], abs=0.051)
    assert numbers(row[6]) == pytest.approx(
        [100 * cores.nominal, 100 * cores.low, 100 * cores.high], abs=0.051
    )
    assert numbers(row[7]) == pytest.approx([100 * report.overhead_of_chip.nominal], abs=0.051)


@pytest.mark.parametrize("row", BEFORE, ids=lambda row: row[0])
def test_now_beside_before(row):
    core = load_core(row[0].strip("`"))
    report, lanes = area(core), area(replace(core, adder_kind="per_lane"))
    mm2(row[2], report.parts["select"].nominal)
    mm2(row[4], sum(report.parts[part].nominal for part in SPARSE_PARTS))
    assert numbers(row[6]) == pytest.approx([100 * lanes.overhead_of_cores.nominal], abs=0.051)
    assert numbers(row[7]) == pytest.approx([100 * report.overhead_of_cores.nominal], abs=0.051)


@pytest.mark.parametrize("row", TYPES, ids=lambda row: row[0])
def test_one_value_type_alone(row):
    chip = only(load_core("flexible-8x16"), row[0])
    report = area(chip)
    assert numbers(row[1]) == [chip.array_depth, chip.lane_bits]
    assert numbers(row[2]) == pytest.approx([report.lane_um2["multiply"].nominal], abs=0.051)
    assert numbers(row[3]) == pytest.approx([report.sparse_lane_um2.nominal], abs=0.0051)
    shares = (report.overhead_of_arrays, report.overhead_of_cores, report.overhead_of_chip)
    for cell, share in zip(row[4:], shares, strict=True):
        assert numbers(cell) == pytest.approx([100 * share.nominal], abs=0.051)


def test_the_tables_are_there():
    assert (len(ENERGY), len(AREA), len(BEFORE), len(TYPES)) == (8, 6, 6, 4)


def test_what_numeric_order_costs_at_16_32():
    """The sentence on tiled codes in place of combinatorial ones."""
    core = load_core("flexible-16x32")
    reports = [
        area(replace(core, encodings=names)) for names in (core.encodings, ("bitmask", "index", "tiled"))
    ]
    figures = [
        *(f"{1e-6 * report.parts['decode'].nominal:.2f}" for report in reports),
        *(f"{100 * report.overhead_of_cores.nominal:.1f}" for report in reversed(reports)),
    ]
    sentence = PAGE.split("*Numeric order costs area")[1].split("\n- ")[0]
    assert re.findall(r"\d+\.\d+", sentence) == figures
