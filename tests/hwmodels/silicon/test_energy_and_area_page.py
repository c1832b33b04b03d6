"""The tables of `docs/explanation/energy-and-area.md` say what the model says."""

import re
from pathlib import Path

import pytest

from hwmodels.silicon.area import area
from hwmodels.silicon.energy import energy
from hwmodels.tensorcore.record import load_core
from nmsim.case import Case, GemmShape
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
AREA = [row for row in ROWS if row[0].startswith("`") and len(row) == 6]


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
    for part, cell in zip(("dram", "multiply", "static", "decode", "select"), row[3:], strict=True):
        share = 100 * report.parts[part].nominal / report.total.nominal
        assert (numbers(cell) or [0.0]) == [pytest.approx(share, abs=0.51 if "." not in cell else 0.051)], (
            part
        )


@pytest.mark.parametrize("row", AREA, ids=lambda row: row[0])
def test_area(row):
    report = area(load_core(row[0].strip("`")))
    um2 = {name: part.nominal for name, part in report.parts.items()}
    for cell, um2_here in zip(
        row[1:4], (um2["select"], um2["decode"], um2["prune"] + um2["encode"]), strict=True
    ):
        assert (numbers(cell) or [0.0]) == [
            pytest.approx(1e-6 * um2_here, abs=0.0051 if len(cell) == 4 else 0.00051, rel=0.004)
        ]
    cores, chip = report.overhead_of_cores, report.overhead_of_chip
    assert numbers(row[4]) == pytest.approx(
        [100 * cores.nominal, 100 * cores.low, 100 * cores.high], abs=0.051
    )
    assert numbers(row[5]) == pytest.approx([100 * chip.nominal], abs=0.051)


def test_the_tables_are_there():
    assert (len(ENERGY), len(AREA)) == (8, 6)
