"""Two chips on one model: differences add up, sections are found, and the page is followed word by word."""

import dataclasses
import json
import math
import re
import shlex
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hwmodels
from hwmodels import plots
from hwmodels.comparison.chips import compare_chips
from hwmodels.silicon.area import area
from nmsim.errors import RowError, SpecError
from nmsim.support.toml import to_toml

PAGE = Path(__file__).parents[3] / "docs/how-to/compare-chips.md"
EDGE, FLEXIBLE = hwmodels.load_core("edge-npu-8x16"), hwmodels.load_core("flexible-8x16")
MODEL = "llama-3.2-1b"
CHANGES = {
    "cores": ("chip", 4),
    "array_cols": ("array", 8),
    "accumulator_bytes": ("accumulate", 131072),
    "decoder_elements_per_cycle": ("decode", 16),
    "select_network": ("select", "mux"),
    "selector_elements_per_cycle": ("prune", 16),
    "fragment_cols": ("registers", 128),
    "shared_bytes": ("shared", 262144),
    "l2_bytes": ("l2", 8388608),
    "dram_bytes_per_cycle": ("dram", 68.2),
}
"""A number of each section and another value of it."""


def changed(core, **values):
    return dataclasses.replace(core, id="other", **values)


@pytest.mark.parametrize("name", CHANGES)
def test_one_changed_number_is_the_whole_difference(name):
    """Two roads: the row of the section, and two steps and areas of their own."""
    section, value = CHANGES[name]
    other = changed(EDGE, **{name: value})
    found = compare_chips(EDGE, other, model=MODEL, format="8:16/bitmask", dtype="int8", context_tokens=512)
    start, row = found.causes.to_dict("records")
    assert row["section"] == section
    assert f"{name} " in row["changed"]
    alone = [
        hwmodels.step(MODEL, core, format="8:16/bitmask", dtype="int8", context_tokens=512)
        for core in (EDGE, other)
    ]
    assert row["time_difference_s"] == pytest.approx(alone[1].time_s - alone[0].time_s, abs=1e-15)
    assert row["energy_difference_joules"] == pytest.approx(
        alone[1].joules.nominal - alone[0].joules.nominal, abs=1e-12
    )
    mm2 = [area(core).total.nominal * 1e-6 for core in (EDGE, other)]
    assert (start["area_mm2"], row["area_mm2"]) == pytest.approx(tuple(mm2))


@settings(deadline=None, max_examples=20)
@given(st.lists(st.sampled_from(sorted(CHANGES)), min_size=1, unique=True), st.booleans())
def test_differences_add_up(names, backwards):
    other = changed(EDGE, **{name: CHANGES[name][1] for name in names})
    pair = (other, EDGE) if backwards else (EDGE, other)
    found = compare_chips(
        *pair, model=MODEL, format="8:16/bitmask", dtype="int8", context_tokens=512, batch=4
    )
    causes, (first, second) = found.causes, (found.first, found.second)
    assert causes["time_difference_s"].sum() == pytest.approx(second.time_s - first.time_s, abs=1e-12)
    assert causes["energy_difference_joules"].sum() == pytest.approx(
        second.joules.nominal - first.joules.nominal, abs=1e-9
    )
    assert found.areas["difference_mm2"].sum() == pytest.approx(causes["area_difference_mm2"].sum())
    assert found.layers["difference_s"].sum() == pytest.approx(second.time_s - first.time_s, abs=1e-12)
    assert {CHANGES[name][0] for name in names} == {
        part for section in causes["section"][1:] for part in section.split(" and ")
    }


def test_designs_that_do_not_exist_join_the_next_section():
    """A core that skips patterns needs a code for them: without one, patterns and decoders change together."""
    coded = changed(EDGE, encodings=("index",), patterns=("2:4",))
    bare = dataclasses.replace(
        coded, id="bare", patterns=(), sparse_operands=(), encodings=(), selector_elements_per_cycle=0
    )
    found = compare_chips(bare, coded, model=MODEL, dtype="int8", context_tokens=0)
    assert found.causes["section"].tolist() == ["", "array and decode", "prune"]
    assert found.causes["time_difference_s"].abs().sum() == pytest.approx(0, abs=1e-12)
    assert found.causes["area_difference_mm2"].iloc[1:].gt(0).all()


def test_a_machine_has_times_and_no_sections():
    found = compare_chips(
        "h200", "flexible-8x16", model=MODEL, format="8:16", named=False, context_tokens=512
    )
    assert found.causes.empty
    assert found.areas.empty
    assert (found.first.hardware, found.second.hardware) == ("h200", "flexible-8x16")
    assert len(found.layers) == len(found.first.rows)


