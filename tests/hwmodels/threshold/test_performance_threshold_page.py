"""The tables and sentences of `docs/explanation/performance-threshold.md` say what the calculator says."""

import re
from pathlib import Path

import pytest

import hwmodels
from hwmodels.threshold import ModelFormat, equal_energy, equal_memory, equal_time, footprint, quantised_dense
from nmsim.format import sparse_format

PAGE = (Path(__file__).resolve().parents[3] / "docs/explanation/performance-threshold.md").read_text(
    encoding="utf-8"
)
PROSE = re.sub(r"\s+", " ", PAGE)
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("| ")
]
PADDED = [row for row in ROWS if row[0] in ("bf16", "int8", "int4")]
QUANTISED = [row for row in ROWS if len(row) == 3 and row[0].isdigit()]
EQUAL = [row for row in ROWS if len(row) == 7 and row[0].isdigit()]
STORES = (
    ("combinatorial", "bitstream"), ("combinatorial", "byte"), ("combinatorial", "no_straddle:32"),
    ("bitmask", "bitstream"), ("index", "bitstream"),
)  # fmt: skip
LLAMA = hwmodels.load_model("llama-3.1-8b")
COMBINATORIAL = ModelFormat("8:16/combinatorial")


def billions(counterpart):
    return f"{counterpart.params_elems / 1e9:.2f}"


def with_range(found):
    return f"{billions(found.equal)} ({billions(found.low)} to {billions(found.high)})"


@pytest.mark.parametrize("row", PADDED, ids=lambda row: f"{row[0]} {row[1]}")
def test_padding(row):
    for cell, (encoding, packing) in zip(row[2:], STORES, strict=True):
        how = ModelFormat(f"{row[1]}/{encoding}/{packing}", dtype=row[0])
        assert cell == f"{footprint(LLAMA, how).bits_per_element:.5g}"


@pytest.mark.parametrize("row", QUANTISED, ids=lambda row: row[0])
def test_quantised_dense_models(row):
    found = quantised_dense(LLAMA, ModelFormat(), int(row[0]))
    assert float(row[1]) == found.bits_per_element
    assert row[2] == f"{found.total_bytes * 1e-9:.2f}"


@pytest.mark.parametrize("row", EQUAL, ids=lambda row: " ".join(row[:3]))
def test_counterparts(row):
    tokens = int(row[0])
    pattern, encoding = row[1].replace("`", "").split()
    beside, _, outlier_encoding = row[2].replace("`", "").partition(" ")
    kept = {}
    if beside.startswith("columns:"):
        kept = {"columns": int(beside.removeprefix("columns:"))}
    elif beside != "none":
        kept = {"outliers": sparse_format(beside, encoding=outlier_encoding or "combinatorial")}
    how = ModelFormat(f"{pattern}/{encoding}", **kept)
    assert row[3] == billions(equal_memory(LLAMA, how).equal)
    assert row[4] == with_range(equal_time(LLAMA, how, "h200", tokens=tokens))
    assert row[5] == with_range(equal_time(LLAMA, how, "h200-8x16", tokens=tokens))
    assert row[6] == with_range(equal_energy(LLAMA, how, "flexible-8x16", tokens=tokens))


def test_the_command_prints_its_sentence(nmsim):
    command = re.search(r"\$ nmsim (threshold llama.*)", PAGE)[1]
    sentence = re.search(r"\.\.\.\n(8:16 combinatorial: .*?)\n```", PAGE, re.S)[1]
    code, out, _ = nmsim(*command.split())
    assert code == 0
    assert re.sub(r"\s+", " ", sentence) in out


def test_numbers_in_the_text():
    pruned, dense = footprint(LLAMA, COMBINATORIAL), footprint(LLAMA, ModelFormat())
    assert f"shrinks to {pruned.total_bytes / dense.total_bytes:.1%} only".replace("%", " %") in PROSE
    assert f"{pruned.bits_per_element:g} bits per element, {pruned.total_bytes * 1e-9:.2f} GB" in PROSE
    in_8_bits = quantised_dense(LLAMA, ModelFormat(), 8, hwmodels.load_machine("h200"))
    mine = equal_time(LLAMA, COMBINATORIAL, "h200")
    assert f"{in_8_bits.time_s * 1e3:.2f} ms per token against {mine.pruned_cost * 1e3:.2f} ms" in PROSE
    assert f"Llama-3.1-8B, {pruned.params_elems / 1e9:.2f} B, in bf16" in PROSE
    equal = {tuple(row[:3]): [cell.split()[0] for cell in row[3:]] for row in EQUAL}
    plain = equal["1", "8:16 `combinatorial`", "none"]
    beside = equal["1", "8:16 `combinatorial`", "4:256"]
    assert (
        f"from {plain[0]} to {beside[0]} B in memory, and from {plain[1]} to {beside[1]} B in time" in PROSE
    )
    coded, positions = (equal["1", "8:16 `combinatorial`", name] for name in ("8:256", "8:256 `index`"))
    assert f"8:256 stands at {positions[1]} B instead of {coded[1]} B" in PROSE
    codes, bitmask = (equal["16", f"8:16 `{name}`", "none"] for name in ("combinatorial", "bitmask"))
    assert f"from {codes[1]} B to {codes[2]} B with `combinatorial` codes" in PROSE
    assert f"from {bitmask[1]} B to {bitmask[2]} B with a bitmask" in PROSE


def test_the_tables_are_there():
    assert (len(PADDED), len(QUANTISED), len(EQUAL)) == (9, 3, 12)
