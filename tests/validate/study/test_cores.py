"""A tensor core that takes the pattern: rows are those of single predictions, and the page says what the rows say."""

import html
import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import hwmodels
from hwmodels import plots
from hwmodels.plots.labels import choose_steps
from hwmodels.silicon.area import area
from hwmodels.silicon.energy import energy
from hwmodels.tensorcore.answer import limit_in_words, predict_core
from hwmodels.tensorcore.cycles import LIMITS
from hwmodels.tensorcore.record import load_core
from nmsim.case import Case, GemmShape
from nmsim.format import sparse_format
from nmsim.pattern import Pattern
from nmsim.units import UNIT_SUFFIXES
from validate import run_study
from validate.study.cores import (
    BASE,
    CORES_COLUMNS,
    DENSE_CORE,
    WITH_DECODER,
    WITH_UNIT,
    chosen,
    core_table,
    figure_tables,
    section_rows,
    sentences,
)


@pytest.fixture(scope="module")
def cores(study) -> pd.DataFrame:
    return study.found.cores


def own_chip(pattern: str, family: str):
    """The chip of a pattern, put together here once more."""
    return replace(
        load_core(BASE),
        patterns=(Pattern.parse(pattern),),
        sparse_operands=("weights",),
        encodings=(family,),
        selector_elements_per_cycle=0,
    )


def section_of(page: str) -> str:
    return re.search(r'<section id="cores">(.*?)</section>', page, re.S)[1]


def test_the_table_is_complete_and_is_the_file(study, cores):
    assert tuple(study.cores.columns) == tuple(cores.columns) == CORES_COLUMNS
    steps, ways = 3, 3 * 4
    assert cores["core"].value_counts().to_dict() == {
        WITH_UNIT: steps * ways,
        WITH_DECODER: steps * ways,
        DENSE_CORE: steps,
    }
    assert set(cores.loc[cores["core"] == WITH_UNIT, "execution"]) == {"native"}
    assert set(cores.loc[cores["core"] == WITH_DECODER, "execution"]) == {"expanded"}
    numbers = cores.select_dtypes("number").columns
    assert np.allclose(study.cores[numbers], cores[numbers].astype(float), equal_nan=True)
    ratios = (
        "tokens",
        "speedup_vs_dense",
        "speedup_vs_no_unit",
        "utilisation",
        "overhead_of_arrays",
        "overhead_of_cores",
        "overhead_of_chip",
        "cycles",
    )
    for name in numbers:
        plain = name.removesuffix("_low").removesuffix("_high")
        assert plain in ratios or plain.endswith((*UNIT_SUFFIXES, "_per_elem")), name


def test_a_row_is_the_sum_of_single_predictions(study, cores, tiny):
    row = cores[
        (cores["core"] == WITH_UNIT)
        & (cores["pattern"] == "8:16")
        & (cores["encoding"] == "combinatorial")
        & (cores["tokens"] == 16)
    ].iloc[0]
    layers = [layer for layer in hwmodels.load_model(tiny.config).layers if layer.pruned]
    chip, dense_chip = own_chip("8:16", "combinatorial"), load_core("dense")
    cycles = dense = joules = dense_joules = 0.0
    for layer in layers:
        case = Case(
            GemmShape(16, layer.N, layer.K), "8:16/combinatorial", dtype="bf16", sparse_operand="weights"
        )
        found = predict_core(case, chip)
        cycles += layer.count * found.cycles
        dense += layer.count * found.dense_cycles
        joules += layer.count * energy(case, chip).total.nominal
        plain = Case(case.shape, dtype="bf16")
        dense_joules += layer.count * energy(plain, dense_chip).total.nominal
        assert predict_core(plain, dense_chip).cycles == found.dense_cycles
    assert row["cycles"] == cycles
    assert row["speedup_vs_dense"] == pytest.approx(dense / cycles)
    assert row["energy_joules"] == pytest.approx(joules)
    assert row["dense_energy_joules"] == pytest.approx(dense_joules)
    assert row["area_um2"] == pytest.approx(area(chip).total.nominal)
    assert row["dense_area_um2"] == pytest.approx(area(dense_chip).total.nominal)
    for name in ("sparse_lane_um2", "overhead_of_arrays", "overhead_of_cores", "overhead_of_chip"):
        share = getattr(area(chip), name)
        shown = [row[f"{name}{end}"] for end in ("_low", "", "_high")]
        assert shown == pytest.approx([share.low, share.nominal, share.high])


def test_what_a_unit_adds_is_measured_against_the_better_of_the_two_without_it(cores):
    keys = ["phase", "tokens", "pattern", "encoding"]
    rows = {core: cores[cores["core"] == core].set_index(keys) for core in (WITH_UNIT, WITH_DECODER)}
    without = np.maximum(1.0, rows[WITH_DECODER]["speedup_vs_dense"])
    adds = rows[WITH_UNIT]["speedup_vs_no_unit"]
    assert np.allclose(adds, rows[WITH_UNIT]["speedup_vs_dense"] / without)
    assert (adds.xs("decode") < 1.05).all()
    assert (adds.xs("prefill") > 1.2).all()
    assert cores.loc[cores["core"] != WITH_UNIT, "speedup_vs_no_unit"].isna().all()


def test_costs_that_nobody_knows_are_missing(cores):
    unit = cores[cores["core"] == WITH_UNIT]
    varying = (unit["encoding"] == "gap:2") & (unit["pattern"] != "2:4")  # gap:2 of 2:4 needs no escape
    for name in ("energy_joules", "area_um2", "overhead_of_cores"):
        assert (unit[name].isna() == varying).all(), name
    assert cores.loc[cores["core"] == WITH_DECODER, "area_um2"].isna().all()


