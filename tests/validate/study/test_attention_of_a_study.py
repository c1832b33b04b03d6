"""Attention and experts in a study: its sums against `hwmodels.step`, which adds up by itself."""

import dataclasses
import json

import pandas as pd
import pytest

import hwmodels
from hwmodels.models import Attention, Layer, Model
from nmsim.errors import NmsimError
from nmsim.format import sparse_format
from validate import run_study
from validate.study.whole_model import Context, attention_rows, case_table, predict_layers, sum_layers

FORMATS = [sparse_format("2:4/index"), sparse_format("8:16/bitmask")]
MACHINES = ["h200-8x16"]


def moe() -> Model:
    layers = (
        Layer("q", 2, 512, 512, role="attention"),
        Layer("router", 2, 16, 512, pruned=False, role="router"),
        Layer("expert_up", 32, 768, 512, role="expert", experts=16, active_experts=4),
        Layer("lm_head", 1, 8000, 512, pruned=False, role="head"),
    )
    return Model("moe", layers, False, "test", attention=(Attention(2, 8, 2, 64),))


def study_of(model, context):
    steps = {"batches": [1, 6], "prefill": [300]}
    specs = [hwmodels.load_machine(name) for name in MACHINES]
    table = predict_layers(case_table(model, FORMATS, **steps), specs)
    if not context.tokens:
        return sum_layers(table)
    dense = attention_rows(model, specs, context=context, **steps)
    return sum_layers(pd.concat([table, dense], ignore_index=True))


@pytest.mark.parametrize(
    ("model", "context"),
    [(moe(), Context(0)), (moe(), Context(2000)), (hwmodels.load_model("gemma-3-4b"), Context(2000, "fp8"))],
    ids=["experts", "experts and attention", "narrow cache"],
)
def test_sums_of_a_study_are_those_of_a_step(model, context):
    for row in study_of(model, context).to_dict("records"):
        decode = row["phase"] == "decode"
        form = None if row["pattern"] == "dense" else f"{row['pattern']}/{row['encoding']}"
        found = hwmodels.step(
            model,
            row["hardware"],
            format=form,
            phase=row["phase"],
            batch=row["tokens"] if decode else 1,
            context_tokens=(context.tokens if decode else row["tokens"]) if context.tokens else 0,
            new_tokens=1 if decode else row["tokens"],
            kv_dtype=context.kv_dtype,
            dtype="bf16",
        )
        assert row["predicted_time_s"] == pytest.approx(found.time_s, rel=1e-9)
        assert row["predicted_dense_time_s"] == pytest.approx(found.dense_time_s, rel=1e-9)
        assert row["bound_time_s"] == pytest.approx(found.bound_time_s, rel=1e-9)
        if context.tokens:
            assert row["linear_speedup_vs_dense"] == pytest.approx(found.linear_speedup_vs_dense, rel=1e-9)
            assert row["attention_share"] == pytest.approx(found.attention_time_s / found.time_s, rel=1e-9)


@pytest.mark.usefixtures("blank_figures")
def test_a_study_says_what_attention_takes(tmp_path):
    asked = {"hardware": ["h200"], "formats": ["2:4/index"], "batches": [16], "prefill": []}
    found = run_study(**asked, out_dir=tmp_path / "with", context_tokens=8192)
    assert "Attention and its cache, 8192 tokens in decode" in found.answer.cost
    assert json.loads((tmp_path / "with" / "study.json").read_text())["context_tokens"] == 8192
    assert "Attention with its cache (8192 tokens" in found.report.read_text()
    without = run_study(**asked, out_dir=tmp_path / "without")
    assert "attention_share" not in without.model
    assert "Attention and its cache" not in without.answer.cost
    linear = found.model["linear_speedup_vs_dense"].tolist()
    assert linear == pytest.approx(without.model["predicted_speedup_vs_dense"].tolist())
    with pytest.raises(NmsimError, match="context_tokens=-1"):
        run_study(**asked, out_dir=tmp_path / "none", context_tokens=-1)


def test_each_layer_has_the_type_that_the_model_says():
    layers = tuple(dataclasses.replace(each, dtype="fp8" if each.pruned else None) for each in moe().layers)
    model = dataclasses.replace(moe(), layers=layers, dtype="fp8")
    table = case_table(model, FORMATS, batches=[6], prefill=[], dtype=None)
    assert dict(zip(table["layer"], table["dtype"], strict=True)) == {
        "q": "fp8", "router": "bf16", "expert_up": "fp8", "lm_head": "bf16",
    }  # fmt: skip
    rows = sum_layers(predict_layers(table, [hwmodels.load_machine("h200")])).to_dict("records")
    step = hwmodels.step(model, "h200", format="2:4/index", batch=6, context_tokens=0)
    assert rows[1]["predicted_time_s"] == pytest.approx(step.time_s, rel=1e-9)
