"""`nmsim rtl`: Verilog of units, from the command line."""

import json
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_unit_its_bench_and_the_vectors_are_written(nmsim, folder):
    code, out, err = nmsim("rtl", "-f", "2:4/combinatorial", "-o", "decoder.v")
    assert (code, err) == (0, "")
    assert out == ("decoder.v: decoder 2:4/combinatorial serial\nbeside it: decoder_tb.v, decoder_tb.hex\n")
    assert {path.name for path in folder.iterdir()} == {"decoder.v", "decoder_tb.v", "decoder_tb.hex"}
    text = Path("decoder.v").read_text()
    assert text.startswith("// Decodes the code of a group of 4 elements into a mask with 2 ones.\n")
    assert "\nmodule decoder (\n" in text
    assert len(Path("decoder_tb.hex").read_text().splitlines()) == 8


def test_what_was_written_is_there_for_programs(nmsim, folder):
    options = ["--unit", "select", "--variant", "onehot", "--width-bits", "3", "--no-bench", "--json"]
    code, out, _ = nmsim("rtl", "-f", "2:4", *options, "-o", "select.v")
    assert code == 0
    found = json.loads(out)
    assert found["files"] == ["select.v"]
    assert found["unit"]["width_bits"] == 3
    assert [(port["name"], port["bits"], port["direction"]) for port in found["ports"]] == [
        ("x", 12, "input"),
        ("lines", 6, "input"),
        ("y", 6, "output"),
    ]
    assert [path.name for path in folder.iterdir()] == ["select.v"]


def test_files_are_replaced_only_by_force(nmsim, folder):
    Path("a_tb.hex").write_text("mine")
    code, _, err = nmsim("rtl", "-f", "2:4/index", "-o", "a.v")
    assert (code, "a_tb.hex: exists already" in err) == (2, True)
    assert [path.name for path in folder.iterdir()] == ["a_tb.hex"]
    assert nmsim("rtl", "-f", "2:4/index", "-o", "a.v", "--force")[0] == 0
    assert Path("a_tb.hex").read_text() != "mine"


def test_units_of_a_format_are_listed(nmsim):
    code, out, _ = nmsim("rtl", "-f", "8:16/combinatorial", "--list", "--json")
    assert code == 0
    found = [(record["unit"], record["variant"]) for record in json.loads(out)]
    assert {("decoder", "serial"), ("position_decoder", "columns"), ("select", "onehot")} <= set(found)
    assert len(found) == len(set(found))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "no --output given: expected -o FILE.v, or --list"),
        (["-o", "8to16.v"], "module '8to16': expected letters, digits and _"),
        (["-o", "case.v"], "no word of Verilog"),
        (["-o", "a.v", "--unit", "adder"], "unit 'adder': expected one of decoder"),
        (["-o", "a.v", "--variant", "quick"], "expected one of serial"),
        (["-o", "a.v", "-f", "3:7/tiled"], "expected M to be a power of two"),
        (["-o", "a.v", "-f", "8:16/gap:2"], "codes differ in length"),
        (["-o", "a.v", "-f", "2:4/index,4:8/index"], "expected one format"),
        (["-o", "a.v", "-f", "2:4/index", "--stages", "9"], "9 stages; expected at most 1"),
        (["-o", "a.v", "-f", "8:8/combinatorial"], "expected N < M"),
        (["-o", "a.v", "--unit", "selector", "-f", "2:4", "--width-bits", "99"], "at most 32 bits"),
        (
            ["-o", "a.v", "--unit", "select", "-f", "2:4", "--width-bits", "99999"],
            "ports of at most 32768 bits",
        ),
    ],
)
def test_what_cannot_be_written_is_refused(nmsim, folder, arguments, text):
    code, out, err = nmsim("rtl", *arguments)
    assert (code, out) == (2, "")
    assert text in err
    assert list(folder.iterdir()) == []
