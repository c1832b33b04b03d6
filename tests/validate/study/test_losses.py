"""Measured losses in a study: which way stands beside which cost, the figures, and what the page says of them."""

import json

import numpy as np
import pandas as pd
import pytest
from loss_rows import FACTORS

from nmsim.errors import NmsimError
from validate import run_study
from validate.accuracy.beside_cost import read_qualities
from validate.study import losses
from validate.study.cores import WITH_UNIT, chosen
from validate.study.whole_model import fastest

KEYS = ["hardware", "operand", "pattern", "criterion", "mitigation"]


@pytest.fixture(scope="module")
def table(study):
    return study.found.losses.set_index(KEYS)


def test_a_row_per_machine_and_way(study):
    # The rows have four patterns, the study three of them and two machines.
    assert len(study.losses) == 2 * 3 * len(FACTORS)
    assert not study.losses.duplicated(KEYS).any()
    written = study.losses.set_index(KEYS)["loss_increase"]
    np.testing.assert_allclose(written, study.found.losses.set_index(KEYS)["loss_increase"], rtol=1e-9)


def test_qualities_and_costs_are_those_of_their_sources(study, table):
    measured = {one.key: one for one in read_qualities(study.measured).ways}
    model = fastest(study.found.model, ["hardware", "phase", "tokens", "sparse_operand", "pattern"])
    for key, row in table.iterrows():
        one = measured[key[1:]]
        assert (row["loss_increase"], row["loss_increase_low"], row["loss_increase_high"]) == tuple(one)[1:4]
        assert row["perplexity_ratio"] == pytest.approx(np.exp(one.value))
        for phase, tokens in (("decode", 1), ("prefill", 2048)):
            (best,) = model[
                (model["hardware"] == key[0]) & (model["phase"] == phase) & (model["tokens"] == tokens)
                & (model["sparse_operand"] == key[1]) & (model["pattern"] == key[2])
            ].to_dict("records")  # fmt: skip
            assert row[f"{phase}_tokens"] == tokens
            assert row[f"{phase}_speedup_vs_dense"] == best["predicted_speedup_vs_dense"]
            for end in ("low", "high"):
                np.testing.assert_equal(
                    row[f"{phase}_speedup_vs_dense_{end}"], best[f"predicted_speedup_{end}"]
                )
        bits = study.found.bits_per_elem
        assert (
            row["metadata_bits_per_elem"]
            == bits[bits["pattern"] == key[2]]["measured_metadata_bits_per_elem"].min()
        )


def test_energy_and_area_are_of_pruned_weights(study, table):
    cores = chosen(study.found.cores)
    unit = cores[
        (cores["core"] == WITH_UNIT) & (cores["phase"] == "decode") & (cores["tokens"] == 1)
    ].set_index("pattern")
    for key, row in table.iterrows():
        if key[1] == "activations":
            assert np.isnan([row["core_decode_energy_vs_dense"], row["core_added_area"]]).all()
            continue
        own = unit.loc[key[2]]
        assert row["core_decode_energy_vs_dense"] == own["energy_joules"] / own["dense_energy_joules"]
        assert (
            row["core_decode_energy_vs_dense_low"]
            <= row["core_decode_energy_vs_dense"]
            <= row["core_decode_energy_vs_dense_high"]
        )
        assert row["core_added_area"] == own["overhead_of_cores"]


def test_figures_show_the_best_way_that_costs_no_more_than_its_format(study):
    best = losses.best_rows(study.found.losses)
    assert len(best) == 2 * 3 * 2
    assert set(best[best["operand"] == "weights"]["criterion"]) == {"channel_vector"}
    assert set(best["mitigation"]) == {"none"}
    drawn = losses.figures(study.found.losses, read_qualities(study.measured))
    assert tuple(drawn) == losses.FIGURES
    titles = [panel.title for panel in drawn["loss_beside_speedup"][1]["panels"]]
    assert titles[:2] == ["h200, decode, batch 1", "h200, prefill, 2048 tokens"]


def test_the_page_says_whose_losses_they_are(study):
    page = study.page
    assert '<section id="losses">' in page
    assert "Loss increases are of SmolLM2-135M on the text news" in page
    assert "They are not of tiny-llama: another model may lose more or less." in page
    assert "4-bit file" in page
    summary = json.loads((study.folder / "study.json").read_text(encoding="utf-8"))["losses"]
    assert (summary["model"], summary["text"]) == ("smollm2", "news")
    assert len(summary["best_way_of_each_pattern"]) == 12
    assert summary["best_way_of_each_pattern"][0]["loss_increase"] > 0


def arguments(tiny, folder):
    common = {
        "hardware": ["h200"],
        "formats": ["8:16/bitmask"],
        "batches": [1],
        "prefill": [],
        "activations": False,
    }
    return {"weights": tiny.weights, "model": tiny.config, "out_dir": folder / "out", **common}


@pytest.fixture
def few_figures(blank_figures):
    """Of the figures of a study, draw those of losses."""
    blank_figures.update(losses.FIGURES)


@pytest.mark.usefixtures("few_figures")
def test_without_losses_there_is_no_section(tiny, tmp_path):
    found = run_study(**arguments(tiny, tmp_path), losses="")
    assert found.losses is None
    assert "losses.csv" not in {path.name for path in found.folder.iterdir()}
    assert '<section id="losses">' not in found.report.read_text(encoding="utf-8")
    assert "losses" not in found.summary


@pytest.mark.usefixtures("few_figures")
def test_the_table_of_quality_stands_there_too(tiny, tmp_path):
    file = tmp_path / "quality.csv"
    file.write_text(
        "layer,operand,pattern,criterion,mitigation,activations,energy_kept_share,relative_output_error\n"
        "all,weights,8:16,magnitude,none,dump d,0.9,0.2\n"
    )
    found = run_study(**arguments(tiny, tmp_path), losses=str(file))
    assert found.losses["relative_output_error"].tolist() == [0.2]
    page = found.report.read_text(encoding="utf-8")
    assert "It is no accuracy" in page
    assert "perplexity vs dense" not in page


@pytest.mark.usefixtures("few_figures")
def test_a_pattern_that_was_not_measured_is_named(tiny, tmp_path, study):
    found = run_study(
        **{**arguments(tiny, tmp_path), "formats": ["4:16/bitmask"]}, losses=str(study.measured)
    )
    assert found.losses.empty
    page = found.report.read_text(encoding="utf-8")
    assert "Nothing was measured for 4:16." in page
    assert "losses.csv" not in found.summary["files"]


def test_bad_losses_are_refused_before_any_work(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("validate.study.study.measure_checkpoint", None)
    for given in ({"losses": "absent.csv"}, {"losses_of": ["text"], "losses": "smollm2"}):
        with pytest.raises(NmsimError, match=r"absent\.csv: cannot be read|expected KEY=VALUE"):
            run_study(**arguments(tiny, tmp_path), **given)
    assert list(tmp_path.iterdir()) == []


def test_steps_are_the_ends_of_a_table():
    steps = pd.DataFrame({"phase": ["prefill", "prefill"], "tokens": [512, 8192]})
    assert losses.shown_steps(steps) == [("prefill", 8192)]