def test_one_chip_twice_is_refused():
    with pytest.raises(SpecError, match="edge-npu-8x16 comes twice"):
        compare_chips(EDGE, "edge-npu-8x16", model=MODEL)


def test_unknown_costs_are_unknown():
    far = changed(EDGE, node_nm=1)
    found = compare_chips(EDGE, far, model=MODEL, dtype="int8", context_tokens=0)
    assert math.isnan(found.causes["area_mm2"].iloc[-1])
    _, grid = plots.waterfall(found.causes, first="a", second="b")
    assert [ax.get_xlabel() for ax in grid[0]] == ["time [ms]"]


def test_the_figure_draws_what_the_table_says():
    other = changed(EDGE, cores=4, dram_bytes_per_cycle=68.2)
    found = compare_chips(EDGE, other, model=MODEL, format="8:16/bitmask", dtype="int8", context_tokens=512)
    fig, grid = plots.waterfall(found.causes, first="first", second="second", theme=plots.DARK)
    (time, energy, mm2) = grid[0]
    assert [text.get_text() for text in time.get_yticklabels()] == ["first", "chip", "dram", "second"]
    for ax, column, factor in ((time, "time_s", 1e3), (energy, "energy_joules", 1e3), (mm2, "area_mm2", 1)):
        totals = [bar.get_width() for bar in ax.containers[0]]
        assert totals == pytest.approx([factor * found.causes[column].iloc[at] for at in (0, -1)])
        steps = [bar.get_width() for bar in ax.containers[1]]
        assert steps == pytest.approx((factor * found.causes[column].diff().iloc[1:]).tolist())
    assert plots.rendered(fig, "svg").startswith(b"<?xml")
    with pytest.raises(RowError, match="table of causes"):
        plots.waterfall(found.causes.iloc[:0], first="a", second="b")


def test_the_page_is_followed(nmsim, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [
        line
        for block in re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
        for line in block.splitlines()
    ]
    assert len(lines) == 4
    for line in lines:
        if "faster.toml" in line and "compare" in line:
            text = Path("faster.toml").read_text(encoding="utf-8")
            changed_text = text.replace("dram_bytes_per_cycle = 51.2", "dram_bytes_per_cycle = 68.2")
            assert changed_text != text
            Path("faster.toml").write_text(changed_text, encoding="utf-8")
        code, out, err = nmsim(*shlex.split(line)[1:])
        assert code == 0, err
    assert "npu" in out
    assert "faster" in out
    assert re.search(r"dram\s+-\d", out)


def test_what_is_written_is_what_is_shown(nmsim, tmp_path):
    one, two = tmp_path / "one.toml", tmp_path / "two.toml"
    one.write_text(to_toml(EDGE), encoding="utf-8")
    two.write_text(to_toml(changed(EDGE, cores=4)), encoding="utf-8")
    table, figure = tmp_path / "causes.csv", tmp_path / "d.svg"
    code, out, err = nmsim(
        "compare", str(one), str(two), "-m", MODEL, "-p", "8:16", "--dtype", "int8", "--json", "-o", str(table),
        "--plot", str(figure),
    )  # fmt: skip
    assert code == 0, err
    causes = json.loads(out)["causes"]
    assert pd.read_csv(table)["time_s"].tolist() == pytest.approx([row["time_s"] for row in causes])
    assert figure.read_bytes().startswith(b"<?xml")
    code, _, err = nmsim("compare", "h200", str(one), "-p", "8:16", "-o", str(tmp_path / "no.csv"))
    assert code == 2
    assert "expected two core designs" in err
    assert not (tmp_path / "no.csv").exists()


def test_both_chips_have_one_value_type_if_they_can(nmsim):
    """Else a difference of value types would look like one of the chips."""
    found = compare_chips(
        EDGE, "nvidia-like-2x4", model=MODEL, format="8:16", named=False, context_tokens=512
    )
    assert {row.dtype for step in (found.first, found.second) for row in step.linear_rows} == {"int8"}
    found = compare_chips(
        "nvidia-like-2x4", FLEXIBLE, model=MODEL, format="2:4", named=False, context_tokens=512
    )
    assert {row.dtype for row in found.first.linear_rows} == {"bf16"}
    _, out, _ = nmsim("compare", "edge-npu-8x16", "nvidia-like-2x4", "-p", "8:16", "-m", MODEL)
    said = " ".join(out.split())
    assert "nvidia-like-2x4 does not skip by 8:16 of weights" in said
    assert "edge-npu-8x16 takes no type of 16 bits" in said


def test_one_format_is_compared(nmsim):
    code, _, err = nmsim("compare", "flexible-8x16", "flexible-4x8", "-p", "2:4,8:16")
    assert code == 2
    assert "expected one format" in err
