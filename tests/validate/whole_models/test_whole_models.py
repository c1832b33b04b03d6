"""Whole models and online passes: committed rows, what is left out, errors, and limits that can be exceeded."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from pyarrow import parquet

from hwmodels import plots
from hwmodels.estimate import passes
from hwmodels.estimate.constants import read_fitted
from hwmodels.machine.spec import load_machine
from hwmodels.models import load_model
from hwmodels.steps import serving
from nmsim.errors import RowError
from validate.judge.budget import BUDGET_FILE, Budget, WholeAllowance, read_budget
from validate.whole_models import collected, tables
from validate.whole_models.errors import WholeModels, check_whole, judge_whole_models
from validate.whole_models.fit import fit_passes
from validate.whole_models.runs import REASONS, Runs, left_out

COLLECTED = pd.DataFrame(
    {
        "gpu": ["A100", "GB10", "B200"],
        "model": ["BitNet-2B", "Qwen2.5-14B", "Llama3.2-1B"],
        "dtype": ["INT8", "FP8", "FP8"],
        "phase": ["decode", "prefill", "prefill"],
        "M_tokens_or_batch": [64, 512, 4096],
        "pattern_as_named": ["2:4", "2:6", "2:10"],
        "dense_tok_per_s": [7090.6, 3172.1, 182606.0],
        "sparse_tok_per_s": [8224.2, 3394.2, 167998.0],
        "source_url": ["here"] * 3,
    }
)


@pytest.fixture(scope="module")
def judged():
    return judge_whole_models()


def test_tables_as_collected():
    found = collected.whole_models(COLLECTED).set_index("machine")
    assert list(found["pattern"][["a100-pcie", "gb10", "b200"]]) == ["2:4", "4:6", "8:10"]
    decode, prefill = found.loc["a100-pcie"], found.loc["b200"]
    assert (decode.sequences, decode.requests, decode.prompt_tokens, decode.output_tokens) == (
        64,
        64,
        16,
        256,
    )
    assert (prefill.sequences, prefill.requests, prefill.prompt_tokens, prefill.output_tokens) == (
        4,
        512,
        1024,
        1,
    )
    assert (decode.step_tokens, prefill.step_tokens, found.loc["gb10"].step_tokens) == (272, 4096, 513)
    assert list(found["eager"][["a100-pcie", "gb10"]]) == [False, True]


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [("gpu", "H200", "H200: expected one of A100"), ("pattern_as_named", "4:8", "4:8: expected 2:L")],
)
def test_names_that_are_not_known(column, value, said):
    with pytest.raises(RowError, match=said):
        collected.whole_models(COLLECTED.assign(**{column: value}))


def test_committed_rows():
    whole, online = tables.read_whole_models(), tables.read_online_passes()
    assert (len(whole), len(online)) == (2050, 756)
    assert not whole.duplicated(list(tables.WHOLE_COLUMNS[:6])).any()
    for path in (tables.WHOLE_FILE, tables.ONLINE_FILE):
        assert parquet.read_schema(path).metadata[b"licence"] == b"Apache-2.0"
    for machine in whole["machine"].unique():
        load_machine(machine)
    for model in whole["model"].unique():
        load_model(model)
    assert online["measured_time_s"].between(5e-6, 3e-3).all()
    # Medians that the authors' tables give, before any row is left out.
    speedup = whole["measured_sparse_tokens_per_s"] / whole["measured_dense_tokens_per_s"]
    decode = speedup[(whole["phase"] == "decode") & (whole["pattern"] == "2:4")]
    medians = decode.groupby(whole["machine"]).median().round(2)
    assert dict(medians) == {
        "a100-pcie": 1.17,
        "b200": 1.13,
        "gb10": 1.18,
        "h100-pcie": 1.10,
        "rtx4090": 1.17,
    }


def test_what_is_left_out(judged):
    """Rules look at measurements and memory only, each catches the row that it is about, and few rows go."""
    counts = judged.runs["left_out"].value_counts()
    assert set(counts.index) == {"", *REASONS}
    assert (judged.runs["left_out"] != "").mean() < 0.05
    keys = ["machine", "model", "dtype", "phase", "tokens", "pattern"]
    reasons = judged.runs.set_index(keys)["left_out"]
    assert reasons["rtx4090", "qwen2.5-14b", "int8", "decode", 512, "2:4"] == "memory"
    assert reasons["gb10", "qwen2.5-14b", "fp8", "prefill", 16384, "4:6"] == "stalled"
    assert reasons["gb10", "llama-3.2-3b", "int8", "decode", 64, "2:4"] == "above any kernel"
    assert reasons["h100-pcie", "qwen2.5-7b", "fp8", "prefill", 8192, "2:4"] == ""


def test_a_doctored_run_is_left_out():
    table = tables.read_whole_models().query(
        "machine == 'h100-pcie' and model == 'llama-3.2-1b' and dtype == 'fp8'"
    )
    table = table.query("phase == 'prefill'").reset_index(drop=True)
    runs = Runs(table, held_out=False)
    assert set(left_out(table, runs)) == {""}
    slow = table.assign(measured_dense_tokens_per_s=table["measured_dense_tokens_per_s"] / 4)
    assert set(left_out(slow, runs)) == {"above any kernel"}
    last = table["tokens"] == table["tokens"].max()
    stalled = table.assign(
        measured_dense_tokens_per_s=table["measured_dense_tokens_per_s"].where(~last, 1000.0)
    )
    assert set(np.array(left_out(stalled, runs))[last.to_numpy()]) == {"stalled"}


def test_within_the_budget(judged):
    budget = read_budget(BUDGET_FILE)
    assert {entry.table for entry in budget.whole} == {"whole_models", "online_passes"}
    assert check_whole(judged, budget) == []


def test_a_figure_beyond_its_limit(judged):
    entry = WholeAllowance(table="whole_models", machine="b200", speedup_mdape=0.001, reason="a goal")
    (excess,) = check_whole(judged, Budget(held_out=True, whole=(entry,)))
    assert str(excess).startswith("whole_models machine=b200: speedup_mdape 0.")
    assert "(a goal)" in str(excess)
    (excess,) = check_whole(judged, Budget(held_out=True, whole=(replace(entry, machine="h200"),)))
    assert "fits no row" in str(excess)
    wrong = judged.runs.assign(predicted_speedup_vs_dense=2 * judged.runs["predicted_speedup_vs_dense"])
    assert check_whole(WholeModels(wrong, judged.passes, True), read_budget(BUDGET_FILE))


def test_the_speedup_is_the_quotient_of_both_predictions(judged):
    runs = judged.runs
    quotient = runs["predicted_sparse_tokens_per_s"] / runs["predicted_dense_tokens_per_s"]
    assert np.allclose(quotient, runs["predicted_speedup_vs_dense"])
    assert (judged.passes.query("pattern == '2:4'")["predicted_lift_ratio"] == 1).all()


def test_fitted_constants_are_those_of_the_committed_rows(tmp_path):
    """The fit of the passes takes a second: it gives the committed file again."""
    path = tmp_path / "passes.toml"
    path.write_text(fit_passes(), encoding="utf-8")
    for group in (None, "a100", "b200", "gb10", "h100", "rtx4090"):
        again = read_fitted(path, passes.PassConstants._fields, group)
        assert again == pytest.approx(passes.load_passes(group)._asdict(), rel=1e-3)


def test_each_machine_has_constants_that_it_had_no_part_in():
    groups = {"a100", "b200", "gb10", "h100", "rtx4090"}
    for load in (passes.load_passes, serving.load_serving):
        everything = load()
        assert len({load(group) for group in groups}) == len(groups)
        assert load("l40s") == everything


def test_the_figure_draws_every_judged_run(judged):
    """A panel per phase and machine, whose points are the ratios of its runs."""
    table = judged.judged
    fig, grid = plots.whole_models(table)
    assert grid.shape == (2, 5)
    for row, phase in enumerate(("decode", "prefill")):
        for column, machine in enumerate(sorted(table["machine"].unique())):
            own = table[(table["phase"] == phase) & (table["machine"] == machine)]
            drawn = np.concatenate([each.get_offsets() for each in grid[row, column].collections[1:]])
            assert len(drawn) == len(own)
            assert sorted(drawn[:, 0]) == pytest.approx(sorted(own["measured_speedup_vs_dense"]))
    assert plots.rendered(fig, "svg").startswith(b"<?xml")
    with pytest.raises(RowError, match="table of runs of whole models"):
        plots.whole_models(table[:0])


def test_collected_tables_of_either_kind(tmp_path, monkeypatch, capsys):
    target = tmp_path / "whole.parquet"
    monkeypatch.setitem(collected.KINDS, "dense_tok_per_s", (collected.whole_models, target))
    COLLECTED.to_csv(tmp_path / "runs.csv", index=False)
    COLLECTED.to_parquet(tmp_path / "runs.parquet")
    found = []
    for name in ("runs.csv", "runs.parquet"):
        collected.main([str(tmp_path / name)])
        found.append(tables.read_whole_models(target))
    pd.testing.assert_frame_equal(*found)
    assert "whole.parquet: 3 rows" in capsys.readouterr().out
    pd.DataFrame({"a": [1]}).to_csv(tmp_path / "other.csv")
    with pytest.raises(SystemExit, match="expected a column dense_tok_per_s or quant_plus_slide_us"):
        collected.main([str(tmp_path / "other.csv")])