def test_one_encoding_a_pattern_is_chosen(cores):
    found = chosen(cores)
    unit = found[found["core"] == WITH_UNIT]
    assert (unit.groupby("pattern")["encoding"].nunique() == 1).all()
    assert (found["pattern"] == "dense").sum() == 3
    every = cores[cores["core"] == WITH_UNIT]
    means = np.log(every["speedup_vs_dense"]).groupby([every["pattern"], every["encoding"]]).mean()
    for pattern, some in unit.groupby("pattern"):
        assert means[pattern, some["encoding"].iloc[0]] >= means[pattern].max() - 1e-3


def test_the_page_shows_the_rows(study, cores):
    section = section_of(study.page)
    rows = chosen(cores)
    rows = rows[rows["core"] == WITH_UNIT]
    body = re.findall(r"<tr><th>(\d+:\d+)</th><td>(.*?)</td>(.*?)</tr>", section, re.S)
    assert [pattern for pattern, _, _ in body] == ["2:4", "8:16", "16:32"]
    for pattern, encoding, cells in body:
        own = rows[rows["pattern"] == pattern]
        assert encoding == own["encoding"].iloc[0]
        shown = re.findall(r"<b>([\d.]+)×</b><small class=\"reach\">([\d.]+)× vs no unit", cells)
        for (speedup, adds), (_, row) in zip(shown, own.iterrows(), strict=True):
            assert speedup == f"{row['speedup_vs_dense']:.2f}"
            assert adds == f"{row['speedup_vs_no_unit']:.2f}"
            assert limit_in_words(row["limit"]) in cells
            energy_share = 100 * row["energy_joules"] / row["dense_energy_joules"]
            assert f"energy {energy_share:.0f} % (" in cells
        assert f"<b>{100 * own['overhead_of_cores'].iloc[0]:.1f} %</b>" in cells
        assert f"{100 * own['overhead_of_arrays'].iloc[0]:.1f} % of the arrays" in cells
        assert f"{own['sparse_lane_um2'].iloc[0]:.3g} um² per lane" in cells


@pytest.mark.parametrize("limit", LIMITS)
def test_every_limit_that_the_model_can_name_is_in_the_table_of_the_page(cores, limit):
    rows = section_rows(cores.assign(limit=limit), choose_steps(cores))
    assert {cell["limit"] for row in rows for cell in row["cells"]} == {limit_in_words(limit)}


def test_a_small_model_that_latency_limits_has_a_page(tiny, tmp_path):
    small = tmp_path / "config.json"
    small.write_text(
        '{"model_type": "llama", "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, '
        '"num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 1000}'
    )
    found = run_study(
        tiny.weights,
        small,
        hardware=["h200"],
        formats=["2:4/bitmask", "2:4/index"],
        out_dir=tmp_path / "study",
    )
    assert "latency" in set(found.cores["limit"])
    assert found.report.exists()


def test_the_sentences_are_those_of_the_rows(study, cores):
    first, last = sentences(cores)
    assert html.escape(first) in section_of(study.page)
    rows = chosen(cores)
    here = rows[(rows["core"] == WITH_UNIT) & (rows["phase"] == "prefill")]["speedup_vs_no_unit"]
    assert last.startswith("In prefill of 2048 tokens the chip with a native unit brings ")
    ends = dict.fromkeys(f"{end:.2f}×" for end in (here.min(), here.max()))
    assert last.endswith(f"the unit itself brings {' to '.join(ends)} vs no unit.")
    summary = json.loads((study.folder / "study.json").read_text(encoding="utf-8"))["tensor_core"]
    assert summary["says"] == [first, last]
    assert summary["chip"] == BASE
    assert len(summary["best_encoding_of_each_pattern"]) == len(rows)


def figure(cores, name, theme):
    rows, steps = figure_tables(cores)[name]
    return getattr(plots, name)(rows, steps=steps, theme=theme)[0]


def test_figures_are_drawn_from_the_rows(cores):
    speedups = figure(cores, "core_speedup_vs_pattern", plots.DARK)
    titles = [ax.get_title(loc="left") for ax in speedups.axes]
    assert [title for title in titles if title] == [WITH_UNIT, WITH_DECODER]
    times = figure(cores, "core_time_by_stage", plots.LIGHT)
    assert [ax.get_title(loc="left") for ax in times.axes] == [
        f"{WITH_UNIT}: decode, batch 1",
        f"{WITH_UNIT}: prefill, 2048 tokens",
    ]
    said = [text.get_text() for text in times.axes[0].texts]
    assert "dense" in said
    assert any(text.startswith("16:32 ") for text in said)


@pytest.mark.usefixtures("blank_figures")
def test_a_value_type_that_the_chip_does_not_take_is_said(tiny, tmp_path):
    found = run_study(
        tiny.weights,
        tiny.config,
        hardware=["a100-sxm"],
        formats=["2:4"],
        batches=[1],
        prefill=[],
        out_dir=tmp_path / "o",
        dtype="fp32",
    )
    assert found.cores.empty
    assert "cores.csv" not in {path.name for path in found.folder.iterdir()}
    assert "cores.csv" not in found.summary["files"]
    assert found.summary["tensor_core"]["says"] == []
    section = section_of(found.report.read_text(encoding="utf-8"))
    assert "takes fp16, bf16, fp8, int8, but not fp32" in section
    assert "<table" not in section


def test_two_steps_of_as_many_tokens_are_two_rows():
    model = hwmodels.load_model("llama-3.1-8b")
    found = core_table(model, [sparse_format("2:4/index")], batches=[512], prefill=[512], dtype="fp8")
    assert found["phase"].tolist() == ["decode", "prefill"] * 3
    assert found.groupby("core")["cycles"].nunique().eq(1).all()
